//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// acquire takes the lock that makes this process the only one to run on the state at path, waiting for another to go as o says.
// The lock ends when the file that comes back is closed, or with the process, however it dies. The lock file itself is left behind: who
// removed it could let two processes lock two files of one name.
func acquire(ctx context.Context, path string, o Options) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = patience{o, "file " + path}.until(ctx, func() (busy, err error) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, syscall.EINTR):
			return &Error{Op: "opening", Place: "file " + path, Err: fmt.Errorf("%w%s", ErrLocked, holder(f)),
				Cure: "stop that one first, or give each its own state.path and slot"}, nil
		case err != nil:
			return nil, fmt.Errorf("locking %s.lock: %w", path, err)
		}
		return nil, nil
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	// The pid is for the message that another one prints; on a full disk it is left out.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return f, nil
}

// holder names the process that wrote its pid into the lock file, as far as it did.
func holder(f *os.File) string {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
		return " (process " + pid + ")"
	}
	return ""
}

// access gives an error where path can't be written. 2 is W_OK of access(2).
func access(path string) error { return syscall.Access(path, 2) }
