package platformsim

import (
	"crypto/rand"
	"net/http"
	"time"
)

// defaultTokenLife is a token's life by the contract.
const defaultTokenLife = 7200 * time.Second

// tokens are the tokens that data calls are taken with. Sim.mu guards them.
type tokens struct {
	fixed  string
	issued map[string]time.Time // when each ends
	count  uint64               // issued ever
}

// SetToken changes the fixed token that is taken; the one before is stale from now on. "": none.
func (s *Sim) SetToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens.fixed = token
	s.ledger.wake()
}

// ExpireTokens makes all tokens stale that the token call has given so far. The fixed one stays: SetToken changes it.
func (s *Sim) ExpireTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens.issued)
	s.ledger.wake()
}

// fresh reports whether a data call with that token is taken.
func (s *Sim) fresh(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token == "" || token == s.tokens.fixed || s.options.AppID == "" && s.tokens.fixed == "" {
		return token != ""
	}
	ends, ok := s.tokens.issued[token]
	return ok && time.Now().Before(ends)
}

// issue gives a new token. Those from before live on: no page says otherwise.
func (s *Sim) issue() string {
	token := rand.Text()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for old, ends := range s.tokens.issued {
		if !now.Before(ends) {
			delete(s.tokens.issued, old)
		}
	}
	s.tokens.issued[token] = now.Add(s.options.TokenLife)
	s.tokens.count++
	return token
}

// tokenCall answers the token call.
func (s *Sim) tokenCall(r *http.Request) answer {
	if r.Method != http.MethodGet {
		return s.refused(refuse("the method must be GET, is %s", r.Method))
	}
	q := r.URL.Query()
	for name, values := range q {
		if name != "instanceAppid" && name != "instanceSecrect" {
			return s.refused(refuse("the parameter is unknown").in(fieldName([]byte(name))))
		}
		if len(values) > 1 {
			return s.refused(refuse("the parameter stands twice").in(name))
		}
	}
	for _, name := range []string{"instanceAppid", "instanceSecrect"} {
		if q.Get(name) == "" {
			return s.refused(refuse("is required").in(name))
		}
	}
	o := &s.options
	if o.AppID == "" || q.Get("instanceAppid") != o.AppID || q.Get("instanceSecrect") != o.AppSecret {
		return s.answer(codeSecretWrong, "APPID_SECRET_ERROR", "wrong app id or secret", nil)
	}
	type issued struct {
		Token   string `json:"orgAccessToken"`
		Refresh string `json:"orgRefreshToken"`
		Expire  int64  `json:"expire"`
	}
	data := issued{Token: s.issue(), Refresh: rand.Text(), Expire: max(1, int64(o.TokenLife/time.Second))}
	if o.HideExpire {
		data.Expire = 0
	}
	return s.answer(codeOK, "0", "success", data)
}
