package main

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Of lines of one kind, so many are written in so long a time: what comes a row at a time (dead letters by the thousand, an import whose every
// transaction has the skip marker) must not fill the log. The others are counted, and one line tells of them.
const (
	quietMost   = 50
	quietWithin = time.Minute
)

// quiet is a handler that writes the first lines of a kind and counts the rest. Lines are of one kind that have level and message in common, and what
// kindAttrs says. Lines for debugging all go through. Safe for concurrent use.
type quiet struct {
	slog.Handler
	lines *lines
}

// kindAttrs tell kinds of lines apart that have their message in common. They have few values.
var kindAttrs = []string{"about", "mapping", "class", "table", "what"}

// lines are what quiet handlers of one log know together.
type lines struct {
	mu    sync.Mutex
	kinds map[string]*lineKind
	ended bool
}

type lineKind struct {
	handler slog.Handler
	level   slog.Level
	message string
	attrs   []slog.Attr

	written, left int
	until         *time.Timer // ends the time in which written and left are counted
}

// quietly makes a quiet logger of another. end tells of the lines that were left out; nothing is left out after it.
func quietly(log *slog.Logger) (quieter *slog.Logger, end func()) {
	l := &lines{kinds: map[string]*lineKind{}}
	return slog.New(quiet{log.Handler(), l}), l.end
}

// Handle writes a line, or counts it.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo && !q.lines.count(q.Handler, r) {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

// WithAttrs is as slog.Handler has it.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quiet{q.Handler.WithAttrs(attrs), q.lines}
}

// WithGroup is as slog.Handler has it.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name), q.lines} }

// count reports whether a line is to be written.
func (l *lines) count(h slog.Handler, r slog.Record) bool {
	var attrs []slog.Attr
	key := strings.Builder{}
	key.WriteString(r.Level.String() + "\x00" + r.Message)
	r.Attrs(func(a slog.Attr) bool {
		for _, name := range kindAttrs {
			if a.Key == name {
				attrs = append(attrs, a)
				key.WriteString("\x00" + a.Value.String())
			}
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return true
	}
	k := l.kinds[key.String()]
	if k == nil {
		k = &lineKind{handler: h, level: r.Level, message: r.Message, attrs: attrs}
		k.until = time.AfterFunc(quietWithin, func() { l.tell(key.String(), k) })
		l.kinds[key.String()] = k
	}
	if k.written < quietMost {
		k.written++
		return true
	}
	k.left++
	return false
}

// tell ends the time of a kind.
func (l *lines) tell(key string, k *lineKind) {
	l.mu.Lock()
	if l.kinds[key] == k {
		delete(l.kinds, key)
	}
	l.mu.Unlock()
	k.tell()
}

// tell says how many lines were left out; k is counted no more.
func (k *lineKind) tell() {
	if k.left == 0 {
		return
	}
	r := slog.NewRecord(time.Now(), k.level, k.message, 0)
	r.AddAttrs(k.attrs...)
	r.AddAttrs(slog.Int("more", k.left), slog.String("why", "lines of this kind that were left out since the last one"))
	_ = k.handler.Handle(context.Background(), r)
}

func (l *lines) end() {
	l.mu.Lock()
	kinds := l.kinds
	l.kinds, l.ended = map[string]*lineKind{}, true
	l.mu.Unlock()
	for _, k := range kinds {
		if k.until.Stop() {
			k.tell()
		}
	}
}
