"""What Butler wants of storage and provider keys, what was approved inside, and where each body lies. Additive."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

_CONFIGS = """
CREATE TABLE storage_configs (
    org_id uuid NOT NULL CHECK (org_id <> '00000000-0000-0000-0000-000000000000'),
    id uuid NOT NULL,
    owner_type text NOT NULL CHECK (owner_type IN ('user', 'org')),
    owner_id uuid NOT NULL,
    vendor text NOT NULL CHECK (vendor IN ('s3', 'gcs', '')),
    bucket text NOT NULL CHECK (char_length(bucket) <= 300),
    region text NOT NULL CHECK (char_length(region) <= 100),
    endpoint text NOT NULL CHECK (char_length(endpoint) <= 2100),
    project text NOT NULL CHECK (char_length(project) <= 100),
    principal text NOT NULL CHECK (char_length(principal) <= 400),
    sealed bytea NOT NULL,
    is_current boolean NOT NULL,
    said_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (org_id, id),
    CHECK (owner_type = 'user' OR owner_id = org_id)
)
"""

_PROVIDER_KEYS = """
CREATE TABLE provider_keys (
    org_id uuid NOT NULL CHECK (org_id <> '00000000-0000-0000-0000-000000000000'),
    id uuid NOT NULL,
    source text NOT NULL CHECK (source IN ('local', 'butler')),
    owner_type text NOT NULL CHECK (owner_type IN ('user', 'org')),
    owner_id uuid NOT NULL,
    provider text NOT NULL CHECK (provider ~ '^[a-z][a-z0-9_-]{0,31}$'),
    fingerprint text NOT NULL CHECK (fingerprint ~ '^[0-9a-f]{64}$'),
    sealed bytea NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (org_id, id),
    CHECK (owner_type = 'user' OR owner_id = org_id)
)
"""

_APPROVALS = """
CREATE TABLE approvals (
    org_id uuid NOT NULL CHECK (org_id <> '00000000-0000-0000-0000-000000000000'),
    kind text NOT NULL CHECK (kind IN ('storage', 'provider_key', 'registration')),
    fingerprint text NOT NULL CHECK (char_length(fingerprint) BETWEEN 32 AND 64),
    how text NOT NULL CHECK (how IN ('person', 'window', 'register')),
    approved_by text NOT NULL CHECK (char_length(approved_by) <= 200),
    approved_at timestamptz NOT NULL,
    names text NOT NULL CHECK (char_length(names) <= 8000),
    mac bytea NOT NULL,
    PRIMARY KEY (org_id, kind, fingerprint)
)
"""


def upgrade() -> None:
    """Adds tables, and a column that older releases leave empty; nothing that was there changes."""
    op.execute(_CONFIGS)
    op.execute(_PROVIDER_KEYS)
    op.execute("CREATE UNIQUE INDEX provider_keys_local ON provider_keys (org_id, provider) WHERE source = 'local'")
    op.execute(_APPROVALS)
    op.execute("ALTER TABLE llm_requests ADD COLUMN storage_config_id uuid")


def downgrade() -> None:
    """An approval that is gone cannot be had again: there is no way back."""
    raise NotImplementedError
