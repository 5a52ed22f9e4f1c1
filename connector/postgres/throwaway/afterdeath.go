package throwaway

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

// AfterDeath has sh run script with args ($1, $2, ...) once this process has died, however it died, unless cancel is called before.
// cancel returns when the waiting shell is gone; call it once. The script's output goes nowhere.
//
// The shell waits for the end of a pipe that only this process holds: that works on every Unix and for every way to die. A parent death
// signal (Linux only) would end a server but leave its directory, and it fires when the thread that started the server ends. On Windows
// nothing waits.
func AfterDeath(script string, args ...string) (cancel func() error, err error) {
	if runtime.GOOS == "windows" {
		return func() error { return nil }, nil
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("watch over what must not outlive this process: %w", err)
	}
	defer read.Close()
	const wait = `trap '' INT TERM HUP
IFS= read -r word || :
[ "$word" = done ] && exit 0
`
	cmd := exec.Command("/bin/sh", append([]string{"-c", wait + script, "sh"}, args...)...)
	cmd.Stdin = read
	// Its own session: a Ctrl-C at the terminal, or a kill of the process group, must not reach it.
	cmd.SysProcAttr = ownSession()
	if err := cmd.Start(); err != nil {
		write.Close()
		return nil, fmt.Errorf("watch over what must not outlive this process: %w", err)
	}
	return func() error {
		_, err := write.WriteString("done\n")
		if closeErr := write.Close(); err == nil {
			err = closeErr
		}
		if waitErr := cmd.Wait(); err == nil {
			err = waitErr
		}
		return err
	}, nil
}
