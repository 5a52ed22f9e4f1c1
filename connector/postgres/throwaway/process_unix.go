//go:build unix

package throwaway

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user that the server runs as, where that is not ourselves.
type account struct {
	name     string
	uid, gid uint32
}

// serverAccount gives nil where we may run the server ourselves. PostgreSQL refuses to run as root.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, fmt.Errorf("account %s: %w", name, err)
		}
		return &account{name, uint32(uid), uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and this machine has neither an account postgres nor nobody: run this as another user")
}

// attributes are how the server's programs are started: as account a, in a process group of their own, so that a Ctrl-C at the terminal
// does not stop the server before its owner does.
func attributes(a *account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a != nil {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attr
}

// give makes path a's own; nothing where a is nil.
func give(path string, a *account) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// open reports whether a gets to dir: every directory on the way must let others through. It looks at the mode only, which is enough for
// directories of root.
func open(dir string, a *account) (bool, error) {
	if a == nil {
		return true, nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false, err
	}
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return false, err
		}
		if info.Mode()&0o001 == 0 {
			return false, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true, nil
		}
		dir = parent
	}
}

func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// killGroup kills a process that was started with attributes, and its children.
func killGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }

// signals of the postmaster: https://www.postgresql.org/docs/current/server-shutdown.html
const (
	fastSignal      = syscall.SIGINT
	immediateSignal = syscall.SIGQUIT
)
