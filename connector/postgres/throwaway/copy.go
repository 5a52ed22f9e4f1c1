package throwaway

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Copy is what a cluster held at one moment. It lives in the cluster's own directory and goes with it.
type Copy struct{ dir string }

// errNoCopy says that a cluster's files are out of reach.
var errNoCopy = errors.New("a server in a container can't be copied: this needs PostgreSQL's binaries on this machine (" + InstallCommand() + ")")

// Copy copies the files of a stopped cluster, replication slots included, which a base backup would leave out.
func (c *Cluster) Copy(ctx context.Context) (*Copy, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, err := c.files()
	if err != nil {
		return nil, fmt.Errorf("copy PostgreSQL in %s: %w", c.backend, err)
	}
	dir, err := os.MkdirTemp(l.dir, "copy-")
	if err != nil {
		return nil, err
	}
	return &Copy{dir}, replaceFiles(ctx, l.data(), dir)
}

// Restore puts a copy in the place of a stopped cluster's files. As a standby the next start replays what is there and waits; SELECT pg_promote()
// then begins a new timeline, as a failover does.
func (c *Cluster) Restore(ctx context.Context, from *Copy, standby bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, err := c.files()
	if err == nil {
		err = replaceFiles(ctx, from.dir, l.data())
	}
	if err == nil && standby {
		path := filepath.Join(l.data(), "standby.signal")
		err = errors.Join(os.WriteFile(path, nil, 0o600), give(path, l.account))
	}
	if err != nil {
		return fmt.Errorf("restore PostgreSQL in %s: %w", c.backend, err)
	}
	return nil
}

// files gives the backend of a cluster that is stopped and whose files can be reached.
func (c *Cluster) files() (*local, error) {
	l, ok := c.backend.(*local)
	switch {
	case c.closed:
		return nil, errClosed
	case !ok:
		return nil, errNoCopy
	case l.running():
		return nil, errors.New("the server runs: stop it first")
	}
	return l, nil
}

// replaceFiles makes directory to hold what from holds, owners and modes included.
func replaceFiles(ctx context.Context, from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "cp", "-a", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cp -a %s %s: %w: %s", from, to, err, tail(out))
	}
	return nil
}
