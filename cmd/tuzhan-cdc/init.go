package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/cmd/tuzhan-cdc/starter"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// initOptions are the flags.
type initOptions struct {
	dsn, dsnFile, output string
	schemas, tables      []string
	force                bool
}

func initCommand() *cobra.Command {
	var o initOptions
	c := &cobra.Command{
		Use: "init", Short: "Writes a starter file from the tables of a database", Args: noArgs,
		Long: `Looks at the tables of a database: columns that are named or commented like phone, mobile, 手机, openid, unionid, points, 积分, amount, 金额, status, 状态, group,
标签 and so on; foreign keys, comments, row counts, and the values of columns that hold codes. Writes a commented tuzhan-cdc.yaml of it that passes check: mappings that the
tables can give as they are, and as comments under their SQL those that need REPLICA IDENTITY FULL. It says which tables have no mapping, and why.

It changes nothing in the database and needs no rights beyond CONNECT (with SELECT it sees the values of codes). It is a start: read the file, then preview.

The database is named by --dsn-file, by --dsn, or by PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD, PGPASSFILE and PGSERVICE, as psql reads them. A password in --dsn can be seen by
other users of this machine while the command runs; the file gets ${CRM_PASSWORD} in its place.`,
		Example: `  PGPASSWORD=... tuzhan-cdc init --dsn postgres://cdc@127.0.0.1:5432/crm
  tuzhan-cdc init --dsn-file /etc/tuzhan-cdc/dsn --schema crm --output /etc/tuzhan-cdc/tuzhan-cdc.yaml
  PGHOST=127.0.0.1 PGUSER=cdc PGDATABASE=crm tuzhan-cdc init --table crm.orders --table 'crm."会员"' --output -`,
	}
	c.Flags().StringVar(&o.dsn, "dsn", "", "the database, as postgres://user@host:5432/database or host=... dbname=...")
	c.Flags().StringVar(&o.dsnFile, "dsn-file", "", "a `file` that holds the DSN, which the configuration then reads too")
	c.Flags().StringVar(&o.output, "output", "", "the `file` to write; -: standard output (default that of --config)")
	c.Flags().StringArrayVar(&o.schemas, "schema", nil, "only this `schema`; may come several times")
	c.Flags().StringArrayVar(&o.tables, "table", nil, "only this table, as `schema.table`; may come several times")
	c.Flags().BoolVar(&o.force, "force", false, "overwrite the file")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if o.output == "" {
			o.output = configFlag(c)
		}
		return o.run(c.Context(), c.OutOrStdout())
	}
	return c
}

func (o *initOptions) run(ctx context.Context, out io.Writer) error {
	if !o.force && o.output != "-" {
		if _, err := os.Lstat(o.output); err == nil {
			return fmt.Errorf("%s is there already: --force overwrites it, --output FILE writes another one", o.output)
		}
	}
	target, err := o.target()
	if err != nil {
		return err
	}
	params := postgres.SurveyParams{Schemas: o.schemas}
	for _, text := range o.tables {
		schema, name, ok := mapping.SplitTable(text)
		if !ok {
			return usageError{fmt.Errorf(`--table %s: want schema.table, with double quotes around a name that holds a dot: crm."a.b"`, text)}
		}
		params.Tables = append(params.Tables, postgres.TableName{Schema: schema, Name: name})
	}
	conn, err := postgres.Connect(ctx, target.dsn)
	if err != nil {
		return dsnError(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	survey, err := postgres.LoadSurvey(ctx, conn, params)
	if err != nil {
		return dsnError(err)
	}
	if err := o.missing(ctx, conn, survey, params); err != nil {
		return err
	}
	if err := postgres.LoadCodes(ctx, conn, survey, starter.Codes(survey)); err != nil {
		return dsnError(err)
	}
	draft := starter.New(survey)
	if draft.Live+draft.Waiting == 0 {
		return errors.New("no file was written: " + nothingFound(survey, draft))
	}
	source := target.source
	if source.Slot, err = freeSlot(ctx, conn, survey.Server); err != nil {
		return dsnError(err)
	}
	text := draft.File(source)
	if o.output == "-" {
		_, err := io.WriteString(out, text)
		return err
	}
	if err := writeNew(o.output, withConfig(o.output, text), o.force); err != nil {
		return err
	}
	return o.told(out, draft, target)
}

// dsnError is an error of the server, in words that name the flags where those would name the file.
func dsnError(err error) error {
	err = postgres.Explain(err)
	var refusal *postgres.Refusal
	if errors.As(err, &refusal) {
		words := strings.NewReplacer("source.dsn", "the DSN")
		return &postgres.Refusal{Text: words.Replace(refusal.Text), Cure: words.Replace(refusal.Cure)}
	}
	return err
}

// missing says which of the asked-for schemas and tables are not there.
func (o *initOptions) missing(ctx context.Context, conn *pgx.Conn, s *postgres.Survey, params postgres.SurveyParams) error {
	for _, schema := range params.Schemas {
		if !slices.Contains(s.Schemas, schema) {
			all, err := postgres.LoadSurvey(ctx, conn, postgres.SurveyParams{})
			if err != nil {
				return dsnError(err)
			}
			return usageError{fmt.Errorf("--schema %s: there are no tables in it; these schemas have some: %s", schema, strings.Join(all.Schemas, ", "))}
		}
	}
	for i, n := range params.Tables {
		found := slices.ContainsFunc(s.Tables, func(t *postgres.Surveyed) bool { return t.Schema == n.Schema && t.Name == n.Name }) ||
			slices.ContainsFunc(s.Skipped, func(k postgres.SkippedTable) bool { return k.Table == n })
		if found {
			continue
		}
		all, err := postgres.LoadSurvey(ctx, conn, postgres.SurveyParams{})
		if err != nil {
			return dsnError(err)
		}
		var names []string
		for _, t := range all.Tables {
			names = append(names, t.String())
		}
		near := ""
		if s := strict.Suggest(n.String(), names); s != "" {
			near = ": did you mean " + s + "?"
		}
		return usageError{fmt.Errorf("--table %s: there is no such table in database %s, or it is a partition (name the root)%s", o.tables[i], s.Server.Database, near)}
	}
	return nil
}

// nothingFound says why no mapping could be made.
func nothingFound(s *postgres.Survey, d *starter.Draft) string {
	if len(s.Tables)+len(s.Skipped) == 0 {
		return "database " + s.Server.Database + " has no tables here; check the database's name in the DSN, and --schema"
	}
	return "of no table in database " + s.Server.Database + " a mapping can be made:\n" + d.Reasons() +
		"A mapping needs a column that names the customer in the row itself: a phone, openid or unionid."
}

// freeSlot gives another slot's name where another database has one of the default name; else "".
func freeSlot(ctx context.Context, conn *pgx.Conn, server postgres.Server) (string, error) {
	const standard = "tuzhan_cdc"
	slot, err := postgres.SlotState(ctx, conn, standard)
	if err != nil || !slot.Exists || slot.Database == server.Database {
		return "", err
	}
	name := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(server.Database), "_"), "_")
	if name == "" {
		name = "2"
	}
	return standard + "_" + name[:min(len(name), 40)], nil
}

// writeNew writes the file, and over one that is there only where force says so.
func writeNew(path, text string, force bool) error {
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: --force overwrites it, --output FILE writes another one", path)
	} else if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// told prints what was written, and what to do next.
func (o *initOptions) told(out io.Writer, d *starter.Draft, target *initTarget) error {
	var b strings.Builder
	fmt.Fprintf(&b, "wrote %s: %s of %s, live", o.output, count(d.Live, "mapping"), count(d.Tables, "table"))
	if d.Waiting > 0 {
		fmt.Fprintf(&b, "; %d more as comments, below what they wait for", d.Waiting)
	}
	b.WriteString("\n")
	if n := len(d.Identities); n > 0 {
		fmt.Fprintf(&b, "REPLICA IDENTITY FULL of %s would let it do more: the SQL is in the file\n", count(n, "table"))
	}
	if d.Live == 0 {
		b.WriteString("none is live: take the \"# \" in front of one away, since check and run want one at least\n")
	}
	without := 0
	for _, u := range d.Unmapped {
		without += len(u.Tables)
	}
	if without > 0 {
		fmt.Fprintf(&b, "%s without a mapping: the end of the file says why\n", count(without, "table"))
	}
	b.WriteString("\nRead it, then:\n")
	step := func(command, why string) {
		command = withConfig(o.output, command)
		if why != "" {
			why = "  # " + why
		}
		fmt.Fprintf(&b, "  %-55s%s\n", command, why)
	}
	for _, v := range target.variables {
		step("export "+v.name+"='...'", v.what)
	}
	step("export TUZHAN_APP_ID='...' TUZHAN_APP_SECRET='...'", "of your self-built app on the platform")
	step("tuzhan-cdc schema > "+shellWord(filepath.Join(filepath.Dir(o.output), "tuzhan-cdc.schema.json")), "so that an editor knows the file's keys")
	step("tuzhan-cdc preview", "what would be sent of rows that are there now; sends nothing")
	step("tuzhan-cdc check", "what is still missing, with the SQL for it")
	step("tuzhan-cdc run", "sends what is committed from then on")
	if len(d.Events) > 0 {
		fmt.Fprintf(&b, "\nDefine these events on the platform before run, or write the names that they have there: %s\n", strings.Join(d.Events, ", "))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func shellWord(s string) string {
	if plainPath.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// initTarget is the database, and how the file names it.
type initTarget struct {
	dsn       string // with the password
	source    starter.Source
	variables []variable
}

// variable is one that the file reads from the environment.
type variable struct{ name, what string }

// target reads the flags, or the environment.
func (o *initOptions) target() (*initTarget, error) {
	switch {
	case o.dsn != "" && o.dsnFile != "":
		return nil, usageError{errors.New("--dsn and --dsn-file are both there: keep one of them")}
	case o.dsnFile != "":
		data, err := os.ReadFile(o.dsnFile)
		if err != nil {
			return nil, usageError{fmt.Errorf("--dsn-file: %w", err)}
		}
		t := &initTarget{dsn: strings.TrimRight(string(data), "\r\n"), source: starter.Source{Key: "dsnFile", Value: o.besides(o.dsnFile)}}
		return t, checkTarget(t.dsn, "--dsn-file")
	case o.dsn != "":
		t := &initTarget{dsn: o.dsn, source: starter.Source{Key: "dsn"}}
		if err := checkTarget(o.dsn, "--dsn"); err != nil {
			return nil, err
		}
		if t.source.Value, t.variables = withoutSecrets(o.dsn); len(t.variables) == 0 {
			t.passwordElsewhere()
		}
		return t, nil
	}
	if !slices.ContainsFunc([]string{"PGHOST", "PGDATABASE", "PGSERVICE", "PGUSER"}, func(name string) bool { return os.Getenv(name) != "" }) {
		return nil, usageError{errors.New("say which database: --dsn-file FILE, --dsn postgres://user@host:5432/database, or PGHOST, PGUSER, PGDATABASE and their kin\nsee `tuzhan-cdc init --help`")}
	}
	return fromEnvironment()
}

// besides makes a path count from the folder of the file that is written.
func (o *initOptions) besides(path string) string {
	if abs, err := filepath.Abs(path); err == nil && !filepath.IsAbs(path) {
		if folder, err := filepath.Abs(filepath.Dir(o.output)); err == nil && o.output != "-" {
			if rel, err := filepath.Rel(folder, abs); err == nil {
				return rel
			}
		}
		return abs
	}
	return path
}

// checkTarget says what is wrong with a DSN, without a word of it.
func checkTarget(dsn, flag string) error {
	const want = ": want postgres://user@host:5432/database, or host=... user=... dbname=..."
	cfg, err := pgconn.ParseConfig(dsn)
	switch {
	case err != nil || !strings.Contains(dsn, "://") && !strings.Contains(dsn, "="):
		return usageError{errors.New(flag + " can't be read as a connection string" + want + "\nIn a URL, characters like @ : / ? # % of a password must be percent-encoded (@ is %40).")}
	case cfg.Database == "":
		return usageError{errors.New(flag + " names no database" + want)}
	}
	return nil
}

// fromEnvironment makes a DSN of what the environment says, without the password, which run then finds there too.
func fromEnvironment() (*initTarget, error) {
	cfg, err := pgconn.ParseConfig("")
	if err != nil {
		return nil, usageError{errors.New("the PG... variables of the environment can't be read as a connection; check PGHOST, PGPORT, PGSSLMODE and PGSERVICE")}
	}
	database := cfg.Database
	if database == "" {
		database = cfg.User
	}
	t := &initTarget{source: starter.Source{Key: "dsn"}}
	if service := os.Getenv("PGSERVICE"); service != "" {
		t.dsn = "service=" + conninfo(service) + " dbname=" + conninfo(database)
	} else {
		u := url.URL{Scheme: "postgres", User: url.User(cfg.User), Path: "/" + database}
		query := url.Values{}
		if strings.HasPrefix(cfg.Host, "/") {
			query.Set("host", cfg.Host)
			query.Set("port", strconv.Itoa(int(cfg.Port)))
		} else {
			u.Host = net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))
		}
		for variable, key := range map[string]string{"PGSSLMODE": "sslmode", "PGSSLROOTCERT": "sslrootcert", "PGSSLCERT": "sslcert", "PGSSLKEY": "sslkey"} {
			if v := os.Getenv(variable); v != "" {
				query.Set(key, v)
			}
		}
		u.RawQuery = query.Encode()
		t.dsn = u.String()
	}
	t.source.Value = t.dsn
	t.passwordElsewhere()
	return t, nil
}

// passwordElsewhere notes that the environment has the password, where it has.
func (t *initTarget) passwordElsewhere() {
	if os.Getenv("PGPASSWORD") != "" {
		t.source.Note = "   # the password comes from PGPASSWORD"
		t.variables = append(t.variables, variable{"PGPASSWORD", "as it is now"})
	}
}

// conninfo writes a value in a keyword string.
func conninfo(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// secretWord matches a password in a keyword string.
var secretWord = regexp.MustCompile(`(?i)\b(sslpassword|password)\s*=\s*('(?:[^'\\]|\\.)*'|\S+)`)

// withoutSecrets puts environment variables in the place of a DSN's passwords.
func withoutSecrets(dsn string) (string, []variable) {
	var list []variable
	hide := func(key, what string) string {
		name := "CRM_PASSWORD"
		if strings.EqualFold(key, "sslpassword") {
			name = "CRM_SSL_PASSWORD"
		}
		list = append(list, variable{name, what})
		return "${" + name + "}"
	}
	scheme, rest, isURL := strings.Cut(dsn, "://")
	if !isURL {
		text := secretWord.ReplaceAllStringFunc(dsn, func(found string) string {
			m := secretWord.FindStringSubmatch(found)
			what := "the password, written as in the DSN"
			if strings.HasPrefix(m[2], "'") {
				return m[1] + "='" + hide(m[1], what) + "'"
			}
			return m[1] + "=" + hide(m[1], what)
		})
		return text, list
	}
	const encoded = "the password as it stands in the DSN: percent-encoded"
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, tail := rest[:end], rest[end:]
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		if user, _, has := strings.Cut(authority[:at], ":"); has {
			authority = user + ":" + hide("password", encoded) + authority[at:]
		}
	}
	path, query, has := strings.Cut(tail, "?")
	if has {
		pairs := strings.Split(query, "&")
		for i, pair := range pairs {
			if key, _, _ := strings.Cut(pair, "="); strings.EqualFold(key, "password") || strings.EqualFold(key, "sslpassword") {
				pairs[i] = key + "=" + hide(key, encoded)
			}
		}
		path += "?" + strings.Join(pairs, "&")
	}
	return scheme + "://" + authority + path, list
}
