package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/throwaway"
)

// containerHost is a server in a container.
type containerHost struct {
	ctr    *postgres.PostgresContainer
	dsn    *url.URL
	major  int
	forget func() error
}

// startContainer starts a container of image, published on 127.0.0.1 only. Nothing is left after an error.
func startContainer(ctx context.Context, image string) (*containerHost, error) {
	// A fixed port: a published port that Docker chooses is another one after each start of the container, and on all addresses.
	port, err := throwaway.FreePort()
	if err != nil {
		return nil, err
	}
	inside := network.MustParsePort("5432/tcp")
	name := "tuzhan-cdc-pgtest-" + strings.ToLower(rand.Text())
	forget, err := throwaway.AfterDeath(`docker rm --force --volumes "$1" >/dev/null 2>&1`, name)
	if err != nil {
		return nil, err
	}
	args := []string{"postgres"}
	for setting, value := range serverSettings() {
		args = append(args, "-c", setting+"="+value)
	}
	h := &containerHost{forget: forget}
	h.ctr, err = postgres.Run(ctx, image,
		postgres.BasicWaitStrategies(),
		testcontainers.WithName(name),
		testcontainers.WithCmd(args...),
		testcontainers.WithHostConfigModifier(func(config *container.HostConfig) {
			config.PortBindings = network.PortMap{
				inside: {{HostIP: netip.AddrFrom4([4]byte{127, 0, 0, 1}), HostPort: strconv.Itoa(port)}},
			}
		}),
	)
	if err == nil {
		err = h.connect(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// connect learns the address and the version.
func (h *containerHost) connect(ctx context.Context) error {
	dsn, err := h.ctr.ConnectionString(ctx, "sslmode=disable")
	if err != nil {
		return err
	}
	if h.dsn, err = url.Parse(dsn); err != nil {
		return errors.New("testcontainers gave a connection string that is no URL")
	}
	if host, _, err := net.SplitHostPort(h.dsn.Host); err != nil || host != "127.0.0.1" {
		return errors.New("the container is not reached on 127.0.0.1 (TESTCONTAINERS_HOST_OVERRIDE, DOCKER_HOST)")
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int / 10000").Scan(&h.major)
}

func (h *containerHost) DSN(database string) string {
	u := *h.dsn
	u.Path = "/" + database
	return u.String()
}

func (h *containerHost) Addr() string { return h.dsn.Host }

func (h *containerHost) Major() int { return h.major }

// Close removes the container and its volume.
func (h *containerHost) Close() error {
	var err error
	if h.ctr != nil {
		// Nobody reads its data again: no time for a clean stop.
		err = testcontainers.TerminateContainer(h.ctr, testcontainers.StopTimeout(0))
	}
	return errors.Join(err, h.forget())
}
