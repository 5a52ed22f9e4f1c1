package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/mapping"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

var update = flag.Bool("update", false, "write the messages of testdata/wrong anew")

// secret values of the environment that tests run with: no message may show one.
var testEnv = map[string]string{
	"SECRET":           "hush-env",
	"PASSWORD_WITH_AT": "hush@env/x",
	"EMPTY":            "",
}

func lookUp(m map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

// TestWrongFiles compares what is said of each wrong file with the .txt beside it, to the character.
func TestWrongFiles(t *testing.T) {
	t.Chdir("testdata/wrong")
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) < 20 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(file, ".yaml"), func(t *testing.T) {
			got := wrong(t, file) + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

// wrong loads a file that has at least one problem and gives the message.
func wrong(t *testing.T, file string) string {
	t.Helper()
	cfg, err := Load(file, lookUp(testEnv))
	if err == nil {
		err = checkColumns(cfg)
	}
	var errs *strict.Errors
	if !errors.As(err, &errs) {
		t.Fatalf("want problems, got %v", err)
	}
	for _, p := range errs.Problems {
		if p.File == "" || p.Line < 1 || p.Column < 1 || p.Text == "" {
			t.Errorf("no place: %+v", p)
		}
	}
	if strings.Contains(err.Error(), "hush") {
		t.Errorf("a secret is shown: %v", err)
	}
	return err.Error()
}

// TestNoFile: what is no problem of the file's content is an ordinary error.
func TestNoFile(t *testing.T) {
	_, err := Load("testdata/none.yaml", nil)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "testdata/none.yaml") || !strings.Contains(err.Error(), "-c") {
		t.Fatal(err)
	}
}

func loadFull(t *testing.T, file string) *Config {
	t.Helper()
	cfg, err := Load(filepath.Join("testdata/full", file), lookUp(map[string]string{"CRM_PASSWORD": "p", "TUZHAN_APP_SECRET": "s"}))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestEveryFieldSurvives: for each field of Config one of the full files sets it to what is not its default. A key that is known but read into
// nothing, and a field that nothing is read into, both show here.
func TestEveryFieldSurvives(t *testing.T) {
	var walk func(path string, base, a, b reflect.Value)
	leaves := 0
	walk = func(path string, base, a, b reflect.Value) {
		switch base.Interface().(type) {
		case Secret, Address, time.Duration:
		default:
			if base.Kind() == reflect.Struct {
				for i := range base.NumField() {
					walk(path+"."+base.Type().Field(i).Name, base.Field(i), a.Field(i), b.Field(i))
				}
				return
			}
		}
		leaves++
		if reflect.DeepEqual(a.Interface(), base.Interface()) && reflect.DeepEqual(b.Interface(), base.Interface()) {
			t.Errorf("%s is still the default, %v", path, base.Interface())
		}
	}
	walk("Config", reflect.ValueOf(defaults()), reflect.ValueOf(*loadFull(t, "pair.yaml")), reflect.ValueOf(*loadFull(t, "token.yaml")))
	if leaves < 30 {
		t.Errorf("only %d fields", leaves)
	}
}

// TestFullFile compares the values themselves: a field must hold its own key's.
func TestFullFile(t *testing.T) {
	shanghai, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		t.Fatal(err)
	}
	got := loadFull(t, "pair.yaml")
	want := &Config{
		File: "testdata/full/pair.yaml",
		Source: Source{DSN: NewSecret("postgres://cdc:p@db.example.com:5433/crm?sslmode=require"), Slot: "other_slot", Publication: "other_publication",
			TimeZone: shanghai, ColumnLists: true, ReadInBursts: false, WALBudget: 3 << 30, Heartbeat: 11 * time.Second, Failover: true,
			Snapshot: "initial", BackfillDSN: NewSecret("postgres://cdc:hush-standby@standby.example.com/crm")},
		Platform: Platform{BaseURL: "https://integrate.example.com/base", AppID: "an-app", AppSecret: NewSecret("s"),
			Paths: Paths{Point: "https://points.example.com/increase?key=1", PointDecrease: "/points/decrease", Event: "/events",
				GroupRelation: "/groups", Token: "/token"},
			PointAPI: "increase", Encryption: Encryption{Algorithm: "sm4-cbc", Key: got.Platform.Encryption.Key, KeyEncoding: "hex",
				IV: NewSecret("AAECAwQFBgcICQoLDA0ODw=="), IVEncoding: "base64", Encoding: "hex"},
			Timeout: 7 * time.Second, RequestsPerSecond: 2.5},
		Delivery: Delivery{Concurrency: 5, PointConcurrency: 17, MaxBatch: 499, MaxBatchBytes: 2 << 20, MaxPending: 20001, MaxPendingBytes: 9 << 20,
			Backoff: Backoff{Initial: 300 * time.Millisecond, Max: 40 * time.Second}, GiveUpAfter: 24 * time.Hour, MaxDeadLetters: 10001},
		State:    State{Path: "/var/lib/tuzhan-cdc/state.db", KeyFile: "testdata/full/secrets/letters-key", KeepDeadLetters: 30 * 24 * time.Hour},
		Server:   Server{Listen: "0.0.0.0:9000", AdminToken: NewSecret("a-token-of-some-length")},
		Log:      Log{Level: -4, Format: "json"},
		Mappings: got.Mappings, Tests: got.Tests,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if key := got.Platform.Encryption.Key; key.Reveal() != "00112233445566778899aabbccddeeff" || key.File() != "testdata/full/secrets/data-key" {
		t.Error("the key is another one")
	}
	if d := got.Source.Display(); d != "db.example.com:5433/crm" {
		t.Error(d)
	}
	if names := got.Mappings.Names(); !reflect.DeepEqual(names, []string{"inline", "from-another-file", "from-a-file"}) {
		t.Error(names)
	}
}

// TestLoadMappings: what tests need is read without a secret; the tests of all files run and pass.
func TestLoadMappings(t *testing.T) {
	cfg, err := LoadMappings("testdata/full/pair.yaml", func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Source.TimeZone.String() != "Asia/Shanghai" || cfg.Platform.Paths.PointDecrease == "" || cfg.Source.DSN.IsSet() {
		t.Errorf("%+v", cfg)
	}
	var titles []string
	for _, x := range cfg.Tests.List() {
		titles = append(titles, x.Title())
		if r := cfg.Tests.Run(x, mapping.Options{}); !r.Passed {
			t.Errorf("%s: %v", x.Title(), r.Got.Lines())
		}
	}
	if !reflect.DeepEqual(titles, []string{"a phone", "points of an order"}) {
		t.Error(titles)
	}
	if open, err := LoadMappings("testdata/full/token.yaml", nil); err != nil || !open.Mappings.OpenPoints {
		t.Error("pointAPI: open was not read", err)
	}
}

func TestSecretFilesAreFoundBesideTheFile(t *testing.T) {
	cfg := loadFull(t, "token.yaml")
	if cfg.Platform.Token.Reveal() != "token-from-a-file" || cfg.Platform.Token.File() != "testdata/full/secrets/token" ||
		cfg.Source.DSN.Reveal() != "postgres://cdc:from-a-file@db.example.com:5433/crm" ||
		cfg.Server.AdminToken.Reveal() != "an-admin-token-from-a-file" || cfg.Server.AdminToken.File() != "testdata/full/secrets/admin-token" ||
		cfg.State.DSN.Reveal() != "postgres://cdc:state-from-a-file@state.example.com:5432/connector" || cfg.State.Path != "" {
		t.Errorf("%q %q", cfg.Platform.Token.Reveal(), cfg.Platform.Token.File())
	}
}

// TestDefaults: a file with only what is required gives the defaults of the design.
func TestDefaults(t *testing.T) {
	cfg := load(t, "", nil)
	want := defaults()
	if cfg.Source.Slot != want.Source.Slot || cfg.Source.TimeZone != nil || !reflect.DeepEqual(cfg.Delivery, want.Delivery) || cfg.State != want.State ||
		cfg.Server != want.Server || cfg.Log != want.Log || cfg.Platform.Timeout != 10*time.Second || cfg.Platform.Paths.Event != "" {
		t.Errorf("%+v", cfg)
	}
	if cfg := load(t, "server: {listen: \"\"}\n", nil); cfg.Server.Listen != "" {
		t.Errorf("listen %q", cfg.Server.Listen)
	}
}

// load loads the least that is right, and more.
func load(t *testing.T, more string, env map[string]string) *Config {
	t.Helper()
	cfg, err := tryLoad(t, more, env)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func tryLoad(t *testing.T, more string, env map[string]string) (*Config, error) {
	t.Helper()
	const least = `
source: {dsn: "${DSN:-postgres://cdc@127.0.0.1/crm}"}
platform: {baseURL: https://integrate.rabbitpre.com, token: "${TOKEN:-t}"}
mappings:
  - name: m
    table: crm.orders
    on: [insert]
    event:
      publicParams: {}
      eventKey: ${KEY:-c_buy}
      identities:
        - {identityType: phone, identityValue: "${{ phone }}"}
`
	path := filepath.Join(t.TempDir(), "tuzhan-cdc.yaml")
	if err := os.WriteFile(path, []byte(least+more), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path, lookUp(env))
}

// TestVariablesAddNoYAML: whatever a variable holds ends as one text.
func TestVariablesAddNoYAML(t *testing.T) {
	for _, v := range []string{"t\"}\ndelivery: {maxBatch: 1}", "t, appID: x", "*anchor", "!!int 5", "[a]", "{a: b}", "# nothing", "'", "${OTHER}", "~", "${{ phone }}"} {
		cfg, err := tryLoad(t, "", map[string]string{"TOKEN": v, "OTHER": "expanded twice"})
		if strings.Contains(v, "\n") {
			if err == nil || !strings.Contains(err.Error(), "token has more than one line") || strings.Contains(err.Error(), "maxBatch") {
				t.Errorf("%q: %v", v, err)
			}
			continue
		}
		if err != nil || cfg.Platform.Token.Reveal() != v || cfg.Delivery.MaxBatch != 500 {
			t.Errorf("%q: %v", v, err)
		}
	}
}

// TestDSNErrorsShowNoPassword tries DSNs that a parser may cut in the wrong place.
func TestDSNErrorsShowNoPassword(t *testing.T) {
	for _, dsn := range []string{
		"postgres://cdc:hu@sh/1@127.0.0.1:5432/crm", "postgres://cdc:hush%zz@h/crm", "postgres://cdc:hush@h:port/crm", "postgres://hush@h@i/crm",
		"postgres://cdc:a/hush@h/crm", "host=h password='hush", "host=h password=hush port=x dbname=d", "cdc:hush@h/crm", "postgres://h/d?password=hush&sslmode=x",
		"postgres://cdc:hush@h/crm?sslmode=verify-full&sslrootcert=none", "postgres://cdc:hush@h/", "postgres://cdc:hu?sh@x@h/crm", "",
	} {
		_, err := tryLoad(t, "", map[string]string{"DSN": dsn + " "})
		if err == nil && strings.Contains(dsn, "?sh") {
			continue // it may be read
		}
		if err == nil || strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "sh/1") || !strings.Contains(err.Error(), "dsn") {
			t.Errorf("%q: %v", dsn, err)
		}
	}
	for _, dsn := range []string{"postgres://cdc:p%40ss@h/crm", "postgresql://cdc@h/crm?application_name=a@b", "host=/var/run/postgresql dbname=crm"} {
		cfg, err := tryLoad(t, "", map[string]string{"DSN": dsn})
		if err != nil {
			t.Errorf("%q: %v", dsn, err)
			continue
		}
		if d := cfg.Source.Display(); strings.Contains(d, "p@ss") || !strings.HasSuffix(d, ":5432/crm") {
			t.Errorf("%q: %s", dsn, d)
		}
	}
}

// TestListen: of the file only server.listen counts.
func TestListen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tuzhan-cdc.yaml")
	env := lookUp(map[string]string{"PORT": "9700"})
	for text, want := range map[string]string{
		"": "127.0.0.1:9642", "mappings: 7": "127.0.0.1:9642", "server: {}": "127.0.0.1:9642", "server:": "127.0.0.1:9642",
		"server: {listen: \"\"}": "",
		"server: {listen: \"0.0.0.0:${PORT}\", nonsense: 1}\nsource: {dsn: \"${UNSET}\"}": "0.0.0.0:9700",
		"server: {listen: \"0.0.0.0:${UNSET}\"}":                                          "error", "server: {listen: nowhere}": "error", "server: {": "error",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Listen(file, env)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if _, err := Listen(file+".gone", env); err == nil {
		t.Error("a file that is not there")
	}
}
