package connector

import (
	"log/slog"
	"testing"
	"time"
)

// plain maps each change to one event, as package mapping does for plain columns.
type plain struct{}

func (plain) Map(c *Change, _ Part, out *Output) {
	r := out.Record()
	r.RecordID = RecordID{Mapping: "m", Position: c.Position, CommitTime: c.CommitTime}
	r.Kind, r.Payload, r.Keys = Event, append(r.Payload, "payload"...), append(r.Keys, 7)
	out.Records = append(out.Records, r)
}

// TestRowAllocations: the way of a change through the pipeline costs no allocation, once as many records have been settled as are under way at a time.
func TestRowAllocations(t *testing.T) {
	d := &hand{}
	p := NewPipeline(PipelineOptions{Mapper: plain{}, Saved: &Saved{Checkpoint: &Checkpoint{}}, Alarms: NewAlarms(slog.New(slog.DiscardHandler)), Log: slog.New(slog.DiscardHandler)})
	p.deliverer = d
	c := &Change{Table: &Table{}}
	row := func() {
		c.Position.Commit++
		if err := p.Change(c); err != nil {
			t.Fatal(err)
		}
		p.Commit(c.Position.Commit, c.Position.Commit, time.Time{})
		if len(d.open) >= 100 {
			p.Settle(d.open)
			d.open = d.open[:0]
		}
	}
	for range 1000 {
		row()
	}
	if got := testing.AllocsPerRun(1000, row); got > 0 {
		t.Errorf("%v allocations a row", got)
	}
}

// TestSettledRecordIsNew: a record that is used again has nothing of the change before, however large that was, and a dead letter of it shares nothing with it.
func TestSettledRecordIsNew(t *testing.T) {
	var out Output
	r := out.Record()
	r.RecordID, r.Kind, r.Envelope, r.OptType, r.Decrease, r.Resend, r.Table = RecordID{Mapping: "m", Number: 3}, Point, "e", "add", true, true, "t"
	r.Payload, r.Keys = append(r.Payload, "payload"...), append(r.Keys, 1, 2, 3)
	letter := r.Letter(ClassRejected, "reason", nil, 1)
	out.Recycle(r)
	again := out.Record()
	if again != r {
		t.Fatal("it is not used again")
	}
	again.Payload, again.Keys = append(again.Payload, "another"...), append(again.Keys, 9, 9, 9)
	if string(letter.Payload) != "payload" || letter.Keys[0] != 1 {
		t.Errorf("the letter became %s, %v", letter.Payload, letter.Keys)
	}
	again.Payload, again.Keys = nil, nil
	if again.Mapping != "" || again.Number != 0 || again.Kind != 0 || again.Envelope != "" || again.OptType != "" || again.Decrease || again.Resend || again.Table != "" || again.change != nil {
		t.Errorf("left over: %+v", again)
	}
	again.Payload = make([]byte, 0, maxSparePayload+1)
	if out.Recycle(again); cap(out.Record().Payload) != 0 {
		t.Error("a large buffer is kept")
	}
}
