"""Who may open bodies, who is signed in to, and an account of what they opened that only grows. Additive."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

_TOKENS = """
CREATE TABLE view_tokens (
    id uuid NOT NULL PRIMARY KEY,
    org_id uuid NOT NULL,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    token_hash text NOT NULL UNIQUE CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
)
"""

_SESSIONS = """
CREATE TABLE view_sessions (
    id uuid NOT NULL PRIMARY KEY,
    session_hash text NOT NULL UNIQUE CHECK (session_hash ~ '^[0-9a-f]{64}$'),
    who text NOT NULL CHECK (char_length(who) BETWEEN 1 AND 300),
    org_ids jsonb NOT NULL CHECK (jsonb_typeof(org_ids) = 'array'),
    token_id uuid REFERENCES view_tokens (id),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz
)
"""

_AUDIT = """
CREATE TABLE view_audit (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    act text NOT NULL CHECK (act IN ('signed_in', 'signed_out', 'opened', 'downloaded', 'refused')),
    who text NOT NULL CHECK (char_length(who) BETWEEN 1 AND 300),
    peer text NOT NULL CHECK (char_length(peer) BETWEEN 1 AND 100),
    session_id uuid NOT NULL,
    org_id uuid,
    request_id uuid,
    code text CHECK (code ~ '^[a-z_]{1,64}$')
)
"""

_GUARD = """
CREATE FUNCTION view_audit_guard() RETURNS trigger LANGUAGE plpgsql AS $guard$
BEGIN
    RAISE EXCEPTION 'the account of what was opened only grows' USING ERRCODE = 'restrict_violation';
END
$guard$
"""


def upgrade() -> None:
    """Adds the tables; nothing that was there changes."""
    op.execute(_TOKENS)
    op.execute(_SESSIONS)
    op.execute("CREATE INDEX view_sessions_expiring ON view_sessions (expires_at)")
    op.execute(_AUDIT)
    op.execute(_GUARD)
    op.execute(
        "CREATE TRIGGER view_audit_guard BEFORE UPDATE OR DELETE ON view_audit "
        "FOR EACH ROW EXECUTE FUNCTION view_audit_guard()"
    )
    op.execute(
        "CREATE TRIGGER view_audit_keep BEFORE TRUNCATE ON view_audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION view_audit_guard()"
    )


def downgrade() -> None:
    """What was opened stays told: there is no way back."""
    raise NotImplementedError
