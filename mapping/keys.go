package mapping

import (
	"math"
	"slices"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// Keys are the keys of a mapping in the file: what Decode knows, and no others.
func Keys() []strict.Key {
	text := strict.Shape{Type: strict.TextType}
	expression := strict.Shape{Type: strict.TextType, What: "expression, without `${{ }}`"}
	op := strict.Shape{Type: strict.TextType, Enum: []string{"insert", "update", "delete", "snapshot"}}
	return []strict.Key{
		{Name: "name", Required: true, Shape: text, Doc: "letters, digits, `-`, `_` and `.`; it names the mapping's records for good, so do not change it"},
		{Name: "table", Required: true, Shape: text, Doc: "`schema.table`, with double quotes around a name that holds a dot"},
		{Name: "on", Required: true, Shape: strict.Shape{Type: strict.ListType, Values: &op}, Doc: "the operations that it is for; `snapshot`: rows that `backfill` reads"},
		{Name: "when", Shape: expression, Default: "true", Doc: "only changes for which it is true"},
		{Name: "orderBy", Shape: expression, Default: "the customer's identities", Doc: "records that share this value are sent one after the other"},
		{Name: connector.Point.String(), Shape: objectShape(bothPointFields()), Doc: "makes a point of the change: the body of the API's call"},
		{Name: connector.Event.String(), Shape: withKey(objectShape(eventFields()), paramsKey(eventParams(), false)), Doc: "makes an event of the change"},
		{Name: connector.GroupRelation.String(), Shape: withKey(withKey(objectShape(groupFields()), optTypeKey()), paramsKey(groupParams(), true)), Doc: "makes a group relation of the change"},
		{Name: "uncertain", Shape: strict.Shape{Type: strict.TextType, Enum: []string{"hold", "resend"}}, Default: "hold",
			Doc: "points only: one of which nobody can tell whether it was applied becomes a dead letter (`hold`), or is sent again and may double (`resend`)"},
		{Name: "onChange", Shape: strict.Shape{Type: strict.TextType, Enum: []string{"replace", "update"}}, Default: "update",
			Doc: "group relations only: when an update changes the groups, `replace` sends a `delete` of those that went and an `add` of those that came"},
		{Name: "maxPerMinute", Shape: strict.Shape{Type: strict.WholeType, Least: 1, Most: math.MaxInt32}, Default: "no brake",
			Doc: "the most records of what was committed in one minute; above it the mapping is held until `resume` or `deadletters set-aside`"},
	}
}

// MappingShape is a mapping in the file.
func MappingShape() strict.Shape {
	kinds := []string{connector.Point.String(), connector.Event.String(), connector.GroupRelation.String()}
	return strict.Shape{Type: strict.MapType, Keys: Keys(), OneOf: kinds}
}

// TestShape is a test in the file.
func TestShape() strict.Shape {
	return strict.Shape{Type: strict.MapType, Keys: TestKeys(), AtMostOne: []string{"expect", "deadLetter"}}
}

// bothPointFields are the fields of a point of either API: which of them it has depends on platform.pointAPI, which may stand in another file.
func bothPointFields() []field {
	open := openPointFields()
	fields := increaseFields()
	for _, f := range open {
		if f.refused == "" && !slices.ContainsFunc(fields, func(x field) bool { return x.name == f.name }) {
			fields = append(fields, f)
		}
	}
	return fields
}

func withKey(s strict.Shape, k strict.Key) strict.Shape {
	s.Keys = append([]strict.Key{k}, s.Keys...)
	return s
}

func paramsKey(fields []field, required bool) strict.Key {
	return strict.Key{Name: "publicParams", Required: required, Shape: constants(objectShape(fields)), Doc: "what all records of a request share: constants only"}
}

// constants takes expressions away.
func constants(s strict.Shape) strict.Shape {
	s.Expr = false
	keys := slices.Clone(s.Keys)
	for i := range keys {
		keys[i].Shape = constants(keys[i].Shape)
	}
	s.Keys = keys
	return s
}

func optTypeKey() strict.Key {
	word := strict.Shape{Type: strict.TextType, Enum: optTypes(), Expr: true}
	constant := strict.Shape{Type: strict.TextType, Enum: optTypes()}
	var keys []strict.Key
	for _, op := range []connector.Op{connector.Insert, connector.Update, connector.Delete, connector.Snapshot} {
		keys = append(keys, strict.Key{Name: op.String(), Shape: constant})
	}
	word.Or = []strict.Shape{{Type: strict.MapType, Keys: keys}}
	return strict.Key{Name: "optType", Shape: word, Default: "{insert: add, update: update, delete: delete, snapshot: add}", Doc: "what the platform does: one value, a value an operation, or an expression"}
}

func objectShape(fields []field) strict.Shape {
	s := strict.Shape{Type: strict.MapType}
	for _, f := range fields {
		if f.refused == "" {
			s.Keys = append(s.Keys, strict.Key{Name: f.name, Shape: f.shape(), Doc: f.doc, Required: f.required, Needs: f.needs})
		}
	}
	return s
}

// shape is what the file may hold for the field.
func (f field) shape() strict.Shape {
	free := strict.Shape{}
	switch f.typ {
	case intField, pointField:
		return strict.Shape{Type: strict.WholeType, Least: f.least, Most: f.most, Expr: true}
	case boolField:
		return strict.Shape{Type: strict.BoolType, Expr: true}
	case timeField:
		return strict.Shape{Type: strict.WholeType, Expr: true, What: "timestamp, or unix milliseconds"}
	case objectField:
		return objectShape(f.fields)
	case listField:
		item := objectShape(f.fields)
		return strict.Shape{Type: strict.ListType, Values: &item}
	case argsField:
		return strict.Shape{Type: strict.MapType, Values: &free}
	case argField, jsonField:
		return free
	case jsonStringField:
		return strict.Shape{Type: strict.TextType, Expr: true, Or: []strict.Shape{objectShape(f.fields)}}
	case groupsField:
		return strict.Shape{Type: strict.TextType, Expr: true, Or: []strict.Shape{{Type: strict.ListType, Values: &strict.Shape{Type: strict.TextType, Expr: true}}}}
	}
	return strict.Shape{Type: strict.TextType, Enum: f.enum, Expr: true}
}
