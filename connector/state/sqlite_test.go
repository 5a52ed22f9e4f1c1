package state

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/postgres/pgtest"
)

// childEnv makes the test binary another process: its value names the part, childPath the state file.
const (
	childEnv  = "TUZHAN_CDC_STATE_TEST_CHILD"
	childPath = "TUZHAN_CDC_STATE_TEST_PATH"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		pgtest.Main(m)
	case "write":
		writeUntilKilled(os.Getenv(childPath))
	case "open":
		openAndSay(os.Getenv(childPath))
	}
}

// openAndSay opens the file for writing and for reading, and prints the errors.
func openAndSay(path string) {
	s, err := Open(context.Background(), Location{Path: path}, Options{Logger: slog.New(slog.DiscardHandler)})
	fmt.Println("run:", err)
	if err == nil {
		s.Close()
	}
	r, err := OpenReader(context.Background(), Location{Path: path})
	fmt.Println("status:", err)
	if err == nil {
		r.Close()
	}
}

func child(part, path string) *exec.Cmd {
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), childEnv+"="+part, childPath+"="+path)
	c.Stderr = os.Stderr
	return c
}

func openTest(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Location{Path: path}, Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *Store) storedPoints(t *testing.T) int {
	var n int
	must(t, s.Reader.db.QueryRowContext(t.Context(), "SELECT count(*) FROM point").Scan(&n))
	return n
}

func TestSQLiteConforms(t *testing.T) {
	conform(t, func(t *testing.T) func() durable {
		path := filepath.Join(t.TempDir(), "state.db")
		return func() durable { return openTest(t, path) }
	})
}

func TestPromiseOfTheDisk(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "state.db"))
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
		var got string
		must(t, s.w.q.do(t.Context(), func(w *writer) error {
			return w.medium.(*file).conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got)
		}))
		if got != want {
			t.Errorf("%s is %s, want %s", pragma, got, want)
		}
	}
	// Every statement that looks points up by position walks the key, not the table.
	for _, query := range []string{
		"DELETE FROM point WHERE (commit_lsn, idx) >= (1, 2) AND (commit_lsn, idx) <= (3, 4)",
		"UPDATE point SET applied = 1 WHERE commit_lsn = 1 AND idx = 2 AND mapping = '' AND commit_time = 3 AND number = 4",
		"SELECT 1 FROM dead_letter WHERE (commit_lsn, idx) >= (1, 2) OR commit_lsn < 0",
	} {
		rows, err := s.Reader.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query)
		must(t, err)
		for rows.Next() {
			var id, parent, unused int
			var detail string
			must(t, rows.Scan(&id, &parent, &unused, &detail))
			if strings.HasPrefix(detail, "SCAN") {
				t.Errorf("%s: %s", query, detail)
			}
		}
		must(t, rows.Close())
	}
}

func TestOddPathsAndModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "状态 ?mode=memory#%41;.db")
	s := openTest(t, path)
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(5, 0))))
	for _, name := range []string{path, path + "-wal", path + "-shm", path + ".lock"} {
		file, err := os.Stat(name)
		must(t, err)
		if file.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, file.Mode())
		}
	}
	must(t, s.Close())
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the -wal file is left behind: %v", err)
	}
	must(t, os.Chmod(path, 0o644))
	var log bytes.Buffer
	s, err := Open(t.Context(), Location{Path: path}, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	must(t, err)
	must(t, s.Close())
	if !strings.Contains(log.String(), "chmod 600") {
		t.Errorf("nothing warns of mode 0644: %s", &log)
	}
}

func TestRefusedFiles(t *testing.T) {
	foreign := func(t *testing.T, path string, statements ...string) {
		db, err := sql.Open("sqlite", path)
		must(t, err)
		for _, s := range statements {
			_, err := db.Exec(s)
			must(t, err)
		}
		must(t, db.Close())
	}
	sound := func(t *testing.T, path string) {
		s := openTest(t, path)
		for i := range 200 {
			must(t, s.SetAside(t.Context(), []*connector.DeadLetter{letter(point("m", at(connector.LSN(i), 0), 0), connector.ClassRejected)}))
		}
		must(t, s.Close())
	}
	for _, test := range []struct {
		name string
		make func(t *testing.T, path string)
		want []string
		is   error
		read bool // a reader may take it
	}{
		{"no database", func(t *testing.T, path string) {
			must(t, os.WriteFile(path, bytes.Repeat([]byte("rows and rows "), 999), 0o600))
		},
			[]string{"damaged", "backup"}, ErrDamaged, false},
		{"another program's", func(t *testing.T, path string) { foreign(t, path, "CREATE TABLE bookmarks (url)") },
			[]string{"another program", "state.path"}, ErrDamaged, false},
		{"newer", func(t *testing.T, path string) { sound(t, path); foreign(t, path, "PRAGMA user_version = 99") },
			[]string{"newer", "version 99", fmt.Sprintf("knows up to %d", schemaVersion), "backup"}, ErrNewer, false},
		{"cut", func(t *testing.T, path string) { sound(t, path); must(t, os.Truncate(path, 9000)) }, []string{"damaged", "backup"}, ErrDamaged, true},
		{"scribbled on", func(t *testing.T, path string) {
			sound(t, path)
			b, err := os.ReadFile(path)
			must(t, err)
			copy(b[4096*2:], bytes.Repeat([]byte{0xa5}, len(b)-4096*2))
			must(t, os.WriteFile(path, b, 0o600))
		}, []string{"damaged", "backup"}, ErrDamaged, true},
		{"ranges scribbled on", func(t *testing.T, path string) {
			sound(t, path)
			foreign(t, path, "INSERT INTO checkpoint (id, system_id, database_name, slot, settled_lsn, settled_idx, flush_lsn, commit_time, written) VALUES (1, '1', 'crm', 's', 1, 1, 1, NULL, NULL)", "INSERT INTO beyond VALUES (1, x'01020304050607', NULL)")
		}, []string{"damaged", "decoded", "backup"}, ErrDamaged, true},
		{"a WAL without its file", func(t *testing.T, path string) { must(t, os.WriteFile(path+"-wal", []byte("frames"), 0o600)) },
			[]string{"-wal is there without it", "put back"}, ErrDamaged, false},
		{"a directory", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, []string{"not a regular file"}, nil, false},
		{"a dangling link", func(t *testing.T, path string) { must(t, os.Symlink("/nowhere/at/all", path)) }, []string{"symbolic link"}, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			directory := t.TempDir()
			path := filepath.Join(directory, "state.db")
			test.make(t, path)
			before := contents(t, directory)
			s, err := Open(t.Context(), Location{Path: path}, Options{Logger: slog.New(slog.DiscardHandler)})
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			for _, want := range append(test.want, path) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("not %q: %v", test.is, err)
			}
			if r, err := OpenReader(t.Context(), Location{Path: path}); err == nil {
				r.Close()
				if !test.read {
					t.Error("a reader opened it")
				}
			} else if test.is == ErrNewer && !errors.Is(err, ErrNewer) {
				t.Errorf("the reader: %v", err)
			}
			// A file left open would keep the lock of the next start's reader, or of SQLite.
			descriptors, err := os.ReadDir("/proc/self/fd")
			must(t, err)
			for _, d := range descriptors {
				if name, _ := os.Readlink("/proc/self/fd/" + d.Name()); strings.HasPrefix(name, directory) {
					t.Errorf("%s is still open", name)
				}
			}
			after := contents(t, directory)
			for name, b := range before {
				if !bytes.Equal(after[name], b) {
					t.Errorf("%s was changed", name)
				}
			}
		})
	}
}

// contents gives the regular files of a directory.
func contents(t *testing.T, directory string) map[string][]byte {
	files := map[string][]byte{}
	entries, err := os.ReadDir(directory)
	must(t, err)
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasSuffix(e.Name(), "-shm") {
			files[e.Name()], err = os.ReadFile(filepath.Join(directory, e.Name()))
			must(t, err)
		}
	}
	return files
}

func TestMissingDirectoryAndFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "not", "there", "state.db")
	_, err := Open(t.Context(), Location{Path: path}, Options{Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "mkdir -p -m 700 "+filepath.Dir(path)) {
		t.Errorf("Open: %v", err)
	}
	path = filepath.Join(t.TempDir(), "state.db")
	if _, err := OpenReader(t.Context(), Location{Path: path}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "tuzhan-cdc run") {
		t.Errorf("OpenReader: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 0 {
		t.Errorf("OpenReader made %v, %v", entries, err)
	}
	if _, err := Open(t.Context(), Location{}, Options{}); err == nil || !strings.Contains(err.Error(), "state.path") {
		t.Errorf("no path: %v", err)
	}
}

// TestWithoutRights opens files as a user who may not write them. Root may write everything, so that root starts a child as nobody.
func TestWithoutRights(t *testing.T) {
	for _, test := range []struct {
		name            string
		file, directory os.FileMode
		status          string
	}{
		{"file", 0o444, 0o777, "status: <nil>"},
		{"directory", 0o666, 0o555, "status: state file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			directory, err := os.MkdirTemp("", "state-rights-")
			must(t, err)
			t.Cleanup(func() { must(t, errors.Join(os.Chmod(directory, 0o700), os.RemoveAll(directory))) })
			path := filepath.Join(directory, "state.db")
			s := openTest(t, path)
			must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(5, 0))))
			must(t, s.Close())
			must(t, os.Remove(path+".lock"))
			must(t, errors.Join(os.Chmod(path, test.file), os.Chmod(directory, test.directory)))
			before := contents(t, directory)
			c := child("open", path)
			if os.Getuid() == 0 {
				c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
				c.Dir = directory
			}
			out, err := c.Output()
			must(t, err)
			run, status, _ := strings.Cut(string(out), "\n")
			if !strings.Contains(run, path) || !strings.Contains(run, "permission denied") || !strings.Contains(run, "user must be allowed to write") {
				t.Errorf("run says %q", run)
			}
			if !strings.HasPrefix(status, test.status) {
				t.Errorf("status says %q", status)
			}
			if after := contents(t, directory); !bytes.Equal(after["state.db"], before["state.db"]) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestSecondWriterIsRefusedOrWaits(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "state.db")
	first := openTest(t, path)
	must(t, first.SaveCheckpoint(t.Context(), checkpoint(at(5, 0))))
	link := filepath.Join(directory, "link.db")
	must(t, os.Symlink(path, link))
	for _, name := range []string{path, link} {
		_, err := Open(t.Context(), Location{Path: name}, Options{Logger: slog.New(slog.DiscardHandler)})
		if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
			t.Fatalf("a second writer by %s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Location{Path: path}, Options{Logger: slog.New(slog.DiscardHandler), LockWait: time.Hour}); !errors.Is(err, context.Canceled) {
		t.Fatalf("waiting with an ended context: %v", err)
	}
	opened := make(chan error, 1)
	go func() {
		second, err := Open(t.Context(), Location{Path: path}, Options{Logger: slog.New(slog.DiscardHandler), LockWait: time.Minute})
		if err == nil {
			err = second.Close()
		}
		opened <- err
	}()
	// The first still writes while the second waits.
	must(t, first.SaveCheckpoint(t.Context(), checkpoint(at(6, 0))))
	must(t, first.Close())
	must(t, <-opened)
}

func TestReaderBesideWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openTest(t, path)
	r, err := OpenReader(t.Context(), Location{Path: path})
	must(t, err)
	defer r.Close()
	if _, err := r.db.ExecContext(t.Context(), "DELETE FROM dead_letter"); err == nil {
		t.Error("the reader can write")
	}
	stop, wrote := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			n++
			if err := errors.Join(s.SetAside(t.Context(), []*connector.DeadLetter{letter(point("m", at(connector.LSN(n), 0), 0), connector.ClassRejected)}),
				s.SaveCheckpoint(t.Context(), checkpoint(at(connector.LSN(n), 0)))); err != nil {
				t.Error(err)
			}
			select {
			case <-stop:
				wrote <- n
				return
			default:
			}
		}
	}()
	for range 100 {
		cp, err := r.Checkpoint(t.Context())
		must(t, err)
		counts, err := r.CountOpen(t.Context())
		must(t, err)
		// A letter is written before the checkpoint that covers it.
		if cp != nil && counts[connector.ClassRejected] < int(cp.Settled.Commit) {
			t.Fatalf("%d letters at checkpoint %s", counts[connector.ClassRejected], cp.Settled)
		}
		if _, err := r.Letters(t.Context(), Filter{Limit: 20}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	n := <-wrote
	saved, err := r.Load(t.Context())
	must(t, err)
	if saved.OpenLetters != n || saved.Checkpoint.Settled.Commit != connector.LSN(n) {
		t.Errorf("%d letters, checkpoint %s, wrote %d", saved.OpenLetters, saved.Checkpoint.Settled, n)
	}
	if got := s.Stats(); got.Failures != 0 || got.Operations != uint64(2*n) {
		t.Errorf("%+v after %d rounds", got, n)
	}
}

func TestReaderWithoutWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openTest(t, path)
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(5, 0))))
	must(t, s.Close())
	r, err := OpenReader(t.Context(), Location{Path: path})
	must(t, err)
	cp, err := r.Checkpoint(t.Context())
	if err != nil || cp.Settled != at(5, 0) {
		t.Errorf("%+v, %v", cp, err)
	}
	must(t, r.Close())
	// What the reader left beside the file does not stop the next run.
	must(t, openTest(t, path).SaveCheckpoint(t.Context(), checkpoint(at(6, 0))))
}

func TestMigration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openTest(t, path)
	must(t, s.SetAside(t.Context(), []*connector.DeadLetter{letter(point("m", at(5, 0), 0), connector.ClassRejected)}))
	must(t, s.Close())
	db, err := sql.Open("sqlite", dsn(path, "rw"))
	must(t, err)
	defer db.Close()
	conn, err := db.Conn(t.Context())
	must(t, err)
	defer conn.Close()
	version := func() (v int) {
		must(t, conn.QueryRowContext(t.Context(), "PRAGMA user_version").Scan(&v))
		return v
	}
	// A step that fails leaves the file as it was, the good steps before it included.
	bad := append(migrations(), "ALTER TABLE dead_letter ADD COLUMN note TEXT", "ALTER TABLE nowhere ADD COLUMN note TEXT")
	if err := migrate(t.Context(), conn, schemaVersion, bad); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("from version %d to %d", schemaVersion+1, schemaVersion+2)) || version() != schemaVersion {
		t.Errorf("%v, version %d", err, version())
	}
	good := bad[:schemaVersion+1]
	must(t, migrate(t.Context(), conn, schemaVersion, good))
	var letters int
	must(t, conn.QueryRowContext(t.Context(), "SELECT count(*) FROM dead_letter WHERE note IS NULL").Scan(&letters))
	if version() != schemaVersion+1 || letters != 1 {
		t.Errorf("version %d, %d letters", version(), letters)
	}
	if got, err := identify(t.Context(), conn, path, schemaVersion+1); got != schemaVersion+1 || err != nil {
		t.Errorf("identify: %d, %v", got, err)
	}
	if len(migrations()) != schemaVersion {
		t.Errorf("%d steps, version %d", len(migrations()), schemaVersion)
	}
}

// TestFirstVersion: a file that the first release wrote is migrated, with what it knew.
func TestFirstVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := sql.Open("sqlite", dsn(path, "rwc"))
	must(t, err)
	defer db.Close()
	conn, err := db.Conn(t.Context())
	must(t, err)
	must(t, migrate(t.Context(), conn, 0, migrations()[:1]))
	_, err = conn.ExecContext(t.Context(), `INSERT INTO checkpoint (id, system_id, database_name, slot, settled_lsn, settled_idx, flush_lsn) VALUES (1, '7', 'crm', 's', 5, 1, 6);
		INSERT INTO point VALUES (9, 0, 'm', 1, 0, 1)`)
	must(t, err)
	must(t, conn.Close())
	s := openTest(t, path)
	saved := load(t, s)
	if cp := saved.Checkpoint; cp.Lineage != (connector.Lineage{SystemID: "7", Database: "crm", Slot: "s"}) || cp.Settled != at(5, 1) || cp.Flush != 6 || len(saved.Known) != 1 {
		t.Errorf("%+v, %v", cp, saved.Known)
	}
}

// TestRequests: a command leaves a request beside the running connector, which finds it and takes it away.
func TestRequests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	requests(t, openTest(t, path), Location{Path: path})
}

func requests(t *testing.T, s *Store, place Location) {
	t.Helper()
	created := time.UnixMicro(1_700_000_000_000_001).UTC()
	must(t, Ask(t.Context(), place, Request{What: RequestSetAside, Mapping: "订单", Created: created}))
	got, err := s.Requests(t.Context())
	must(t, err)
	if len(got) != 1 || got[0].What != RequestSetAside || got[0].Mapping != "订单" || !got[0].Created.Equal(created) {
		t.Fatalf("%+v", got)
	}
	must(t, s.Done(t.Context(), got[0].ID))
	if got, err = s.Requests(t.Context()); err != nil || len(got) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestMovedUnderTheConnector(t *testing.T) {
	directory := t.TempDir()
	path, away := filepath.Join(directory, "state.db"), filepath.Join(directory, "away.db")
	s := openTest(t, path)
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(5, 0))))
	must(t, os.Rename(path, away))
	if err := s.SaveCheckpoint(t.Context(), checkpoint(at(6, 0))); err == nil || !strings.Contains(err.Error(), "moved or deleted") {
		t.Errorf("moved: %v", err)
	}
	must(t, os.WriteFile(path, nil, 0o600))
	if err := s.SaveCheckpoint(t.Context(), checkpoint(at(6, 0))); err == nil || !strings.Contains(err.Error(), "another file") {
		t.Errorf("replaced: %v", err)
	}
	must(t, os.Rename(away, path))
	must(t, s.SaveCheckpoint(t.Context(), checkpoint(at(6, 0))))
	if cp := load(t, s).Checkpoint; cp.Settled != at(6, 0) {
		t.Errorf("settled %s", cp.Settled)
	}
}

func TestErrorsHoldNoValues(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "state.db"))
	_, err := s.Letters(t.Context(), Filter{Mapping: "13800138000"})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := letter(point("m", at(1, 0), 0), connector.ClassRejected)
	l.Payload = []byte(`{"phone":"13800138000"}`)
	for _, err := range []error{
		s.SetAside(ctx, []*connector.DeadLetter{l}),
		func() error { _, err := s.Letters(ctx, Filter{Mapping: "13800138000"}); return err }(),
	} {
		if err == nil || strings.Contains(err.Error(), "13800") { // the path may hold 138 by chance
			t.Errorf("%v", err)
		}
	}
}
