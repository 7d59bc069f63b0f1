"""The first tables: calls, keys, and the installation's secrets. Holds nothing that a later release would use first."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

_CALLS = """
CREATE TABLE llm_requests (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    user_id uuid,
    registration_id uuid,
    revision bigint NOT NULL DEFAULT 1 CHECK (revision >= 1),
    provider text NOT NULL,
    provider_api_key_hash text,
    provider_api_key_alias text,
    model text,
    original_model text,
    request_path text NOT NULL,
    request_method text NOT NULL,
    requested_at timestamptz NOT NULL,
    responded_at timestamptz,
    response_time_ms bigint CHECK (response_time_ms >= 0),
    ttft_ms bigint CHECK (ttft_ms >= 0),
    sent_us bigint CHECK (sent_us >= 0),
    head_us bigint CHECK (head_us >= 0),
    first_byte_us bigint CHECK (first_byte_us >= 0),
    last_byte_us bigint CHECK (last_byte_us >= 0),
    outcome text NOT NULL CHECK (
        outcome IN ('complete', 'client_cancelled', 'upstream_failed', 'timed_out', 'interrupted')
    ),
    outcome_rank smallint NOT NULL GENERATED ALWAYS AS (CASE outcome WHEN 'interrupted' THEN 0 ELSE 1 END) STORED,
    status_code integer CHECK (status_code BETWEEN 100 AND 999),
    error_message text,
    usage_source text NOT NULL CHECK (usage_source IN ('provider', 'partial', 'estimated', 'none')),
    input_tokens bigint CHECK (input_tokens BETWEEN 0 AND 1000000000),
    output_tokens bigint CHECK (output_tokens BETWEEN 0 AND 1000000000),
    cached_tokens bigint CHECK (cached_tokens BETWEEN 0 AND 1000000000),
    cache_creation_tokens bigint CHECK (cache_creation_tokens BETWEEN 0 AND 1000000000),
    reasoning_tokens bigint CHECK (reasoning_tokens BETWEEN 0 AND 1000000000),
    input_cost numeric CHECK (input_cost BETWEEN 0 AND 10000),
    output_cost numeric CHECK (output_cost BETWEEN 0 AND 10000),
    total_cost numeric CHECK (total_cost BETWEEN 0 AND 10000),
    provider_cost numeric CHECK (provider_cost BETWEEN 0 AND 10000),
    price_source text,
    model_alias_found boolean NOT NULL,
    service_tier text,
    streamed boolean NOT NULL,
    tags jsonb NOT NULL,
    tags_dropped integer NOT NULL CHECK (tags_dropped >= 0),
    client text,
    claude_session_id text,
    claude_session_name text,
    request_bytes bigint NOT NULL CHECK (request_bytes >= 0),
    response_bytes bigint NOT NULL CHECK (response_bytes >= 0),
    truncated boolean NOT NULL,
    body_state text NOT NULL,
    body_rank smallint NOT NULL GENERATED ALWAYS AS (
        CASE body_state
            WHEN 'none' THEN 0 WHEN 'off' THEN 0 WHEN 'lost' THEN 0
            WHEN 'pending' THEN 1
            WHEN 'failed' THEN 2 WHEN 'shed' THEN 2
            WHEN 'stored' THEN 3
        END
    ) STORED,
    body_key text,
    body_url text,
    body_sha256 text,
    body_bytes bigint CHECK (body_bytes >= 0),
    PRIMARY KEY (id)
) PARTITION BY RANGE (id)
"""

_KEYS = """
CREATE TABLE api_keys (
    id uuid NOT NULL,
    org_id uuid NOT NULL,
    key_hash text NOT NULL UNIQUE CHECK (key_hash ~ '^[0-9a-f]{64}$'),
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    description text CHECK (char_length(description) BETWEEN 1 AND 200),
    user_id uuid,
    registration_id uuid,
    is_active boolean NOT NULL DEFAULT true,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (org_id, id),
    CHECK (revoked_at IS NULL OR NOT is_active)
)
"""

_KEYS_GUARD = """
CREATE FUNCTION api_keys_guard() RETURNS trigger LANGUAGE plpgsql AS $guard$
BEGIN
    IF TG_OP IN ('DELETE', 'TRUNCATE') THEN
        RAISE EXCEPTION 'keys are revoked, never deleted' USING ERRCODE = 'restrict_violation';
    END IF;
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
    END IF;
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$guard$
"""

_SECRETS = "CREATE TABLE instance_secrets (name text PRIMARY KEY, sealed bytea NOT NULL)"


def upgrade() -> None:
    """From nothing."""
    op.execute(_CALLS)
    op.execute("CREATE TABLE llm_requests_default PARTITION OF llm_requests DEFAULT")
    op.execute("CREATE INDEX llm_requests_newest ON llm_requests (org_id, id DESC)")
    op.execute(_KEYS)
    op.execute("CREATE INDEX api_keys_changed ON api_keys (updated_at)")
    op.execute(_KEYS_GUARD)
    op.execute(
        "CREATE TRIGGER api_keys_guard BEFORE INSERT OR UPDATE OR DELETE ON api_keys "
        "FOR EACH ROW EXECUTE FUNCTION api_keys_guard()"
    )
    op.execute(
        "CREATE TRIGGER api_keys_keep BEFORE TRUNCATE ON api_keys FOR EACH STATEMENT EXECUTE FUNCTION api_keys_guard()"
    )
    op.execute(_SECRETS)


def downgrade() -> None:
    """There is no way back from the first version but an empty database."""
    raise NotImplementedError
