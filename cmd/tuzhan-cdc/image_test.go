package main

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

// docker runs the client of a Docker daemon.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestImage: the image that deploy/image.sh makes runs as a user without rights, with a root that it can't write, and brings changes to the platform; the
// daemon finds it healthy, by the binary itself; it ends with 0 when it is stopped, and goes on from its volume. Without a Docker daemon there is none to build.
func TestImage(t *testing.T) {
	t.Parallel()
	if out, err := exec.Command("docker", "version", "--format", "{{.Server.Os}}/{{.Server.Arch}}").CombinedOutput(); err != nil || runtime.GOOS != "linux" {
		t.Logf("no image was built: no Docker daemon of this machine answers: %v %s", err, out)
		return
	}
	tag := strings.ToLower("test-" + rand.Text()[:10])
	build := exec.Command("../../deploy/image.sh")
	build.Env = append(os.Environ(), "VERSION="+tag, "TAGS="+tag, "IMAGES=tuzhan-cdc", "PROGRAMS="+filepath.Dir(program))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	image := "tuzhan-cdc:" + tag
	t.Cleanup(func() { docker(t, "image", "rm", "--force", image) })
	docker(t, "volume", "create", tag)
	t.Cleanup(func() { docker(t, "volume", "rm", "--force", tag) })

	r := newRig(t, crmSchema, crmMappings, platformsim.Options{})
	r.state = "{path: /var/lib/tuzhan-cdc/tuzhan-cdc.db}"
	r.write(crmMappings, "")
	l, err := net.Listen("tcp", "127.0.0.1:0") // health reads the address from the file
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.file, bytes.Replace(text, []byte("127.0.0.1:0"), []byte(addr), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.file, 0o644); err != nil { // the container's user is another one
		t.Fatal(err)
	}
	start := func() (container string) {
		t.Helper()
		container = docker(t, "run", "--detach", "--network", "host", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
			"--health-interval", "500ms", "--env", "TUZHAN_APP_SECRET=s3cret-of-the-app", "--volume", tag+":/var/lib/tuzhan-cdc",
			"--volume", r.file+":/etc/tuzhan-cdc/tuzhan-cdc.yaml:ro", image)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("log of the container:\n%s", docker(t, "logs", container))
			}
			docker(t, "rm", "--force", container)
		})
		for deadline := time.Now().Add(wait); ; <-time.After(200 * time.Millisecond) {
			health := docker(t, "inspect", "--format", "{{.State.Status}} {{.State.Health.Status}}", container)
			if health == "running healthy" && strings.Contains(docker(t, "logs", container), "msg=streaming") {
				return container
			}
			if strings.HasPrefix(health, "exited") || time.Now().After(deadline) {
				t.Fatalf("the container is %s\n%s", health, docker(t, "logs", container))
			}
		}
	}
	stop := func(container string) {
		t.Helper()
		docker(t, "stop", "--time", "40", container)
		if code := docker(t, "inspect", "--format", "{{.State.ExitCode}}", container); code != "0" {
			t.Errorf("it ended with %s", code)
		}
	}

	first := start()
	r.db.Exec(t, `INSERT INTO crm.orders (order_no, phone, amount, status) VALUES ('DD1', '13800000001', 9, 'paid')`)
	r.applied(platformsim.Event, 1)
	r.applied(platformsim.Point, 1)
	if out := docker(t, "exec", first, "tuzhan-cdc", "status", "-c", "/etc/tuzhan-cdc/tuzhan-cdc.yaml"); !strings.Contains(out, "streaming") {
		t.Error(out)
	}
	pid := docker(t, "inspect", "--format", "{{.State.Pid}}", first)
	if status, err := os.ReadFile("/proc/" + pid + "/status"); err == nil && !strings.Contains(string(status), "\nUid:\t65532\t65532\t65532\t65532\n") {
		t.Errorf("it runs as another user: %s", status)
	} else if user := docker(t, "inspect", "--format", "{{.Config.User}}", image); user != "65532:65532" {
		t.Errorf("the image's user is %s", user)
	}
	if n := certificates(t, first); n < 20 {
		t.Errorf("%d certificates of authorities", n)
	}
	r.settled()
	stop(first)

	r.db.Exec(t, `INSERT INTO crm.orders (order_no, phone, amount, status) VALUES ('DD2', '13800000001', 10, 'paid')`)
	second := start()
	r.applied(platformsim.Event, 2)
	r.applied(platformsim.Point, 2)
	r.settled()
	stop(second)
	if r.sim.Count(platformsim.Event) != 2 || r.sim.Count(platformsim.Point) != 2 {
		t.Errorf("sent again: %d events, %d points", r.sim.Count(platformsim.Event), r.sim.Count(platformsim.Point))
	}
	r.noViolations()
}

// certificates counts the authorities that the image trusts.
func certificates(t *testing.T, container string) (n int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca-certificates.crt")
	docker(t, "cp", fmt.Sprintf("%s:/etc/ssl/certs/ca-certificates.crt", container), file)
	rest, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(block.Bytes); err == nil {
			n++
		}
	}
	return n
}
