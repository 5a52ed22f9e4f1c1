package status

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	sessionCookie = "tuzhan_cdc_session"
	sessionLasts  = 12 * time.Hour
	mostSessions  = 64
	// wrongBurst wrong tokens of an address are looked at at once, then one every wrongEvery.
	wrongBurst = 5
	wrongEvery = 10 * time.Second
	mostGuess  = 1024 // addresses that are remembered for it
	// maxAsked bounds the body of what the page asks for.
	maxAsked = 64 << 10
)

// admins knows who may see personal data and change something: who has the token, or where none is set, whoever is on this machine.
type admins struct {
	token func() (string, error) // nil: none is set

	mu       sync.Mutex
	sessions map[[sha256.Size]byte]adminSession // by the hash of the cookie
	guesses  map[netip.Addr]*guess
}

// adminSession ends with its token: token is the hash of the one that it was begun with.
type adminSession struct {
	token [sha256.Size]byte
	ends  time.Time
}

type guess struct {
	limit *rate.Limiter
	last  time.Time
}

func newAdmins(token func() (string, error)) *admins {
	return &admins{token: token, sessions: map[[sha256.Size]byte]adminSession{}, guesses: map[netip.Addr]*guess{}}
}

// Access is what a browser may do, and why not more.
type Access struct {
	// Admin: everything.
	Admin bool `json:"admin"`
	// Token says that one is set, so that signing in gives more.
	Token bool `json:"token"`
	// SignedIn says that a token was given, rather than none be needed.
	SignedIn bool `json:"signedIn"`
}

// access tells what a request may do. The error is of a token that is wrong, or can't be read.
func (s *Server) access(r *http.Request) (Access, error) {
	a := s.admins
	if a.token == nil {
		return Access{Admin: s.loopback && fromHere(r)}, nil
	}
	access := Access{Token: true}
	wanted, err := a.hash()
	if err != nil {
		return access, err
	}
	if given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		if err := a.try(r, strings.TrimSpace(given), wanted); err != nil {
			return access, err
		}
		access.Admin, access.SignedIn = true, true
		return access, nil
	}
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return access, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	session, ok := a.sessions[sha256.Sum256([]byte(cookie.Value))]
	access.Admin = ok && session.token == wanted && time.Now().Before(session.ends)
	access.SignedIn = access.Admin
	return access, nil
}

// fromHere reports whether a request comes from this machine, and not by way of a proxy that lets others in. Not every proxy says that it is one: some show by
// their HTTP/1.0, or by the page's own address, which a browser tells.
func fromHere(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || !localName(u.Host) && u.Host != r.Host {
			return false
		}
	}
	if !r.ProtoAtLeast(1, 1) {
		return false
	}
	for _, header := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"} {
		if r.Header.Get(header) != "" {
			return false
		}
	}
	return remote(r).IsLoopback()
}

func remote(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr, _ := netip.ParseAddr(host) // the zero one is nobody's
	return addr.Unmap()
}

func (a *admins) hash() ([sha256.Size]byte, error) {
	token, err := a.token()
	if err != nil || token == "" {
		return [sha256.Size]byte{}, fmt.Errorf("server.adminToken can't be read: %w", err)
	}
	return sha256.Sum256([]byte(token)), nil
}

// refusedToken is a token that was given and not taken.
type refusedToken struct {
	text  string
	later bool // too many were wrong
}

func (e *refusedToken) Error() string { return e.text }

// try compares a token with the one wanted, by its hash and in constant time. After too many wrong ones of an address its right one has to wait too.
func (a *admins) try(r *http.Request, given string, wanted [sha256.Size]byte) error {
	addr, now := remote(r), time.Now()
	if addr.Is6() { // whoever has one address of a /64 has them all
		if p, err := addr.Prefix(64); err == nil {
			addr = p.Addr()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.guesses[addr]
	if g != nil && g.limit.TokensAt(now) < 1 {
		return &refusedToken{"too many wrong tokens came from this address: wait a minute", true}
	}
	hash := sha256.Sum256([]byte(given))
	if subtle.ConstantTimeCompare(hash[:], wanted[:]) == 1 {
		return nil
	}
	if g == nil {
		if len(a.guesses) >= mostGuess {
			a.forgetGuess()
		}
		g = &guess{limit: rate.NewLimiter(rate.Every(wrongEvery), wrongBurst)}
		a.guesses[addr] = g
	}
	g.last = now
	g.limit.AllowN(now, 1)
	return &refusedToken{text: "this is not server.adminToken"}
}

// forgetGuess makes room: the address that guessed longest ago goes.
func (a *admins) forgetGuess() {
	var oldest netip.Addr
	var at time.Time
	for addr, g := range a.guesses {
		if at.IsZero() || g.last.Before(at) {
			oldest, at = addr, g.last
		}
	}
	delete(a.guesses, oldest)
}

// begin begins a session, and gives its cookie.
func (a *admins) begin(token [sha256.Size]byte) string {
	value, now := rand.Text()+rand.Text(), time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	var first [sha256.Size]byte
	var ends time.Time
	for id, s := range a.sessions {
		if now.After(s.ends) || s.token != token {
			delete(a.sessions, id)
		} else if ends.IsZero() || s.ends.Before(ends) {
			first, ends = id, s.ends
		}
	}
	if len(a.sessions) >= mostSessions {
		delete(a.sessions, first)
	}
	a.sessions[sha256.Sum256([]byte(value))] = adminSession{token, now.Add(sessionLasts)}
	return value
}

func (a *admins) end(cookie string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sessions, sha256.Sum256([]byte(cookie)))
}

func (s *Server) session(w http.ResponseWriter, r *http.Request) {
	access, err := s.access(r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.reply(w, access)
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Token string `json:"token"`
	}
	if !s.read(w, r, &asked) {
		return
	}
	if s.admins.token == nil {
		problem(w, http.StatusConflict, "no server.adminToken is set")
		return
	}
	wanted, err := s.admins.hash()
	if err == nil {
		err = s.admins.try(r, asked.Token, wanted)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.o.Log.Info("signed in on the page", "from", remote(r))
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: s.admins.begin(wanted), Path: "/", MaxAge: int(sessionLasts.Seconds()), HttpOnly: true,
		SameSite: http.SameSiteStrictMode, Secure: r.Header.Get("X-Forwarded-Proto") == "https"})
	s.reply(w, Access{Admin: true, Token: true, SignedIn: true})
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	if !s.read(w, r, &struct{}{}) {
		return
	}
	if c, err := r.Cookie(sessionCookie); err == nil {
		s.admins.end(c.Value)
	}
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	s.reply(w, Access{Token: s.admins.token != nil})
}

// refuse answers to a token that was not taken.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusInternalServerError
	if wrong, ok := err.(*refusedToken); ok {
		code = http.StatusUnauthorized
		if wrong.later {
			code = http.StatusTooManyRequests
			w.Header().Set("Retry-After", "60")
		}
	}
	s.o.Log.Warn("not signed in on the page", "from", remote(r), "reason", err)
	problem(w, code, err.Error())
}

// crossOrigin refuses what a page of another site has a browser send.
var crossOrigin = http.NewCrossOriginProtection()

// read reads what a page asks for: JSON, from the page itself or from no browser. On false it has answered.
func (s *Server) read(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := crossOrigin.Check(r); err != nil {
		problem(w, http.StatusForbidden, err.Error())
		return false
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		problem(w, http.StatusUnsupportedMediaType, "want Content-Type: application/json")
		return false
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAsked))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		problem(w, http.StatusBadRequest, "the body can't be read: "+err.Error())
		return false
	}
	return true
}

// asked reads what only an admin may ask for. On false it has answered.
func (s *Server) asked(w http.ResponseWriter, r *http.Request, into any) bool {
	access, err := s.access(r)
	switch {
	case err != nil:
		s.refuse(w, r, err)
		return false
	case !access.Admin && access.Token:
		problem(w, http.StatusUnauthorized, "sign in with server.adminToken first")
		return false
	case !access.Admin:
		problem(w, http.StatusForbidden, "set server.adminToken: without it only a browser on the connector's own machine may do this, where server.listen is a loopback address")
		return false
	}
	return s.read(w, r, into)
}

// problem answers with what is wrong.
func problem(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text}) // the client may be gone
}
