//go:build !unix

package throwaway

import (
	"errors"
	"os"
	"syscall"
)

type account struct{ name string }

func serverAccount() (*account, error) {
	return nil, errors.New("a throwaway PostgreSQL from the machine's own binaries needs a Unix; Docker is the way here")
}

func attributes(*account) *syscall.SysProcAttr { return nil }

func give(string, *account) error { return nil }

func open(string, *account) (bool, error) { return true, nil }

func ownSession() *syscall.SysProcAttr { return nil }

func killGroup(int) error { return nil }

const (
	fastSignal      = syscall.SIGINT
	immediateSignal = syscall.SIGKILL
)

var _ os.Signal = fastSignal
