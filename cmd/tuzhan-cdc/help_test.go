package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func eachCommand(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, below := range c.Commands() {
		eachCommand(below, f)
	}
}

// TestEveryCommandHasItsPlace: each command that --help shows is in a group, and each group has commands.
func TestEveryCommandHasItsPlace(t *testing.T) {
	t.Parallel()
	root := newRoot(streams{os.Stdin, os.Stdout, os.Stderr})
	used := map[string]int{}
	for _, c := range root.Commands() {
		if c.Hidden {
			continue
		}
		if used[c.GroupID]++; c.GroupID == "" {
			t.Errorf("%s is in no group: see groupOf", c.Name())
		}
	}
	for _, g := range helpGroups {
		if used[g.ID] == 0 {
			t.Errorf("group %s is empty", g.ID)
		}
	}
	out, _, code := runIn(t, t.TempDir(), nil, "--help")
	at := -1
	for _, want := range []string{"Prepare and try:", "  init  ", "  check  ", "  preview  ", "  test  ", "  schema  ", "Run and look after:", "  run  ", "Other:", "  completion  "} {
		i := strings.Index(out, want)
		if i < at || code != 0 {
			t.Errorf("exit %d, %q is missing or out of place in\n%s", code, want, out)
		}
		at = i
	}
}

// TestCompletion: what a shell is offered.
func TestCompletion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, err := filepath.Abs("../../examples/quickstart/tuzhan-cdc.yaml")
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(broken, []byte("surce: x\nmappings:\n  - {name: half, table: crm.orders, on: [insert]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want []string // the words, and the directive behind them
	}{
		{[]string{"test", "-c", file, "--mapping", ""}, []string{"order-paid\tevent of crm.orders", "order-points\tpoint of crm.orders", "member-groups\tgroupRelation of crm.member_groups", ":4"}},
		{[]string{"deadletters", "list", "-c", file, "--mapping", ""}, []string{"order-paid\tevent of crm.orders", "order-points\tpoint of crm.orders", "member-groups\tgroupRelation of crm.member_groups", ":4"}},
		{[]string{"test", "-c", broken, "--mapping", ""}, []string{"half", ":4"}},
		{[]string{"test", "-c", "none.yaml", "--mapping", ""}, []string{":4"}},
		{[]string{"deadletters", "retry", "--class", ""}, []string{"mapping\tan expression failed, or a required value is null", "rejected\tthe platform refused the record alone",
			"uncertain\ta point that may or may not have been applied", "failing\tit kept failing alone", ":4"}},
		{[]string{"status", "--output", ""}, []string{"text", "json", ":4"}},
		{[]string{"check", ""}, []string{":4"}},
		{[]string{"check", "-c", ""}, []string{"yaml", "yml", ":8"}},
	} {
		out, _, code := runIn(t, dir, nil, append([]string{"__complete"}, c.args...)...)
		if got := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || !slices.Equal(got, c.want) {
			t.Errorf("%q: exit %d, got %q, want %q", c.args, code, got, c.want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, _, code := runIn(t, dir, nil, "completion", shell); code != 0 || !strings.Contains(out, "__complete") {
			t.Errorf("%s: exit %d", shell, code)
		}
	}
}

// TestCompletionInBash has a real bash complete the name of a mapping.
func TestCompletionInBash(t *testing.T) {
	t.Parallel()
	file, err := filepath.Abs("../../examples/quickstart/tuzhan-cdc.yaml")
	if err != nil {
		t.Fatal(err)
	}
	script := `
_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD; } # bash-completion's, as far as it is used
compopt() { :; } # for readline only
source <(tuzhan-cdc completion bash)
COMP_WORDS=(tuzhan-cdc test -c "$1" --mapping order-po) COMP_CWORD=5 COMP_LINE="${COMP_WORDS[*]}" COMP_POINT=${#COMP_LINE} COMP_TYPE=9
__start_tuzhan-cdc
printf '%s\n' "${COMPREPLY[@]}"`
	cmd := exec.Command("bash", "-c", script, "bash", file)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "order-points" {
		t.Errorf("%v: %q", err, out)
	}
}

// TestSchemaCommand prints what is checked in.
func TestSchemaCommand(t *testing.T) {
	t.Parallel()
	out, _, code := runIn(t, t.TempDir(), nil, "schema")
	want, err := os.ReadFile("../../examples/tuzhan-cdc.schema.json")
	if err != nil || code != 0 || out != string(want) {
		t.Errorf("exit %d, %v, %d bytes, want %d", code, err, len(out), len(want))
	}
}

// TestMan: a page for each command and one for the file, the same whenever they are made.
func TestMan(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	env := []string{"SOURCE_DATE_EPOCH=1714521600"}
	pages := map[string][]byte{}
	for _, folder := range []string{"a", "b"} {
		if _, errs, code := runIn(t, dir, env, "man", folder); code != 0 {
			t.Fatalf("exit %d: %s", code, errs)
		}
		files, err := filepath.Glob(filepath.Join(dir, folder, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if name := filepath.Base(file); folder == "a" {
				pages[name] = text
			} else if !bytes.Equal(pages[name], text) {
				t.Errorf("%s is another one the second time", name)
			}
		}
	}
	eachCommand(newRoot(streams{os.Stdin, os.Stdout, os.Stderr}), func(c *cobra.Command) {
		name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
		if c.IsAvailableCommand() && (!bytes.HasPrefix(pages[name], []byte(".nh\n.TH")) || bytes.Contains(pages[name], []byte("Auto generated"))) {
			t.Errorf("no page %s, or one that says how it was made", name)
		}
	})
	for _, want := range []string{"\\fBsource.heartbeat\\fP (duration; default: off)", "\\fBplatform.encryption.ivFile\\fP", "\\fBmaxPerMinute\\fP", "\\fBtests[].deadLetter\\fP", "TUZHAN-CDC.YAML 5"} {
		if !bytes.Contains(pages["tuzhan-cdc.yaml.5"], []byte(want)) {
			t.Errorf("tuzhan-cdc.yaml.5 has no %s", want)
		}
	}
	if _, _, code := runIn(t, dir, nil, "man"); code != 2 {
		t.Errorf("man without a folder: exit %d", code)
	}
}
