"""What is pulled from Butler: how far it was read, when Butler was heard, what it last said of a key. Additive."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

_STATE = """
CREATE TABLE sync_state (
    org_id uuid NOT NULL,
    registration_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind ~ '^[a-z_]{1,40}$'),
    watermark timestamptz,
    last_full_at timestamptz,
    PRIMARY KEY (registration_id, kind)
)
"""

_HEARD = """
ALTER TABLE registrations
    ADD COLUMN heard_at timestamptz,
    ADD COLUMN fault text CHECK (
        fault IN ('butler_unavailable', 'butler_denied', 'butler_rejected', 'butler_nonsense')
    )
"""

_KEYS = """
ALTER TABLE api_keys
    ADD COLUMN butler_updated_at timestamptz,
    ADD COLUMN deprecated_model_behavior text NOT NULL DEFAULT 'passthrough' CHECK (
        deprecated_model_behavior IN ('passthrough', 'redirect', 'warn')
    )
"""

_KEYS_GUARD = """
CREATE OR REPLACE FUNCTION api_keys_guard() RETURNS trigger LANGUAGE plpgsql AS $guard$
BEGIN
    IF TG_OP IN ('DELETE', 'TRUNCATE') THEN
        RAISE EXCEPTION 'keys are revoked, never deleted' USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.updated_at := clock_timestamp();
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.id, NEW.org_id, NEW.key_hash) IS DISTINCT FROM (OLD.id, OLD.org_id, OLD.key_hash)
            OR NEW.user_id IS DISTINCT FROM OLD.user_id
            OR NEW.registration_id IS DISTINCT FROM OLD.registration_id THEN
            RAISE EXCEPTION 'a key never moves; make a new one' USING ERRCODE = 'restrict_violation';
        END IF;
        IF OLD.revoked_at IS NOT NULL
            AND (NEW.is_active OR NEW.revoked_at IS DISTINCT FROM OLD.revoked_at) THEN
            RAISE EXCEPTION 'a revoked key stays revoked' USING ERRCODE = 'restrict_violation';
        END IF;
        -- A key that rested and is good again must be newer than its rest, whatever the clock did meanwhile.
        NEW.updated_at := greatest(NEW.updated_at, OLD.updated_at + interval '1 microsecond');
    END IF;
    RETURN NEW;
END
$guard$
"""


def upgrade() -> None:
    """Adds; what was there keeps its meaning. An id is one key's, over all organisations."""
    op.execute(_STATE)
    op.execute(_HEARD)
    op.execute(_KEYS)
    op.execute("CREATE UNIQUE INDEX api_keys_one_id_key ON api_keys (id)")
    op.execute(_KEYS_GUARD)


def downgrade() -> None:
    """What Butler said last would be forgotten, and an older word believed: there is no way back."""
    raise NotImplementedError
