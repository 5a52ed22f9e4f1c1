//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package state

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// acquire has no lock here that the system frees by itself when a process dies: better refuse than let two processes write.
func acquire(context.Context, string, Options) (*os.File, error) {
	return nil, fmt.Errorf("this system has no flock, by which only one connector writes a state file: %w", errors.ErrUnsupported)
}

func access(string) error { return errors.ErrUnsupported }
