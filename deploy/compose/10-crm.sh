# Sourced by the image's entrypoint when the database is new: the tables, the connector's role, and its publications, which the tables' owner makes.
set -e
run() { psql -X -q -v ON_ERROR_STOP=1 -h /var/run/postgresql -U "$POSTGRES_USER" -d "$POSTGRES_DB" "$@"; }

run -f /setup/schema.sql
run -v password=cdc -v tables='crm.orders, crm.member_groups' -f /setup/role.sql
# As tuzhan-cdc check prints it.
run -c "CREATE PUBLICATION tuzhan_cdc FOR TABLE ONLY crm.orders, ONLY crm.member_groups WITH (publish_via_partition_root = true);"
