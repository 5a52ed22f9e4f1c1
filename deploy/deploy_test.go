// Package deploy_test looks at what stands in this folder: that manifests, compose file and unit are what their schemas allow, and that the promises in their
// comments hold. (That the role's SQL, the image, dashboard and alert rules do what they should is tested beside the program, in cmd/tuzhan-cdc.)
package deploy_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

// manifest is what a file of Kubernetes objects holds.
type manifest struct {
	objects  []string // kind/name
	pod      *corev1.PodTemplateSpec
	claims   []string
	services []corev1.Service
	policies []networkingv1.NetworkPolicy
	secrets  map[string]corev1.Secret
	configs  map[string]corev1.ConfigMap
}

// load reads a file against the types of Kubernetes's API: an unknown field, a field that stands there twice, or a value of a wrong type is an error.
func load(t *testing.T, file string) manifest {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := manifest{secrets: map[string]corev1.Secret{}, configs: map[string]corev1.ConfigMap{}}
	for _, doc := range bytes.Split(text, []byte("\n---\n")) {
		var kind struct {
			APIVersion, Kind string
			Metadata         struct{ Name string }
		}
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			t.Fatal(err)
		}
		into := func(o any) {
			if err := yaml.UnmarshalStrict(doc, o); err != nil {
				t.Errorf("%s: %s %s: %v", file, kind.Kind, kind.Metadata.Name, err)
			}
		}
		switch kind.APIVersion + " " + kind.Kind {
		case "v1 Secret":
			var o corev1.Secret
			into(&o)
			m.secrets[o.Name] = o
		case "v1 ConfigMap":
			var o corev1.ConfigMap
			into(&o)
			m.configs[o.Name] = o
		case "v1 Service":
			var o corev1.Service
			into(&o)
			m.services = append(m.services, o)
		case "apps/v1 StatefulSet":
			var o appsv1.StatefulSet
			into(&o)
			m.pod = &o.Spec.Template
			for _, c := range o.Spec.VolumeClaimTemplates {
				m.claims = append(m.claims, c.Name)
			}
			if !matches(o.Spec.Selector.MatchLabels, o.Spec.Template.Labels) {
				t.Errorf("%s: the selector does not match the pods", file)
			}
		case "apps/v1 Deployment":
			var o appsv1.Deployment
			into(&o)
			m.pod = &o.Spec.Template
			if !matches(o.Spec.Selector.MatchLabels, o.Spec.Template.Labels) {
				t.Errorf("%s: the selector does not match the pods", file)
			}
		case "networking.k8s.io/v1 NetworkPolicy":
			var o networkingv1.NetworkPolicy
			into(&o)
			m.policies = append(m.policies, o)
		default:
			t.Errorf("%s: %s %s is not known to this test", file, kind.APIVersion, kind.Kind)
		}
		m.objects = append(m.objects, kind.Kind+"/"+kind.Metadata.Name)
	}
	if m.pod == nil {
		t.Fatalf("%s has no pods", file)
	}
	return m
}

func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return len(selector) > 0
}

// TestKubernetes: the manifests are what Kubernetes knows; the connector never decides whether the database's pod is ready, is restarted only when it does not
// live, may do nothing, has its secrets as files, and every volume, port and label that is named is there.
func TestKubernetes(t *testing.T) {
	for _, file := range []string{"kubernetes/sidecar.yaml", "kubernetes/deployment.yaml"} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			m := load(t, file)
			spec := m.pod.Spec
			all := slices.Concat(spec.InitContainers, spec.Containers)
			i := slices.IndexFunc(all, func(c corev1.Container) bool { return c.Name == "tuzhan-cdc" })
			if i < 0 {
				t.Fatal("no container tuzhan-cdc")
			}
			c := all[i]
			if strings.Contains(file, "sidecar") {
				if len(spec.InitContainers) != 1 || c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
					t.Error("it is no native sidecar")
				}
				if len(m.services) != 1 || !m.services[0].Spec.PublishNotReadyAddresses {
					t.Error("a sidecar that does not run takes the database out of its Service")
				}
			}
			if c.ReadinessProbe != nil || c.StartupProbe != nil {
				t.Error("the connector has a readiness or startup probe")
			}
			if p := c.LivenessProbe; p == nil || p.HTTPGet == nil || p.HTTPGet.Path != "/healthz" || p.TimeoutSeconds <= 5 {
				t.Errorf("liveness: %+v", p)
			}
			if s := c.SecurityContext; s == nil || !*s.RunAsNonRoot || *s.RunAsUser != 65532 || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation ||
				!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("security context: %+v", s)
			}
			if c.Resources.Limits.Memory().Value() < 128<<20 || c.Resources.Limits.Cpu().Value() != 0 {
				t.Errorf("limits: %+v", c.Resources.Limits)
			}
			if *spec.TerminationGracePeriodSeconds < 35 {
				t.Error("the grace period is shorter than --shutdown-timeout")
			}
			if len(c.Env) > 0 || len(c.EnvFrom) > 0 {
				t.Error("secrets are to be files, not variables")
			}
			m.references(t)
		})
	}
}

// references checks that what is named is there.
func (m manifest) references(t *testing.T) {
	t.Helper()
	spec := m.pod.Spec
	volumes := slices.Clone(m.claims)
	for _, v := range spec.Volumes {
		volumes = append(volumes, v.Name)
		if v.Secret != nil && !slices.Contains(m.objects, "Secret/"+v.Secret.SecretName) || v.ConfigMap != nil && !slices.Contains(m.objects, "ConfigMap/"+v.ConfigMap.Name) {
			t.Errorf("volume %s is of nothing that is there", v.Name)
		}
	}
	mounted := map[string]string{} // path of the connector's mount: volume
	ports := map[string]int32{}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, v := range c.VolumeMounts {
			if !slices.Contains(volumes, v.Name) {
				t.Errorf("container %s mounts %s, which is not there", c.Name, v.Name)
			}
			if v.SubPath != "" {
				t.Errorf("%s: what is mounted by subPath does not change", v.MountPath)
			}
			for path := range mounted {
				if c.Name == "tuzhan-cdc" && (strings.HasPrefix(v.MountPath, path+"/") || strings.HasPrefix(path, v.MountPath+"/")) {
					t.Errorf("%s is mounted within %s", v.MountPath, path)
				}
			}
			if c.Name == "tuzhan-cdc" {
				mounted[v.MountPath] = v.Name
			}
		}
		for _, p := range c.Ports {
			ports[p.Name] = p.ContainerPort
		}
	}
	if ports["tuzhan-cdc"] != 9642 {
		t.Errorf("ports: %v", ports)
	}
	for _, s := range m.services {
		if !matches(s.Spec.Selector, m.pod.Labels) || ports[s.Spec.Ports[0].TargetPort.StrVal] != s.Spec.Ports[0].Port {
			t.Errorf("service %s leads nowhere", s.Name)
		}
	}
	for _, p := range m.policies {
		if !matches(p.Spec.PodSelector.MatchLabels, m.pod.Labels) {
			t.Errorf("policy %s is about other pods", p.Name)
		}
	}
	// The files that the configuration names are keys of what is mounted there.
	config := m.configs["tuzhan-cdc"].Data["tuzhan-cdc.yaml"]
	for _, file := range regexp.MustCompile(`(?m)^ +[a-zA-Z]+File: (\S+)`).FindAllStringSubmatch(config, -1) {
		volume := mounted[filepath.Dir(file[1])]
		if _, ok := m.secrets["tuzhan-cdc"].StringData[filepath.Base(file[1])]; volume != "secrets" || !ok {
			t.Errorf("%s is not there", file[1])
		}
	}
	if _, ok := mounted["/etc/tuzhan-cdc"]; !ok || !strings.Contains(config, "listen: 0.0.0.0:9642") {
		t.Errorf("the configuration is not there, or does not listen for the kubelet:\n%s", config)
	}
}

// TestCompose: the compose file is what its schema allows, with nothing that docker-compose 1.29 does not know; one network namespace holds all; its ports are
// this machine's only; the files that it mounts are there.
func TestCompose(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{"compose.yaml"}, cli.WithName("tuzhan"))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range project.Services {
		if name != "postgres" && s.NetworkMode != "service:postgres" {
			t.Errorf("%s is in a network of its own", name)
		}
		for _, p := range s.Ports {
			if name != "postgres" || p.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %+v", name, p)
			}
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if info, err := os.Stat(v.Source); err != nil || info.IsDir() || !v.ReadOnly {
				t.Errorf("%s mounts %s: %v, read only %v", name, v.Source, err, v.ReadOnly)
			}
		}
		if name == "tuzhan-cdc" && (!s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) < 35*time.Second) {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if len(project.Services) != 4 {
		t.Errorf("%d services", len(project.Services))
	}
}

// TestUnit: where systemd is there it knows every line of the unit and finds little that could be locked up further; in any case what the comments promise
// stands there.
func TestUnit(t *testing.T) {
	text, err := os.ReadFile("systemd/tuzhan-cdc.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"Type=exec", "DynamicUser=yes", "StateDirectory=tuzhan-cdc", "ProtectSystem=strict", "NoNewPrivileges=yes", "CapabilityBoundingSet=",
		"Restart=on-failure", "LoadCredential=app-secret:/etc/tuzhan-cdc/secrets/app-secret", "ExecReload=/bin/kill -HUP $MAINPID"} {
		if !slices.Contains(strings.Split(string(text), "\n"), line) {
			t.Errorf("the unit has no line %s", line)
		}
	}
	section := ""
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case regexp.MustCompile(`^\[(Unit|Service|Install)\]$`).MatchString(line):
			section = line
		case section == "" || !regexp.MustCompile(`^[A-Z][A-Za-z]+=.*[^\\]?$`).MatchString(line):
			t.Errorf("line %d: %s", i+1, line)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not here: the unit was not verified by systemd itself")
		return
	}
	// The program is to be there, and to be executable.
	file := filepath.Join(t.TempDir(), "tuzhan-cdc.service")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(text, []byte("/usr/local/bin/tuzhan-cdc"), []byte(self)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", "--man=no", file}, {"security", "--offline=true", "--no-pager", "--threshold=20", file}} {
		out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
		if err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %q: %v\n%s", args, err, out)
		}
	}
}

// TestDist: an archive holds the program, static and with its version, and what goes with it; made again elsewhere it has the same bytes.
func TestDist(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "tar", "--version").CombinedOutput(); err != nil || !strings.Contains(string(out), "GNU") {
		t.Log("GNU tar is not here: no archive was made")
		return
	}
	release := func(dir string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "./dist.sh")
		cmd.Env = append(os.Environ(), "VERSION=v0.0.1-test", "TARGETS=linux/amd64", "DIST="+dir, "TMPDIR="+t.TempDir(), "SOURCE_DATE_EPOCH=1700000000")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		sum, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		return string(sum)
	}
	a, b := t.TempDir(), t.TempDir()
	first, second := release(a), release(b)
	if first != second {
		t.Errorf("the second time it is another one:\n%s%s", first, second)
	}
	const name = "tuzhan-cdc-v0.0.1-test-linux-amd64"
	archive, err := os.Open(filepath.Join(a, name+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, archive); err != nil {
		t.Fatal(err)
	}
	if want := hex.EncodeToString(sum.Sum(nil)) + "  " + name + ".tar.gz\n"; first != want {
		t.Errorf("SHA256SUMS is %q, want %q", first, want)
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "tar", "-xzf", archive.Name(), "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, file := range []string{"README.md", "README.zh-CN.md", "CHANGELOG.md", "LICENSE", "THIRD-PARTY-LICENSES", "platformsim", "deploy/role.sql", "deploy/README.md", "deploy/compose.yaml",
		"deploy/kubernetes/sidecar.yaml", "deploy/systemd/tuzhan-cdc.service", "deploy/prometheus/alerts.yaml", "deploy/grafana/tuzhan-cdc.json", "examples/quickstart/tuzhan-cdc.yaml",
		"man/tuzhan-cdc.1", "man/tuzhan-cdc.yaml.5", "man/platformsim.1"} {
		if _, err := os.Stat(filepath.Join(dir, name, file)); err != nil {
			t.Error(err)
		}
	}
	program(t, filepath.Join(dir, name, "tuzhan-cdc"))
	for _, file := range []string{"deploy/deploy_test.go", "deploy/test-image"} {
		if _, err := os.Stat(filepath.Join(dir, name, file)); err == nil {
			t.Errorf("%s is for developers", file)
		}
	}
}
