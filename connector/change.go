package connector

import "time"

// Op is what happened to a row.
type Op uint8

// The operations. Snapshot is a row that a backfill read.
const (
	Insert Op = iota + 1
	Update
	Delete
	Snapshot
)

// Ops lists the operations by the names that a mapping's `on` uses.
var Ops = map[string]Op{"insert": Insert, "update": Update, "delete": Delete, "snapshot": Snapshot}

// String gives the name that a mapping's `on` uses.
func (o Op) String() string {
	switch o {
	case Insert:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	case Snapshot:
		return "snapshot"
	}
	return "none"
}

// Identity is a table's replica identity, with PostgreSQL's own letters (pg_class.relreplident).
type Identity byte

// The replica identities.
const (
	IdentityDefault Identity = 'd'
	IdentityNothing Identity = 'n'
	IdentityFull    Identity = 'f'
	IdentityIndex   Identity = 'i'
)

// Column is one column of a table.
type Column struct {
	Name string
	// TypeOID is the column's type as the table declares it.
	TypeOID uint32
	// BaseOID is TypeOID with domains resolved; an enum counts as text. It equals TypeOID where nothing more is known.
	BaseOID uint32
	// TypeName is for messages: numeric(10,2), timestamp with time zone.
	TypeName string
	// BaseName is TypeName with domains resolved. Known of tables that the catalogue gave only.
	BaseName string
	// Key says that the replica identity carries the column: under FULL every column does.
	Key bool
	// Toasted says that some rows may hold the column's value out of line: PostgreSQL does not send such a value with an update that leaves it
	// alone. Known of tables that the catalogue gave only.
	Toasted bool
}

// Omitted is a column that a table has and its stream does not.
type Omitted struct {
	Column string
	// Why finishes the sentence "Column is left out: ...".
	Why string
}

// Table is the shape of a table at one time: a change's Table says how its row looked when it was written. Two shapes of one
// table are two *Table; a *Table never changes once it was handed over, so it may serve as a map key.
type Table struct {
	OID      uint32
	Schema   string
	Name     string
	Identity Identity
	Columns  []Column
	// Omitted are the columns that the stream leaves out. Known of tables that the catalogue gave only.
	Omitted []Omitted
	// FullIdentity is SQL after which old rows carry all columns, where the source knows it; empty in the stream's tables.
	FullIdentity string
	// DeferrableKey is SQL that mends a primary key which is DEFERRABLE, where backfills would tell rows apart by it: within a transaction two rows may have the
	// same key then. Empty: it is not. Known of tables that the catalogue gave only.
	DeferrableKey string
}

// String gives schema.name, unquoted, for messages.
func (t *Table) String() string { return t.Schema + "." + t.Name }

// Column gives the index of the named column, or -1.
func (t *Table) Column(name string) int {
	for i := range t.Columns {
		if t.Columns[i].Name == name {
			return i
		}
	}
	return -1
}

// DatumKind says what PostgreSQL sent for a column.
type DatumKind uint8

// What a column may hold. Absent and Unchanged are both unknown, which is never null: Absent was not sent at all (an old row of
// which only the identity came), Unchanged is a TOASTed value that an update left alone and that no old row supplied.
const (
	Absent DatumKind = iota
	Null
	Text
	Unchanged
)

// Datum is one column's value in PostgreSQL's text format, as the replication connection's settings write it (datestyle ISO,
// intervalstyle iso_8601, timezone UTC, extra_float_digits 3, bytea_output hex, UTF-8).
type Datum struct {
	Kind DatumKind
	// Text is set for Kind Text only.
	Text []byte
}

// Tuple is a row: one datum a column, in the order of its Table's columns. A nil Tuple is no row.
type Tuple []Datum

// Change is one row's insert, update, delete or snapshot read.
//
// Tuples and their bytes belong to the source and are valid only during the call that hands the change over; who needs
// them longer copies them.
type Change struct {
	Position   Position
	CommitTime time.Time // zero for a snapshot
	Op         Op
	Table      *Table
	// New is the row after the change; nil on delete.
	New Tuple
	// Old is the row before the change; nil on insert and snapshot. On update it is never nil: where PostgreSQL sent no old row, it
	// holds the identity's columns (which stayed as they were) and the rest is Absent.
	Old Tuple
	// Skip says that the transaction began with the skip marker: the change is settled without records.
	Skip bool
	// XID is the number of the transaction, without its epoch; 0 for a snapshot.
	XID uint32
	// Backfill and Row name the row of a snapshot: see RecordID.
	Backfill int64
	Row      string
}
