package state

import (
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// sleeper starts a process that does nothing until its end is asked for, and gives its name.
func sleeper(t *testing.T) (name string, kill func()) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	must(t, cmd.Start())
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	return processName(cmd.Process.Pid), kill
}

func TestProcessEnded(t *testing.T) {
	t.Parallel()
	if processEnded(thisProcess()) || thisProcess() == "" {
		t.Errorf("this process, %q, is there", thisProcess())
	}
	name, kill := sleeper(t)
	if processEnded(name) {
		t.Errorf("%q has ended before it was killed", name)
	}
	kill()
	if !processEnded(name) {
		t.Errorf("%q was killed and is there still", name)
	}
	parts := strings.Fields(thisProcess())
	reborn := strings.Join([]string{parts[0], parts[1], parts[2], parts[3] + "1"}, " ")
	if !processEnded(reborn) {
		t.Errorf("%q: another process has its pid now", reborn)
	}
	for _, unknown := range []string{"", "x", strings.Join([]string{"another-boot", parts[1], parts[2], parts[3] + "1"}, " "),
		strings.Join([]string{parts[0], "pid:[1]", parts[2], parts[3] + "1"}, " "), strings.Join([]string{parts[0], parts[1], "x", parts[3]}, " ")} {
		if processEnded(unknown) {
			t.Errorf("%q: nothing is known of it", unknown)
		}
	}
}

// A predecessor of this machine that is gone is not waited for, also where it goes while it is waited for.
func TestSuccessorOfTheDead(t *testing.T) {
	t.Parallel()
	db := pgtest.Server(t).Database(t)
	must(t, openServerTest(t, db.DSN()).Close())
	dead, kill := sleeper(t)
	kill()
	dying, kill := sleeper(t)
	for _, name := range []string{dead, dying} {
		db.Exec(t, "UPDATE tuzhan_cdc.meta SET lease = 3600000, sender = '"+name+"'")
		s := openServerTest(t, db.DSN())
		if name == dying {
			time.AfterFunc(100*time.Millisecond, kill)
		}
		must(t, s.Sends(t.Context(), time.Second, discard()))
		must(t, s.Close())
	}
}
