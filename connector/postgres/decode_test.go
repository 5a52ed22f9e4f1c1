package postgres

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// message builds a row message: a byte goes as it is, a string as a text column, nil as null, 'u' wrapped in unchanged as unchanged TOAST.
type unchanged struct{}

func tuple(values ...any) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			b = append(b, 'n')
		case unchanged:
			b = append(b, 'u')
		case string:
			b = append(b, 't')
			b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v...)
		}
	}
	return b
}

func rowMessage(kind byte, parts ...any) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, 77)
	for _, p := range parts {
		switch p := p.(type) {
		case byte:
			b = append(b, p)
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

func text(s string) connector.Datum { return connector.Datum{Kind: connector.Text, Text: []byte(s)} }

func sameTuple(a, b connector.Tuple) bool {
	return slices.EqualFunc(a, b, func(x, y connector.Datum) bool { return x.Kind == y.Kind && string(x.Text) == string(y.Text) })
}

// TestRow checks what a change holds for every form of a row message: what was not sent is absent, never null.
func TestRow(t *testing.T) {
	columns := []connector.Column{{Name: "id", Key: true}, {Name: "status"}, {Name: "note"}}
	full := []connector.Column{{Name: "id", Key: true}, {Name: "status", Key: true}, {Name: "note", Key: true}}
	null, absent := connector.Datum{Kind: connector.Null}, connector.Datum{}
	toast := connector.Datum{Kind: connector.Unchanged}
	for name, c := range map[string]struct {
		data     []byte
		columns  []connector.Column
		op       connector.Op
		old, new connector.Tuple
	}{
		"insert": {rowMessage('I', byte('N'), tuple("1", nil, "")), columns, connector.Insert, nil, connector.Tuple{text("1"), null, text("")}},
		"update that keeps the key": {rowMessage('U', byte('N'), tuple("1", "paid", unchanged{})), columns, connector.Update,
			connector.Tuple{text("1"), absent, absent}, connector.Tuple{text("1"), text("paid"), toast}},
		"update of the key": {rowMessage('U', byte('K'), tuple("1", nil, nil), byte('N'), tuple("2", "paid", unchanged{})), columns, connector.Update,
			connector.Tuple{text("1"), absent, absent}, connector.Tuple{text("2"), text("paid"), toast}},
		"update under FULL": {rowMessage('U', byte('O'), tuple("1", nil, "long"), byte('N'), tuple("1", "paid", unchanged{})), full, connector.Update,
			connector.Tuple{text("1"), null, text("long")}, connector.Tuple{text("1"), text("paid"), text("long")}},
		"update under FULL without an old row": {rowMessage('U', byte('N'), tuple("1", "paid", "x")), full, connector.Update,
			connector.Tuple{absent, absent, absent}, connector.Tuple{text("1"), text("paid"), text("x")}},
		"delete":            {rowMessage('D', byte('K'), tuple("1", nil, nil)), columns, connector.Delete, connector.Tuple{text("1"), absent, absent}, nil},
		"delete under FULL": {rowMessage('D', byte('O'), tuple("1", nil, "x")), full, connector.Delete, connector.Tuple{text("1"), null, text("x")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var r row
			r.old, r.new = make(connector.Tuple, 5), make(connector.Tuple, 5) // of the row before
			if err := r.parse(c.data); err != nil {
				t.Fatal(err)
			}
			identity := connector.IdentityDefault
			if c.columns[2].Key {
				identity = connector.IdentityFull
			}
			if err := r.fill(&connector.Table{Columns: c.columns, Identity: identity}, nil); err != nil {
				t.Fatal(err)
			}
			if r.op != c.op || r.relation != 77 || !sameTuple(r.old, c.old) || !sameTuple(r.new, c.new) {
				t.Fatalf("%+v", r)
			}
			for i := range c.data { // cut anywhere: an error, never a panic, never a shorter row
				if err := r.parse(c.data[:max(1, i)]); err == nil {
					t.Fatalf("cut after %d bytes, it was taken", i)
				}
			}
			if r.parse(append(slices.Clone(c.data), 0)) == nil {
				t.Fatal("a byte too many was taken")
			}
			r.parse(c.data)
			if r.fill(&connector.Table{Columns: c.columns[:2]}, nil) == nil {
				t.Fatal("a row of another width was taken")
			}
		})
	}
}

func FuzzRow(f *testing.F) {
	f.Add(rowMessage('I', byte('N'), tuple("1", nil, "")))
	f.Add(rowMessage('U', byte('N'), tuple("1", "paid", unchanged{})))
	f.Add(rowMessage('U', byte('K'), tuple("1", nil, nil), byte('N'), tuple("2", "paid", unchanged{})))
	f.Add(rowMessage('U', byte('O'), tuple("1", nil, "long"), byte('N'), tuple("1", "paid", unchanged{})))
	f.Add(rowMessage('D', byte('O'), tuple("1", nil, "x")))
	table := &connector.Table{Columns: []connector.Column{{Key: true}, {}, {}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		var r row
		if r.parse(data) != nil {
			return
		}
		n := 0
		for _, d := range slices.Concat(r.old, r.new) {
			n += len(d.Text)
		}
		if n > len(data) {
			t.Fatalf("%d bytes of values in a message of %d", n, len(data))
		}
		_ = r.fill(table, nil)
	})
}

// FuzzRare feeds the messages that are no rows: a truncated or hostile one is an error, never a panic.
func FuzzRare(f *testing.F) {
	f.Add([]byte("R\x00\x00\x00\x4dcrm\x00orders\x00d\x00\x01\x01id\x00\x00\x00\x00\x14\xff\xff\xff\xff"))
	f.Add(append([]byte{'B'}, make([]byte, 20)...))
	f.Add(append([]byte{'C'}, make([]byte, 25)...))
	f.Add([]byte("T\x00\x00\x00\x01\x00\x00\x00\x00\x4d"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		if len(data) > 0 {
			_, _ = parse(data)
		}
	})
}
