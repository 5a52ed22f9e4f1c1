package platformsim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// adminPrefix is where the admin API is. It asks for no token: who can reach the simulator can steer it.
const adminPrefix = "/_sim/"

// adminHandler routes the admin API:
//
//	GET    /_sim/ledger?endpoint=&since=&limit=   applied records (Applied), one a line, in order; since is a Seq
//	GET    /_sim/requests                         Request, one a line
//	GET    /_sim/violations                       Violation, one a line
//	GET    /_sim/points, /_sim/groups             the sums and the sets by customer
//	GET    /_sim/stats                            Stats
//	GET    /_sim/wait?endpoint=&applied=&inFlight= answers with Stats as soon as there are at least so many; of one endpoint, or of all
//	GET    /_sim/faults                           an array of InjectedFault
//	POST   /_sim/faults                           adds a Fault, or all of an array of them; answers {"ids": [...]}
//	DELETE /_sim/faults?id=                       removes one, or all
//	POST   /_sim/down?mode=503|cut, /_sim/up
//	POST   /_sim/expire-tokens
func (s *Sim) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_sim/ledger", s.adminLedger)
	mux.HandleFunc("GET /_sim/requests", func(w http.ResponseWriter, _ *http.Request) { writeLines(w, s.Requests()) })
	mux.HandleFunc("GET /_sim/violations", func(w http.ResponseWriter, _ *http.Request) { writeLines(w, s.Violations()) })
	mux.HandleFunc("GET /_sim/points", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Points()) })
	mux.HandleFunc("GET /_sim/groups", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Groups()) })
	mux.HandleFunc("GET /_sim/stats", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Stats()) })
	mux.HandleFunc("GET /_sim/wait", s.adminWait)
	mux.HandleFunc("GET /_sim/faults", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Faults()) })
	mux.HandleFunc("POST /_sim/faults", s.adminInject)
	mux.HandleFunc("DELETE /_sim/faults", s.adminClear)
	mux.HandleFunc("POST /_sim/down", func(w http.ResponseWriter, r *http.Request) {
		switch mode := DownMode(r.FormValue("mode")); mode {
		case "", DownUnavailable, DownCut:
			s.Down(mode)
			w.WriteHeader(http.StatusNoContent)
		default:
			wrong(w, fmt.Errorf("mode must be %s or %s", DownUnavailable, DownCut))
		}
	})
	mux.HandleFunc("POST /_sim/up", func(w http.ResponseWriter, _ *http.Request) {
		s.Up()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /_sim/expire-tokens", func(w http.ResponseWriter, _ *http.Request) {
		s.ExpireTokens()
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

func (s *Sim) adminLedger(w http.ResponseWriter, r *http.Request) {
	e, numbers, err := readQuery(r, "since", "limit")
	if err != nil {
		wrong(w, err)
		return
	}
	list := s.LedgerSince(numbers[0], e)
	if limit := numbers[1]; limit > 0 && uint64(len(list)) > limit {
		list = list[:limit]
	}
	writeLines(w, list)
}

func (s *Sim) adminWait(w http.ResponseWriter, r *http.Request) {
	e, numbers, err := readQuery(r, "applied", "inFlight")
	if err != nil {
		wrong(w, err)
		return
	}
	err = s.Wait(r.Context(), func(s *Sim) bool {
		return uint64(s.Count(e)) >= numbers[0] && uint64(s.InFlight(e)) >= numbers[1]
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	writeJSON(w, s.Stats())
}

// readQuery reads endpoint and two numbers, 0 where they are not given.
func readQuery(r *http.Request, first, second string) (e Endpoint, numbers [2]uint64, err error) {
	e = Endpoint(r.FormValue("endpoint"))
	if e != "" && DefaultPaths()[e] == "" {
		return e, numbers, fmt.Errorf("the endpoint %q is unknown", e)
	}
	for i, name := range [...]string{first, second} {
		if value := r.FormValue(name); value != "" {
			if numbers[i], err = strconv.ParseUint(value, 10, 63); err != nil {
				return e, numbers, fmt.Errorf("%s must be a number", name)
			}
		}
	}
	return e, numbers, nil
}

func (s *Sim) adminInject(w http.ResponseWriter, r *http.Request) {
	var raw json.RawMessage
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&raw); err != nil {
		wrong(w, err)
		return
	}
	var list []Fault
	if raw[0] != '[' {
		raw = append(append(json.RawMessage("["), raw...), ']')
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		wrong(w, err)
		return
	}
	for i := range list { // all or none
		if err := list[i].check(s.options.NoLedger); err != nil {
			wrong(w, fmt.Errorf("fault %d: %w", i, err))
			return
		}
	}
	ids := make([]int, len(list))
	for i, f := range list {
		ids[i], _ = s.Inject(f)
	}
	writeJSON(w, map[string][]int{"ids": ids})
}

func (s *Sim) adminClear(w http.ResponseWriter, r *http.Request) {
	var ids []int
	for _, value := range r.URL.Query()["id"] {
		id, err := strconv.Atoi(value)
		if err != nil {
			wrong(w, fmt.Errorf("id must be a number"))
			return
		}
		ids = append(ids, id)
	}
	s.ClearFaults(ids...)
	w.WriteHeader(http.StatusNoContent)
}

func wrong(w http.ResponseWriter, err error) { http.Error(w, err.Error(), http.StatusBadRequest) }

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // a reader that has gone
}

// writeLines writes one JSON value a line.
func writeLines[T any](w http.ResponseWriter, list []T) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for i := range list {
		if e.Encode(&list[i]) != nil {
			return // the reader has gone
		}
	}
}
