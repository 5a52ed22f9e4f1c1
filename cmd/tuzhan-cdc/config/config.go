package config

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
)

// Config is the whole file, checked and with the defaults filled in. It does not change once it was loaded. Printing it shows no secret.
type Config struct {
	// File is the path that it was loaded from.
	File     string
	Source   Source
	Platform Platform
	Delivery Delivery
	State    State
	Server   Server
	Log      Log
	// Mappings are those of the file, then those of mappingFiles, in that order.
	Mappings *mapping.Set
	// Tests are those of the same files.
	Tests *mapping.Tests
}

// Source is the CRM's database and what is made in it.
type Source struct {
	// DSN is a PostgreSQL URL or keyword string, as pgx reads it (source.dsn or dsnFile). Required.
	DSN Secret
	// Slot is the replication slot: lower case letters, digits and _, at most 63. Default tuzhan_cdc.
	Slot string
	// Publication is the first publication's name, at most 56 bytes: the second one's has _insert behind it. Default tuzhan_cdc.
	Publication string
	// TimeZone reads timestamps without time zone. Nil, the default: the database's TimeZone.
	TimeZone *time.Location
	// ColumnLists says that only the columns that mappings read are published, and those of the replica identity. Needs PostgreSQL 15. Default false.
	ColumnLists bool
	// ReadInBursts says that the stream may be read in bursts, which happens where it helps: from this machine, without TLS. Default true.
	ReadInBursts bool
	// WALBudget is how much WAL, in bytes, the slot may keep before there is an alarm. Over 0; default 10 GiB.
	WALBudget int64
	// Heartbeat is how often a message is written into the WAL, to move the slot of an idle database on. 0, the default: never.
	Heartbeat time.Duration
	// Failover has standbys keep the slot in step (PostgreSQL 17 or newer). Default false.
	Failover bool
	// Snapshot is never, the default, or initial: at the first start all mappings with snapshot in their on are backfilled.
	Snapshot string
	// BackfillDSN is a standby from which backfills read rows (source.backfillDSN or backfillDSNFile). Not set, the default: DSN.
	BackfillDSN Secret
}

// Display names the database without user and password: host:port/database, or for a Unix socket its folder in place of the host.
func (s Source) Display() string {
	c, err := pgconn.ParseConfig(s.DSN.Reveal())
	if err != nil {
		return masked // Load lets no such DSN through
	}
	return net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))) + "/" + c.Database
}

// Platform is the Tuzhan platform and how to speak to it.
type Platform struct {
	// BaseURL is scheme, host and perhaps a path, without a slash at its end. Required.
	BaseURL string
	// AppID and AppSecret (appSecret or appSecretFile) are those of the self-built app. Both are set, or Token is.
	AppID     string
	AppSecret Secret
	// Token is an access token that somebody else looks after (token or tokenFile); Token.Current reads the file again.
	Token Secret
	Paths Paths
	// PointAPI is increase, the default, or open: points go to the open API, whose body is another one.
	PointAPI string
	// Encryption is that of the bodies of points; off where its Algorithm is empty.
	Encryption Encryption
	// Timeout bounds one request. Over 0; default 10 s.
	Timeout time.Duration
	// RequestsPerSecond limits the data calls of all senders together. 0, the default: no limit.
	RequestsPerSecond float64
}

// Paths are the platform's paths: below BaseURL, beginning with /, or whole URLs. Empty: the platform's own where it has one.
type Paths struct {
	// Point is required where a mapping makes points; with pointAPI open it is by default /api/open/point/increase.
	Point Address
	// PointDecrease takes negative points, as their absolute value. Empty: they become dead letters.
	PointDecrease Address
	// Event is by default /api/integrate/event/v2/batchAdd.
	Event Address
	// GroupRelation is by default /api/integrate/audience/group/rel/batchAdd.
	GroupRelation Address
	// Token is by default /api/open/app/getOrgAccessToken.
	Token Address
}

// Encryption is how the bodies of points are encrypted: as the self-built app's "secure data transfer" is configured.
type Encryption struct {
	// Algorithm is aes-ecb, aes-cbc, aes-gcm, sm4-ecb or sm4-cbc. Empty: off.
	Algorithm string
	// Key (key or keyFile) is read again before each request, as IV is. AES: 16, 24 or 32 bytes; SM4: 16.
	Key Secret
	// KeyEncoding is how Key is written: utf8 (the default), hex or base64.
	KeyEncoding string
	// IV (iv or ivFile) is the same for all requests: 16 bytes for cbc, 12 (or 16) for gcm. Not set, the default: a random one in front of each
	// ciphertext.
	IV Secret
	// IVEncoding is how IV is written; by default as the key.
	IVEncoding string
	// Encoding is that of the ciphertext: base64 (the default) or hex.
	Encoding string
}

// Address is a path or URL. It prints without its query, which may hold a key; string(a) is the whole.
type Address string

// String gives the address without its query.
func (a Address) String() string {
	before, _, found := strings.Cut(string(a), "?")
	if found {
		before += "?" + masked
	}
	return before
}

// GoString is as String.
func (a Address) GoString() string { return a.String() }

// Format writes String for every verb.
func (a Address) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(a.String())) }

// MarshalText is as String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// MarshalYAML is as String.
func (a Address) MarshalYAML() (any, error) { return a.String(), nil }

// LogValue is as String.
func (a Address) LogValue() slog.Value { return slog.StringValue(a.String()) }

// Delivery bounds what is in memory and on the way.
type Delivery struct {
	// Concurrency is the requests in flight for each endpoint that takes batches: 1 to 256, default 4.
	Concurrency int
	// PointConcurrency is the same for points, which go one a request: 1 to 1024, default 16.
	PointConcurrency int
	// MaxBatch is the most records in a request: 1 to 500, which is the platform's own limit and the default.
	MaxBatch int
	// MaxBatchBytes is the most bytes in a request; a larger record goes alone. 1 KiB to 1 GiB, default 1 MiB.
	MaxBatchBytes int
	// MaxPending is the most records in memory that are not settled. 1 to 10 million, default 20,000.
	MaxPending int
	// MaxPendingBytes is the most bytes of their payloads; a larger record goes alone. 1 KiB to 1 TiB, default 8 MiB.
	MaxPendingBytes int
	Backoff         Backoff
	// GiveUpAfter is how long a record may fail alone, while its endpoint takes others, before it is set aside. Over 0; default 15 min.
	GiveUpAfter time.Duration
	// MaxDeadLetters is how many may be open before delivery pauses. 1 or more; default 10,000.
	MaxDeadLetters int
	// PauseWhenRejected pauses delivery when more than half of 1,000 records in a row are rejected. Default true.
	PauseWhenRejected bool
}

// Backoff bounds the waits of an endpoint that is down: they double from Initial to Max, and there is no end to them.
type Backoff struct {
	// Initial is the first wait. Over 0; default 200 ms.
	Initial time.Duration
	// Max is the longest. Not below Initial; default 30 s.
	Max time.Duration
}

// State is where the checkpoint, the intents and the dead letters are kept: in a file, or in a PostgreSQL database. Exactly one of the two is set.
type State struct {
	// Path is the SQLite file; a relative one counts from the working directory. Default ./tuzhan-cdc.db, where there is no DSN.
	Path string
	// DSN is a PostgreSQL URL or keyword string (state.dsn or dsnFile); the state is schema tuzhan_cdc of its database.
	DSN Secret
	// KeyFile is a file with the key that encrypts what dead letters hold of customers: 32 bytes, raw or in hex or base64. A relative path counts from the
	// configuration file's folder. Empty, the default: they are not encrypted.
	KeyFile string
	// KeepDeadLetters is how long closed dead letters are kept. Over 0; default 90 days.
	KeepDeadLetters time.Duration
}

// Same reports whether two are one place, written in the same way.
func (s State) Same(other State) bool {
	return s.Path == other.Path && s.DSN.Reveal() == other.DSN.Reveal() && s.KeyFile == other.KeyFile
}

// Server is the status page, /metrics, /healthz and /readyz.
type Server struct {
	// Listen is host:port; port 0 takes any that is free. Default 127.0.0.1:9642. Empty: no server.
	Listen string
	// AdminToken (adminToken or adminTokenFile) is what the page asks for before it shows personal data or changes anything. At least 16 characters. Not
	// set, the default: on a loopback address nothing is asked for, on others the page shows masked data only and changes nothing.
	AdminToken Secret
}

// Same reports whether two are the same server; the token that a file holds may have changed.
func (s Server) Same(other Server) bool {
	return s.Listen == other.Listen && s.AdminToken.File() == other.AdminToken.File() &&
		(s.AdminToken.File() != "" || s.AdminToken.Reveal() == other.AdminToken.Reveal())
}

// Log is what is logged, and how.
type Log struct {
	// Level is debug, info, warn or error. Default info.
	Level slog.Level
	// Format is text or json. Default text.
	Format string
}

// defaults gives a Config with all that the file may leave out.
func defaults() Config {
	return Config{
		Source:   Source{Slot: "tuzhan_cdc", Publication: "tuzhan_cdc", ReadInBursts: true, WALBudget: 10 << 30, Snapshot: "never"},
		Platform: Platform{PointAPI: "increase", Timeout: 10 * time.Second, Encryption: Encryption{KeyEncoding: "utf8", Encoding: "base64"}},
		Delivery: Delivery{
			Concurrency: 4, PointConcurrency: 16,
			MaxBatch: maxBatch, MaxBatchBytes: 1 << 20,
			MaxPending: 20_000, MaxPendingBytes: 8 << 20,
			Backoff:        Backoff{Initial: 200 * time.Millisecond, Max: 30 * time.Second},
			GiveUpAfter:    15 * time.Minute,
			MaxDeadLetters: 10_000, PauseWhenRejected: true,
		},
		State:  State{Path: "./tuzhan-cdc.db", KeepDeadLetters: 90 * 24 * time.Hour},
		Server: Server{Listen: "127.0.0.1:9642"},
		Log:    Log{Level: slog.LevelInfo, Format: "text"},

		Mappings: &mapping.Set{}, Tests: &mapping.Tests{},
	}
}

// maxBatch is the platform's limit for events and group relations.
const maxBatch = 500
