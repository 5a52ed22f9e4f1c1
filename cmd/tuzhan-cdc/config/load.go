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

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// Load reads a configuration file and the mapping files that it names. env looks environment variables up, as os.LookupEnv does.
//
// Where the file can be read but is wrong the error is a *strict.Errors, with every problem of all files. No error shows a secret or
// what an environment variable holds.
func Load(path string, env func(string) (string, bool)) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w (-c names the file)", err)
	}
	cfg := defaults()
	cfg.File = path
	l := &loader{cfg: &cfg, env: env, ps: &strict.Problems{}}
	l.file(strict.Parse(path, data, env, l.ps))
	if err := l.ps.Err(); err != nil {
		return nil, err
	}
	return &cfg, nil
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

// entry is a key that a block may have and what reads its value; the keys a block knows are those of its entries, so that none
// can be known and not read.
type entry struct {
	key  string
	read func(strict.Node)
}

// block reads a block of the file, and gives its values by key.
func block(n strict.Node, entries ...entry) map[string]strict.Node {
	known := make([]string, len(entries))
	for i, e := range entries {
		known[i] = e.key
	}
	fields := n.Fields(known...)
	for _, e := range entries {
		if v := fields[e.key]; !v.IsZero() {
			e.read(v)
		}
	}
	return fields
}

// notYet is a key that the file may have one day.
func notYet(key, instead string) entry {
	return entry{key, func(n strict.Node) { n.Problem("%s is not supported by this version yet: %s", key, instead) }}
}

func (l *loader) file(n strict.Node) {
	if n.IsZero() {
		return // no YAML
	}
	l.root = n
	ignore := func(strict.Node) {} // for what is read below
	fields := block(n,
		entry{"source", ignore},
		entry{"platform", ignore},
		entry{"delivery", l.delivery},
		entry{"state", l.state},
		entry{"server", l.server},
		entry{"log", l.log},
		entry{"mappings", ignore},
		entry{"mappingFiles", ignore},
		notYet("tests", "take it out"),
	)
	if !n.IsMap() && !n.IsNull() {
		return // one problem is enough
	}
	l.source(fields["source"])
	point := l.platform(fields["platform"])
	// Which fields a point has depends on platform.pointAPI.
	l.cfg.Mappings.OpenPoints = l.cfg.Platform.PointAPI == "open"
	l.pointPath(point, l.mappings(fields["mappings"], fields["mappingFiles"]))
}

// or gives the node where it is there and holds something that has a place, else the one around it.
func or(n, around strict.Node) strict.Node {
	if n.IsZero() {
		return around
	}
	return n
}

func (l *loader) source(n strict.Node) {
	s := &l.cfg.Source
	fields := block(n,
		entry{"dsn", l.secret(&s.DSN)},
		entry{"dsnFile", l.secretFile(&s.DSN)},
		entry{"slot", l.text(&s.Slot, checkSlot)},
		entry{"publication", l.text(&s.Publication, checkPublication)},
		entry{"timeZone", func(n strict.Node) { s.TimeZone = timeZone(n) }},
		entry{"columnLists", func(n strict.Node) { set(&s.ColumnLists)(n.Bool()) }},
		entry{"walBudget", l.size(&s.WALBudget, 1<<20, math.MaxInt64)},
		entry{"heartbeat", l.duration(&s.Heartbeat)},
		entry{"failover", func(n strict.Node) { set(&s.Failover)(n.Bool()) }},
		entry{"snapshot", func(n strict.Node) { set(&s.Snapshot)(n.Enum("never", "initial")) }},
		entry{"backfillDSN", l.secret(&s.BackfillDSN)},
		entry{"backfillDSNFile", l.secretFile(&s.BackfillDSN)},
	)
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

// platform reads the block, and gives the place where a path for points that is missing should stand; none where there is one.
func (l *loader) platform(n strict.Node) (pointMissing strict.Node) {
	p := &l.cfg.Platform
	var point strict.Node
	fields := block(n,
		entry{"baseURL", func(n strict.Node) { p.BaseURL = l.baseURL(n) }},
		entry{"appID", l.text(&p.AppID, checkNotEmpty)},
		entry{"appSecret", l.secret(&p.AppSecret)},
		entry{"appSecretFile", l.secretFile(&p.AppSecret)},
		entry{"token", l.secret(&p.Token)},
		entry{"tokenFile", l.secretFile(&p.Token)},
		entry{"paths", func(n strict.Node) {
			point = block(n,
				entry{"point", l.address(&p.Paths.Point)},
				entry{"pointDecrease", l.address(&p.Paths.PointDecrease)},
				entry{"event", l.address(&p.Paths.Event)},
				entry{"groupRelation", l.address(&p.Paths.GroupRelation)},
				entry{"token", l.address(&p.Paths.Token)},
			)["point"]
		}},
		entry{"pointAPI", func(n strict.Node) { set(&p.PointAPI)(n.Enum("increase", "open")) }},
		entry{"timeout", l.duration(&p.Timeout)},
		entry{"requestsPerSecond", func(n strict.Node) { set(&p.RequestsPerSecond)(n.Float(0, 100_000)) }},
		entry{"encryption", l.encryption},
	)
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

func (l *loader) delivery(n strict.Node) {
	d := &l.cfg.Delivery
	block(n,
		entry{"concurrency", l.count(&d.Concurrency, 256)},
		entry{"pointConcurrency", l.count(&d.PointConcurrency, 1024)},
		entry{"maxBatch", func(n strict.Node) {
			i, ok := n.Int(1, math.MaxInt32)
			if ok && i > maxBatch {
				n.Problem("maxBatch: the platform takes at most %d a request, got %d", maxBatch, i)
			}
			d.MaxBatch = int(i)
		}},
		entry{"maxBatchBytes", l.bytes(&d.MaxBatchBytes, 1<<10, 1<<30)},
		entry{"maxPending", l.count(&d.MaxPending, 10_000_000)},
		entry{"maxPendingBytes", l.bytes(&d.MaxPendingBytes, 1<<10, 1<<40)},
		entry{"backoff", l.backoff},
		entry{"giveUpAfter", l.duration(&d.GiveUpAfter)},
		entry{"maxDeadLetters", l.count(&d.MaxDeadLetters, math.MaxInt32)},
		entry{"pauseWhenRejected", func(n strict.Node) { set(&d.PauseWhenRejected)(n.Bool()) }},
	)
}

func (l *loader) backoff(n strict.Node) {
	b := &l.cfg.Delivery.Backoff
	before := l.ps.Len()
	fields := block(n,
		entry{"initial", l.duration(&b.Initial)},
		entry{"max", l.duration(&b.Max)},
	)
	if l.ps.Len() == before && b.Max < b.Initial {
		l.ps.Add(or(fields["max"], fields["initial"]), "backoff: max, %s, is less than initial, %s", b.Max, b.Initial)
	}
}

func (l *loader) state(n strict.Node) {
	s := &l.cfg.State
	fields := block(n,
		entry{"path", l.text(&s.Path, checkNotEmpty)},
		entry{"dsn", l.secret(&s.DSN)},
		entry{"dsnFile", l.secretFile(&s.DSN)},
		entry{"keyFile", func(n strict.Node) {
			if l.text(&s.KeyFile, checkNotEmpty)(n); s.KeyFile != "" {
				s.KeyFile = l.besides(s.KeyFile)
			}
		}},
		entry{"keepDeadLetters", l.duration(&s.KeepDeadLetters)},
	)
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

func (l *loader) server(n strict.Node) {
	block(n, entry{"listen", l.text(&l.cfg.Server.Listen, checkListen)})
}

func (l *loader) log(n strict.Node) {
	block(n,
		entry{"level", func(n strict.Node) {
			if v, ok := n.Enum("debug", "info", "warn", "error"); ok {
				_ = l.cfg.Log.Level.UnmarshalText([]byte(v)) // it knows all four
			}
		}},
		entry{"format", func(n strict.Node) { set(&l.cfg.Log.Format)(n.Enum("text", "json")) }},
	)
}

// set stores a value where it could be read, and else leaves the default.
func set[T any](target *T) func(T, bool) {
	return func(v T, ok bool) {
		if ok {
			*target = v
		}
	}
}

// text reads a text that check has nothing to say against: check gives what is wrong, and a hint.
func (l *loader) text(target *string, check func(string) (text, hint string)) func(strict.Node) {
	return func(n strict.Node) {
		v, ok := n.Text()
		if !ok {
			return
		}
		if text, hint := check(v); text != "" {
			l.ps.AddHint(n, hint, "%s: %s", n.Key(), text)
			return
		}
		*target = v
	}
}

func (l *loader) count(target *int, most int64) func(strict.Node) {
	return func(n strict.Node) {
		i, ok := n.Int(1, most)
		set(target)(int(i), ok)
	}
}

func (l *loader) size(target *int64, least, most int64) func(strict.Node) {
	return func(n strict.Node) {
		i, ok := n.Size()
		if ok && (i < least || i > most) {
			bound := "at least " + sizeText(least)
			if i > most {
				bound = "at most " + sizeText(most)
			}
			n.Problem("%s: want %s, got %s", n.Key(), bound, n.Raw())
			ok = false
		}
		set(target)(i, ok)
	}
}

func (l *loader) bytes(target *int, least, most int64) func(strict.Node) {
	return func(n strict.Node) {
		i := int64(*target)
		l.size(&i, least, most)(n)
		*target = int(i)
	}
}

// sizeText writes a size that is a whole number of its unit.
func sizeText(n int64) string {
	for i, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if size := int64(1) << (40 - 10*i); n >= size && n%size == 0 {
			return strconv.FormatInt(n/size, 10) + unit
		}
	}
	return strconv.FormatInt(n, 10)
}

func (l *loader) duration(target *time.Duration) func(strict.Node) {
	return func(n strict.Node) {
		d, ok := n.Duration()
		if ok && d == 0 {
			n.Problem("%s: want more than 0", n.Key())
			ok = false
		}
		set(target)(d, ok)
	}
}

// secret reads a secret that stands in the file or in an environment variable.
func (l *loader) secret(target *Secret) func(strict.Node) {
	return func(n strict.Node) {
		v, ok := n.Text()
		switch {
		case !ok:
		case v == "":
			n.Problem("%s is empty", n.Key())
		case strings.ContainsAny(v, "\r\n\x00"):
			n.Problem("%s has more than one line", n.Key())
		default:
			*target = NewSecret(v)
		}
	}
}

// secretFile reads a secret from the file that the value names.
func (l *loader) secretFile(target *Secret) func(strict.Node) {
	return func(n strict.Node) {
		path, ok := n.Text()
		if !ok {
			return
		}
		if path == "" {
			n.Problem("%s is empty", n.Key())
			return
		}
		path = l.besides(path)
		v, err := readSecret(path)
		if err != nil {
			n.Problem("%s: %v", n.Key(), err)
			return
		}
		*target = Secret{value: &v, file: path}
	}
}

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
