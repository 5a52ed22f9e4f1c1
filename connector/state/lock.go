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
	"time"
)

// lockRetryEvery is how often a lock that another process holds is tried again.
const lockRetryEvery = 100 * time.Millisecond

// acquire takes the lock that makes this process the only one to run on the state at path, waiting up to wait for another to go.
// The lock ends when the file that comes back is closed, or with the process, however it dies. The lock file itself is left behind: who
// removed it could let two processes lock two files of one name.
func acquire(ctx context.Context, path string, wait time.Duration) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(wait)
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("locking %s.lock: %w", path, err)
		}
		if time.Now().After(deadline) {
			holder := holder(f)
			f.Close()
			return nil, &Error{Op: "opening", Path: path, Err: fmt.Errorf("%w%s", ErrLocked, holder),
				Cure: "stop that one first, or give each its own state.path and slot"}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("waiting for the lock: %w", ctx.Err())
		case <-time.After(min(lockRetryEvery, time.Until(deadline)+time.Millisecond)):
		}
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
