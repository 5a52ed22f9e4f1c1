package postgres

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// TestUnackedLimit: where bytes are on their way no TCP keep-alive is sent, so the system itself must give them up in time. Both kinds of connection.
func TestUnackedLimit(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	repl, err := connectReplication(t.Context(), db.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(repl)
	for name, conn := range map[string]net.Conn{"plain": plain(t, db.DSN()).PgConn().Conn(), "replication": repl.Conn()} {
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			t.Fatalf("%s: %T", name, conn)
		}
		raw, err := tcp.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		for option, want := range map[int]int{unix.TCP_USER_TIMEOUT: 20_000, syscall.TCP_KEEPIDLE: 5, syscall.TCP_KEEPINTVL: 5, syscall.TCP_KEEPCNT: 3} {
			var got int
			var optErr error
			if err := raw.Control(func(fd uintptr) { got, optErr = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option) }); err != nil {
				t.Fatal(err)
			}
			if optErr != nil || got != want {
				t.Errorf("%s: option %d is %d, want %d (%v)", name, option, got, want, optErr)
			}
		}
	}
}
