package platformsim

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func tokenRequest(query string) *http.Request {
	r := request(New(Options{}), Token, "")
	r.URL.RawQuery = query
	return r
}

// getToken makes the token call for app a with the secret b.
func getToken(t *testing.T, s *Sim) string {
	t.Helper()
	r := do(t, s, tokenRequest("instanceAppid=a&instanceSecrect=b"))
	var data struct{ OrgAccessToken, OrgRefreshToken string }
	if err := json.Unmarshal(r.Data, &data); err != nil || r.Code != "200" || data.OrgAccessToken == "" || data.OrgRefreshToken == "" {
		t.Fatalf("no token: %s", r.body)
	}
	return data.OrgAccessToken
}

func code(t *testing.T, s *Sim, token string) any {
	t.Helper()
	r := request(s, Event, goodEvent)
	r.Header.Set("X-Token", token)
	return do(t, s, r).Code
}

func TestTokenCall(t *testing.T) {
	s := New(Options{AppID: "a", AppSecret: "b"})
	for query, want := range map[string][2]string{
		"instanceAppid=a&instanceSecrect=x":                   {"100100", "wrong app id or secret"},
		"instanceAppid=x&instanceSecrect=b":                   {"100100", "wrong app id or secret"},
		"instanceAppid=a":                                     {"400", "instanceSecrect: is required"},
		"instanceSecrect=b":                                   {"400", "instanceAppid: is required"},
		"instanceAppid=a&instanceSecret=b":                    {"400", "instanceSecret: the parameter is unknown"},
		"instanceAppid=a&instanceSecrect=b&instanceSecrect=b": {"400", "instanceSecrect: the parameter stands twice"},
	} {
		r := do(t, s, tokenRequest(query))
		if r.status != 200 || r.Code != want[0] || !strings.Contains(r.Msg, want[1]) {
			t.Errorf("%s: %d %s", query, r.status, r.body)
		}
	}
	r := tokenRequest("instanceAppid=a&instanceSecrect=b")
	r.Method = http.MethodPost
	if got := do(t, s, r); got.Code != "400" || !strings.Contains(got.Msg, "method must be GET") {
		t.Errorf("POST: %s", got.body)
	}
	one, two := getToken(t, s), getToken(t, s)
	if one == two || code(t, s, one) != "200" || code(t, s, two) != "200" {
		t.Error("both tokens should be good")
	}
	if st := s.Stats(); st.TokensIssued != 2 || st.Endpoints[Token].Requests != 9 {
		t.Errorf("%+v", st)
	}
	got := do(t, s, tokenRequest("instanceAppid=a&instanceSecrect=b"))
	if !strings.Contains(got.body, `"expire":7200}`) || got.ErrorCode != "0" {
		t.Errorf("answer %s", got.body)
	}
	s = New(Options{AppID: "a", AppSecret: "b", HideExpire: true})
	if got := do(t, s, tokenRequest("instanceAppid=a&instanceSecrect=b")); !strings.Contains(got.body, `"expire":0}`) {
		t.Errorf("answer %s", got.body)
	}
	if got := do(t, New(Options{}), tokenRequest("instanceAppid=a&instanceSecrect=b")); got.Code != "100100" {
		t.Errorf("without an app: %s", got.body)
	}
}

func TestStaleTokens(t *testing.T) {
	s := New(Options{AppID: "a", AppSecret: "b", Token: "fixed"})
	token := getToken(t, s)
	for _, bad := range []string{"", "x", token + "x"} {
		if c := code(t, s, bad); c != "100200" {
			t.Errorf("token %q: code %v", bad, c)
		}
	}
	if c := code(t, s, "fixed"); c != "200" {
		t.Errorf("fixed token: code %v", c)
	}
	s.ExpireTokens()
	if a, b := code(t, s, token), code(t, s, "fixed"); a != "100200" || b != "200" {
		t.Errorf("after ExpireTokens: %v %v", a, b)
	}
	s.SetToken("next")
	if a, b := code(t, s, "fixed"), code(t, s, "next"); a != "100200" || b != "200" {
		t.Errorf("after SetToken: %v %v", a, b)
	}
	if s.Count("") != 3 || s.Stats().Refused != 5 {
		t.Errorf("%d applied, %d refused", s.Count(""), s.Stats().Refused)
	}

	s = New(Options{Token: "fixed", Stale401: true})
	r := request(s, Event, goodEvent)
	r.Header.Del("X-Token")
	if got := do(t, s, r); got.status != 401 || got.Code != "401" || s.Count("") != 0 {
		t.Errorf("%d %s", got.status, got.body)
	}
	// The token comes before the body: a wrong body tells nothing to who has none.
	r = request(s, Event, "{}")
	if got := do(t, s, r); got.status != 401 {
		t.Errorf("%d %s", got.status, got.body)
	}

	s = New(Options{})
	if a, b := code(t, s, "any"), code(t, s, ""); a != "200" || b != "100200" {
		t.Errorf("without settings: %v %v", a, b)
	}
}

func TestTokenLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{AppID: "a", AppSecret: "b", TokenLife: time.Minute})
		token := getToken(t, s)
		<-time.After(59 * time.Second) // of the bubble's clock
		if c := code(t, s, token); c != "200" {
			t.Errorf("within its life: %v", c)
		}
		<-time.After(time.Second)
		if c := code(t, s, token); c != "100200" {
			t.Errorf("after its life: %v", c)
		}
	})
}
