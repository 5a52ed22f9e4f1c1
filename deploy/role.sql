-- The role that tuzhan-cdc connects as, with no more rights than it needs. Run it by psql as a superuser, in the CRM's database; it may be run again.
--
--   psql -d crm -v ON_ERROR_STOP=1 -v password=choose-one -v tables='crm.orders, crm.member_groups' -f role.sql
--
-- Variables:
--   tables    the tables that mappings read, joined by commas. Required
--   role      its name; cdc by default
--   password  without it none is set: the role then needs another way in (peer, certificate). psql's command line can be seen by other users of the
--             machine while it runs; where that matters, leave it out here and say \password cdc afterwards
--   owner     the role that owns the tables. Without it publications are not the connector's to make: `tuzhan-cdc check` prints the SQL for their owner,
--             now and whenever a mapping needs another table. With it the connector makes them and keeps them in step, and the role may do with those tables all
--             that their owner may: convenient, but no longer the least
--   state     with any value: also the schema tuzhan_cdc, for a state.dsn that leads to this database
--
-- wal_level = logical is the server's setting, not the role's: ALTER SYSTEM SET wal_level = 'logical'; then restart it.

\if :{?tables}
\else
  DO $$ BEGIN RAISE EXCEPTION 'tables is missing: the tables that mappings read, for example -v tables=''crm.orders, crm.member_groups'''; END $$;
  \quit
\endif
\if :{?role}
\else
  \set role cdc
\endif

BEGIN;
SET LOCAL client_min_messages = warning; -- it says nothing of what is there already

SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
-- REPLICATION is what a slot and the stream take. It would do for a copy of the whole server too, which pg_hba.conf prevents: logical replication comes in by
-- the lines of its database, physical replication and base backups only by lines that say "replication". So give the role no such line, or this one, above all others:
--   host  replication  cdc  all  reject
ALTER ROLE :"role" LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;
\if :{?password}
  ALTER ROLE :"role" PASSWORD :'password';
\endif

SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'role') \gexec
-- The stream itself needs no right to a table. SELECT is for commands that look at rows that are there: preview, backfill.
SELECT DISTINCT format('GRANT USAGE ON SCHEMA %s TO %I', c.relnamespace::regnamespace, :'role')
  FROM unnest(string_to_array(:'tables', ',')) t JOIN pg_class c ON c.oid = trim(t)::regclass \gexec
SELECT format('GRANT SELECT ON TABLE %s TO %I', trim(t)::regclass, :'role') FROM unnest(string_to_array(:'tables', ',')) t \gexec

\if :{?owner}
  GRANT :"owner" TO :"role";
  SELECT format('GRANT CREATE ON DATABASE %I TO %I', current_database(), :'role') \gexec
\endif
\if :{?state}
  CREATE SCHEMA IF NOT EXISTS tuzhan_cdc AUTHORIZATION :"role";
\endif

COMMIT;
