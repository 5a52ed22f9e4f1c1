// Command platformsim serves the simulator of the platform (connector/platformsim) on a port of its own, for trying the connector by hand.
// Everything about it is open to who can reach the port; it belongs on the loopback interface.
package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

// The exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// stopWithin is how long requests in flight may take after SIGTERM.
const stopWithin = 5 * time.Second

func main() {
	// A second signal takes the default way: it ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run serves until ctx ends and returns the exit code.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	if len(args) > 0 && args[0] == "man" {
		return writeManual(args[1:], errs)
	}
	listen, options, err := readFlags(args, errs)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage // the flag package has said why
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		fmt.Fprintf(errs, "platformsim: %v; choose another address with --listen\n", err)
		return exitFailed
	}
	// Delays end when the requests' context does, so that they don't hold up the end.
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server := &http.Server{Handler: platformsim.New(options), ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return requests }}
	fmt.Fprintf(out, "platformsim listens on http://%s\n", l.Addr())
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		fmt.Fprintf(errs, "platformsim: %v\n", err)
		return exitFailed
	case <-ctx.Done():
	}
	cancel()
	end, release := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer release()
	if err := server.Shutdown(end); err != nil {
		fmt.Fprintf(errs, "platformsim: requests were still in flight after %s and were cut\n", stopWithin)
		_ = server.Close()
	}
	<-served
	return 0
}

// flags are what the command line says.
type flags struct {
	*flag.FlagSet
	listen                        string
	options                       platformsim.Options
	algorithm, key, iv, eventKeys string
	hexadecimal                   bool
	paths                         map[platformsim.Endpoint]*string
}

const (
	about = "A strict stand-in for the platform's HTTP API. Its admin API is under /_sim/: ledger, requests, violations, points,\n" +
		"groups, stats, wait, faults, down, up, expire-tokens. A fault, here for each request of events that holds a text; DELETE takes all of them away:"
	example = "  curl -d '{\"endpoint\":\"event\",\"match\":\"13800000001\",\"count\":-1,\"action\":\"status\",\"status\":400}' http://127.0.0.1:9700/_sim/faults\n" +
		"  curl -X DELETE http://127.0.0.1:9700/_sim/faults"
	more = "Other actions: `go doc ./connector/platformsim Action`."
)

func newFlags(errs io.Writer) *flags {
	f := &flags{FlagSet: flag.NewFlagSet("platformsim", flag.ContinueOnError), paths: map[platformsim.Endpoint]*string{}}
	o := &f.options
	f.SetOutput(errs)
	f.Usage = func() {
		fmt.Fprintf(errs, "Usage: platformsim [flags]\n\n%s\n\n%s\n\n%s\n\n", about, example, more)
		f.PrintDefaults()
	}
	f.StringVar(&f.listen, "listen", "127.0.0.1:9700", "`address` to listen on; port 0 takes a free one")
	f.StringVar(&o.AppID, "app-id", "", "app id that the token call takes; without it and --token every token is taken")
	f.StringVar(&o.AppSecret, "app-secret", "", "app secret that the token call takes (none of the real ones: other users of the machine can read it)")
	f.StringVar(&o.Token, "token", "", "fixed token that is taken beside those that the token call gave")
	f.DurationVar(&o.TokenLife, "token-life", 2*time.Hour, "how long a token lives")
	f.BoolVar(&o.Stale401, "stale-401", false, "answer a stale token with HTTP 401 rather than with code 100200")
	f.BoolVar(&o.UpdateReplaces, "update-replaces", false, "read a group update as replacing all groups of the customer")
	f.BoolVar(&o.NoLedger, "no-ledger", false, "keep counts only, for benchmarks")
	f.Uint64Var(&o.Seed, "seed", 0, "seed of the dice of faults with a probability")
	f.BoolVar(&o.OpenDecrease, "open-decrease", false, "the endpoint pointDecrease takes the body of the open API")
	f.StringVar(&f.algorithm, "encryption", "", "bodies of points must be encrypted, by this `algorithm`: aes-ecb, aes-cbc, aes-gcm, sm4-ecb or sm4-cbc")
	f.StringVar(&f.key, "encryption-key", "", "its key, hexadecimal (none of the real ones)")
	f.StringVar(&f.iv, "encryption-iv", "", "its fixed IV, hexadecimal; without it the IV stands in front of the ciphertext")
	f.BoolVar(&f.hexadecimal, "encryption-hex", false, "the ciphertext is hexadecimal rather than base64")
	f.StringVar(&f.eventKeys, "event-keys", "", "event `keys` that are defined, joined by commas; empty: every one")
	for name, e := range map[string]platformsim.Endpoint{"point-path": platformsim.Point, "point-decrease-path": platformsim.PointDecrease} {
		f.paths[e] = f.String(name, platformsim.DefaultPaths()[e], "`path` of the endpoint "+string(e))
	}
	return f
}

// readFlags reads the command line; what is wrong with it goes to errs.
func readFlags(args []string, errs io.Writer) (listen string, o platformsim.Options, err error) {
	f := newFlags(errs)
	if err := f.Parse(args); err != nil {
		return "", o, err
	}
	if f.NArg() > 0 {
		err := fmt.Errorf("platformsim: unexpected argument %q; see --help", f.Arg(0))
		fmt.Fprintln(errs, err)
		return "", o, err
	}
	o = f.options
	if (o.AppID == "") != (o.AppSecret == "") {
		err := errors.New("platformsim: --app-id and --app-secret go together")
		fmt.Fprintln(errs, err)
		return "", o, err
	}
	if f.algorithm != "" {
		if o.Decrypt, err = decrypter(f.algorithm, f.key, f.iv, f.hexadecimal); err != nil {
			fmt.Fprintln(errs, err)
			return "", o, err
		}
	}
	if f.eventKeys != "" {
		o.EventKeys = strings.Split(f.eventKeys, ",")
	}
	o.Paths = map[platformsim.Endpoint]string{}
	for e, path := range f.paths {
		o.Paths[e] = *path
	}
	return f.listen, o, nil
}

// decrypter makes the decryption of key and iv, which are hexadecimal; iv empty: it stands in front of the ciphertext.
func decrypter(algorithm, key, iv string, hexadecimal bool) (func([]byte) ([]byte, error), error) {
	k, err := hex.DecodeString(key)
	if err != nil {
		return nil, errors.New("platformsim: --encryption-key is not hexadecimal")
	}
	var vector []byte
	if iv != "" {
		if vector, err = hex.DecodeString(iv); err != nil {
			return nil, errors.New("platformsim: --encryption-iv is not hexadecimal")
		}
	}
	return platformsim.Decrypter(algorithm, k, vector, hexadecimal)
}
