package strict

// Type is what a value in the file may be, for those who describe the file: the JSON Schema and the reference.
type Type uint8

// The types of values.
const (
	// AnyType is any value.
	AnyType Type = iota
	// TextType is text: any scalar is taken as it is written.
	TextType
	// WholeType is a whole number, NumberType one that may have a fraction.
	WholeType
	NumberType
	BoolType
	// DurationType is 200ms, 10s, 15m, 90d.
	DurationType
	// SizeType is 500KB, 8MiB, 10GiB, or plain bytes.
	SizeType
	// TimeType is a timestamp.
	TimeType
	// MapType is a mapping of Keys, or of free names where Values is set.
	MapType
	// ListType is a list of Values.
	ListType
)

// Shape is what a value may be.
type Shape struct {
	Type Type
	// What names the value where its type says too little: "path", "PostgreSQL connection string".
	What string
	// Enum are the words that a TextType may be; empty: any.
	Enum []string
	// Least and Most bound a WholeType or NumberType; both 0: no bound.
	Least, Most int64
	// Keys are those of a MapType with fixed names.
	Keys []Key
	// OneOf are names of Keys of which exactly one must be there; empty: no such rule.
	OneOf []string
	// AtMostOne are names of Keys that exclude each other.
	AtMostOne []string
	// Values is what the items of a ListType, or the values of a MapType with free names, are.
	Values *Shape
	// Expr says that ${{ expressions }} may stand in the value, or as it.
	Expr bool
	// Or are other shapes that the value may have instead.
	Or []Shape
}

// Key is a key that a mapping in the file may have.
type Key struct {
	Name string
	Shape
	// Doc says what it means, in a phrase with Markdown's `code`.
	Doc string
	// Default is what counts where the key is absent, as it would be written, or a word in its place (off, none); "" where there is nothing to say.
	Default string
	// Required says that the key must be there.
	Required bool
	// Needs names a key that must come with this one; "": none.
	Needs string
}

// Names lists the names of keys.
func Names(keys []Key) []string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.Name
	}
	return names
}
