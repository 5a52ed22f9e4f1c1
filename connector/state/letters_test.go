package state

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// places runs a test for a state in a file and one on a server.
func places(t *testing.T, test func(t *testing.T, at Location)) {
	t.Parallel()
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		test(t, Location{Path: filepath.Join(t.TempDir(), "state.db")})
	})
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		test(t, Location{DSN: pgtest.Server(t).Database(t).DSN()})
	})
}

func openAt(t *testing.T, at Location) *Store {
	t.Helper()
	s, err := Open(t.Context(), at, quiet())
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// one gives the letter of that id.
func one(t *testing.T, r interface {
	Letter(context.Context, int64) (*connector.DeadLetter, error)
}, id int64) *connector.DeadLetter {
	t.Helper()
	l, err := r.Letter(t.Context(), id)
	must(t, err)
	return l
}

// flushed returns when all that was queued before is on the disk.
func flushed(t *testing.T, s *Store) {
	t.Helper()
	must(t, s.Done(t.Context()))
}

// TestRetries: what a command asks for beside the one that holds the state is taken once, survives a crash, and ends with what became of it. A point whose request may have left is of
// class uncertain on the disk before it leaves.
func TestRetries(t *testing.T) {
	places(t, func(t *testing.T, at Location) {
		s := openAt(t, at)
		var letters []*connector.DeadLetter
		for i, class := range []connector.Class{connector.ClassRejected, connector.ClassFailing, connector.ClassUncertain, connector.ClassMapping} {
			l := letter(point("m", connector.Position{Commit: 5, Index: uint32(i)}, 0), class)
			l.Answer = &connector.LetterAnswer{HTTPStatus: 200, Code: "1", Msg: "no"}
			letters = append(letters, l)
		}
		must(t, s.SetAside(t.Context(), letters))
		all, err := s.Letters(t.Context(), Filter{})
		must(t, err)
		ids := []int64{all[0].ID, all[1].ID, all[2].ID, all[3].ID}
		must(t, AskRetry(t.Context(), at, append(ids, 9999), false, false))
		if n, err := s.Retrying(t.Context(), nil); n != 3 || err != nil {
			t.Errorf("%d are asked for, want 3 without the uncertain one, %v", n, err)
		}
		must(t, CancelRetry(t.Context(), at, ids[3:]))
		must(t, AskRetry(t.Context(), at, ids[2:3], true, true))
		taken, err := s.TakeRetries(t.Context(), 10)
		must(t, err)
		if len(taken) != 3 || taken[0].ID != ids[0] || taken[0].Anyway || !taken[2].Anyway || !taken[0].Retrying || string(taken[0].Payload) != `{"point":1}` {
			t.Fatalf("taken %+v", taken)
		}
		if again, err := s.TakeRetries(t.Context(), 10); len(again) != 0 || err != nil {
			t.Errorf("taken twice: %v, %v", again, err)
		}
		must(t, Drop(t.Context(), at, ids))
		for i, open := range []bool{true, true, true, false} {
			if l := one(t, s, ids[i]); l.Closed.IsZero() != open {
				t.Errorf("letter %d after a drop: %+v", i, l)
			}
		}
		// The first is sent, then surely was not; the second is sent, then the process dies.
		must(t, s.Sending(t.Context(), taken[0], []byte(`{"point":2}`)))
		if l := one(t, s, ids[0]); l.Class != connector.ClassUncertain || string(l.Payload) != `{"point":2}` || !strings.Contains(l.Reason, "may or may not") || !l.Retrying {
			t.Errorf("being sent: %+v", l)
		}
		s.NotSent(taken[0])
		must(t, s.Sending(t.Context(), taken[1], taken[1].Payload))
		if l := one(t, s, ids[0]); l.Class != connector.ClassRejected || string(l.Payload) != `{"point":1}` || l.Reason != all[0].Reason || !l.Retrying {
			t.Errorf("not sent after all: %+v", l)
		}
		must(t, s.Close())
		s = openAt(t, at)
		must(t, s.ResetRetries(t.Context()))
		if l := one(t, s, ids[1]); l.Class != connector.ClassUncertain || l.Retrying || l.Retried == "" {
			t.Errorf("after the crash: %+v", l)
		}
		taken, err = s.TakeRetries(t.Context(), 1)
		must(t, err)
		if len(taken) != 1 || taken[0].ID != ids[0] {
			t.Fatalf("taken %+v", taken)
		}
		failed := *taken[0]
		failed.Class, failed.Reason, failed.Attempts, failed.Retried, failed.Answer = connector.ClassFailing, "worse", 7, "worse", &connector.LetterAnswer{HTTPStatus: 503}
		must(t, s.EndRetry(&failed))
		flushed(t, s)
		got := one(t, s, ids[0])
		failed.Retrying = false
		if !reflect.DeepEqual(got, &failed) {
			t.Errorf("got  %+v\nwant %+v", got, &failed)
		}
		taken, err = s.TakeRetries(t.Context(), 10)
		must(t, err)
		if len(taken) != 1 || taken[0].ID != ids[2] {
			t.Fatalf("taken %+v", taken)
		}
		closed := *taken[0]
		closed.Closed, closed.Resolution = time.UnixMicro(1_800_000_000_000_000).UTC(), connector.ResolvedDelivered
		must(t, s.EndRetry(&closed))
		flushed(t, s)
		if l := one(t, s, ids[2]); l.Resolution != connector.ResolvedDelivered || l.Closed != closed.Closed || l.Retrying {
			t.Errorf("closed: %+v", l)
		}
		// What is closed stays as it is.
		must(t, AskRetry(t.Context(), at, ids, true, true))
		must(t, s.EndRetry(taken[0]))
		flushed(t, s)
		if n, err := s.Retrying(t.Context(), ids[2:]); n != 0 || err != nil || one(t, s, ids[2]).Closed.IsZero() || one(t, s, ids[3]).Resolution != connector.ResolvedDropped {
			t.Errorf("%d closed ones are asked for, %v", n, err)
		}
		// A drop before anybody took it ends the retry.
		must(t, Drop(t.Context(), at, ids[:1]))
		if l := one(t, s, ids[0]); l.Resolution != connector.ResolvedDropped || l.Retrying {
			t.Errorf("%+v", l)
		}
	})
}

// TestOvertake: letters of older group relations with a shared key are overtaken, on the disk before any later checkpoint; whether they were there when the state was opened, were set aside
// since, or are only on their way to the disk.
func TestOvertake(t *testing.T) {
	places(t, func(t *testing.T, place Location) {
		group := func(commit connector.LSN, keys ...uint64) *connector.DeadLetter {
			l := letter(point("g", at(commit, 0), 0), connector.ClassRejected)
			l.Kind, l.Keys = connector.GroupRelation, keys
			return l
		}
		s := openAt(t, place)
		must(t, s.SetAside(t.Context(), []*connector.DeadLetter{group(10, 1), group(30, 1, 2), group(31, 3)}))
		must(t, s.Close())
		s = openAt(t, place)
		event := letter(point("e", at(12, 0), 0), connector.ClassRejected)
		event.Kind, event.Keys = connector.Event, []uint64{1}
		late := group(13, 4)
		s.Watch([]*connector.DeadLetter{late})
		must(t, s.SetAside(t.Context(), []*connector.DeadLetter{group(11, 5, 1), event, group(14, 9)}))
		s.Overtake(point("g", at(20, 0), 0), []uint64{1, 4})
		must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(20, 0))))
		must(t, s.SetAside(t.Context(), []*connector.DeadLetter{late}))
		want := map[connector.LSN]bool{10: true, 11: true, 13: true, 12: false, 14: false, 30: false, 31: false}
		check := func() {
			t.Helper()
			letters, err := s.Letters(t.Context(), Filter{})
			must(t, err)
			for _, l := range letters {
				if l.Overtaken != want[l.Position.Commit] {
					t.Errorf("the letter at %s: overtaken %v", l.Position, l.Overtaken)
				}
			}
		}
		check()
		s.Overtake(point("g", at(40, 0), 0), []uint64{2})
		want[30] = true
		must(t, s.Close())
		s = openAt(t, place)
		check()
		if n := len(s.watch.letters); n != 2 {
			t.Errorf("%d are watched, want 2", n)
		}
		// What was closed by another is no longer watched after Tidy.
		letters, err := s.Letters(t.Context(), Filter{})
		must(t, err)
		for _, l := range letters {
			must(t, Drop(t.Context(), place, []int64{l.ID}))
		}
		_, err = s.Tidy(t.Context(), time.Time{})
		must(t, err)
		if len(s.watch.letters)+len(s.watch.keys)+s.watch.hashes != 0 || s.watch.some.Load() {
			t.Errorf("still watched: %+v", s.watch.letters)
		}
	})
}

// TestWatchIsBounded: what nobody can watch any more counts as overtaken.
func TestWatchIsBounded(t *testing.T) {
	s := openAt(t, Location{Path: filepath.Join(t.TempDir(), "state.db")})
	many := letter(point("g", at(1, 0), 0), connector.ClassRejected)
	many.Kind, many.Keys = connector.GroupRelation, make([]uint64, watchMost)
	for i := range many.Keys {
		many.Keys[i] = uint64(i)
	}
	more := letter(point("g", at(2, 0), 0), connector.ClassRejected)
	more.Kind = connector.GroupRelation
	must(t, s.SetAside(t.Context(), []*connector.DeadLetter{many, more}))
	letters, err := s.Letters(t.Context(), Filter{})
	must(t, err)
	if letters[0].Overtaken || !letters[1].Overtaken {
		t.Errorf("overtaken %v, %v", letters[0].Overtaken, letters[1].Overtaken)
	}
}

// TestForget: closed letters are deleted after their time, open ones never, nor one whose change would come again.
func TestForget(t *testing.T) {
	places(t, func(t *testing.T, place Location) {
		s := openAt(t, place)
		moment := time.UnixMicro(1_700_000_000_000_000).UTC()
		for i, closed := range []time.Time{moment.Add(-time.Second), moment.Add(time.Second), {}, moment.Add(-time.Second)} {
			l := letter(point("m", at(connector.LSN(10*i+10), 0), 0), connector.ClassRejected)
			if l.Closed = closed; !closed.IsZero() {
				l.Resolution = connector.ResolvedDropped
			}
			must(t, s.SetAside(t.Context(), []*connector.DeadLetter{l}))
		}
		if n, err := s.Forget(t.Context(), moment); n != 0 || err != nil {
			t.Errorf("%d deleted without a checkpoint, %v", n, err)
		}
		must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(30, 0))))
		for _, want := range []int{1, 0} {
			if n, err := s.Forget(t.Context(), moment); n != want || err != nil {
				t.Errorf("%d deleted, want %d, %v", n, want, err)
			}
		}
		letters, err := s.Letters(t.Context(), Filter{})
		must(t, err)
		if len(letters) != 3 || letters[0].Position.Commit != 20 {
			t.Errorf("%d are left", len(letters))
		}
		if n := load(t, s).Known; n[letters[2].Key()] != connector.Lettered {
			t.Errorf("known: %v", n)
		}
	})
}

// TestSeal: what letters hold of customers is encrypted with a key; letters from before it stay readable, another key or none is a clear error, of a reader too.
func TestSeal(t *testing.T) {
	places(t, func(t *testing.T, place Location) {
		dir := t.TempDir()
		file := func(name, content string) Location {
			path := filepath.Join(dir, name)
			must(t, os.WriteFile(path, []byte(content), 0o600))
			return Location{Path: place.Path, DSN: place.DSN, KeyFile: path}
		}
		key := make([]byte, 32)
		_, _ = rand.Read(key) // it never fails
		made := func(commit connector.LSN) *connector.DeadLetter {
			l := letter(point("m", at(commit, 0), 0), connector.ClassUncertain)
			l.Payload, l.Change = json.RawMessage(`{"phone":"13800138000"}`), json.RawMessage(`{"new":{"phone":"13800138000"}}`)
			l.Answer = &connector.LetterAnswer{HTTPStatus: 200, Code: "1", Msg: "no 13800138000"}
			return l
		}
		s := openAt(t, place)
		must(t, s.SetAside(t.Context(), []*connector.DeadLetter{made(1)}))
		must(t, s.Close())
		// The same key in its three forms.
		for i, location := range []Location{file("raw", string(key)), file("hex", hex.EncodeToString(key)+"\n"), file("base64", base64.StdEncoding.EncodeToString(key)+"\r\n")} {
			s = openAt(t, location)
			must(t, s.SetAside(t.Context(), []*connector.DeadLetter{made(connector.LSN(10 * (i + 1)))}))
			letters, err := s.Letters(t.Context(), Filter{})
			must(t, err)
			for _, l := range letters {
				want := made(l.Position.Commit)
				want.ID = l.ID
				if !reflect.DeepEqual(l, want) {
					t.Errorf("got  %+v\nwant %+v", l, want)
				}
			}
			var readable int
			must(t, s.db.QueryRowContext(t.Context(), map[bool]string{
				true:  `SELECT count(*) FROM dead_letter WHERE encode(payload, 'escape') LIKE '%138%' OR encode(change, 'escape') LIKE '%138%' OR answer LIKE '%138%'`,
				false: `SELECT count(*) FROM dead_letter WHERE CAST(payload AS TEXT) LIKE '%138%' OR CAST(change AS TEXT) LIKE '%138%' OR answer LIKE '%138%'`,
			}[place.DSN != ""]).Scan(&readable))
			if readable != 1 || len(letters) != i+2 {
				t.Errorf("%d of %d letters stand there readable, want the one from before the key", readable, len(letters))
			}
			must(t, s.Close())
		}
		for name, c := range map[string]struct {
			at   Location
			want string
		}{
			"no key":      {place, "state.keyFile is not set"},
			"another key": {file("other", strings.Repeat("00", 32)), "with another key"},
			"no file":     {Location{Path: place.Path, DSN: place.DSN, KeyFile: filepath.Join(dir, "gone")}, "openssl rand -hex 32"},
			"too short":   {file("short", "00ff"), "no key of 32 bytes"},
		} {
			_, err := Open(t.Context(), c.at, quiet())
			_, reading := OpenReader(t.Context(), c.at)
			_, inspecting := Inspect(t.Context(), c.at)
			for _, err := range []error{err, reading, inspecting} {
				var known *Error
				if !errors.As(err, &known) || known.Cure == "" || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	})
}

// TestLettersByTime: since includes, until does not.
func TestLettersByTime(t *testing.T) {
	places(t, func(t *testing.T, place Location) {
		s := openAt(t, place)
		moment := time.UnixMicro(1_700_000_000_000_000).UTC()
		for i := range 3 {
			l := letter(point("m", at(connector.LSN(i+1), 0), 0), connector.ClassRejected)
			l.Created = moment.Add(time.Duration(i) * time.Hour)
			must(t, s.SetAside(t.Context(), []*connector.DeadLetter{l}))
		}
		for _, c := range []struct {
			f    Filter
			want int
		}{{Filter{Since: moment.Add(time.Hour)}, 2}, {Filter{Until: moment.Add(time.Hour)}, 1}, {Filter{Since: moment, Until: moment.Add(2 * time.Hour)}, 2}} {
			letters, err := s.Letters(t.Context(), c.f)
			must(t, err)
			if len(letters) != c.want {
				t.Errorf("%+v: %d, want %d", c.f, len(letters), c.want)
			}
		}
	})
}
