#!/usr/bin/env bash
# Starts PostgreSQL for the studies, in its image's place of `docker-entrypoint.sh`.
#
# The superuser is reached through the socket inside this container alone. What the network reaches is the role
# `hptune`, which owns its database and may do nothing beyond it. Its password is set anew at every start: the one
# that was given, or else one made up here; the other containers read it from a volume of its own. Until that has
# been done the server takes no connection over TCP. A volume whose superuser is `hptune` itself, as earlier
# versions made them, is turned into this.
set -euo pipefail

handed_on=/run/hptune/storage_password
access=/tmp/pg_hba.conf

fail() { echo "error: $*" >&2; exit 1; }

given=$(cat /run/secrets/storage_password)
given=${given:-${HPTUNE_STORAGE_PASSWORD:-}}
if [ -n "${HPTUNE_STORAGE_PUBLISHED:-}" ] && [ ${#given} -lt 12 ]; then
  fail "HPTUNE_STORAGE_PASSWORD: a published storage needs a password of your own, of at least 12 characters"
fi
case $given in *$'\n'*) fail "HPTUNE_STORAGE_PASSWORD: must be one line" ;; esac
password=${given:-$(cat "$handed_on" 2>/dev/null || true)}
password=${password:-$(head -c 24 /dev/urandom | base64)}
printf '%s' "$password" >"$handed_on.new"
chmod 644 "$handed_on.new" # for whatever user the workers run as; who does not mount the volume does not see it
mv "$handed_on.new" "$handed_on"

run_sql() { psql --no-psqlrc --quiet --tuples-only --set ON_ERROR_STOP=1 --username "$@"; }

# `hptune`, the superuser of an earlier version, gives up its name; as itself it could not.
free_the_name() {
  run_sql hptune postgres <<<"SELECT 'CREATE ROLE hptune_upgrade' WHERE to_regrole('hptune_upgrade') IS NULL \gexec
    ALTER ROLE hptune_upgrade LOGIN SUPERUSER"
  run_sql hptune_upgrade postgres <<<'ALTER ROLE hptune RENAME TO postgres'
}

make_role_and_database() {
  run_sql postgres postgres <<SQL
SET log_min_error_statement = panic; -- no password in the log
SET client_min_messages = warning;
DROP ROLE IF EXISTS hptune_upgrade;
SELECT 'CREATE ROLE hptune' WHERE to_regrole('hptune') IS NULL \gexec
\set password \`cat $handed_on\`
ALTER ROLE hptune LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';
SELECT 'CREATE DATABASE hptune' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'hptune') \gexec
ALTER DATABASE hptune OWNER TO hptune;
\connect hptune
SELECT format('ALTER TABLE %s OWNER TO hptune', oid::regclass) FROM pg_class
  WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relowner <> to_regrole('hptune') \gexec
SELECT format('ALTER TYPE %s OWNER TO hptune', oid::regtype) FROM pg_type
  WHERE typnamespace = 'public'::regnamespace AND typtype = 'e' AND typowner <> to_regrole('hptune') \gexec
SQL
}

# Runs beside the server. All of it may be cut off anywhere, and is then done again.
prepare() {
  until {
    pg_isready --quiet --username postgres &&
      { run_sql postgres postgres <<<'' 2>/dev/null || free_the_name; } && make_role_and_database
  }; do sleep 0.5; done
  echo 'host hptune hptune all scram-sha-256' >>"$access"
  run_sql postgres postgres <<<'SELECT pg_reload_conf()' >/dev/null
}

echo 'local all all trust' >"$access" # the socket: those who are in this container
unset HPTUNE_STORAGE_PASSWORD HPTUNE_STORAGE_PUBLISHED
POSTGRES_PASSWORD=$(head -c 24 /dev/urandom | base64) # the superuser's, for the image alone: no line lets it in
export POSTGRES_PASSWORD
(prepare &)
exec docker-entrypoint.sh postgres -c "hba_file=$access" "$@"
