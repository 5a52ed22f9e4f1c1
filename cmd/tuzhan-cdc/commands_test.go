package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

// TestWithConfig: commands in messages name the file, where it is not the default.
func TestWithConfig(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{
		{"tuzhan-cdc.yaml", "run tuzhan-cdc check", "run tuzhan-cdc check"},
		{"/etc/a.yaml", "run tuzhan-cdc check: it says; or `tuzhan-cdc deadletters set-aside --mapping m`", "run tuzhan-cdc check -c /etc/a.yaml: it says; or `tuzhan-cdc deadletters set-aside --mapping m -c /etc/a.yaml`"},
		{"my file's.yaml", "tuzhan-cdc slot drop, then tuzhan-cdc run -c x", `tuzhan-cdc slot drop -c 'my file'\''s.yaml', then tuzhan-cdc run -c x`},
		{"/etc/a.yaml", "tuzhan-cdc resume --mapping 订单-paid; or tuzhan-cdc run --accept-gap 3f9c.", "tuzhan-cdc resume --mapping 订单-paid -c /etc/a.yaml; or tuzhan-cdc run --accept-gap 3f9c -c /etc/a.yaml."},
		{"/etc/a.yaml", "another tuzhan-cdc writes this state", "another tuzhan-cdc writes this state"},
	} {
		if got := withConfig(c[0], c[1]); got != c[2] {
			t.Errorf("%s\nwant %s", got, c[2])
		}
	}
}

// TestCommandsHaveExamples: each command shows how it is called, by commands and flags that there are.
func TestCommandsHaveExamples(t *testing.T) {
	t.Parallel()
	root := newRoot(streams{os.Stdin, os.Stdout, os.Stderr})
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, line := range strings.Split(c.Example, "\n") {
			line, _, _ = strings.Cut(line, " #")
			line, _, _ = strings.Cut(line, " | ")
			_, rest, ok := strings.Cut(line, "tuzhan-cdc ")
			if !ok {
				t.Errorf("%s: %q is no example", c.CommandPath(), line)
				continue
			}
			words := strings.Fields(rest)
			named, args, err := root.Find(words)
			if err != nil {
				t.Errorf("%s: %s: %v", c.CommandPath(), line, err)
				continue
			}
			for _, a := range args {
				if flag, ok := strings.CutPrefix(a, "--"); ok && named.Flags().Lookup(flag) == nil && named.InheritedFlags().Lookup(flag) == nil {
					t.Errorf("%s: %s: there is no --%s", c.CommandPath(), line, flag)
				}
			}
		}
		for _, sub := range c.Commands() {
			if sub.Name() != "help" && sub.Name() != "completion" {
				walk(sub)
			}
		}
	}
	walk(root)
}

// TestCuresNameTheFile: what check, run's log, status and errors tell to type reads the file that the program was started with.
func TestCuresNameTheFile(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	_, errs, code := r.run("deadletters", "list")
	if want := "tuzhan-cdc run -c " + r.file; code != 1 || !strings.Contains(errs, want) {
		t.Errorf("exit %d\n%s\nwant %s", code, errs, want)
	}
	r.start()
	r.db.Exec(t, `ALTER TABLE crm.orders DROP COLUMN goods`, `INSERT INTO crm.orders (order_no, status) VALUES ('A1', 'paid')`)
	cure := "tuzhan-cdc deadletters set-aside --mapping order-paid -c " + r.file
	r.proc.until(cure)
	r.platform(func(*platformsim.Sim) bool {
		_, body := r.get("/status.json")
		return strings.Contains(body, cure)
	})
}

// TestUnknownMapping: a mapping that is neither in the file nor in the state is a mistake of the command line; one that has left the file is none.
func TestUnknownMapping(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.orders (order_no, status) VALUES ('A1', 'paid')`) // without a phone
	r.settled()
	if code := r.proc.terminate(); code != 0 {
		t.Fatalf("exit %d", code)
	}
	for _, args := range [][]string{{"list"}, {"retry"}, {"drop", "--yes"}} {
		out, errs, code := r.run(slices.Concat([]string{"deadletters"}, args, []string{"--mapping", "order-pai"})...)
		if code != 2 || !strings.Contains(errs, "there is no mapping order-pai: did you mean order-paid?") || out != "" {
			t.Errorf("%s: exit %d\n%s%s", args, code, out, errs)
		}
	}
	if out, _, code := r.run("deadletters", "list", "--mapping", "member-groups"); code != 0 || out != "no dead letters\n" {
		t.Errorf("exit %d\n%s", code, out)
	}
	r.write(strings.ReplaceAll(crmMappings, "order-paid", "other"), "")
	if out, errs, code := r.run("deadletters", "list", "--mapping", "order-paid"); code != 0 || !strings.Contains(out, "order-paid") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
}

// TestStatusOfAWrongFile: status tells of the state although the file has errors, but for one in the block that says where the state is.
func TestStatusOfAWrongFile(t *testing.T) {
	t.Parallel()
	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.start()
	r.db.Exec(t, `INSERT INTO crm.orders (order_no, status) VALUES ('A1', 'paid')`)
	r.settled()
	if code := r.proc.terminate(); code != 0 {
		t.Fatalf("exit %d", code)
	}
	r.write(strings.Replace(crmMappings, "eventKey", "evenKey", 1), "")
	for range 2 {
		out, errs, code := r.run("status")
		if code != 0 || !strings.Contains(out, "mapping 2, rejected 0") || !strings.Contains(out, "settled up to") || !strings.Contains(errs, `did you mean "eventKey"`) {
			t.Errorf("exit %d\n%s%s", code, out, errs)
		}
		text, err := os.ReadFile(r.file) // and without a database to ask
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(r.file, []byte(strings.Replace(string(text), "  dsn: ", "  dns: ", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.state = "{path: [1]}"
	r.write(crmMappings, "")
	if out, errs, code := r.run("status"); code != 2 || out != "" || !strings.Contains(errs, "path") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if err := os.WriteFile(r.file, []byte("source: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := r.run("status"); code != 2 || out != "" {
		t.Errorf("no YAML: exit %d\n%s%s", code, out, errs)
	}
}
