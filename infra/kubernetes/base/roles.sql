-- Two roles: one owns the tables and is used by `steward migrate` alone, one serves. Run it once as the database's
-- administrator, connected to the Steward's database; then `steward migrate` as steward_owner; then it again. It is safe to
-- repeat. Passwords are set apart (\password steward_owner), so that none stands in a file or in the server's log.
DO $roles$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'steward_owner') THEN
        CREATE ROLE steward_owner LOGIN NOINHERIT NOCREATEDB NOCREATEROLE;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'steward_serve') THEN
        CREATE ROLE steward_serve LOGIN NOINHERIT NOCREATEDB NOCREATEROLE CONNECTION LIMIT 400;
    END IF;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO steward_owner', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO steward_serve', current_database());
END
$roles$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO steward_owner;
GRANT USAGE ON SCHEMA public TO steward_serve;

-- Of each table what serving takes, once the tables are there. The logs are only added to: of the egress log a row's answer
-- comes later and its body is forgotten in time, both watched by a trigger.
DO $grants$
DECLARE
    name text;
    -- An administrator who is no superuser (RDS and Cloud SQL have no other) speaks for the owner here, and not afterwards.
    borrowed boolean := NOT pg_has_role(current_user, 'steward_owner', 'USAGE');
BEGIN
    IF to_regclass('public.steward_schema') IS NULL THEN
        RAISE NOTICE 'no tables yet: run steward migrate as steward_owner, then this again';
        RETURN;
    END IF;
    IF borrowed THEN
        EXECUTE format('GRANT steward_owner TO %I', current_user);
    END IF;
    FOR name IN SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('REVOKE ALL ON public.%I FROM steward_serve', name);
        CONTINUE WHEN name LIKE 'llm\_requests\_%';
        EXECUTE format('GRANT SELECT ON public.%I TO steward_serve', name);
        CONTINUE WHEN name IN ('steward_schema', 'instance_secrets');
        EXECUTE format('GRANT INSERT ON public.%I TO steward_serve', name);
        CONTINUE WHEN name IN ('egress_log', 'view_audit');
        EXECUTE format('GRANT UPDATE ON public.%I TO steward_serve', name);
    END LOOP;
    GRANT UPDATE (answer, body) ON public.egress_log TO steward_serve;
    GRANT DELETE ON public.storage_configs, public.provider_keys, public.view_sessions TO steward_serve;
    IF borrowed THEN
        EXECUTE format('REVOKE steward_owner FROM %I', current_user);
    END IF;
END
$grants$;
