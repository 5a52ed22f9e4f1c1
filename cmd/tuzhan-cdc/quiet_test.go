package main

import (
	"bytes"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestQuiet: of many lines of a kind the first are written and the others counted, once a minute and at the end; lines of other kinds, and all others
// for debugging, are not touched.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log, end := quietly(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
		letters := func(n int, mapping string) {
			var all sync.WaitGroup
			for i := range n {
				all.Go(func() {
					log.With("slot", "s").Warn("dead letter", "class", "rejected", "mapping", mapping, "position", strconv.Itoa(i))
				})
			}
			all.Wait()
		}
		lines := func(has ...string) (n int) {
		next:
			for line := range strings.Lines(out.String()) {
				for _, part := range has {
					if !strings.Contains(line, part) {
						continue next
					}
				}
				n++
			}
			return n
		}
		letters(10_000, "a")
		letters(quietMost, "b")
		log.Info("streaming")
		for range 100 {
			log.Debug("a row")
		}
		if a, b, s, d := lines("mapping=a"), lines("mapping=b"), lines("msg=streaming"), lines("level=DEBUG"); a != quietMost || b != quietMost || s != 1 || d != 100 {
			t.Errorf("written: %d, %d, %d, %d", a, b, s, d)
		}
		time.Sleep(quietWithin)
		synctest.Wait()
		if lines("mapping=a", `msg="dead letter"`, "level=WARN", "class=rejected", "slot=s", "more=9950 ") != 1 || lines("more=") != 1 {
			t.Errorf("the rest of a minute: %s", out.String()[max(0, out.Len()-500):])
		}
		letters(60, "a") // a new minute
		if n := lines("mapping=a"); n != 2*quietMost+1 {
			t.Errorf("%d lines", n)
		}
		end()
		letters(1, "a")
		if lines("mapping=a", "more=10 ") != 1 || lines("mapping=a") != 2*quietMost+3 {
			t.Errorf("the end: %s", out.String()[max(0, out.Len()-500):])
		}
	})
}
