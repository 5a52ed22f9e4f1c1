// Package starter writes a first configuration file from what a database's catalogue says: which tables name customers, and what may be told of them.
//
//	words.go    the words by which columns and tables are recognised: English, Chinese, pinyin
//	columns.go  what the columns of one table seem to be
//	propose.go  the mappings that may be made of one table
//	draft.go    all tables: which mappings are live, which wait for REPLICA IDENTITY FULL, and why others have none
//	render.go   the file
//
// What it guesses is modest: each mapping that it writes was checked against its table by package mapping, as the table is now where the mapping is live, and with REPLICA
// IDENTITY FULL where it stands as a comment under the SQL for that. It reads no rows, and knows no secret.
package starter
