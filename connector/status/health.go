package status

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// AnswerWithin is how long the parts of a connector may take to answer /healthz; none of them waits for anything but another part meanwhile.
const AnswerWithin = 5 * time.Second

// Alive asks a connector's server whether the process lives; nil: it does.
func Alive(ctx context.Context, addr string) error { return ask(ctx, addr, "/healthz") }

// Ready asks a connector's server whether it streams and delivers; nil: it does.
func Ready(ctx context.Context, addr string) error { return ask(ctx, addr, "/readyz") }

func ask(ctx context.Context, addr, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return err
	}
	// No proxy: the address is this machine's.
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return fmt.Errorf("nobody answers at server.listen, %s: %w", addr, op.Err)
		}
		return fmt.Errorf("no answer at server.listen, %s: %w", addr, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("%s at server.listen, %s: %w", path, addr, err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(body)))
	}
	return nil
}
