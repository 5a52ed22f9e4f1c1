package postgres

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	life time.Duration
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t, dir: t.TempDir(), life: time.Hour}
	a.key = newKey(t)
	a.cert = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, &a.key.PublicKey)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(c, parent *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-24*time.Hour), time.Now().Add(a.life)
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return made
}

// issue makes a certificate with its key, as PEM.
func (a *authority) issue(name string, ips ...net.IP) (cert, key string) {
	a.t.Helper()
	k := newKey(a.t)
	c := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IPAddresses: ips, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a.cert, &k.PublicKey)
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return encode("CERTIFICATE", c.Raw), encode("EC PRIVATE KEY", der)
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// file writes a file of the test's and gives its path.
func (a *authority) file(name, text string) string {
	a.t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// serverFile writes a file of the server's account.
func serverFile(t *testing.T, db *pgtest.DB, path, text string) {
	t.Helper()
	db.Exec(t, `COPY (SELECT unnest(string_to_array(`+literal(strings.TrimSuffix(text, "\n"))+`, E'\n'))) TO PROGRAM 'cat > "`+path+`" && chmod 600 "`+path+`"'`)
}

// oddPassword holds all that a URL, a keyword string or a passfile give a meaning to.
const oddPassword = `p@ss/w:rd?#%& '"\=+中文`

// TestTLS: libpq's modes, an authority of one's own, client certificates, and what is said when one of them is wrong; for the plain and the
// replication connection alike.
func TestTLS(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t)
	db := server.Database(t)
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	dir := pgtest.Value[string](t, db, `SELECT current_setting('data_directory')`)
	cert, key := ours.issue("db", net.IPv4(127, 0, 0, 1))
	serverFile(t, db, dir+"/server.crt", cert)
	serverFile(t, db, dir+"/server.key", key)
	serverFile(t, db, dir+"/root.crt", encode("CERTIFICATE", ours.cert.Raw))
	for _, role := range []string{"tls_only", "plain_only", "either", "by_cert"} {
		db.Exec(t, "CREATE ROLE "+role+" LOGIN REPLICATION PASSWORD "+literal(oddPassword))
	}
	serverFile(t, db, pgtest.Value[string](t, db, `SELECT current_setting('hba_file')`), `hostssl all tls_only all scram-sha-256
hostnossl all plain_only all scram-sha-256
hostssl all by_cert all cert
host all tls_only,plain_only,by_cert all reject
host all all all scram-sha-256
`)
	db.Exec(t, "ALTER SYSTEM SET ssl_ca_file = 'root.crt'", "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
	db.Eventually(t, "SELECT current_setting('ssl') = 'on'")

	root, other := ours.file("root.crt", encode("CERTIFICATE", ours.cert.Raw)), theirs.file("root.crt", encode("CERTIFICATE", theirs.cert.Raw))
	cert, key = ours.issue("by_cert")
	client := "&sslcert=" + ours.file("client.crt", cert) + "&sslkey=" + ours.file("client.key", key)
	cert, key = theirs.issue("by_cert")
	foreign := "&sslcert=" + theirs.file("client.crt", cert) + "&sslkey=" + theirs.file("client.key", key)
	ours.life = -time.Hour
	cert, key = ours.issue("by_cert")
	expired := "&sslcert=" + ours.file("expired.crt", cert) + "&sslkey=" + ours.file("expired.key", key)
	host, port, _ := net.SplitHostPort(server.Addr())
	dsn := func(role, host, params string) string {
		u := url.URL{Scheme: "postgres", User: url.UserPassword(role, oddPassword), Host: net.JoinHostPort(host, port), Path: "/" + db.Name(), RawQuery: params}
		return u.String()
	}
	for _, c := range []struct {
		role, host, params string
		tls                bool
		fails, cure        string // words of text and cure
	}{
		{role: "either", params: "sslmode=disable"},
		{role: "either", params: "sslmode=allow"},
		{role: "either", params: "sslmode=prefer", tls: true},
		{role: "either", params: "sslmode=require", tls: true},
		{role: "either", params: "sslmode=verify-ca&sslrootcert=" + root, tls: true},
		{role: "either", params: "sslmode=verify-full&sslrootcert=" + root, tls: true},
		{role: "either", params: "", tls: true}, // prefer
		{role: "tls_only", params: "sslmode=disable", fails: "28000", cure: "sslmode=require"},
		{role: "tls_only", params: "sslmode=allow", tls: true},
		{role: "tls_only", params: "sslmode=prefer", tls: true},
		{role: "plain_only", params: "sslmode=prefer"},
		{role: "plain_only", params: "sslmode=allow"},
		{role: "plain_only", params: "sslmode=require", fails: "28000", cure: "pg_hba.conf"},
		{role: "either", host: "localhost", params: "sslmode=verify-ca&sslrootcert=" + root, tls: true},
		{role: "either", host: "localhost", params: "sslmode=verify-full&sslrootcert=" + root, fails: "localhost", cure: "host name of the server's certificate"},
		{role: "either", params: "sslmode=verify-ca&sslrootcert=" + other, fails: "unknown authority", cure: "sslrootcert="},
		{role: "either", params: "sslmode=require&sslrootcert=" + other, fails: "unknown authority", cure: "sslrootcert="}, // as libpq: require with a root verifies it
		{role: "by_cert", params: "sslmode=verify-full&sslrootcert=" + root + client, tls: true},
		{role: "by_cert", params: "sslmode=require", fails: "28000", cure: "sslcert"},
		{role: "by_cert", params: "sslmode=require" + foreign, fails: "certificate", cure: "sslcert"},
		{role: "by_cert", params: "sslmode=require" + expired, fails: "expired", cure: "sslcert"},
		{role: "either", params: "sslmode=verify-full&channel_binding=require&sslrootcert=" + root, tls: true},
	} {
		if c.host == "" {
			c.host = host
		}
		name := c.role + " " + c.host + " " + strings.ReplaceAll(c.params, filepath.Dir(root), "")
		tls, err := overBoth(t, db, dsn(c.role, c.host, c.params))
		// Under TLS 1.3 the server refuses a client's certificate when the client thinks that all is well: what it wrote meanwhile may bring a reset that
		// overtakes the alert. That passes for a broken network, is tried again, and soon shows what it is.
		for tries := 0; c.fails != "" && Passing(err) && tries < 50; tries++ {
			tls, err = overBoth(t, db, dsn(c.role, c.host, c.params))
		}
		switch {
		case c.fails == "" && (err != nil || tls != c.tls):
			t.Errorf("%s: TLS %v, %v", name, tls, err)
		case c.fails != "":
			var r *Refusal
			if explained := Explain(err); !errors.As(explained, &r) || !strings.Contains(r.Text, c.fails) || !strings.Contains(r.Cure, c.cure) || Passing(err) {
				t.Errorf("%s: passing %v: %v", name, Passing(err), explained)
			}
			if shows(err) {
				t.Errorf("%s: the password is shown: %v", name, err)
			}
		}
	}
}

// shows reports whether the password stands in any error of the tree, as it is or encoded.
func shows(err error) bool {
	for _, e := range append(chain(err), chain(Explain(err))...) {
		for _, p := range []string{oddPassword, url.QueryEscape(oddPassword), url.PathEscape(oddPassword), "p@ss", "p%40ss", "中文"} {
			if strings.Contains(e.Error(), p) {
				return true
			}
		}
	}
	return false
}

// overBoth opens the plain and the replication connection, and reports whether both go over TLS. Both fail, or neither.
func overBoth(t *testing.T, db *pgtest.DB, dsn string) (tls bool, err error) {
	t.Helper()
	conn, err := Connect(t.Context(), dsn)
	repl, replErr := connectReplication(t.Context(), dsn)
	if (err == nil) != (replErr == nil) {
		t.Errorf("plain: %v; replication: %v", err, replErr)
	}
	if err != nil {
		return false, err
	}
	if replErr != nil {
		closePlain(conn)
		return false, replErr
	}
	defer closePlain(conn)
	defer closeConn(repl)
	over := pgtest.Rows[bool](t, db, "SELECT ssl FROM pg_stat_ssl WHERE pid IN ($1, $2)", int32(conn.PgConn().PID()), int32(repl.PID()))
	if len(over) != 2 || over[0] != over[1] {
		t.Errorf("TLS: %v", over)
	}
	return over[0], nil
}

// TestPasswords: a password with any characters, in a URL, a keyword string, a passfile and a service file; and none of them in an error.
func TestPasswords(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	role, _ := db.Role(t, "REPLICATION")
	db.Exec(t, "ALTER ROLE "+role+" PASSWORD "+literal(oddPassword))
	host, port, _ := net.SplitHostPort(db.Server().Addr())
	files := &authority{t: t, dir: t.TempDir()}
	passfile := files.file("pass", "# a comment\n"+host+":"+port+":"+db.Name()+":"+role+":"+strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(oddPassword)+"\n")
	service := files.file("service", "[crm]\nhost="+host+"\nport="+port+"\ndbname="+db.Name()+"\nuser="+role+"\nsslmode=disable\n")
	quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(oddPassword) + "'"
	where := "host=" + host + " port=" + port + " dbname=" + db.Name() + " user=" + role
	u := url.URL{Scheme: "postgres", User: url.UserPassword(role, oddPassword), Host: db.Server().Addr(), Path: "/" + db.Name()}
	for name, dsn := range map[string]string{
		"URL":          u.String(),
		"URL, query":   "postgresql:///" + db.Name() + "?host=" + host + "&port=" + port + "&user=" + role + "&password=" + strings.ReplaceAll(url.QueryEscape(oddPassword), "+", "%20"),
		"keywords":     where + " password=" + quoted,
		"passfile":     where + " passfile=" + passfile,
		"service file": "service=crm servicefile=" + service + " passfile=" + passfile,
		"service, URL": "postgres://?service=crm&servicefile=" + url.QueryEscape(service) + "&passfile=" + url.QueryEscape(passfile),
	} {
		if _, err := overBoth(t, db, dsn); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	db.Exec(t, "ALTER ROLE "+role+" PASSWORD 'changed'")
	for _, dsn := range []string{u.String(), where + " password=" + quoted, where + " passfile=" + passfile, u.String() + "?sslmode=nonsense", where + " sslmode=nonsense password=" + quoted,
		where + " password=" + quoted + " port=x"} {
		if _, err := Connect(t.Context(), dsn); err == nil || shows(Explain(err)) {
			t.Errorf("%v", err)
		}
	}
	// A server without TLS, asked for it.
	var r *Refusal
	if _, err := Connect(t.Context(), u.String()+"?sslmode=require"); !errors.As(Explain(err), &r) || !strings.Contains(r.Cure, "SHOW ssl") || Passing(err) {
		t.Errorf("%v", Explain(err))
	}
}
