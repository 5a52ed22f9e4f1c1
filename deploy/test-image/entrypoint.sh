#!/bin/sh
# Entrypoint of the local PostgreSQL image for tests. It behaves as the official image does where the tests look: it takes
# POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB, initialises PGDATA on the first start, and says twice that it is "ready to accept
# connections" (once for the server that makes the database, reached by its socket only; once for the real one).
set -eu

if [ "${1:-}" != postgres ]; then
  exec "$@"
fi

as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/var/lib/postgresql "$@"; }

user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  if [ -z "${POSTGRES_PASSWORD:-}" ]; then
    echo "entrypoint: POSTGRES_PASSWORD is not set" >&2
    exit 1
  fi
  mkdir -p "$PGDATA"
  chown postgres:postgres "$PGDATA"
  chmod 700 "$PGDATA"

  password_file=$(mktemp)
  printf '%s\n' "$POSTGRES_PASSWORD" >"$password_file"
  chown postgres:postgres "$password_file"
  as_postgres initdb --no-sync --username="$user" --pwfile="$password_file" --auth-local=trust --auth-host=scram-sha-256 \
    --encoding=UTF8 --locale=C.UTF-8 -D "$PGDATA"
  rm -f "$password_file"
  printf 'host all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
  printf "listen_addresses = '*'\nunix_socket_directories = '/var/run/postgresql'\n" >>"$PGDATA/postgresql.conf"

  as_postgres pg_ctl -D "$PGDATA" -w -t 60 -o "-c listen_addresses='' -c fsync=off" start
  if [ "$database" != postgres ]; then
    as_postgres createdb -h /var/run/postgresql -U "$user" -T template0 "$database"
  fi
  for script in /docker-entrypoint-initdb.d/*; do
    case "$script" in
      *.sh) . "$script" ;;
      *.sql) as_postgres psql -h /var/run/postgresql -U "$user" -d "$database" -v ON_ERROR_STOP=1 -f "$script" ;;
    esac
  done
  as_postgres pg_ctl -D "$PGDATA" -m fast -w stop
fi

mkdir -p /var/run/postgresql
chown postgres:postgres /var/run/postgresql
exec setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/var/lib/postgresql "$@"
