"""Where organisations are registered: one row an organisation, whose token rests sealed. Additive."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

_REGISTRATIONS = """
CREATE TABLE registrations (
    id uuid NOT NULL PRIMARY KEY,
    org_id uuid NOT NULL UNIQUE CHECK (org_id <> '00000000-0000-0000-0000-000000000000'),
    org_name text NOT NULL CHECK (char_length(org_name) BETWEEN 1 AND 200),
    steward_id uuid NOT NULL,
    butler_url text NOT NULL CHECK (char_length(butler_url) BETWEEN 1 AND 2000),
    token bytea,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    deregistered_at timestamptz,
    CHECK ((token IS NULL) = (deregistered_at IS NOT NULL))
)
"""


def upgrade() -> None:
    """Adds the table; nothing that was there changes."""
    op.execute(_REGISTRATIONS)


def downgrade() -> None:
    """A token that is gone cannot be had again: there is no way back."""
    raise NotImplementedError
