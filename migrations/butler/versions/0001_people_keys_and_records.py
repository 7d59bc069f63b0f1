"""The first tables: people, organisations, keys, Stewards, storage, records with their sums, and the audit log.

Nothing of experiments, replays or evaluations: their tables come with them. Times are in UTC, money in USD.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

_PEOPLE = """
CREATE TABLE butler.installation (name text PRIMARY KEY, sealed bytea NOT NULL);
CREATE TABLE butler.organisations (
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE butler.users (
    id uuid PRIMARY KEY,
    email text NOT NULL UNIQUE CHECK (email = lower(email) AND char_length(email) BETWEEN 3 AND 254),
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    password_hash text NOT NULL,
    password_changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE butler.memberships (
    org_id uuid NOT NULL REFERENCES butler.organisations,
    user_id uuid NOT NULL REFERENCES butler.users,
    role text NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    notices_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX memberships_of_a_user ON butler.memberships (user_id);
CREATE TABLE butler.sessions (
    id uuid PRIMARY KEY,
    token_hash text NOT NULL UNIQUE CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    kind text NOT NULL CHECK (kind IN ('browser', 'cli')),
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    org_id uuid NOT NULL,
    user_id uuid NOT NULL,
    address text NOT NULL,
    created_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    fresh_until timestamptz NOT NULL,
    FOREIGN KEY (org_id, user_id) REFERENCES butler.memberships ON DELETE CASCADE,
    CHECK (ends_at <= created_at + CASE kind WHEN 'browser' THEN interval '12 hours' ELSE interval '90 days' END)
);
CREATE INDEX sessions_of_a_user ON butler.sessions (org_id, user_id);
CREATE TABLE butler.invitations (
    id uuid PRIMARY KEY,
    token_hash text NOT NULL UNIQUE CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    org_id uuid NOT NULL REFERENCES butler.organisations,
    email text NOT NULL CHECK (email = lower(email)),
    role text NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    invited_by uuid NOT NULL REFERENCES butler.users,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ends_at timestamptz NOT NULL,
    accepted_at timestamptz,
    withdrawn_at timestamptz
);
CREATE INDEX invitations_of_an_organisation ON butler.invitations (org_id, created_at DESC);
CREATE TABLE butler.sign_in_failures (
    subject text PRIMARY KEY CHECK (subject ~ '^[0-9a-f]{64}$'),
    window_began_at timestamptz NOT NULL,
    failures integer NOT NULL CHECK (failures >= 0)
);
"""

_STEWARDS = """
CREATE TABLE butler.steward_tokens (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES butler.organisations,
    token_hash text NOT NULL UNIQUE CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    token_hint text NOT NULL,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    host text CHECK (char_length(host) BETWEEN 1 AND 200),
    created_by uuid REFERENCES butler.users,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at timestamptz,
    first_seen_at timestamptz,
    last_seen_at timestamptz,
    version text CHECK (version ~ '^[0-9]+[.][0-9]+[.][0-9]+$'),
    last_ingest_at timestamptz,
    newest_record_at timestamptz,
    records bigint NOT NULL DEFAULT 0
);
CREATE INDEX steward_tokens_of_an_organisation ON butler.steward_tokens (org_id, created_at DESC);
CREATE TABLE butler.work_items (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES butler.organisations,
    steward_id uuid NOT NULL REFERENCES butler.steward_tokens,
    job_type text NOT NULL CHECK (job_type IN ('sync_api_keys', 'sync_cloud_storage', 'sync_provider_keys')),
    run_id uuid,
    created_at timestamptz NOT NULL,
    claimed_at timestamptz,
    claims integer NOT NULL DEFAULT 0,
    ended_at timestamptz,
    succeeded boolean,
    CHECK ((ended_at IS NULL) = (succeeded IS NULL))
);
CREATE UNIQUE INDEX work_items_one_waiting ON butler.work_items (org_id, steward_id, job_type)
    WHERE claimed_at IS NULL AND ended_at IS NULL;
CREATE INDEX work_items_open ON butler.work_items (org_id, steward_id, created_at) WHERE ended_at IS NULL;
CREATE TABLE butler.managed_assignments (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES butler.organisations,
    steward_id uuid NOT NULL REFERENCES butler.steward_tokens,
    sealed_token bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    claimed_at timestamptz,
    CHECK ((claimed_at IS NULL) = (sealed_token IS NOT NULL))
);
CREATE UNIQUE INDEX managed_assignments_one_waiting ON butler.managed_assignments (org_id) WHERE claimed_at IS NULL;
"""

_KEYS = """
CREATE TABLE butler.api_keys (
    id uuid NOT NULL,
    org_id uuid NOT NULL REFERENCES butler.organisations,
    key_hash text NOT NULL UNIQUE CHECK (key_hash ~ '^[0-9a-f]{64}$'),
    key_hint text NOT NULL,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    description text CHECK (char_length(description) BETWEEN 1 AND 200),
    user_id uuid REFERENCES butler.users,
    deprecated_model_behavior text NOT NULL DEFAULT 'passthrough'
        CHECK (deprecated_model_behavior IN ('passthrough', 'redirect', 'warn')),
    is_active boolean NOT NULL DEFAULT true,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, updated_at),
    CHECK (revoked_at IS NULL OR NOT is_active)
);
CREATE FUNCTION butler.api_keys_guard() RETURNS trigger LANGUAGE plpgsql AS $guard$
BEGIN
    IF TG_OP IN ('DELETE', 'TRUNCATE') THEN
        RAISE EXCEPTION 'keys are revoked, never deleted' USING ERRCODE = 'restrict_violation';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.id, NEW.org_id, NEW.key_hash) IS DISTINCT FROM (OLD.id, OLD.org_id, OLD.key_hash)
            OR NEW.user_id IS DISTINCT FROM OLD.user_id THEN
            RAISE EXCEPTION 'a key never moves; make a new one' USING ERRCODE = 'restrict_violation';
        END IF;
        IF OLD.revoked_at IS NOT NULL
            AND (NEW.is_active OR NEW.revoked_at IS DISTINCT FROM OLD.revoked_at) THEN
            RAISE EXCEPTION 'a revoked key stays revoked' USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    -- Held to the end of the transaction: the order of changes is the order in which they can be seen, so that a
    -- reader who remembers the newest change he saw misses none.
    PERFORM pg_advisory_xact_lock(hashtextextended('butler.api_keys/' || NEW.org_id::text, 0));
    NEW.updated_at := greatest(
        clock_timestamp(),
        (SELECT max(updated_at) FROM butler.api_keys WHERE org_id = NEW.org_id) + interval '1 microsecond'
    );
    RETURN NEW;
END
$guard$;
CREATE TRIGGER api_keys_guard BEFORE INSERT OR UPDATE OR DELETE ON butler.api_keys
    FOR EACH ROW EXECUTE FUNCTION butler.api_keys_guard();
CREATE TRIGGER api_keys_keep BEFORE TRUNCATE ON butler.api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION butler.api_keys_guard();
CREATE TABLE butler.provider_keys (
    id uuid NOT NULL,
    org_id uuid NOT NULL REFERENCES butler.organisations,
    user_id uuid REFERENCES butler.users,
    provider text NOT NULL CHECK (provider ~ '^[a-z][a-z0-9_-]{0,31}$'),
    sealed bytea NOT NULL,
    key_hint text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (org_id, id)
);
CREATE UNIQUE INDEX provider_keys_one_each ON butler.provider_keys
    (org_id, coalesce(user_id, '00000000-0000-0000-0000-000000000000'), provider);
CREATE TABLE butler.storage_configs (
    id uuid NOT NULL,
    org_id uuid NOT NULL REFERENCES butler.organisations,
    owner_type text NOT NULL CHECK (owner_type IN ('user', 'org')),
    owner_id uuid NOT NULL,
    provider text NOT NULL CHECK (provider IN ('s3', 'gcs')),
    s3_bucket text, s3_region text, s3_endpoint text, s3_access_key_id text,
    gcs_bucket text, gcs_project_id text,
    sealed bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, owner_type, owner_id),
    CHECK (owner_type = 'user' OR owner_id = org_id),
    CHECK ((provider = 's3') = (s3_bucket IS NOT NULL) AND (provider = 'gcs') = (gcs_bucket IS NOT NULL))
);
"""

_RECORDS = """
CREATE TABLE butler.requests (
    org_id uuid NOT NULL,
    id uuid NOT NULL,
    requested_at timestamptz NOT NULL,
    revision bigint NOT NULL CHECK (revision >= 1),
    steward_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    user_id uuid,
    api_key_id uuid,
    proxy_key_id uuid,
    provider_api_key_hash text,
    provider_api_key_alias text,
    provider text NOT NULL,
    model text NOT NULL,
    original_model text,
    request_path text NOT NULL,
    request_method text NOT NULL,
    responded_at timestamptz,
    response_time_ms bigint CHECK (response_time_ms >= 0),
    ttft_ms bigint CHECK (ttft_ms >= 0),
    status_code integer,
    outcome text,
    error_message text,
    usage_source text,
    input_tokens bigint,
    output_tokens bigint,
    cached_tokens bigint,
    cache_creation_tokens bigint,
    price_source text,
    input_cost numeric,
    output_cost numeric,
    total_cost numeric,
    model_alias_found boolean NOT NULL,
    tags jsonb NOT NULL,
    body_state text,
    body_s3_key text,
    experiment_id uuid,
    experiment_arm_id uuid,
    is_error boolean NOT NULL GENERATED ALWAYS AS (
        error_message IS NOT NULL AND error_message <> 'client_cancelled'
        OR coalesce(status_code >= 400, false)
        OR coalesce(outcome IN ('upstream_failed', 'timed_out', 'interrupted'), false)
    ) STORED,
    PRIMARY KEY (org_id, id, requested_at)
) PARTITION BY RANGE (requested_at);
CREATE TABLE butler.requests_default PARTITION OF butler.requests DEFAULT;
CREATE INDEX requests_newest ON butler.requests (org_id, requested_at DESC, id DESC);
CREATE INDEX requests_of_a_model ON butler.requests (org_id, model, requested_at DESC, id DESC);
CREATE INDEX requests_of_a_key ON butler.requests (org_id, api_key_id, requested_at DESC, id DESC);
CREATE INDEX requests_of_a_provider ON butler.requests (org_id, provider, requested_at DESC, id DESC);
CREATE INDEX requests_failed ON butler.requests (org_id, requested_at DESC, id DESC) WHERE is_error;
CREATE INDEX requests_of_a_status ON butler.requests (org_id, status_code, requested_at DESC, id DESC)
    WHERE status_code <> 200;
CREATE INDEX requests_of_an_error ON butler.requests (org_id, error_message, requested_at DESC, id DESC)
    WHERE error_message IS NOT NULL;
CREATE INDEX requests_of_an_outcome ON butler.requests (org_id, outcome, requested_at DESC, id DESC)
    WHERE outcome <> 'complete';

CREATE TABLE butler.request_tags (
    org_id uuid NOT NULL,
    name text NOT NULL,
    value text NOT NULL,
    requested_at timestamptz NOT NULL,
    id uuid NOT NULL,
    PRIMARY KEY (org_id, name, value, requested_at, id)
) PARTITION BY RANGE (requested_at);
CREATE TABLE butler.request_tags_default PARTITION OF butler.request_tags DEFAULT;
CREATE INDEX request_tags_of_a_request ON butler.request_tags (org_id, id, requested_at);

CREATE FUNCTION butler.latency_bucket(ms bigint) RETURNS smallint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
    'SELECT CASE WHEN ms < 1 THEN 0 ELSE floor(ln(ms::double precision) * 8 / ln(2::double precision)) END::smallint';

CREATE TABLE butler.hours (
    org_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    api_key_id uuid NOT NULL,
    calls bigint NOT NULL,
    errors bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    cost numeric NOT NULL,
    unmetered bigint NOT NULL,
    unpriced bigint NOT NULL,
    PRIMARY KEY (org_id, hour, provider, model, api_key_id)
);
CREATE TABLE butler.hour_latencies (
    org_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('whole', 'first')),
    bucket smallint NOT NULL,
    calls bigint NOT NULL,
    PRIMARY KEY (org_id, hour, kind, provider, model, bucket)
);
CREATE TABLE butler.tag_hours (
    org_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    name text NOT NULL,
    value text NOT NULL,
    calls bigint NOT NULL,
    errors bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    cost numeric NOT NULL,
    unmetered bigint NOT NULL,
    unpriced bigint NOT NULL,
    PRIMARY KEY (org_id, name, hour, value)
);
CREATE TABLE butler.metadata_keys (
    org_id uuid NOT NULL REFERENCES butler.organisations,
    name text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9-]{0,63}$'),
    label text CHECK (char_length(label) BETWEEN 1 AND 200),
    is_active boolean NOT NULL DEFAULT false,
    activated_at timestamptz,
    indexed_since timestamptz,
    calls bigint NOT NULL DEFAULT 0,
    distinct_values bigint NOT NULL DEFAULT 0,
    registers bytea NOT NULL,
    first_seen_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, name)
);
"""

_AUDIT = """
CREATE TABLE butler.audit_log (
    org_id uuid NOT NULL REFERENCES butler.organisations,
    id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor_id uuid,
    actor_email text NOT NULL,
    address text NOT NULL,
    action text NOT NULL CHECK (action ~ '^[a-z_]+[.][a-z_]+$'),
    object_type text NOT NULL CHECK (object_type ~ '^[a-z_]+$'),
    object_id text NOT NULL,
    object_name text NOT NULL,
    details jsonb NOT NULL,
    is_notice boolean NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX audit_log_newest ON butler.audit_log (org_id, at DESC, id DESC);
CREATE INDEX audit_log_notices ON butler.audit_log (org_id, at DESC, id DESC) WHERE is_notice;
CREATE FUNCTION butler.audit_log_guard() RETURNS trigger LANGUAGE plpgsql AS $guard$
BEGIN
    RAISE EXCEPTION 'the audit log is only added to' USING ERRCODE = 'restrict_violation';
END
$guard$;
CREATE TRIGGER audit_log_guard BEFORE UPDATE OR DELETE ON butler.audit_log
    FOR EACH ROW EXECUTE FUNCTION butler.audit_log_guard();
CREATE TRIGGER audit_log_keep BEFORE TRUNCATE ON butler.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION butler.audit_log_guard();
"""


def upgrade() -> None:
    """From nothing."""
    for block in (_PEOPLE, _STEWARDS, _KEYS, _RECORDS, _AUDIT):
        op.get_bind().exec_driver_sql(block)


def downgrade() -> None:
    """There is no way back from the first version but an empty database."""
    raise NotImplementedError
