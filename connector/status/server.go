package status

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options are what a Server is made of. Address, Snapshot and Log are required.
type Options struct {
	// Address is host:port; port 0 takes any that is free.
	Address string
	// Snapshot gives the connector at this moment. It may be called by several at a time.
	Snapshot func() Snapshot
	// Control does what the page asks for; nil: dead letters are not shown, and nothing can be done.
	Control Control
	// AdminToken gives the token that personal data and all that changes something are behind; nil: none is set. It is asked each time.
	AdminToken func() (string, error)
	// Alive says what is wrong with the process itself, nil where nothing is. It must not wait for anything outside of it; that it does not come back is
	// told after AnswerWithin. nil: nothing is ever wrong.
	Alive func() error
	// Metrics answers /metrics; nil: nobody does.
	Metrics *Metrics
	Log     *slog.Logger
}

// Server answers at server.listen: the page, /status.json, /metrics, /healthz (the process is alive) and /readyz (it streams and delivers; else 503 and why).
type Server struct {
	o        Options
	listener net.Listener
	http     *http.Server
	feed     *feed
	admins   *admins
	alive    pulse
	// loopback says that only this machine reaches the server.
	loopback bool
}

// Listen binds at once, so that a taken port is an error at start.
func Listen(o Options) (*Server, error) {
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("server.listen %s: %w (choose another port, or \"\" to turn the status server off)", o.Address, err)
	}
	if o.Alive == nil {
		o.Alive = func() error { return nil }
	}
	s := &Server{o: o, alive: pulse{check: o.Alive}, listener: l, feed: newFeed(o.Snapshot), admins: newAdmins(o.AdminToken)}
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		s.loopback = a.IP.IsLoopback()
	}
	s.http = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 32 << 10}
	return s, nil
}

// Addr is the address that was bound.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	defer stop()
	g.Go(func() error { s.feed.run(ctx); return nil })
	g.Go(func() error {
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("status server: %w", err)
		}
		return nil
	})
	return g.Wait()
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	if s.o.Metrics != nil {
		mux.Handle("GET /metrics", s.o.Metrics.handler(s.o.Snapshot, s.o.Log))
	}
	shown := http.NewServeMux() // what a browser is to see, and others may not make it ask for
	shown.HandleFunc("GET /status.json", func(w http.ResponseWriter, _ *http.Request) { s.reply(w, s.o.Snapshot()) })
	shown.HandleFunc("GET /{$}", s.page)
	shown.Handle("GET /page/", assets())
	shown.HandleFunc("GET /events", s.feed.serve)
	shown.HandleFunc("GET /session", s.session)
	shown.HandleFunc("POST /login", s.login)
	shown.HandleFunc("POST /logout", s.logout)
	if s.o.Control != nil {
		shown.HandleFunc("GET /deadletters.json", s.listLetters)
		shown.HandleFunc("GET /deadletters/{id}", s.showLetter)
		shown.HandleFunc("POST /deadletters/unmask", s.unmaskLetter)
		shown.HandleFunc("POST /deadletters/search", s.searchLetters)
		shown.HandleFunc("POST /deadletters/retry", s.retryLetters)
		shown.HandleFunc("POST /deadletters/drop", s.dropLetters)
		shown.HandleFunc("POST /resume", s.resume)
		shown.HandleFunc("POST /set-aside", s.setAside)
	}
	mux.Handle("/", s.guard(shown))
	return secured(mux)
}

// secured adds the headers that every answer has. The policy lets the page load nothing but its own files.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
			"base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// guard refuses what a page of another site may have a browser of this machine ask for, by a name that it points here (DNS rebinding). Where a token is
// set, such a page gets no further than anybody else, and a proxy in front may have any name.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.loopback && s.o.AdminToken == nil && !localName(r.Host) && r.Host != s.o.Address {
			http.Error(w, "server.listen is a loopback address, and is asked for by its own name only: http://"+s.Addr()+"/ (behind a proxy, set server.adminToken)",
				http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// localName reports whether a Host header names this machine by a name that no other can have.
func localName(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if strings.EqualFold(name, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.IsLoopback()
}

// reply writes v as JSON.
func (s *Server) reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.o.Log.Debug("status client went away", "error", err)
	}
}

//go:embed page
var pageFiles embed.FS

// filesTag tells the files of this process from those of another version.
var filesTag = rand.Text()

// assets serves the page's files.
func assets() http.Handler {
	files := http.FileServerFS(pageFiles)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if info, err := fs.Stat(pageFiles, name); err != nil || info.IsDir() {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", `"`+filesTag+`"`)
		files.ServeHTTP(w, r)
	})
}

// page serves the page in the language that the browser asks for; it can be changed there.
func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	text, err := pageFiles.ReadFile("page/index.html")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Vary", "Accept-Language")
	_, _ = strings.NewReplacer("{{lang}}", language(r.Header.Get("Accept-Language"))).WriteString(w, string(text)) // the browser went away
}

// language picks Chinese or English by an Accept-Language header (RFC 9110, 12.5.4): the one of the two with the greatest weight.
func language(accept string) string {
	best, weight := "en", 0.0
	for _, part := range strings.Split(accept, ",") {
		tag, rest, _ := strings.Cut(strings.TrimSpace(part), ";")
		q := 1.0
		if v, ok := strings.CutPrefix(strings.TrimSpace(rest), "q="); ok {
			if _, err := fmt.Sscanf(v, "%g", &q); err != nil {
				q = 0
			}
		}
		primary, _, _ := strings.Cut(strings.ToLower(tag), "-")
		if q <= weight {
			continue
		}
		switch primary {
		case "zh":
			best, weight = "zh-CN", q
		case "en":
			best, weight = "en", q
		}
	}
	return best
}
