package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestDeploy: the configurations under deploy load, with their secrets where the manifests and the unit put them.
func TestDeploy(t *testing.T) {
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile("../../../deploy/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	configs := map[string]string{"compose/tuzhan-cdc.yaml": read("compose/tuzhan-cdc.yaml"), "systemd/tuzhan-cdc.yaml": read("systemd/tuzhan-cdc.yaml")}
	for _, name := range []string{"kubernetes/sidecar.yaml", "kubernetes/deployment.yaml"} {
		d := yaml.NewDecoder(bytes.NewReader([]byte(read(name))))
		for {
			var object struct {
				Kind string
				Data map[string]string
			}
			if d.Decode(&object) != nil {
				break
			}
			if text := object.Data["tuzhan-cdc.yaml"]; object.Kind == "ConfigMap" && text != "" {
				configs[name] = text
			}
		}
	}
	if len(configs) != 4 {
		t.Fatalf("%d configurations", len(configs))
	}
	dir := t.TempDir()
	for name, secret := range map[string]string{"dsn": "postgres://cdc:secret@127.0.0.1:5432/crm", "state-dsn": "postgres://cdc:secret@127.0.0.1:5432/crm", "app-secret": "secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "mappings"), 0o700); err != nil {
		t.Fatal(err)
	}
	const mapping = `mappings: [{name: m, table: crm.t, on: [insert], event: {eventKey: k, identities: [{identityType: id, identityValue: "${{ id }}"}]}}]`
	if err := os.WriteFile(filepath.Join(dir, "mappings", "m.yaml"), []byte(mapping), 0o600); err != nil {
		t.Fatal(err)
	}
	env := lookUp(map[string]string{"CREDENTIALS_DIRECTORY": dir, "CRM_PASSWORD": "secret", "TUZHAN_APP_SECRET": "secret", "ADMIN_TOKEN": "show-me-the-letters"})
	for name, text := range configs {
		file := filepath.Join(dir, "tuzhan-cdc.yaml")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "/run/secrets/tuzhan-cdc", dir)), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := Load(file, env)
		if err != nil {
			t.Errorf("%s:\n%v", name, err)
			continue
		}
		if !cfg.Source.DSN.IsSet() || !cfg.Platform.AppSecret.IsSet() || len(cfg.Mappings.List()) == 0 || cfg.State.Path != "" && !filepath.IsAbs(cfg.State.Path) {
			t.Errorf("%s: %+v", name, cfg)
		}
	}
}
