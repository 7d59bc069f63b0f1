#!/bin/sh
# Run once by PostgreSQL's own image when its data folder is empty, behind roles.sql: the roles' passwords, and a database of
# its own for Butler. The secrets are hex digits (infra/README.md), so that they need no quoting; psql gets them by its input.
set -eu
psql --quiet --set ON_ERROR_STOP=1 --username postgres --dbname steward <<END
SET log_statement = 'none';
ALTER ROLE steward_owner PASSWORD '$(cat /run/secrets/owner_password)';
ALTER ROLE steward_serve PASSWORD '$(cat /run/secrets/serve_password)';
CREATE ROLE butler LOGIN PASSWORD '$(cat /run/secrets/butler_password)';
CREATE DATABASE butler OWNER butler;
REVOKE ALL ON DATABASE butler FROM PUBLIC;
END
