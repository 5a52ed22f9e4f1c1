package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

// none as TEST_POSTGRES_IMAGE asks for a throwaway cluster.
const none = "none"

// choose starts the server that the tests share, and says in words what it is. named is TEST_POSTGRES_IMAGE.
func choose(ctx context.Context, named string) (host, string, error) {
	h, image, err := inContainer(ctx, named)
	if err == nil {
		return h, "container " + image, nil
	}
	// Somebody asked for this very image, and there is a daemon: another PostgreSQL would not be what they meant to test.
	if named != "" && named != none && !errors.Is(err, errNoDaemon) {
		return nil, "", err
	}
	cluster, localErr := throwaway.Start(ctx, throwaway.Options{Settings: serverSettings()})
	if localErr != nil {
		return nil, "", fmt.Errorf("%w; and no container: %w", localErr, err)
	}
	why := strings.ReplaceAll(err.Error(), "\n", "; ")
	return cluster, fmt.Sprintf("throwaway cluster of %s (no container: %s)", cluster, why), nil
}

var (
	errNoDaemon = errors.New("no Docker daemon answers")
	errUnwanted = errors.New("TEST_POSTGRES_IMAGE is none")
)

// inContainer starts a container of the named image, or of the first that can be had.
func inContainer(ctx context.Context, named string) (host, string, error) {
	if named == none {
		return nil, "", errUnwanted
	}
	quiet()
	docker, err := daemon(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", errNoDaemon, err)
	}
	defer docker.Close()
	image := named
	if image == "" {
		if image, err = available(ctx, docker, throwaway.Images()); err != nil {
			return nil, "", err
		}
	}
	c, err := startContainer(ctx, image)
	if err != nil {
		return nil, "", fmt.Errorf("container %s: %w", image, err)
	}
	return c, image, nil
}

// quiet sets what testcontainers reads once: no chatter, no reaper (its image may be out of reach; AfterDeath does its work), and mapped
// ports on the address that they are published on.
func quiet() {
	log.SetDefault(log.NewNoopLogger())
	for name, value := range map[string]string{
		"TESTCONTAINERS_RYUK_DISABLED": "true",
		"TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1",
	} {
		if _, set := os.LookupEnv(name); !set {
			os.Setenv(name, value)
		}
	}
}

// daemon gives a client of a Docker daemon that answers: the one that DOCKER_HOST names, else the one that testcontainers finds.
func daemon(ctx context.Context) (*testcontainers.DockerClient, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if os.Getenv("DOCKER_HOST") != "" {
		// testcontainers would go on to the default socket, a daemon that nobody named.
		named, err := client.New(client.FromEnv)
		if err != nil {
			return nil, err
		}
		_, err = named.Ping(ctx, client.PingOptions{})
		if err = errors.Join(err, named.Close()); err != nil {
			return nil, err
		}
	}
	docker, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := docker.Ping(ctx, client.PingOptions{}); err != nil {
		return nil, errors.Join(err, docker.Close())
	}
	return docker, nil
}

// available gives the first of images that the daemon has; where it has none, the last one if its registry answers.
func available(ctx context.Context, docker *testcontainers.DockerClient, images []string) (string, error) {
	for _, image := range images {
		if _, err := docker.ImageInspect(ctx, image); err == nil {
			return image, nil
		}
	}
	// Asked before testcontainers pulls it, which tries again for 15 minutes where there is no registry.
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	last := images[len(images)-1]
	if _, err := docker.DistributionInspect(ctx, last, client.DistributionInspectOptions{}); err != nil {
		return "", fmt.Errorf("the Docker daemon has no image for it (make test-image builds one) and does not reach %s", last)
	}
	return last, nil
}
