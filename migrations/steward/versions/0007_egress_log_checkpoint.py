"""Up to where the egress log was let go: a row that only moves forward; what it covers may be deleted. Additive.

Who may write both tables may move it without a key; `steward egress verify` sees that.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"

_CHECKPOINT = """
CREATE TABLE egress_log_checkpoint (
    id smallint NOT NULL PRIMARY KEY CHECK (id = 1),
    number bigint NOT NULL CHECK (number >= 1),
    chain text NOT NULL CHECK (chain ~ '^[0-9a-f]{64}$'),
    first_at timestamptz NOT NULL CHECK (isfinite(first_at)),
    last_at timestamptz NOT NULL CHECK (isfinite(last_at)),
    made_at timestamptz NOT NULL CHECK (isfinite(made_at)),
    mac text NOT NULL CHECK (mac ~ '^[0-9a-f]{64}$')
)
"""

_FORWARD = """
CREATE FUNCTION egress_log_checkpoint_guard() RETURNS trigger LANGUAGE plpgsql AS $guard$
BEGIN
    IF TG_OP IN ('DELETE', 'TRUNCATE') OR NEW.number <= OLD.number OR NEW.first_at <> OLD.first_at THEN
        RAISE EXCEPTION 'the checkpoint only moves forward' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$guard$
"""

_LOG_GUARD = """
CREATE OR REPLACE FUNCTION egress_log_guard() RETURNS trigger LANGUAGE plpgsql AS $guard$
DECLARE
    covered bigint;
BEGIN
    IF TG_OP = 'DELETE' THEN
        -- Named with its schema: a temporary table of the same name would be found before it.
        EXECUTE format('SELECT max(number) FROM %I.egress_log_checkpoint', TG_TABLE_SCHEMA) INTO covered;
        IF OLD.number <= covered THEN
            RETURN OLD;
        END IF;
    END IF;
    IF TG_OP IN ('DELETE', 'TRUNCATE') THEN
        RAISE EXCEPTION 'what left is not forgotten' USING ERRCODE = 'restrict_violation';
    END IF;
    IF (NEW.number, NEW.at, NEW.kind, NEW.target, NEW.count, NEW.bytes, NEW.sha256, NEW.chain)
            IS DISTINCT FROM (OLD.number, OLD.at, OLD.kind, OLD.target, OLD.count, OLD.bytes, OLD.sha256, OLD.chain)
        OR NEW.registration_id IS DISTINCT FROM OLD.registration_id
        OR NEW.first_id IS DISTINCT FROM OLD.first_id
        OR NEW.last_id IS DISTINCT FROM OLD.last_id
        OR (OLD.answer IS NOT NULL AND NEW.answer IS DISTINCT FROM OLD.answer)
        OR (NEW.body IS NOT NULL AND NEW.body IS DISTINCT FROM OLD.body) THEN
        RAISE EXCEPTION 'what left stands as it left' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$guard$
"""


def upgrade() -> None:
    """Adds a table, and lets the log's trigger look into it."""
    op.execute(_CHECKPOINT)
    op.execute(_FORWARD)
    op.execute(
        "CREATE TRIGGER egress_log_checkpoint_guard BEFORE UPDATE OR DELETE ON egress_log_checkpoint "
        "FOR EACH ROW EXECUTE FUNCTION egress_log_checkpoint_guard()"
    )
    op.execute(
        "CREATE TRIGGER egress_log_checkpoint_keep BEFORE TRUNCATE ON egress_log_checkpoint "
        "FOR EACH STATEMENT EXECUTE FUNCTION egress_log_checkpoint_guard()"
    )
    op.execute(_LOG_GUARD)


def downgrade() -> None:
    """What was let go cannot be had again: there is no way back."""
    raise NotImplementedError
