package postgres

import (
	"cmp"
	"strings"
)

// TableName names a table exactly as the catalogue has it: without quotes, upper and lower case kept apart.
type TableName struct{ Schema, Name string }

// String gives schema.name, unquoted, for messages.
func (n TableName) String() string { return n.Schema + "." + n.Name }

// SQL gives the name quoted, ready to stand in a statement.
func (n TableName) SQL() string { return quoteIdent(n.Schema) + "." + quoteIdent(n.Name) }

func compareTables(a, b TableName) int {
	return cmp.Or(strings.Compare(a.Schema, b.Schema), strings.Compare(a.Name, b.Name))
}

// quoteIdent quotes an identifier, always: a list of keywords would have to be the server's own.
func quoteIdent(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// literal quotes a string for SQL and for replication commands. A backslash stands for itself in both, given standard_conforming_strings = on, the
// server's default since 9.1.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// sqlList joins tables for ALTER PUBLICATION and its kin. ONLY keeps tables that inherit from them out: their rows would come under names that no
// mapping reads. (Partitions are part of their root either way.)
func sqlList(tables []TableName) string {
	var b strings.Builder
	for i, t := range tables {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("ONLY " + t.SQL())
	}
	return b.String()
}

// nearest gives the candidate that is most like want, or the zero TableName where none is near: the same name in another schema or in other letter
// case, or a few letters' difference.
func nearest(want TableName, candidates []TableName) TableName {
	var best TableName
	bestScore := 1 << 30
	for _, c := range candidates {
		d := distance(strings.ToLower(want.Name), strings.ToLower(c.Name))
		if d > max(1, len([]rune(want.Name))/3) {
			continue
		}
		score := 4 * d
		if c.Schema != want.Schema {
			score += 2 + min(distance(strings.ToLower(want.Schema), strings.ToLower(c.Schema)), 8)
		}
		if score < bestScore {
			best, bestScore = c, score
		}
	}
	return best
}

// distance is the Levenshtein distance in characters.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		diagonal := row[0]
		row[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(y)]
}
