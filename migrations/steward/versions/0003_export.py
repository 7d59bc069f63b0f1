"""What a row has been told to Butler, whose rows go where, and the log of what left. Additive.

The new columns are constants of the catalogue: no row is written. Calls from before them stay inside (`local`);
`steward export backfill` sends them. Making the index reads the calls once, and calls being written wait so long.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

_CALLS = """
ALTER TABLE llm_requests
    ADD COLUMN exported_revision bigint NOT NULL DEFAULT 0 CHECK (exported_revision >= 0),
    ADD COLUMN export_state text DEFAULT 'local' CHECK (export_state IN ('local', 'set_aside')),
    ADD COLUMN export_code text,
    ADD COLUMN claimed_until timestamptz
"""

_DUE = """
CREATE INDEX llm_requests_export ON llm_requests (registration_id, id)
    WHERE revision > exported_revision AND export_state IS DISTINCT FROM 'local'
"""

_FROM_NOW = """
CREATE FUNCTION first_id_from_now() RETURNS uuid LANGUAGE sql VOLATILE AS $first$
    SELECT CAST(
        lpad(to_hex(CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)), 12, '0') || repeat('0', 20)
        AS uuid
    )
$first$
"""

_LOG = """
CREATE TABLE egress_log (
    number bigint NOT NULL CHECK (number >= 1),
    at timestamptz NOT NULL,
    registration_id uuid,
    kind text NOT NULL CHECK (kind ~ '^[A-Z][A-Za-z]{1,39}$'),
    target text NOT NULL CHECK (char_length(target) BETWEEN 1 AND 300),
    count integer NOT NULL CHECK (count >= 0),
    bytes bigint NOT NULL CHECK (bytes >= 0),
    sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    first_id uuid,
    last_id uuid,
    chain text NOT NULL CHECK (chain ~ '^[0-9a-f]{64}$'),
    answer text CHECK (answer ~ '^[a-z_]{1,40}$'),
    body bytea,
    PRIMARY KEY (number)
)
"""

_LOG_GUARD = """
CREATE FUNCTION egress_log_guard() RETURNS trigger LANGUAGE plpgsql AS $guard$
BEGIN
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
    """Adds columns, an index and a table; nothing that was there changes."""
    op.execute(_CALLS)
    op.execute("ALTER TABLE llm_requests ALTER COLUMN export_state DROP DEFAULT")
    op.execute(_DUE)
    op.execute(_FROM_NOW)
    op.execute("ALTER TABLE registrations ADD COLUMN local_from uuid NOT NULL DEFAULT first_id_from_now()")
    op.execute(_LOG)
    op.execute("CREATE INDEX egress_log_bodies_newest ON egress_log (number) WHERE body IS NOT NULL")
    op.execute(_LOG_GUARD)
    op.execute(
        "CREATE TRIGGER egress_log_guard BEFORE UPDATE OR DELETE ON egress_log "
        "FOR EACH ROW EXECUTE FUNCTION egress_log_guard()"
    )
    op.execute(
        "CREATE TRIGGER egress_log_keep BEFORE TRUNCATE ON egress_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION egress_log_guard()"
    )


def downgrade() -> None:
    """What Butler was told cannot be had again: there is no way back."""
    raise NotImplementedError
