package connector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// run works backfills off, one after the other, until ctx ends.
func (fs *fills) run(ctx context.Context) {
	for ctx.Err() == nil {
		f, err := fs.next(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			fs.p.alarms.Raise("state/backfill", "the backfills in the state can't be read or stored: "+err.Error(), "see to the state; it goes on by itself")
		case err == nil:
			fs.p.alarms.Clear("state/backfill")
		}
		if f == nil {
			pause(ctx, asksEvery, nil)
			continue
		}
		fs.work(ctx, f)
	}
}

// pause waits for a time, a wake-up or the end of ctx.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-t.C:
	}
}

// next looks at what the store has, does what commands have asked for, and gives the backfill that is to run; nil: none.
func (fs *fills) next(ctx context.Context) (*fill, error) {
	stored, err := fs.Store.Backfills(ctx)
	if err != nil {
		return nil, err
	}
	var first *fill
	for _, b := range stored {
		f := fs.of(b)
		stopped, err := fs.answer(ctx, f, b.Asked)
		if err != nil {
			return nil, err
		}
		if first == nil && !stopped && (f.Status == BackfillQueued || f.Status == BackfillRunning) {
			first = f
		}
	}
	if first == nil {
		return nil, nil
	}
	if why := fs.unfit(first); why != "" {
		return nil, fs.stop(ctx, first, BackfillPaused, why, "")
	}
	return first, nil
}

// notice looks for backfills that were asked for while another one runs, or while the source of its rows is away, until ctx ends: what the stream gives is
// noted for those that are known.
func (fs *fills) notice(ctx context.Context) {
	for ctx.Err() == nil {
		fs.saving.Lock() // none ends between the two
		stored, err := fs.Store.Backfills(ctx)
		if err == nil { // else run tells of it
			for _, b := range stored {
				fs.of(b)
			}
		}
		fs.saving.Unlock()
		pause(ctx, noticesEvery, nil)
	}
}

// of gives the fill of a backfill in the store.
func (fs *fills) of(b *Backfill) *fill {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if i := slices.IndexFunc(fs.list, func(f *fill) bool { return f.ID == b.ID }); i >= 0 {
		return fs.list[i]
	}
	return fs.add(b)
}

// answer does what a command has asked for, and reports whether the backfill stands still now.
func (fs *fills) answer(ctx context.Context, f *fill, asked string) (stopped bool, err error) {
	switch asked {
	case AskPause:
		return true, fs.stop(ctx, f, BackfillPaused, "", asked)
	case AskCancel:
		fs.abandon(f)
		if !fs.drained(f) { // what is on its way ends first: a point must not be forgotten before its outcome is known
			return true, nil
		}
		return true, fs.stop(ctx, f, BackfillCancelled, "", asked)
	case AskResume:
		fs.p.alarms.Clear("backfill/" + f.number())
		fs.mu.Lock()
		f.Status, f.Reason, f.Blind = BackfillQueued, "", false
		if m, ok := fs.Mappings[f.Mapping]; ok {
			f.Fingerprint = m.Fingerprint
		}
		fs.mu.Unlock()
		return false, fs.store(ctx, f, asked)
	}
	return false, nil
}

func (fs *fills) drained(f *fill) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return f.open == 0 && !f.handing
}

// number is the id in the key of its alarm.
func (f *fill) number() string { return strconv.FormatInt(f.ID, 10) }

// unfit says why a backfill can't run with the file as it is now.
func (fs *fills) unfit(f *fill) string {
	m, ok := fs.Mappings[f.Mapping]
	switch {
	case !ok:
		return "mapping " + f.Mapping + " is gone from the file"
	case !m.Snapshot:
		return "mapping " + f.Mapping + " has no snapshot in its `on`, so that it would send nothing"
	case f.Schema != m.Schema || f.Name != m.Name:
		return fmt.Sprintf("mapping %s reads table %s.%s now, and the backfill was begun for %s: cancel it", f.Mapping, m.Schema, m.Name, f.Table())
	case f.Fingerprint != "" && f.Fingerprint != m.Fingerprint:
		return "mapping " + f.Mapping + " was edited since it began: resumed, it goes on with the mapping as it is now"
	}
	return ""
}

// stop brings a backfill to a standstill or to its end.
func (fs *fills) stop(ctx context.Context, f *fill, status BackfillStatus, why, asked string) error {
	fs.mu.Lock()
	f.Status, f.Reason = status, why
	if status.Ended() {
		f.Ended = time.Now().UTC()
	}
	fs.mu.Unlock()
	log := fs.p.log.With("backfill", f.ID, "mapping", f.Mapping, "table", f.Table())
	switch {
	case why != "":
		cure := fmt.Sprintf("mend it, then tuzhan-cdc backfill resume %d; or tuzhan-cdc backfill cancel %d", f.ID, f.ID)
		fs.p.alarms.Raise("backfill/"+f.number(), fmt.Sprintf("backfill %d of mapping %s is %s: %s", f.ID, f.Mapping, status, why), cure)
	case status.Ended():
		fs.p.alarms.Clear("backfill/" + f.number())
	}
	if !status.Ended() {
		if why == "" {
			log.Info("backfill paused")
		}
		return fs.store(ctx, f, asked)
	}
	fs.saving.Lock()
	defer fs.saving.Unlock()
	if err := fs.put(f, func(b *Backfill) error { return fs.Store.EndBackfill(ctx, b, asked) }); err != nil {
		return err
	}
	log.Info("backfill "+string(status), "rows", f.BackfillProgress.Rows)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.list = slices.DeleteFunc(fs.list, func(o *fill) bool { return o == f })
	fs.some.Store(len(fs.list) > 0)
	return nil
}

// store stores the backfill as it is.
func (fs *fills) store(ctx context.Context, f *fill, done string) error {
	fs.saving.Lock()
	defer fs.saving.Unlock()
	return fs.put(f, func(b *Backfill) error { return fs.Store.SaveBackfill(ctx, b, done) })
}

// explain notes why a running backfill waits; empty: it does not.
func (fs *fills) explain(f *fill, why string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.Reason != why {
		f.Reason, f.dirty = why, true
	}
}

// errStopped says that a backfill stands still, or has ended.
var errStopped = errors.New("the backfill stands still")

// stall is an error that waiting does not cure.
type stall struct{ why string }

func (s *stall) Error() string { return s.why }

// work runs one backfill until it ends, is paused, or ctx ends.
func (fs *fills) work(ctx context.Context, f *fill) {
	for wait := 200 * time.Millisecond; ctx.Err() == nil; {
		began := time.Now()
		err := fs.read(ctx, f)
		fs.abandon(f)
		var passes interface{ Passing() bool }
		switch {
		case ctx.Err() != nil || errors.Is(err, errStopped):
			return
		case err == nil:
			if err := fs.stop(ctx, f, BackfillDone, "", ""); err != nil {
				fs.explain(f, err.Error())
				break
			}
			return
		case errors.As(err, &passes) && passes.Passing():
			fs.explain(f, "it waits: "+err.Error())
		default:
			if err := fs.stop(ctx, f, BackfillPaused, err.Error(), ""); err == nil || ctx.Err() != nil {
				return
			}
		}
		if time.Since(began) > 10*time.Second {
			wait = 200 * time.Millisecond
		}
		pause(ctx, wait, nil)
		wait = min(2*wait, 10*time.Second)
		if stopped, err := fs.asked(ctx, f); stopped || err != nil {
			return
		}
	}
}

// abandon forgets the windows of a reader that has ended; rows that were asked for by their keys wait again.
func (fs *fills) abandon(f *fill) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for token, w := range fs.windows {
		if w.fill != f {
			continue
		}
		delete(fs.windows, token)
		for _, key := range w.rows {
			if a := f.again[key]; a != nil {
				a.taken = false
				f.order = append(f.order, key)
			}
		}
	}
	f.streamed = nil
}

// asked looks whether a command wants something of a running backfill.
func (fs *fills) asked(ctx context.Context, f *fill) (stopped bool, err error) {
	stored, err := fs.Store.Backfills(ctx)
	if err != nil {
		return false, err
	}
	for _, b := range stored {
		if b.ID != f.ID {
			continue
		}
		switch b.Asked {
		case AskPause, AskCancel:
			return fs.answer(ctx, f, b.Asked)
		case AskResume: // it runs, and must not go on by this when it stands still later, for a reason that nobody has seen then
			return false, fs.store(ctx, f, AskResume)
		}
		return false, nil
	}
	return true, nil // it is gone
}
