package postgres

import (
	"context"
	"maps"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// sessionParams make the server write every type in one way, whatever the database's own settings.
var sessionParams = map[string]string{
	"application_name": "tuzhan-cdc", "client_encoding": "UTF8", "datestyle": "ISO, YMD", "intervalstyle": "iso_8601",
	"timezone": "UTC", "extra_float_digits": "3", "bytea_output": "hex",
}

// connectReplication opens a connection in replication mode.
func connectReplication(ctx context.Context, dsn string) (*pgconn.PgConn, error) {
	return connectStream(ctx, dsn, nil, false)
}

// connectStream does the same, for a stream that reads through f, in bursts or not.
func connectStream(ctx context.Context, dsn string, f *frames, bursts bool) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	setSession(cfg.RuntimeParams)
	cfg.RuntimeParams["replication"] = "database"
	setDialerFor(cfg, bursts)
	if f != nil {
		cfg.BuildFrontend = f.buildFrontend
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := setEncoding(ctx, conn); err != nil {
		closeConn(conn)
		return nil, err
	}
	return conn, nil
}

// Connect opens a plain connection for SQL, with the same settings as the stream.
func Connect(ctx context.Context, dsn string) (*pgx.Conn, error) {
	return connectWith(ctx, dsn, nil)
}

// connectWith is Connect with more settings.
func connectWith(ctx context.Context, dsn string, more map[string]string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	setSession(cfg.RuntimeParams)
	maps.Copy(cfg.RuntimeParams, more)
	delete(cfg.RuntimeParams, "timezone") // the database's own TimeZone is to be seen
	setDialer(&cfg.Config)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := setEncoding(ctx, conn.PgConn()); err != nil {
		closeConn(conn.PgConn())
		return nil, err
	}
	return conn, nil
}

// setSession adds sessionParams to a connection's. What the DSN says of the same settings goes, in whatever case it is written: of two the server
// would take the last, and their order is random.
func setSession(params map[string]string) {
	for name := range params {
		if _, ours := sessionParams[strings.ToLower(name)]; ours {
			delete(params, name)
		}
	}
	maps.Copy(params, sessionParams)
}

// sqlASCII is the encoding that is none.
const sqlASCII = "SQL_ASCII"

// setEncoding leaves the bytes of a database in SQL_ASCII as they are. It may hold whatever clients have sent; the server can't convert that, and
// rather ends the stream at a text that is no UTF-8, each time anew. The mapper tells of such a value where one is read.
func setEncoding(ctx context.Context, conn *pgconn.PgConn) error {
	if conn.ParameterStatus("server_encoding") != sqlASCII {
		return nil
	}
	_, err := conn.Exec(ctx, "SET client_encoding = 'SQL_ASCII'").ReadAll()
	return err
}
