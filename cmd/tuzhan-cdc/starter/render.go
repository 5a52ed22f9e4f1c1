package starter

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// write makes the mapping's lines.
func (it *item) write(t *table) {
	it.lines = []string{"name: " + scalar(it.name), "table: " + scalar(tableText(t)), "on: [" + it.on + "]"}
	if len(it.when) > 0 {
		it.lines = append(it.lines, "when: "+scalar(strings.Join(it.when, " && ")))
	}
	it.lines = append(append(it.lines, it.keys...), it.kind+":")
	for _, l := range it.body {
		it.lines = append(it.lines, "  "+l)
	}
}

var plainName = regexp.MustCompile(`^[\p{L}\p{N}_$]+$`)

// tableText writes schema.name as mappings do.
func tableText(t *table) string {
	quoted := func(s string) string {
		if plainName.MatchString(s) {
			return s
		}
		return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return quoted(t.Schema) + "." + quoted(t.Surveyed.Name)
}

var plainScalar = regexp.MustCompile(`^[\p{L}$(][\p{L}\p{N} _.,;$(){}"'=&|?!<>+*/\[\]-]*$`)

// looksLikeOther matches what YAML reads as something else than text.
var looksLikeOther = regexp.MustCompile(`(?i)^(y|n|yes|no|on|off|true|false|null|inf|nan|[0-9.+-].*)$`)

// scalar writes a text in YAML: as it is where that is safe, else in single quotes, or in double ones where it has what those can't hold.
func scalar(s string) string {
	switch {
	case plainScalar.MatchString(s) && !looksLikeOther.MatchString(s) && !strings.HasSuffix(s, " ") && !strings.Contains(s, ": ") && !strings.Contains(s, " #"):
		return s
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return strconv.Quote(s)
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// clean makes a text of the catalogue fit for a comment: on one line, and not without end.
func clean(s string, most int) string {
	s = strings.ToValidUTF8(s, "?") // of a database in SQL_ASCII
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:most]) + "…"
	}
	return s
}

// Source is how the file says where the database is.
type Source struct {
	// Key is dsn or dsnFile, Value its value: without a password.
	Key, Value string
	// Slot is another slot (and publication) than the default; empty: the default.
	Slot string
	// Note is a line about the password.
	Note string
}

// File gives the configuration file.
func (d *Draft) File(source Source) string {
	b := &strings.Builder{}
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	v := d.survey.Server
	line("# yaml-language-server: $schema=tuzhan-cdc.schema.json")
	line("#")
	line("# A start, made by tuzhan-cdc init from the catalogue of database %s (PostgreSQL %d). Read it before you run it: names were guessed at, nothing was tried.", v.Database, v.Version/10000)
	line("# Live: %s of %s, which the tables can give as they are. As comments, below what they wait for: %d more.", count(d.Live, "mapping"), count(d.Tables, "table"), d.Waiting)
	line("#")
	line("#   tuzhan-cdc preview     what would be sent of rows that are there now")
	line("#   tuzhan-cdc check       what file, database and platform have to say, with the cures")
	line("#   tuzhan-cdc run         sends what is committed from then on")
	line("")
	line("source:")
	line("  %s: %s%s", source.Key, scalarDSN(source.Value), source.Note)
	if source.Slot != "" {
		line("  slot: %-20s # tuzhan_cdc is another database's", source.Slot)
		line("  publication: %s", source.Slot)
	}
	if d.localTimes() {
		line("  # Timestamps without time zone are read in the database's TimeZone, %s. Where they mean another one:", v.TimeZone)
		line("  # timeZone: Asia/Shanghai")
	}
	line("")
	line("platform:")
	line("  baseURL: ${TUZHAN_URL:-https://integrate.rabbitpre.com}")
	line("  appID: ${TUZHAN_APP_ID}")
	line("  appSecret: ${TUZHAN_APP_SECRET}")
	line("  paths:")
	line("    point: ${TUZHAN_POINT_PATH:-/point/increase}   # as configured in your self-built app")
	line("")
	line("state:")
	line("  path: ./tuzhan-cdc.db       # on a disk that outlives the process: it remembers how far things have got")
	line("")
	if len(d.Events) > 0 {
		line("# These events must be defined on the platform first, or be given the names that they have there:")
		line("# %s", strings.Join(d.Events, ", "))
		line("")
	}
	if len(d.Identities) > 0 {
		line("# Some mappings stand as comments below an ALTER TABLE: they compare a row with what it was before, or name the customer of a deleted one, and PostgreSQL sends")
		line("# old rows only with REPLICA IDENTITY FULL (UPDATE and DELETE then write them into the WAL whole). Run that as the table's owner, then take the \"# \" in front away.")
		line("")
	}
	line("mappings:")
	for _, sec := range d.sections {
		sec.render(line)
	}
	d.renderUnmapped(line)
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// localTimes reports whether a mapped table has timestamps without time zone.
func (d *Draft) localTimes() bool {
	for _, sec := range d.sections {
		for _, c := range []*column{sec.createdAt, sec.paidAt} {
			if c != nil && c.TypeName != "" && !strings.Contains(c.TypeName, "with time zone") {
				return true
			}
		}
	}
	return false
}

func (s *section) render(line func(string, ...any)) {
	line("")
	about := ""
	if s.Comment != "" {
		about = " (" + clean(s.Comment, 60) + ")"
	}
	line("  # ---- %s%s: %s; names the customer by %s", clean(s.Surveyed.String(), 120), about, s.size(), clean(s.identities(), 120))
	for _, it := range s.live {
		line("")
		line("  # %s", clean(it.about, 240))
		line("  - %s", strings.Join(it.lines, "\n    "))
	}
	var full, decide []*item
	for _, it := range s.waiting {
		if s.needsFull(it) {
			full = append(full, it)
		} else {
			decide = append(decide, it)
		}
	}
	s.renderWaiting(line, decide)
	if len(full) == 0 {
		return
	}
	line("")
	line("  # What follows needs this:")
	line("  #")
	for _, sql := range strings.Split(s.FullIdentity, "\n") {
		line("  #     %s", clean(sql, 400))
	}
	s.renderWaiting(line, full)
}

// renderWaiting writes mappings as comments.
func (s *section) renderWaiting(line func(string, ...any), items []*item) {
	for _, it := range items {
		line("")
		line("  # %s", clean(it.about, 240))
		if it.decide != "" {
			line("  # Not live, since %s.", clean(it.decide, 240))
		}
		line("") // the comment ends here, the mapping begins
		line("  # - %s", strings.Join(it.lines, "\n  #   "))
	}
}

// size says how many rows a table has.
func (s *section) size() string {
	parts := []string{"never analysed"}
	switch n := s.Rows; {
	case n == 0:
		parts[0] = "no rows"
	case n >= 1_000_000:
		parts[0] = fmt.Sprintf("about %.1f million rows", float64(n)/1e6)
	case n >= 10_000:
		parts[0] = fmt.Sprintf("about %d,000 rows", (n+500)/1000)
	case n > 0:
		parts[0] = "about " + count(int(n), "row")
	}
	if s.Partitions > 0 {
		parts = append(parts, count(s.Partitions, "partition"))
	}
	if len(s.PrimaryKey) == 0 {
		parts = append(parts, "no primary key")
	}
	return strings.Join(parts, ", ")
}

// mostNamed is how many tables are named for one reason.
const mostNamed = 60

func (d *Draft) renderUnmapped(line func(string, ...any)) {
	if len(d.Unmapped) == 0 {
		return
	}
	line("")
	line("# ---- Without a mapping:")
	line("#")
	joins := false
	for _, u := range d.Unmapped {
		joins = joins || strings.HasPrefix(u.Why, "no customer in the row")
		names := make([]string, 0, len(u.Tables))
		for _, t := range u.Tables[:min(len(u.Tables), mostNamed)] {
			names = append(names, clean(t.String(), 120))
		}
		if more := len(u.Tables) - len(names); more > 0 {
			names = append(names, fmt.Sprintf("and %d more", more))
		}
		line("# %s:", clean(u.Why, 240))
		for _, l := range wrapped(names, 150) {
			line("#     %s", l)
		}
	}
	if !joins {
		return
	}
	line("#")
	line("# A mapping reads the row that changed and joins nothing. Where a row has only the customer's id, let the application (or a trigger) keep the phone or openid in")
	line("# the row too; or, if the platform knows your customers by that id, name them by it: thirdId in a groupRelation, thirdId in a point with platform.pointAPI: open.")
}

// wrapped joins names to lines of about a width.
func wrapped(names []string, width int) []string {
	var lines []string
	current := ""
	for i, n := range names {
		if i < len(names)-1 {
			n += ","
		}
		if current != "" && len([]rune(current+" "+n)) > width {
			lines, current = append(lines, current), ""
		}
		if current != "" {
			current += " "
		}
		current += n
	}
	return append(lines, current)
}

// Reasons writes the tables without a mapping as text, where no file is written.
func (d *Draft) Reasons() string {
	var b strings.Builder
	for _, u := range d.Unmapped {
		names := make([]string, 0, len(u.Tables))
		for _, t := range u.Tables[:min(len(u.Tables), mostNamed)] {
			names = append(names, clean(t.String(), 120))
		}
		fmt.Fprintf(&b, "  %s: %s\n", clean(u.Why, 240), strings.Join(names, ", "))
	}
	return b.String()
}

var plainFile = regexp.MustCompile(`^[A-Za-z/.][A-Za-z0-9_./-]*$`)

// scalarDSN writes a DSN, which holds colons that plain text may have: it is quoted only where YAML would misread it.
func scalarDSN(s string) string {
	if strings.HasPrefix(s, "postgres") && !strings.ContainsAny(s, " #'\"") || plainFile.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// count gives a number with what it counts.
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
