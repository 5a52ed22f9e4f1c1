package connector

// Published is a mapped table as it was last seen in the publications. The state keeps it, so that after a restart a table that had left the
// publications can be told from one that is new in the file.
type Published struct {
	Schema, Name string
	// OID is the table's: it changes when the table is dropped and created again.
	OID uint32
	// Member names the memberships by which its operations are published; one changes when the table leaves a publication and comes back.
	Member string
	// Seen is the newest LSN at which it was surely published: what was written later may be missing once it has left.
	Seen LSN
}

// String gives schema.name, unquoted, for messages.
func (p Published) String() string { return p.Schema + "." + p.Name }
