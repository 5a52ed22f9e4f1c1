package platform

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

func openRequest() *connector.Request {
	return &connector.Request{Endpoint: connector.PointEndpoint, Records: []*connector.Record{{Kind: connector.Point,
		Payload: []byte(`{"thirdId":"u-1","point":5,"remark":"r","relateBizCode":"6ba7b810-9dad-51d1-80b4-00c04fd430c8"}`)}}}
}

// TestOpenPoint: nonce and timestamp are made for each request, the payload stays as it is, and the path is the platform's own.
func TestOpenPoint(t *testing.T) {
	var seen []string
	c := newClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, r.URL.Path+" "+string(body))
		if len(seen) == 1 {
			w.WriteHeader(http.StatusUnauthorized) // the second try is another request
			return
		}
		_, _ = io.WriteString(w, delivered)
	}), func(cfg *Config) { cfg.Paths.Point, cfg.OpenPoints = "", true })
	before := time.Now().UnixMilli()
	for range 2 {
		if a := c.Send(t.Context(), openRequest()); a.Verdict != connector.Delivered {
			t.Fatal(a.Verdict, a.Err)
		}
	}
	form := regexp.MustCompile(`^/api/open/point/increase (\{"nonce":"[A-Z2-7]{6}","timestamp":\d{13},"thirdId":"u-1","point":5,"remark":"r","relateBizCode":"6ba7b810-9dad-51d1-80b4-00c04fd430c8"\})$`)
	nonces := map[string]bool{}
	for _, s := range seen {
		m := form.FindStringSubmatch(s)
		if m == nil {
			t.Fatalf("sent %s", s)
		}
		var body struct {
			Nonce     string
			Timestamp int64
		}
		if err := json.Unmarshal([]byte(m[1]), &body); err != nil {
			t.Fatal(err)
		}
		nonces[body.Nonce] = true
		if body.Timestamp < before || body.Timestamp > time.Now().UnixMilli() {
			t.Errorf("timestamp %d", body.Timestamp)
		}
	}
	if len(seen) != 3 || len(nonces) != 3 {
		t.Errorf("%d requests with %d nonces", len(seen), len(nonces))
	}
}

// The timestamp is of the moment at which the request goes, not of the one at which it began to wait for the rate limit.
func TestOpenPointTimestamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, "http://127.0.0.1:1", func(cfg *Config) { cfg.OpenPoints, cfg.RequestsPerSecond = true, 0.01 })
		var seen atomic.Int32
		pipeBody(c, func(body string) {
			seen.Add(1)
			if want := fmt.Sprintf(`"timestamp":%d,`, time.Now().UnixMilli()); !strings.Contains(body, want) {
				t.Errorf("%s is not in %s", want, body)
			}
		})
		began := time.Now()
		for range 2 {
			if a := c.Send(t.Context(), openRequest()); a.Verdict != connector.Delivered {
				t.Error(a.Verdict, a.Err)
			}
		}
		if seen.Load() != 2 || time.Since(began) != 100*time.Second {
			t.Errorf("%d requests in %v", seen.Load(), time.Since(began))
		}
		c.Close()
	})
}

// The simulator, strict on this endpoint too, takes the point and keeps the code; the probe is refused and so shows the platform at work.
func TestSimulatorOpenPoint(t *testing.T) {
	sim := platformsim.New(platformsim.Options{OpenDecrease: true})
	c := newClient(t, serve(t, sim.ServeHTTP), func(cfg *Config) {
		cfg.Paths, cfg.OpenPoints = Paths{PointDecrease: platformsim.DefaultPaths()[platformsim.PointDecrease]}, true
	})
	decrease := openRequest()
	decrease.Endpoint = connector.PointDecreaseEndpoint
	for _, req := range []*connector.Request{openRequest(), decrease} {
		if a := c.Send(t.Context(), req); a.Verdict != connector.Delivered {
			t.Errorf("%v: %v %s %v", req.Endpoint, a.Verdict, a.Msg, a.Err)
		}
		if a := c.Probe(t.Context(), req.Endpoint); a.Verdict != connector.Delivered || !a.NotApplied {
			t.Errorf("probe of %v: %v %s %v", req.Endpoint, a.Verdict, a.Msg, a.Err)
		}
	}
	got := sim.Ledger()
	if len(got) != 2 || got[0].Endpoint != platformsim.PointOpen || got[0].BizCode != "6ba7b810-9dad-51d1-80b4-00c04fd430c8" || got[0].Customer != "u-1" ||
		got[1].Endpoint != platformsim.PointDecrease {
		t.Errorf("applied %+v", got)
	}
}

func TestOpenPointNotEncrypted(t *testing.T) {
	_, err := New(Config{BaseURL: "https://h", Token: static("x"), OpenPoints: true, Encryption: &Encryption{Algorithm: "aes-ecb", Key: static("0123456789abcdef")}})
	if err == nil || !strings.Contains(err.Error(), "platform.encryption: the platform's pages know no encrypted body of the open API") {
		t.Error(err)
	}
}
