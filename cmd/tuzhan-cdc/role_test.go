package main

import (
	"encoding/json"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

// psql runs a script by psql, as a superuser, with variables.
func psql(t *testing.T, db *pgtest.DB, script string, variables ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("psql")
	if err != nil {
		dir, err := throwaway.FindBinaries(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		path = filepath.Join(dir, "psql")
	}
	args := []string{"-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", db.DSN(), "-f", script}
	for _, v := range variables {
		args = append(args, "-v", v)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	return string(out), err
}

// withRole makes deploy/role.sql's role and has the program connect as it; password: a new one.
func (r *rig) withRole(variables ...string) (role string) {
	r.t.Helper()
	role, dsn := r.db.Role(r.t, "")
	r.db.Exec(r.t, "DROP ROLE "+role) // the script makes it; the database's end takes it away
	const password = "o'clock :\"and\" $$ \\"
	for range 2 { // it may be run again
		if out, err := psql(r.t, r.db, "../../deploy/role.sql", append(variables, "role="+role, "password="+password)...); err != nil || out != "" {
			r.t.Fatalf("%v\n%s", err, out)
		}
	}
	u, err := url.Parse(dsn)
	if err != nil {
		r.t.Fatal(err)
	}
	u.User = url.UserPassword(role, password)
	r.dsn = u.String()
	r.write(crmMappings, "")
	return role
}

// complaints are check's findings that are not fine. How the tests' server is set (its limit for WAL, fsync) is not the role's matter.
func (r *rig) complaints() (list []postgres.Finding) {
	r.t.Helper()
	out, errs, _ := r.run("check", "--output", "json")
	var findings []postgres.Finding
	if err := json.Unmarshal([]byte(out), &findings); err != nil {
		r.t.Fatalf("%v in %s%s", err, out, errs)
	}
	for _, f := range findings {
		if (f.Severity == postgres.SeverityError || f.Severity == postgres.SeverityWarning) && f.Subject != "max_slot_wal_keep_size" && !strings.Contains(f.Text, "fsync is off") {
			list = append(list, f)
		}
	}
	return list
}

// TestRole: with the role of deploy/role.sql, and the publications that check asks their owner for, check has nothing to say and the connector runs; the
// role may do no more than that.
func TestRole(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	role := r.withRole("tables=crm.orders, crm.member_groups")
	for _, f := range r.complaints() {
		if f.Cure == "" || !strings.Contains(f.Subject, "publication") {
			t.Errorf("%+v", f)
			continue
		}
		r.db.Exec(t, f.Cure)
	}
	for _, f := range r.complaints() {
		t.Errorf("%+v", f)
	}
	r.start()
	r.db.Exec(t, `INSERT INTO crm.orders (order_no, phone, amount, status) VALUES ('DD1', '13800000001', 9, 'paid')`,
		`INSERT INTO crm.member_groups VALUES ('13800000001', '新客')`)
	r.applied(platformsim.Event, 1)
	r.applied(platformsim.Point, 1)
	r.applied(platformsim.GroupRelation, 1)
	r.settled()
	if code := r.proc.terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	more := pgtest.Value[string](t, r.db, `SELECT concat_ws(', ', CASE WHEN rolsuper OR rolcreatedb OR rolcreaterole OR rolbypassrls THEN 'an attribute' END,
  CASE WHEN has_database_privilege(oid, current_database(), 'CREATE') THEN 'CREATE on the database' END,
  CASE WHEN has_table_privilege(oid, 'crm.orders', 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') THEN 'writing' END,
  CASE WHEN has_table_privilege(oid, 'crm.other', 'SELECT') THEN 'reading another table' END,
  CASE WHEN EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid) THEN 'another role' END) FROM pg_roles r WHERE rolname = $1`, role)
	if more != "" {
		t.Errorf("the role may more than it needs: %s", more)
	}
}

// TestRoleOwner: as a member of the owner's role the connector makes its publications itself; and the schema of the state is there for it.
func TestRoleOwner(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	owner, _ := r.db.Role(t, "")
	r.db.Exec(t, `ALTER TABLE crm.orders OWNER TO `+owner, `ALTER TABLE crm.member_groups OWNER TO `+owner)
	r.withRole("tables=crm.member_groups,crm.orders", "owner="+owner, "state=yes")
	r.state = "{dsn: " + quoted(t, r.dsn) + "}"
	r.write(crmMappings, "")
	for _, f := range r.complaints() {
		t.Errorf("%+v", f)
	}
	r.start()
	r.db.Exec(t, `INSERT INTO crm.member_groups VALUES ('13800000001', '新客')`)
	r.applied(platformsim.GroupRelation, 1)
	if n := pgtest.Value[int](t, r.db, `SELECT count(*)::int FROM tuzhan_cdc.meta`); n != 1 {
		t.Errorf("the state is not in the schema: %d rows", n)
	}
}

// TestRoleTables: without the tables the script says what is missing, and does nothing.
func TestRoleTables(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	role, _ := db.Role(t, "")
	db.Exec(t, `CREATE SCHEMA crm`)
	out, err := psql(t, db, "../../deploy/role.sql", "role="+role)
	if err == nil || !strings.Contains(out, "tables is missing") {
		t.Errorf("%v: %s", err, out)
	}
	out, err = psql(t, db, "../../deploy/role.sql", "role="+role, "tables=crm.nowhere")
	if err == nil || !strings.Contains(out, "crm.nowhere") {
		t.Errorf("%v: %s", err, out)
	}
	if pgtest.Value[bool](t, db, `SELECT rolreplication FROM pg_roles WHERE rolname = $1`, role) {
		t.Error("half of it was done")
	}
}

func quoted(t *testing.T, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
