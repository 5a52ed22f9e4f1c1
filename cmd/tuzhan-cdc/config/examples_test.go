package config

import (
	"path/filepath"
	"reflect"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// TestExamples: every configuration under examples loads with no more than its secrets in the environment.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../../examples/*/tuzhan-cdc.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	env := lookUp(map[string]string{"CRM_DSN": "postgres://cdc:secret@127.0.0.1:5432/crm", "TUZHAN_APP_SECRET": "secret"})
	for _, file := range files {
		cfg, err := Load(file, env)
		if err != nil {
			t.Errorf("%s:\n%v", file, err)
			continue
		}
		if filepath.Base(filepath.Dir(file)) == "quickstart" {
			if names := cfg.Mappings.Names(); !reflect.DeepEqual(names, []string{"order-paid", "order-points", "member-groups"}) {
				t.Errorf("%s: mappings %q", file, names)
			}
			for _, kind := range []connector.Kind{connector.Event, connector.Point, connector.GroupRelation} {
				if !cfg.Mappings.Has(kind) {
					t.Errorf("%s: no %s", file, kind)
				}
			}
		}
	}
}
