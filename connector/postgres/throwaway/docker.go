package throwaway

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Images are the images that a container is made from where none is named, in this order: the local one that `make test-image` builds,
// then the official one.
func Images() []string { return []string{"tuzhan-cdc-postgres:17", "postgres:17-alpine"} }

// container is a PostgreSQL container, driven by the docker command.
type container struct {
	image string
	name  string
	port  int
	// args start it: docker run's; nil once it exists.
	args []string
	// password goes by the environment: arguments are seen by every user of the machine.
	password string
	forget   func() error
}

// StartDocker starts a container of an image that the Docker daemon has already (nothing is pulled), published on 127.0.0.1 only. It
// returns when the server takes connections; ctx bounds that. Nothing is left after an error.
func StartDocker(ctx context.Context, o Options) (*Cluster, error) {
	settings, err := o.settings()
	if err != nil {
		return nil, err
	}
	image, err := presentImage(ctx, o.Image)
	if err != nil {
		return nil, err
	}
	port := o.Port
	if port == 0 {
		if port, err = FreePort(); err != nil {
			return nil, err
		}
	}
	name := "tuzhan-cdc-postgres-" + strings.ToLower(rand.Text())
	args := []string{"run", "--detach", "--pull=never", "--name", name, "--publish", "127.0.0.1:" + strconv.Itoa(port) + ":5432",
		"--env", "POSTGRES_PASSWORD", image, "postgres"}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", key+"="+settings[key])
	}
	c := &container{image: image, name: name, port: port, args: args, password: newPassword()}
	c.forget, err = AfterDeath(`docker rm --force --volumes "$1" >/dev/null 2>&1`, name)
	if err != nil {
		return nil, err
	}
	return bring(ctx, o, port, c.password, c)
}

// presentImage gives the image to use: named, or TEST_POSTGRES_IMAGE, or the first of Images that the daemon has.
func presentImage(ctx context.Context, named string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	candidates := Images()
	if named == "" {
		named = os.Getenv("TEST_POSTGRES_IMAGE")
	}
	if named != "" {
		candidates = []string{named}
	}
	if _, err := docker(ctx, nil, "version", "--format", "{{.Server.Version}}"); err != nil {
		return "", fmt.Errorf("no Docker daemon answers: %w", err)
	}
	for _, image := range candidates {
		if _, err := docker(ctx, nil, "image", "inspect", "--format", "{{.Id}}", image); err == nil {
			return image, nil
		}
	}
	return "", fmt.Errorf("the Docker daemon has no image %s: docker pull %s, or make test-image",
		strings.Join(candidates, " or "), candidates[len(candidates)-1])
}

// docker runs the docker command and gives what it printed.
func docker(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, tail(stderr.Bytes()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

func (c *container) start(ctx context.Context) error {
	if c.args == nil {
		_, err := docker(ctx, nil, "start", c.name)
		return err
	}
	_, err := docker(ctx, []string{"POSTGRES_PASSWORD=" + c.password}, c.args...)
	if err == nil {
		c.args = nil
	}
	return err
}

func (c *container) failed(ctx context.Context) error {
	running, err := docker(ctx, nil, "container", "inspect", "--format", "{{.State.Running}}", c.name)
	if err != nil {
		return err
	}
	if running == "true" {
		return nil
	}
	// The server writes its log to stderr, initdb to stdout.
	cmd := exec.CommandContext(ctx, "docker", "logs", "--tail", "20", c.name)
	out, err := cmd.CombinedOutput()
	return errors.Join(fmt.Errorf("the container ended: %s", tail(out)), err)
}

func (c *container) stop(ctx context.Context, mode Mode) error {
	if mode == Immediate {
		return c.crash(ctx)
	}
	// The official image's stop signal is SIGINT, a fast shutdown, and so is the local one's. A minute is longer than any caller waits.
	_, err := docker(ctx, nil, "stop", "-t", "60", c.name)
	return err
}

// crash has the server stop at once, and waits until the container is down.
func (c *container) crash(ctx context.Context) error {
	running, err := docker(ctx, nil, "container", "inspect", "--format", "{{.State.Running}}", c.name)
	if err != nil || running != "true" {
		return err
	}
	if _, err := docker(ctx, nil, "kill", "--signal", "QUIT", c.name); err != nil {
		return err
	}
	_, err = docker(ctx, nil, "wait", c.name)
	return err
}

func (c *container) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	// Also when the run was interrupted: the container may be there though the command failed. --force makes a missing one no error.
	_, err := docker(ctx, nil, "rm", "--force", "--volumes", c.name)
	return errors.Join(err, c.forget())
}

func (c *container) String() string { return "container " + c.image }
