// Package mapping turns changes into records: it reads the `mappings:` of the configuration, compiles them for the tables that come, and makes points, events
// and group relations of rows. It is pure: no I/O, no clock, no randomness; the same change gives the same bytes whenever it is mapped.
//
//	Set.Decode   reads mappings out of a YAML node and notes all problems (decode.go, template.go; the platform's fields stand in spec.go)
//	Set.Uses     says which tables, operations and columns the mappings want
//	Set.Check    compares them with the catalogue: tables, columns, types, replica identity (check.go)
//	Set.Mapper   maps changes (mapper.go); a mapping is compiled for a table's shape when that shape comes first (bind.go)
//	Tests        runs the file's `tests:` by the same Mapper: what is given becomes a change of the declared table (tests.go, declare.go, literal.go)
//	Keys         describes the keys of the file, for JSON Schema and reference (keys.go)
//
// # Expressions
//
// The language is expr (github.com/expr-lang/expr). An expression is parsed twice: as it was written, for expr's own type checker, with the columns'
// types as far as they are known (expr.go); and rewritten, for expr's machine: columns become calls with an index, operators and functions
// that compute with numbers or compare values become our own (rewrite.go, ops.go, decimal.go). Conditions that only compare columns with constants run without
// the machine (condition.go). What differs from expr:
//
//   - Numbers are exact: int8 and integer literals are 64-bit integers whose overflow is an error, numeric and literals with a point are decimals, float8 and float4
//     are floats; arithmetic of two integers stays integer but for /, of two floats float, and all else is decimal. A quotient has up to
//     20 digits after the point.
//   - A value that PostgreSQL did not send is unknown: to read it is an error, never null.
//   - Null: == and != compare with it, ?? replaces it, `in` finds it in no list but one that holds nil; <, +, &&, ! and functions of text refuse it. A `when` that gives
//     null counts as false, as WHERE does. A text with a null in it, "VIP ${{ level }}", is null as a whole, as with SQL's ||.
//   - now() and Local() are not available, keys(), values(), toPairs() and JSON are sorted by key, sort() and sortBy() keep the order of equals.
//   - x[1:3] cuts text by characters; date("2024-05-01") is in the configured time zone; string(nil) is nil.
//
// Columns are read as: smallint, integer, bigint, oid: integer; numeric: decimal; real, double precision: float; boolean; char(n): text without the blanks at its end; timestamp, timestamptz,
// date: time; json, jsonb: what they hold, numbers exact; arrays: list of what their elements are; domains: what lies below them; all else, time of day, interval,
// inet, uuid, bytea (\x...), money, ranges, composites and enums among it: PostgreSQL's text.
//
// NaN and the infinities of numbers, infinity as a time, and times before Christ and after the year 9999 can be compared (infinity is later than any time,
// and greater than any number; NaN equals nothing, itself neither), and such times computed with; where one comes to be sent it is an error. A value
// that is no UTF-8 (of a database in SQL_ASCII) is an error wherever it is read.
//
// # Values in payloads
//
// A null leaves its field out. A required one that is null or empty, and a record in which nothing names the customer, makes a dead letter; in lists (identities, openids,
// phoneList) an item without a customer is left out, and only when none is left does the list count as null.
//
//   - Text fields take any value's text: numbers as PostgreSQL writes them, timestamps as 2024-05-01T12:00:00.123+08:00, dates as 2024-05-01, booleans as true and false.
//   - eventargs take text and numbers: booleans are sent as the texts "true" and "false", lists, mappings and JSON objects as text that holds their JSON.
//   - time takes a timestamp, or a whole number of milliseconds; where there is none it is the commit time (a snapshot has none: then it is a dead letter).
//   - ext as a mapping is sent as the JSON string that the API wants, with true, numbers, lists and nested mappings as they are.
//   - groups joins a list by commas. A name from a row that holds a comma is an error; commas that the file itself has are separators.
//   - uuid, where the mapping gives none, names the change for good (uuidPlan).
//
// A group relation's update is compared with the old row: see groupUpdate.
package mapping
