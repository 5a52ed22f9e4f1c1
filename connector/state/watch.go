package state

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// watch knows the order keys of the open group relations among the dead letters, so that the delivery of a newer one marks them as overtaken: an old
// add after a newer delete would be wrong. Letters of class mapping have the hashes of all values of their rows for keys.
//
// It is bounded: what is set aside while it is full counts as overtaken at once, since nobody can tell later.
type watch struct {
	some atomic.Bool // there are letters

	mu      sync.Mutex
	letters map[connector.RecordKey]*watched
	keys    map[uint64][]*watched
	hashes  int
}

// watched is an open letter that is not overtaken, or one that is on its way to the disk.
type watched struct {
	key       connector.RecordKey
	hashes    []uint64
	stored    bool // on the disk, or being written: a mark needs a statement of its own
	overtaken bool
}

// watchMost is how many order keys are watched.
const watchMost = 200_000

// add watches a letter; nil where there is no room or nothing to watch.
func (v *watch) add(id connector.RecordKey, hashes []uint64, stored bool) *watched {
	v.mu.Lock()
	defer v.mu.Unlock()
	if l := v.letters[id]; l != nil {
		return l
	}
	if v.hashes+len(hashes) > watchMost {
		return nil
	}
	l := &watched{key: id, hashes: hashes, stored: stored}
	if v.letters == nil {
		v.letters, v.keys = map[connector.RecordKey]*watched{}, map[uint64][]*watched{}
	}
	v.letters[id] = l
	for _, h := range hashes {
		v.keys[h] = append(v.keys[h], l)
	}
	v.hashes += len(hashes)
	v.some.Store(true)
	return l
}

// remove forgets a letter. The caller holds mu.
func (v *watch) remove(l *watched) {
	if v.letters[l.key] != l {
		return
	}
	delete(v.letters, l.key)
	v.hashes -= len(l.hashes)
	for _, h := range l.hashes {
		list := v.keys[h]
		for i := range list {
			if list[i] == l {
				list[i] = list[len(list)-1]
				list = list[:len(list)-1]
				break
			}
		}
		if len(list) == 0 {
			delete(v.keys, h)
		} else {
			v.keys[h] = list
		}
	}
	v.some.Store(len(v.letters) > 0)
}

// writing notes that a letter is being written from now on, and reports whether it is overtaken.
func (v *watch) writing(l *watched) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	l.stored = true
	if l.overtaken {
		v.remove(l)
	}
	return l.overtaken
}

func (v *watch) forget(id connector.RecordKey) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if l := v.letters[id]; l != nil {
		v.remove(l)
	}
}

// overtake marks older letters, and gives those of them that are on the disk.
func (v *watch) overtake(p connector.Position, keys []uint64) (marked []connector.RecordKey) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var over []*watched
	for _, k := range keys {
		for _, l := range v.keys[k] {
			if !l.overtaken && l.key.Position.Compare(p) < 0 {
				l.overtaken = true
				over = append(over, l)
			}
		}
	}
	for _, l := range over {
		if l.stored {
			marked = append(marked, l.key)
			v.remove(l)
		}
	}
	return marked
}

// Watch tells of letters that SetAside is to store later.
func (s *Store) Watch(letters []*connector.DeadLetter) {
	for _, l := range letters {
		if l.Kind == connector.GroupRelation && len(l.Keys) > 0 {
			s.watch.add(l.Key(), l.Keys, false)
		}
	}
}

// Overtake notes that a group relation was delivered: open letters of older ones that share a key are overtaken. It does not wait for the disk, but is on
// it no later than any later call that does.
func (s *Store) Overtake(id connector.RecordID, keys []uint64) {
	if !s.watch.some.Load() {
		return
	}
	if marked := s.watch.overtake(id.Position, keys); len(marked) > 0 {
		s.w.q.put(&operation{apply: func(w *writer) error {
			for _, k := range marked {
				if err := w.exec("UPDATE dead_letter SET overtaken = 1"+whereKey+" AND closed IS NULL", keyArgs(k)...); err != nil {
					return err
				}
			}
			return nil
		}})
	}
}

// watchOpen watches the letters that are open on the disk, and no others that were.
func (s *Store) watchOpen(ctx context.Context) error {
	s.watch.mu.Lock()
	before := make([]*watched, 0, len(s.watch.letters))
	for _, l := range s.watch.letters {
		if l.stored {
			before = append(before, l)
		}
	}
	s.watch.mu.Unlock()
	type row struct {
		key    connector.RecordKey
		hashes []uint64
	}
	rows, err := list(ctx, s.Reader, `SELECT commit_lsn, idx, mapping, commit_time, number, keys FROM dead_letter
		WHERE closed IS NULL AND overtaken = 0 AND kind = ? AND keys IS NOT NULL ORDER BY id`, func(sc scanner) (r row, err error) {
		var lsn int64
		var keys []byte
		if err = sc.Scan(&lsn, &r.key.Position.Index, &r.key.Mapping, &r.key.CommitTime, &r.key.Number, &keys); err == nil {
			r.key.Position.Commit = unsigned(lsn)
			if r.hashes, err = decodeHashes(keys); err != nil {
				err = &damage{err}
			}
		}
		return r, err
	}, connector.GroupRelation.String())
	if err != nil {
		return err
	}
	open := make(map[connector.RecordKey]bool, len(rows))
	for _, r := range rows {
		open[r.key] = true
	}
	s.watch.mu.Lock()
	for _, l := range before {
		if !open[l.key] {
			s.watch.remove(l)
		}
	}
	s.watch.mu.Unlock()
	for _, r := range rows {
		s.watch.add(r.key, r.hashes, true)
	}
	return nil
}
