package throwaway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Options say how a throwaway server is started. The zero value is good for tests.
type Options struct {
	// Dir is where the cluster's own directory is made; empty: the system's directory for temporary files. As root, every directory on
	// the way to it must be open to other users: the server runs as user postgres. StartDocker does not use it.
	Dir string
	// Bin is the directory of initdb and postgres; empty: FindBinaries. StartDocker does not use it.
	Bin string
	// Image is StartDocker's image; empty: TEST_POSTGRES_IMAGE, else the first of [Images] that is there. Start does not use it.
	Image string
	// Port is the port on 127.0.0.1; 0: a free one. It stays the same over Stop and Start.
	Port int
	// Settings are lines of postgresql.conf (name: value, unquoted); they win over the package's own.
	Settings map[string]string
	// Durable leaves fsync on: for measurements. Without it the cluster survives a crash of the server, but not of the machine.
	Durable bool
	// Log gets a line when the server starts and stops; nil: none.
	Log *slog.Logger
}

// Mode is a way to stop the server.
type Mode string

const (
	// Fast ends sessions, waits until logical receivers have confirmed what they were sent, and writes a shutdown checkpoint. A receiver
	// whose confirmation lags holds it up for as long as it stays connected.
	Fast Mode = "fast"
	// Immediate is a crash: no checkpoint, recovery at the next start.
	Immediate Mode = "immediate"
)

// superuser owns the cluster.
const superuser = "postgres"

// startTimeout bounds one start of the server, crash recovery included.
const startTimeout = 60 * time.Second

// backend is the process or the container behind a Cluster.
type backend interface {
	// start starts the server and returns before it takes connections.
	start(ctx context.Context) error
	// failed gives the reason when the server that start started is gone by itself; nil while it runs.
	failed(ctx context.Context) error
	// stop stops the server and waits until it is down, or until ctx ends.
	stop(ctx context.Context, mode Mode) error
	// remove stops the server at once and removes all that it left. It is called once, last.
	remove() error
	// String says where the server lives.
	String() string
}

// Cluster is a running, or stopped, throwaway server. All methods are safe for concurrent use.
type Cluster struct {
	port     int
	password string
	log      *slog.Logger
	backend  backend

	// version and major are set by the first start, and never change.
	version string
	major   int

	// mu makes starting, stopping and removing exclude one another.
	mu     sync.Mutex
	closed bool
}

// settings are the lines of postgresql.conf that o stands for, but those that belong to a backend.
func (o Options) settings() (map[string]string, error) {
	s := map[string]string{
		"wal_level":             "logical",
		"max_wal_senders":       "50",
		"max_replication_slots": "50",
		"shared_buffers":        "64MB",
		"timezone":              "UTC",
		"log_timezone":          "UTC",
	}
	if !o.Durable {
		s["fsync"] = "off"
		s["full_page_writes"] = "off"
	}
	maps.Copy(s, o.Settings)
	for name, value := range s {
		if !settingName.MatchString(name) || strings.ContainsAny(value, "\n\r\x00") {
			return nil, fmt.Errorf("throwaway PostgreSQL: %q is no setting that postgresql.conf can hold", name)
		}
	}
	return s, nil
}

var settingName = regexp.MustCompile(`^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$`)

// StartAny starts a server from the machine's own binaries, and where there are none a container by StartDocker. When neither can be
// had, the error says what to install.
func StartAny(ctx context.Context, o Options) (*Cluster, error) {
	c, err := Start(ctx, o)
	var missing *MissingError
	if !errors.As(err, &missing) {
		return c, err
	}
	c, dockerErr := StartDocker(ctx, o)
	if dockerErr != nil {
		return nil, fmt.Errorf("%w (a container could not be had instead: %w)", err, dockerErr)
	}
	return c, nil
}

// bring starts b for the first time and waits until it takes connections. On failure nothing is left of b.
func bring(ctx context.Context, o Options, port int, password string, b backend) (*Cluster, error) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{port: port, password: password, log: log, backend: b}
	if err := c.Start(ctx); err != nil {
		return nil, errors.Join(err, b.remove())
	}
	return c, nil
}

// DSN is the connection string of a database, as superuser; empty: the database postgres. It has the password in it: not for logs.
func (c *Cluster) DSN(database string) string {
	if database == "" {
		database = superuser
	}
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(superuser, c.password),
		Host:     c.Addr(),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Addr is the server's address, 127.0.0.1:port.
func (c *Cluster) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)) }

// Port is the server's port on 127.0.0.1.
func (c *Cluster) Port() int { return c.port }

// Version is the server's version, as in "17.2".
func (c *Cluster) Version() string { return c.version }

// Major is the first number of the version.
func (c *Cluster) Major() int { return c.major }

// String says what runs and where, for a line of output.
func (c *Cluster) String() string {
	return fmt.Sprintf("PostgreSQL %s in %s", c.version, c.backend)
}

// Start starts the server again after Stop, on the same port, and returns when it takes connections. ctx bounds the starting only. A
// server that runs is left as it is.
func (c *Cluster) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	if err := c.backend.start(ctx); err != nil {
		return fmt.Errorf("start PostgreSQL in %s: %w", c.backend, err)
	}
	if err := c.ready(ctx); err != nil {
		return fmt.Errorf("start PostgreSQL in %s: %w", c.backend, err)
	}
	c.log.Info("PostgreSQL started", "version", c.version, "address", c.Addr())
	return nil
}

// Stop stops the server and returns when it is down. When ctx ends first, the server is still on its way down: stop it again with
// Immediate, or Close. To stop a server that is down is no error.
func (c *Cluster) Stop(ctx context.Context, mode Mode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	if mode != Fast && mode != Immediate {
		return fmt.Errorf("stop PostgreSQL: unknown mode %q", mode)
	}
	if err := c.backend.stop(ctx, mode); err != nil {
		return fmt.Errorf("stop PostgreSQL in %s (%s): %w", c.backend, mode, err)
	}
	c.log.Info("PostgreSQL stopped", "mode", string(mode), "address", c.Addr())
	return nil
}

// Restart is Stop and Start.
func (c *Cluster) Restart(ctx context.Context, mode Mode) error {
	if err := c.Stop(ctx, mode); err != nil {
		return err
	}
	return c.Start(ctx)
}

// Close stops the server at once, without waiting for anybody, and removes all that it left. Later calls do nothing.
func (c *Cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	if err := c.backend.remove(); err != nil {
		return fmt.Errorf("remove PostgreSQL in %s: %w", c.backend, err)
	}
	return nil
}

var errClosed = errors.New("throwaway PostgreSQL: it is closed")

// ready waits until the server takes connections, and reads its version.
func (c *Cluster) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		version, number, err := c.ask(ctx)
		if err == nil {
			c.version, c.major = version, number/10000
			return nil
		}
		if gone := c.backend.failed(ctx); gone != nil {
			return gone
		}
		// Class 28: the server is up and refuses us, which no waiting cures.
		if refused := (*pgconn.PgError)(nil); errors.As(err, &refused) && strings.HasPrefix(refused.Code, "28") {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it took no connections in time: %w (last: %w)", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// ask connects and gives the server's version, as in "17.2", and its number, as in 170002.
func (c *Cluster) ask(ctx context.Context) (version string, number int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, c.DSN(""))
	if err != nil {
		return "", 0, err
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, "SHOW server_version; SHOW server_version_num").ReadAll()
	if err != nil {
		return "", 0, err
	}
	// Debian adds its package's version after a space.
	version, _, _ = strings.Cut(string(results[0].Rows[0][0]), " ")
	number, err = strconv.Atoi(string(results[1].Rows[0][0]))
	return version, number, err
}

// newPassword makes a password for the superuser: other users of this machine reach the port too.
func newPassword() string { return rand.Text() }

// FreePort gives a port on 127.0.0.1 that nobody listened on just now. It is below the ports that systems give to outgoing connections
// (32768 and up on Linux): else, while the server is stopped, its port could go to one, and a client that tries to connect meanwhile
// could even get it as its own and talk to itself.
func FreePort() (int, error) {
	const low, high, tries = 15000, 32000, 100
	var last error
	for range tries {
		port := low + mathrand.IntN(high-low)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			last = err
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("find a free port for PostgreSQL: %w", last)
}
