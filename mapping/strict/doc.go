// Package strict reads YAML strictly: every mistake becomes a Problem with file, line and column, and all of them come at once.
//
// A file is parsed into Nodes. The methods of a Node read it as the type that is wanted and note a Problem where it does not fit; the
// caller goes on and asks Problems.Err at the end. What a Node cannot know (which fields are required, how they go together) the caller
// adds with Problems.Add.
//
// Environment variables are read after parsing, scalar by scalar, so that a value can never add YAML; and Node.Template keeps such values apart
// from expressions, so that a value can never add an expression either.
package strict
