package config

import (
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // source.timeZone must load where the machine has no zone files

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platform"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// Load reads a configuration file and the mapping files that it names. env looks environment variables up, as os.LookupEnv does.
//
// Where the file can be read but is wrong the error is a *strict.Errors, with every problem of all files. No error shows a secret or
// what an environment variable holds.
func Load(path string, env func(string) (string, bool)) (*Config, error) {
	return loaded(readFile(path, env, (*loader).file))
}

// LoadMappings reads of the same files what mappings need to be tested: mappings and tests, and of source and platform only timeZone, pointAPI and
// paths.pointDecrease. So it asks for no secret, and for no variable but those in what it reads. The rest of Config is as by default.
func LoadMappings(path string, env func(string) (string, bool)) (*Config, error) {
	return loaded(readFile(path, env, (*loader).mappingsOnly))
}

// Mappings lists what can be read of the mappings, for a shell that completes their names: what is wrong with the files is for others to say.
func Mappings(path string, env func(string) (string, bool)) []mapping.Summary {
	l, err := readFile(path, env, (*loader).mappingsOnly)
	if err != nil {
		return nil
	}
	return l.cfg.Mappings.List()
}

func loaded(l *loader, err error) (*Config, error) {
	if err == nil {
		err = l.ps.Err()
	}
	if err != nil {
		return nil, err
	}
	return l.cfg, nil
}

// readFile has a file read, and notes what is wrong with it in the loader.
func readFile(path string, env func(string) (string, bool), read func(*loader, strict.Node)) (*loader, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w (-c names the file)", err)
	}
	cfg := defaults()
	cfg.File = path
	l := &loader{cfg: &cfg, env: env, ps: &strict.Problems{}}
	read(l, strict.Parse(path, data, env, l.ps))
	return l, nil
}

// loader fills cfg from the file and notes what is wrong in ps.
type loader struct {
	cfg *Config
	env func(string) (string, bool)
	ps  *strict.Problems
	// root is the top of the file: what is missing altogether is missing there.
	root strict.Node
	// read are the mapping files that were read.
	read []string
}

// block reads a block of the file, and gives its values by key.
func block(n strict.Node, entries []entry) map[string]strict.Node {
	known := make([]string, len(entries))
	for i, e := range entries {
		known[i] = e.Name
	}
	fields := n.Fields(known...)
	for _, e := range entries {
		if v := fields[e.Name]; !v.IsZero() && e.read != nil {
			e.read(v)
		}
	}
	return fields
}

// fileKeys are the keys at the top. What has no reader is read by file, in an order of its own.
func (l *loader) fileKeys() []entry {
	list := func(item strict.Shape) value {
		return value{Shape: strict.Shape{Type: strict.ListType, Values: &item}}
	}
	return append([]entry{
		key("source", nested(l.sourceKeys(), nil, "dsn", "dsnFile"), "the CRM's database").required(),
		key("platform", nested(l.platformKeys(), nil, "appSecret", "appSecretFile", "token", "tokenFile"), "the Tuzhan platform").required(),
		key("delivery", nested(l.deliveryKeys(), l.delivery), "what is in memory and on the way"),
		key("state", nested(l.stateKeys(), l.state).atMostOne("path", "dsn", "dsnFile"), "where checkpoint, intents of points and dead letters are kept"),
		key("server", nested(l.serverKeys(), l.server).atMostOne("adminToken", "adminTokenFile"), "the status server"),
		key("log", nested(l.logKeys(), l.log), "what is logged, to standard error"),
		key("mappingFiles", list(strict.Shape{Type: strict.TextType, What: "glob"}), "files with further mappings, tables and tests; they count from this file's folder"),
	}, l.mappingFileKeys()...)
}

// mappingFileKeys are the keys at the top of a mapping file, which the file itself has too.
func (l *loader) mappingFileKeys() []entry {
	m := mapping.MappingShape()
	table := strict.Shape{Type: strict.MapType, Keys: mapping.TableKeys()}
	test := mapping.TestShape()
	return []entry{
		key("mappings", value{Shape: strict.Shape{Type: strict.ListType, Values: &m}}, "which tables, which changes, and what becomes of them"),
		key("tables", value{Shape: strict.Shape{Type: strict.MapType, Values: &table}}, "by `schema.table`: the columns that tests need; `tuzhan-cdc test --record-tables` writes them"),
		key("tests", value{Shape: strict.Shape{Type: strict.ListType, Values: &test}}, "given changes and what must come of them; `tuzhan-cdc test` runs them"),
	}
}

func (l *loader) file(n strict.Node) {
	if n.IsZero() {
		return // no YAML
	}
	l.root = n
	fields := block(n, l.fileKeys())
	if !n.IsMap() && !n.IsNull() {
		return // one problem is enough
	}
	l.source(fields["source"])
	point := l.platform(fields["platform"])
	// Which fields a point has depends on platform.pointAPI.
	l.cfg.Mappings.OpenPoints = l.cfg.Platform.PointAPI == "open"
	l.pointPath(point, l.mappings(fields))
	l.cfg.Tests.Finish(l.cfg.Mappings, l.cfg.Source.TimeZone, l.ps)
}

// mappingsOnly is file for LoadMappings.
func (l *loader) mappingsOnly(n strict.Node) {
	if n.IsZero() {
		return
	}
	l.root = n
	fields := n.Fields(strict.Names(mapShape(l.fileKeys()).Keys)...)
	if !n.IsMap() && !n.IsNull() {
		return
	}
	only := func(n strict.Node, key string, read func(strict.Node)) {
		if !n.IsMap() {
			return
		}
		for _, p := range n.Pairs() {
			if p.Key.Raw() == key {
				read(p.Value)
			}
		}
	}
	p := &l.cfg.Platform
	only(fields["source"], "timeZone", func(n strict.Node) { l.cfg.Source.TimeZone = timeZone(n) })
	only(fields["platform"], "pointAPI", func(n strict.Node) { set(&p.PointAPI)(n.Enum("increase", "open")) })
	only(fields["platform"], "paths", func(n strict.Node) {
		only(n, "pointDecrease", func(strict.Node) { p.Paths.PointDecrease = "/" }) // that it is there is enough
	})
	l.cfg.Mappings.OpenPoints = p.PointAPI == "open"
	l.mappings(fields)
	l.cfg.Tests.Finish(l.cfg.Mappings, l.cfg.Source.TimeZone, l.ps)
}

// or gives the node where it is there and holds something that has a place, else the one around it.
func or(n, around strict.Node) strict.Node {
	if n.IsZero() {
		return around
	}
	return n
}

func (l *loader) sourceKeys() []entry {
	s := &l.cfg.Source
	zone := value{Shape: strict.Shape{Type: strict.TextType, What: "time zone, like Asia/Shanghai"}, read: func(n strict.Node) { s.TimeZone = timeZone(n) }}
	return []entry{
		key("dsn", l.secret(&s.DSN, "PostgreSQL URL or keyword string"), "where the CRM's database is, and as whom to connect; see [TLS and passwords](#tls-and-passwords)").or("required"),
		key("dsnFile", l.secretFile(&s.DSN), "a file that holds it, instead"),
		key("slot", l.text(&s.Slot, checkSlot), "the replication slot"),
		key("publication", l.text(&s.Publication, checkPublication),
			"the publication of tables whose updates or deletes are mapped; `<publication>_insert` is for those of which only inserts are, so that a table without a primary key never makes your updates fail"),
		key("timeZone", zone, "reads `timestamp` columns (without time zone)").or("the database's"),
		key("walBudget", l.size(&s.WALBudget, 1<<20, math.MaxInt64), "an alarm when the slot keeps more than 80 % of this; see [WAL and outages](#wal-and-outages)"),
		key("heartbeat", l.duration(&s.Heartbeat),
			"such as `10s`: so often a small message is written into the WAL (`pg_logical_emit_message`), while the connector streams. PostgreSQL 14 or newer, not on a standby. See [WAL and outages](#wal-and-outages)").or("off"),
		key("failover", boolean(&s.Failover), "`true`: the slot is one that standbys keep in step. PostgreSQL 17 or newer. See [Failover slots](#failover-slots)"),
		key("columnLists", boolean(&s.ColumnLists),
			"`true` (PostgreSQL 15 or newer): the publications name only the columns that mappings read, and those of the replica identity, so that no other column leaves the database. See [Column lists](#column-lists)"),
		key("readInBursts", boolean(&s.ReadInBursts),
			"while much comes, from this machine and without TLS, the stream pauses for 4 ms at times, and is read through a small window, which saves PostgreSQL and the connector most of their work. `false` turns it off. See [Speed](#speed)"),
		key("snapshot", enum(&s.Snapshot, "never", "initial"),
			"`initial`: at the first start of the connector (when there is no state yet) all mappings with `snapshot` in their `on` are backfilled, once. See [Backfill](#backfill-the-rows-that-are-already-there)"),
		key("backfillDSN", l.secret(&s.BackfillDSN, "PostgreSQL URL or keyword string"),
			"a standby of the same server, from which backfills read the rows; watermarks are written on the primary all the same").or("`source.dsn`"),
		key("backfillDSNFile", l.secretFile(&s.BackfillDSN), "a file that holds it, instead"),
	}
}

func (l *loader) source(n strict.Node) {
	s := &l.cfg.Source
	fields := block(n, l.sourceKeys())
	if at := or(fields["backfillDSN"], fields["backfillDSNFile"]); !at.IsZero() && l.oneOf(at, fields, "source", "backfillDSN", "backfillDSNFile") && s.BackfillDSN.IsSet() {
		l.checkDSN(at, s.BackfillDSN)
	}
	if l.oneOf(or(n, l.root), fields, "source", "dsn", "dsnFile") && s.DSN.IsSet() {
		l.checkDSN(or(fields["dsn"], fields["dsnFile"]), s.DSN)
	}
}

// oneOf notes it where not exactly one of two keys is there.
func (l *loader) oneOf(at strict.Node, fields map[string]strict.Node, name, a, b string) bool {
	switch missing, missingToo := fields[a].IsZero(), fields[b].IsZero(); {
	case missing && missingToo:
		l.ps.Add(at, "%s.%s (or %s) is missing", name, a, b)
		return false
	case !missing && !missingToo:
		l.ps.Add(fields[b], "%s and %s are both there: keep one of them", a, b)
		return false
	}
	return true
}

func (l *loader) platformKeys() []entry {
	p := &l.cfg.Platform
	base := value{Shape: strict.Shape{Type: strict.TextType, What: "URL"}, read: func(n strict.Node) { p.BaseURL = l.baseURL(n) }}
	rate := value{Shape: strict.Shape{Type: strict.NumberType, Most: 100_000}, def: "0", read: func(n strict.Node) { set(&p.RequestsPerSecond)(n.Float(0, 100_000)) }}
	return []entry{
		key("baseURL", base, "scheme and host, perhaps a path").required(),
		key("appID", l.text(&p.AppID, checkNotEmpty), "of the self-built app, with `appSecret`"),
		key("appSecret", l.secret(&p.AppSecret, ""), "of the self-built app"),
		key("appSecretFile", l.secretFile(&p.AppSecret), "a file that holds it, instead; read again before each token call"),
		key("token", l.secret(&p.Token, ""), "instead of the pair: an access token that somebody else renews"),
		key("tokenFile", l.secretFile(&p.Token), "a file that holds it, instead; read again when the token is refused"),
		key("paths", nested(l.pathKeys(), nil), "the API's paths, below `baseURL`, or whole URLs"),
		key("pointAPI", enum(&p.PointAPI, "increase", "open"), "`open`: points go to the open API, with other fields and a `relateBizCode` (see [Points](#points))"),
		key("encryption", nested(l.encryptionKeys(), l.encryption, "key", "keyFile").atMostOne("iv", "ivFile"), "of points, as the app's \"secure data transfer\" is configured (see [Encryption](#encryption))").or("off"),
		key("timeout", l.duration(&p.Timeout), "for one request"),
		key("requestsPerSecond", rate, "of all senders together; 0: no limit"),
	}
}

func (l *loader) pathKeys() []entry {
	p := &l.cfg.Platform.Paths
	return []entry{
		key("point", l.address(&p.Point), "as configured in the self-built app").or("required for points; with `pointAPI: open`: `/api/open/point/increase`"),
		key("pointDecrease", l.address(&p.PointDecrease), "where negative points go, as their absolute value, with the same body; without it they become dead letters").or("none"),
		key("event", l.address(&p.Event), "the event import").or(platform.DefaultPaths().Event),
		key("groupRelation", l.address(&p.GroupRelation), "the group relation import").or(platform.DefaultPaths().GroupRelation),
		key("token", l.address(&p.Token), "the token call").or(platform.DefaultPaths().Token),
	}
}

// platform reads the block, and gives the place where a path for points that is missing should stand; none where there is one.
func (l *loader) platform(n strict.Node) (pointMissing strict.Node) {
	p := &l.cfg.Platform
	fields := block(n, l.platformKeys())
	point := block(fields["paths"], l.pathKeys())["point"]
	at := or(n, l.root)
	if fields["baseURL"].IsZero() {
		l.ps.AddHint(at, "The public cloud's is https://integrate.rabbitpre.com.", "platform.baseURL is missing")
	}
	l.access(at, fields)
	if e := fields["encryption"]; p.PointAPI == "open" && p.Encryption.Algorithm != "" {
		l.ps.AddHint(e, "Take encryption out, or pointAPI: open.", "encryption is for pointAPI: increase only: the platform's pages know no encrypted body of the open API")
	}
	if paths := fields["paths"]; point.IsZero() && (paths.IsZero() || paths.IsNull() || paths.IsMap()) {
		return or(paths, at)
	}
	return strict.Node{}
}

// pointPath notes it where a path for points is missing and a mapping makes some.
func (l *loader) pointPath(at strict.Node, makesPoints []pointMapping) {
	if at.IsZero() || len(makesPoints) == 0 || l.cfg.Platform.PointAPI == "open" {
		return
	}
	m := makesPoints[0]
	l.ps.AddHint(at, "It is the path that the self-built app is configured with, or a whole URL.",
		"platform.paths.point is missing: the mapping at %s:%d makes points", m.file, m.line)
}

// access checks that there is a token, or app id and secret, and not both.
func (l *loader) access(at strict.Node, fields map[string]strict.Node) {
	there := func(keys ...string) (node strict.Node, ok bool) {
		for _, k := range keys {
			if n := fields[k]; !n.IsZero() {
				return n, true
			}
		}
		return strict.Node{}, false
	}
	token, hasToken := there("token", "tokenFile")
	_, hasSecret := there("appSecret", "appSecretFile")
	_, hasPair := there("appSecret", "appSecretFile", "appID")
	switch {
	case hasToken && hasPair:
		l.ps.Add(token, "%s and the pair of appID and appSecret are both there: keep one of them", token.Key())
		return
	case hasToken:
		l.oneOf(at, fields, "platform", "token", "tokenFile")
		return
	case !hasPair:
		l.ps.Add(at, "platform.appID and platform.appSecret (or appSecretFile) are missing, or instead of the pair token (or tokenFile)")
		return
	}
	if fields["appID"].IsZero() {
		l.ps.Add(at, "platform.appID is missing: it goes with appSecret")
	}
	if !hasSecret {
		l.ps.Add(at, "platform.appSecret (or appSecretFile) is missing: it goes with appID")
		return
	}
	l.oneOf(at, fields, "platform", "appSecret", "appSecretFile")
}

func (l *loader) deliveryKeys() []entry {
	d := &l.cfg.Delivery
	batch := l.count(&d.MaxBatch, maxBatch)
	batch.read = func(n strict.Node) {
		i, ok := n.Int(1, math.MaxInt32)
		if ok && i > maxBatch {
			n.Problem("maxBatch: the platform takes at most %d a request, got %d", maxBatch, i)
		}
		d.MaxBatch = int(i)
	}
	return []entry{
		key("concurrency", l.count(&d.Concurrency, 256), "requests in flight for each endpoint that takes batches"),
		key("pointConcurrency", l.count(&d.PointConcurrency, 1024), "the same for points, which go one a request"),
		key("maxBatch", batch, "records a request; 500 is the platform's own limit"),
		key("maxBatchBytes", l.bytes(&d.MaxBatchBytes, 1<<10, 1<<30), "bytes a request; a larger record goes alone"),
		key("maxPending", l.count(&d.MaxPending, 10_000_000),
			"records in memory that are not settled; beyond that reading waits. Records that fail alone may take half of it, then the oldest are set aside early"),
		key("maxPendingBytes", l.bytes(&d.MaxPendingBytes, 1<<10, 1<<40), "their bytes; a larger record is read alone"),
		key("backoff", nested(l.backoffKeys(), l.backoff),
			"waits while an endpoint is down, and of a record that fails alone: a random time below a bound that doubles from `initial` to `max`. Where the platform says `Retry-After`, that counts (at most an hour)"),
		key("giveUpAfter", l.duration(&d.GiveUpAfter), "how long a record may fail alone, while its endpoint takes others, before it becomes a dead letter"),
		key("maxDeadLetters", l.count(&d.MaxDeadLetters, math.MaxInt32), "more open ones: delivery pauses with an alarm. Letters of a held mapping that was given up don't count"),
		key("pauseWhenRejected", boolean(&d.PauseWhenRejected), "more than half of 1,000 records in a row rejected: delivery pauses with an alarm"),
	}
}

func (l *loader) delivery(n strict.Node) { block(n, l.deliveryKeys()) }

func (l *loader) backoffKeys() []entry {
	b := &l.cfg.Delivery.Backoff
	return []entry{
		key("initial", l.duration(&b.Initial), "the first bound"),
		key("max", l.duration(&b.Max), "the largest bound"),
	}
}

func (l *loader) backoff(n strict.Node) {
	b := &l.cfg.Delivery.Backoff
	before := l.ps.Len()
	fields := block(n, l.backoffKeys())
	if l.ps.Len() == before && b.Max < b.Initial {
		l.ps.Add(or(fields["max"], fields["initial"]), "backoff: max, %s, is less than initial, %s", b.Max, b.Initial)
	}
}

func (l *loader) stateKeys() []entry {
	s := &l.cfg.State
	keyFile := l.text(&s.KeyFile, checkNotEmpty).what("path")
	readPath := keyFile.read
	keyFile.read = func(n strict.Node) {
		if readPath(n); s.KeyFile != "" {
			s.KeyFile = l.besides(s.KeyFile)
		}
	}
	return []entry{
		key("path", l.text(&s.Path, checkNotEmpty).what("path"), "an SQLite file on a local disk that outlives the process; a relative path counts from the working directory"),
		key("dsn", l.secret(&s.DSN, "PostgreSQL URL or keyword string"), "or in a PostgreSQL database instead, in its schema `tuzhan_cdc`; `path` and `dsn` exclude each other"),
		key("dsnFile", l.secretFile(&s.DSN), "a file that holds it, instead"),
		key("keyFile", keyFile, "a file with 32 random bytes (`openssl rand -hex 32 > letters.key`): encrypts payload, change and the platform's answer of dead letters at rest").or("none"),
		key("keepDeadLetters", l.duration(&s.KeepDeadLetters), "how long closed dead letters are kept"),
	}
}

func (l *loader) state(n strict.Node) {
	s := &l.cfg.State
	fields := block(n, l.stateKeys())
	dsn := or(fields["dsn"], fields["dsnFile"])
	if dsn.IsZero() {
		return
	}
	if !fields["path"].IsZero() {
		l.ps.Add(dsn, "path and %s are both there: keep one of them", dsn.Key())
	}
	s.Path = ""
	if l.oneOf(n, fields, "state", "dsn", "dsnFile") && s.DSN.IsSet() {
		l.checkDSN(dsn, s.DSN)
	}
}

// checkDSN notes what is wrong with a DSN that was read.
func (l *loader) checkDSN(at strict.Node, dsn Secret) {
	if text, hint := checkDSN(dsn.Reveal()); text != "" {
		l.ps.AddHint(at, hint, "%s: %s", at.Key(), text)
	}
}

func (l *loader) serverKeys() []entry {
	s := &l.cfg.Server
	return []entry{
		key("listen", l.text(&s.Listen, checkListen).what("host:port"), "the [page](#the-page), `/metrics`, `/healthz`, `/readyz`, `/status.json`; `\"\"` turns it off"),
		key("adminToken", l.secret(&s.AdminToken, "text"), "what the page asks for before it shows personal data or changes anything, at least 16 characters").or("none"),
		key("adminTokenFile", l.secretFile(&s.AdminToken), "a file that holds it, instead; read again each time"),
	}
}

func (l *loader) server(n strict.Node) {
	s := &l.cfg.Server
	fields := block(n, l.serverKeys())
	token := or(fields["adminToken"], fields["adminTokenFile"])
	if token.IsZero() || !l.oneOf(n, fields, "server", "adminToken", "adminTokenFile") || !s.AdminToken.IsSet() {
		return
	}
	if len(s.AdminToken.Reveal()) < minAdminToken {
		l.ps.AddHint(token, "For example what `openssl rand -hex 24` prints.", "%s: want at least %d characters, for whoever has it may read customers' data", token.Key(), minAdminToken)
	}
}

// minAdminToken is how long server.adminToken must be: it is not to be guessed.
const minAdminToken = 16

func (l *loader) logKeys() []entry {
	level := enum(nil, "debug", "info", "warn", "error")
	level.def = "info"
	level.read = func(n strict.Node) {
		if v, ok := n.Enum(level.Enum...); ok {
			_ = l.cfg.Log.Level.UnmarshalText([]byte(v)) // it knows all four
		}
	}
	return []entry{
		key("level", level, "the least that is logged"),
		key("format", enum(&l.cfg.Log.Format, "text", "json"), "how it is written: a line each"),
	}
}

func (l *loader) log(n strict.Node) { block(n, l.logKeys()) }

// besides makes a path count from the configuration file's folder.
func (l *loader) besides(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(l.cfg.File), path)
}

func timeZone(n strict.Node) *time.Location {
	name, ok := n.Text()
	if !ok {
		return nil
	}
	if zone, err := time.LoadLocation(name); err == nil && name != "" && name != "Local" {
		return zone
	}
	n.Problem("timeZone: there is no time zone of that name: want one like Asia/Shanghai, got %q", n.Raw())
	return nil
}

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

func checkSlot(s string) (text, hint string) {
	if slotName.MatchString(s) {
		return "", ""
	}
	if better := strings.ReplaceAll(strings.ToLower(s), "-", "_"); slotName.MatchString(better) {
		hint = "For example " + better + "."
	}
	return "PostgreSQL takes 1 to 63 lower case letters, digits and _ as a slot's name", hint
}

func checkPublication(s string) (text, hint string) {
	if s == "" || len(s) > 56 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
		return "want a name of 1 to 56 bytes: a second publication has it with _insert behind it, and PostgreSQL takes 63", ""
	}
	return "", ""
}

func checkNotEmpty(s string) (text, hint string) {
	if s == "" {
		return "it is empty", ""
	}
	return "", ""
}

func checkListen(s string) (text, hint string) {
	if s == "" {
		return "", "" // off
	}
	_, port, err := net.SplitHostPort(s)
	if n, perr := strconv.Atoi(port); err != nil || perr != nil || n < 0 || n > 65535 {
		return `want host:port, like 127.0.0.1:9642, or "" for no server`, ""
	}
	return "", ""
}

// Listen reads nothing of a file but server.listen, whatever else is wrong with it: a health check is about the process that runs, not about a file
// that may have been edited since.
func Listen(path string, env func(string) (string, bool)) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the configuration: %w (-c names the file)", err)
	}
	cfg := defaults()
	l := &loader{cfg: &cfg, env: env, ps: &strict.Problems{}}
	root := strict.Parse(path, data, env, l.ps)
	if root.IsZero() {
		return "", l.ps.Err()
	}
	listen := root.Fields("server")["server"].Fields("listen")["listen"]
	before := l.ps.Len() // nobody asks for what the rest has wrong
	if !listen.IsZero() {
		l.text(&cfg.Server.Listen, checkListen).read(listen)
	}
	if l.ps.Len() > before {
		return "", l.ps.Err()
	}
	return cfg.Server.Listen, nil
}
