package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestServes: one line with the address when it is ready, answers there, and exit 0 when it is told to stop, delays notwithstanding.
func TestServes(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, in := io.Pipe()
	var errs bytes.Buffer
	exit := make(chan int, 1)
	go func() {
		exit <- run(ctx, []string{"--listen", "127.0.0.1:0", "--token", "t", "--point-path", "/p", "--event-keys", "c_a,c_b"}, in, &errs)
		in.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	base, ok := strings.CutPrefix(strings.TrimSpace(line), "platformsim listens on ")
	if err != nil || !ok {
		t.Fatalf("%q %v %s", line, err, errs.String())
	}
	post := func(path, body string) string {
		t.Helper()
		req, _ := http.NewRequest(http.MethodPost, base+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Token", "t")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	const point = `{"audienceUserId":1,"point":2,"remark":"r"}`
	if got := post("/p", point); !strings.Contains(got, `"code":"200"`) {
		t.Errorf("point: %s", got)
	}
	event := `{"publicParams":{},"data":[{"identities":[{"identityValue":"1","identityType":"phone"}],"eventKey":"c_c"}]}`
	if got := post("/api/integrate/event/v2/batchAdd", event); !strings.Contains(got, "is not defined") {
		t.Errorf("event: %s", got)
	}
	post("/_sim/faults", `{"delay":"1h"}`)
	answered := make(chan string, 1)
	go func() {
		resp, err := http.Post(base+"/p", "application/json", strings.NewReader(point))
		if err != nil {
			answered <- err.Error()
			return
		}
		resp.Body.Close()
		answered <- resp.Status
	}()
	// The delayed request must be there before the end.
	if stats := get(t, base+"/_sim/wait?endpoint=point&inFlight=1"); !strings.Contains(stats, `"inFlight":1`) {
		t.Errorf("stats %s", stats)
	}
	stop()
	if code := <-exit; code != 0 || errs.Len() > 0 {
		t.Errorf("exit %d, %s", code, errs.String())
	}
	if got := <-answered; got != "200 OK" {
		t.Errorf("the request in flight: %s", got)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// TestMan: the page has all that --help has: each flag with its text, and the example as it stands.
func TestMan(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man")
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"man", dir}, &out, &errs); code != 0 || out.Len()+errs.Len() > 0 {
		t.Fatalf("exit %d, %q, %q", code, out.String(), errs.String())
	}
	roff, err := os.ReadFile(filepath.Join(dir, "platformsim.1"))
	if err != nil {
		t.Fatal(err)
	}
	page := strings.NewReplacer(`\-`, "-", `\fB`, "", `\fI`, "", `\fP`, "", `\&`, "").Replace(string(roff))
	flags := 0
	newFlags(io.Discard).VisitAll(func(f *flag.Flag) {
		flags++
		if _, usage := flag.UnquoteUsage(f); !strings.Contains(page, "--"+f.Name) || !strings.Contains(page, usage) {
			t.Errorf("the page lacks --%s: %s", f.Name, usage)
		}
	})
	if !strings.HasPrefix(page, ".nh\n.TH PLATFORMSIM 1 ") || flags < 15 || !strings.Contains(page, "curl -X DELETE http://127.0.0.1:9700/_sim/faults") {
		t.Errorf("%d flags\n%s", flags, page)
	}
}

func TestExitCodes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--help"}, 0, "Usage: platformsim"}, {[]string{"--help"}, 0, "http://127.0.0.1:9700/_sim/faults"},
		{[]string{"--no-such"}, 2, "no-such"},
		{[]string{"man"}, 2, "name the folder"}, {[]string{"man", os.DevNull}, 1, "write the man page"},
		{[]string{"more"}, 2, `unexpected argument "more"`},
		{[]string{"--app-id", "a"}, 2, "go together"},
		{[]string{"--encryption", "des-cbc", "--encryption-key", "0011223344556677"}, 2, `the algorithm "des-cbc"`},
		{[]string{"--encryption", "sm4-cbc", "--encryption-key", "0011"}, 2, "a key of 2 bytes"},
		{[]string{"--encryption", "aes-cbc", "--encryption-key", "leak"}, 2, "--encryption-key is not hexadecimal"},
		{[]string{"--listen", l.Addr().String()}, 1, "--listen"},
	} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), c.args, &out, &errs); code != c.code || !strings.Contains(errs.String(), c.says) || out.Len() > 0 {
			t.Errorf("%v: exit %d, %q, %q", c.args, code, out.String(), errs.String())
		}
	}
}

// TestEncryptionFlags: with them a plain point is refused and an encrypted one is taken.
func TestEncryptionFlags(t *testing.T) {
	var errs bytes.Buffer
	_, o, err := readFlags([]string{"--encryption", "aes-cbc", "--encryption-key", "2b7e151628aed2a6abf7158809cf4f3c", "--encryption-iv", "000102030405060708090a0b0c0d0e0f",
		"--encryption-hex"}, &errs)
	if err != nil {
		t.Fatal(err)
	}
	// SP 800-38A, F.2.1, whose plain text is no padding.
	if _, err := o.Decrypt([]byte("7649abac8119b246cee98e9b12e9197d")); err == nil || !strings.Contains(err.Error(), "padding") {
		t.Error(err)
	}
}
