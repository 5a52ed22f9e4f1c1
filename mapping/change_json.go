package mapping

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// ChangeJSON writes a change as dead letters of class mapping hold it, with all that is needed to map it again:
//
//	{"op":"update","schema":"crm","table":"orders","oid":16400,"identity":"f","position":"16/B374D848:3","commitTime":"2024-05-01T04:00:00.123456Z",
//	 "columns":[{"name":"id","type":20,"base":20,"typeName":"bigint","key":true}, ...],
//	 "new":{"id":"1","note":null},"old":{"id":"1"},"unknown":["old.note"]}
//
// A snapshot has its row's key under "row", as hex.
//
// Values are PostgreSQL's text, null is null; one that is no UTF-8 is {"hex":"cfc2"}. Columns that PostgreSQL did not send stand under "unknown" and nowhere else; new and old are
// left out where the operation has no such row, and commitTime where the change has none (a snapshot).
func ChangeJSON(c *connector.Change) []byte {
	t := c.Table
	dst := append([]byte(`{"op":"`), c.Op.String()...)
	dst = appendQuoted(append(dst, `","schema":`...), []byte(t.Schema))
	dst = appendQuoted(append(dst, `,"table":`...), []byte(t.Name))
	dst = strconv.AppendUint(append(dst, `,"oid":`...), uint64(t.OID), 10)
	if t.Identity != 0 {
		dst = appendQuoted(append(dst, `,"identity":`...), []byte{byte(t.Identity)})
	}
	dst = append(appendPosition(append(dst, `,"position":"`...), c.Position), '"')
	if !c.CommitTime.IsZero() {
		dst = append(c.CommitTime.UTC().AppendFormat(append(dst, `,"commitTime":"`...), time.RFC3339Nano), '"')
	}
	if c.Row != "" {
		dst = append(hex.AppendEncode(append(dst, `,"row":"`...), []byte(c.Row)), '"')
	}
	dst = append(dst, `,"columns":[`...)
	for i, col := range t.Columns {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendQuoted(append(dst, `{"name":`...), []byte(col.Name))
		dst = strconv.AppendUint(append(dst, `,"type":`...), uint64(col.TypeOID), 10)
		dst = strconv.AppendUint(append(dst, `,"base":`...), uint64(col.BaseOID), 10)
		if col.TypeName != "" {
			dst = appendQuoted(append(dst, `,"typeName":`...), []byte(col.TypeName))
		}
		if col.Key {
			dst = append(dst, `,"key":true`...)
		}
		dst = append(dst, '}')
	}
	dst = append(dst, ']')
	var unknown []string
	dst, unknown = appendTuple(dst, "new", t, c.New, unknown)
	dst, unknown = appendTuple(dst, "old", t, c.Old, unknown)
	if len(unknown) > 0 {
		dst = append(dst, `,"unknown":[`...)
		for i, name := range unknown {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendQuoted(dst, []byte(name))
		}
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

func appendTuple(dst []byte, name string, t *connector.Table, tuple connector.Tuple, unknown []string) ([]byte, []string) {
	if tuple == nil {
		return dst, unknown
	}
	dst = append(append(append(dst, `,"`...), name...), `":{`...)
	first := true
	for i := range t.Columns {
		d := connector.Datum{}
		if i < len(tuple) {
			d = tuple[i]
		}
		if d.Kind != connector.Null && d.Kind != connector.Text {
			unknown = append(unknown, name+"."+t.Columns[i].Name)
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(appendQuoted(dst, []byte(t.Columns[i].Name)), ':')
		switch {
		case d.Kind == connector.Null:
			dst = append(dst, "null"...)
		case utf8.Valid(d.Text):
			dst = appendQuoted(dst, d.Text)
		default:
			dst = append(hex.AppendEncode(append(dst, `{"hex":"`...), d.Text), `"}`...)
		}
	}
	return append(dst, '}'), unknown
}

// storedText is a value as ChangeJSON writes it.
type storedText []byte

// UnmarshalJSON reads a text, or {"hex": ...}.
func (s *storedText) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '{' {
		var j struct{ Hex *string }
		if err := json.Unmarshal(data, &j); err != nil || j.Hex == nil {
			return fmt.Errorf("a value that is neither text nor {\"hex\": ...}")
		}
		raw, err := hex.DecodeString(*j.Hex)
		*s = raw
		return err
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	*s = []byte(text)
	return nil
}

// ParseChange reads what ChangeJSON wrote. An unknown column of the new row comes back as Unchanged, since nothing else is unknown there, and one
// of the old row as Absent. The change's memory is its own.
func ParseChange(data []byte) (*connector.Change, error) {
	var j struct {
		Op, Schema, Table, Identity string
		Row                         string
		OID                         uint32
		Position                    connector.Position
		CommitTime                  time.Time
		Columns                     []struct {
			Name       string
			Type, Base uint32
			TypeName   string
			Key        bool
		}
		New, Old map[string]*storedText
		Unknown  []string
	}
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, fmt.Errorf("a stored change can't be read: it is no JSON of the form that is written: %w", err)
	}
	op, ok := connector.Ops[j.Op]
	if !ok || len(j.Identity) > 1 {
		return nil, fmt.Errorf("a stored change can't be read: its operation or replica identity is none that is known")
	}
	key, err := hex.DecodeString(j.Row)
	if err != nil {
		return nil, fmt.Errorf("a stored change can't be read: the key of its row is no hex")
	}
	t := &connector.Table{OID: j.OID, Schema: j.Schema, Name: j.Table}
	if j.Identity != "" {
		t.Identity = connector.Identity(j.Identity[0])
	}
	for _, c := range j.Columns {
		t.Columns = append(t.Columns, connector.Column{Name: c.Name, TypeOID: c.Type, BaseOID: c.Base, TypeName: c.TypeName, Key: c.Key})
	}
	read := func(name string, values map[string]*storedText, unknown connector.DatumKind) connector.Tuple {
		if values == nil && !slices.ContainsFunc(j.Unknown, func(u string) bool { return strings.HasPrefix(u, name+".") }) {
			return nil
		}
		tuple := make(connector.Tuple, len(t.Columns))
		for i := range t.Columns {
			switch v, ok := values[t.Columns[i].Name]; {
			case ok && v == nil:
				tuple[i].Kind = connector.Null
			case ok:
				tuple[i] = connector.Datum{Kind: connector.Text, Text: *v}
			default:
				tuple[i].Kind = unknown
			}
		}
		return tuple
	}
	return &connector.Change{Position: j.Position, CommitTime: j.CommitTime, Op: op, Table: t, Row: string(key), New: read("new", j.New, connector.Unchanged),
		Old: read("old", j.Old, connector.Absent)}, nil
}
