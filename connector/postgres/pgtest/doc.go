// Package pgtest gives tests a real PostgreSQL server: one for all tests of a test binary, a database of its own for each test, and servers
// and connections that may be broken on purpose. Only tests import it.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		db := pgtest.Server(t).Database(t)
//		db.Exec(t, "CREATE TABLE orders (id bigint PRIMARY KEY)")
//		... db.DSN(), db.SlotName() ...
//	}
//
// The shared server is a container (testcontainers-go) of the image that TEST_POSTGRES_IMAGE names; by default of tuzhan-cdc-postgres:17
// where it exists (`make test-image` builds it), else of postgres:17-alpine where the daemon has it or reaches its registry. Where that
// can't be had, it is a throwaway cluster from the machine's own binaries, and TEST_POSTGRES_IMAGE=none asks for that. A line on stdout
// says which of the two it is. Nothing is ever skipped: without either, the tests fail and say what to install.
//
// The server speaks logical replication with room for 100 slots and senders, and does not survive a crash of the machine (fsync is off).
// It goes when the tests have ended, and also when the test binary dies half-way.
package pgtest
