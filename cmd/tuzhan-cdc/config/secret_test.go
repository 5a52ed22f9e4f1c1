package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// everyPrint renders v in all the ways that a program prints things.
func everyPrint(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, verb+"\n", v)
	}
	j, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(j)
	b.Write(y)
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
	return b.String()
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	const hush = "hush-7f3a"
	hexed := fmt.Sprintf("%x", hush)
	cfg := defaults()
	cfg.Source.DSN = NewSecret("postgres://cdc:" + hush + "@h/crm")
	cfg.State.DSN = NewSecret("host=h dbname=state password=" + hush)
	cfg.Platform.AppSecret, cfg.Platform.Token = NewSecret(hush), NewSecret(hush)
	cfg.Platform.Encryption.Key, cfg.Platform.Encryption.IV = NewSecret(hush), NewSecret(hush)
	cfg.Platform.Paths.Point = Address("https://points.example.com/increase?key=" + hush)
	hidden := struct{ cfg Config }{cfg}
	for name, v := range map[string]any{"secret": NewSecret(hush), "pointer": &cfg.Platform.Token, "config": cfg, "pointer to config": &cfg,
		"list": []Secret{NewSecret(hush)}, "map": map[string]Secret{"x": NewSecret(hush)}, "address": cfg.Platform.Paths.Point} {
		got := everyPrint(t, v)
		if strings.Contains(got, hush) || strings.Contains(got, hexed) {
			t.Errorf("%s prints the secret: %s", name, got)
		}
		if !strings.Contains(got, "***") {
			t.Errorf("%s does not print ***: %s", name, got)
		}
	}
	cfg.Platform.Paths = Paths{} // an Address in an unexported field is out of fmt's reach
	hidden.cfg = cfg
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		if got := fmt.Sprintf(verb, hidden); strings.Contains(got, hush) {
			t.Errorf("%s of an unexported field prints the secret: %s", verb, got)
		}
	}
	if cfg.Platform.Token.Reveal() != hush {
		t.Error("the secret is gone")
	}
}

func TestSecretZero(t *testing.T) {
	var s Secret
	if v, err := s.Current(); s.IsSet() || s.Reveal() != "" || v != "" || err != nil || s.String() != "***" {
		t.Fatal(s.IsSet(), v, err)
	}
}

// TestSecretFromFileIsReadAgain: Reveal stays, Current follows the file, and what goes wrong then names the file only.
func TestSecretFromFileIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ file, want, problem string }{
		{"one", "one", ""},
		{"one\n", "one", ""},
		{"one\r\n", "one", ""},
		{" one \n", " one ", ""},
		{"\n", "", "is empty"},
		{"one\ntwo\n", "", "has more than one line"},
	} {
		write(c.file)
		got, err := readSecret(path)
		if got != c.want || (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%q: %q %v", c.file, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "one\n") {
			t.Errorf("the error shows the file: %v", err)
		}
	}
	write("first\n")
	v, err := readSecret(path)
	if err != nil {
		t.Fatal(err)
	}
	s := Secret{value: &v, file: path}
	write("second\n")
	if now, err := s.Current(); err != nil || now != "second" || s.Reveal() != "first" || s.File() != path {
		t.Fatal(now, err, s.Reveal())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Current(); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatal(err)
	}
}
