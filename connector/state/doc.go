// Package state keeps what must survive a crash: the checkpoint, what is known of points beyond it, and the dead letters.
//
// Open opens it for the running connector, in an SQLite file or in a schema of a PostgreSQL database, as its Location says; the result is a
// connector.Store. OpenReader opens the same for a command that looks on, beside a running connector and without one; Ask leaves a request there.
//
// # Group commit
//
// An fsync costs as much as hundreds of inserts, so nobody gets one of their own. One goroutine owns the writing connection. It takes all
// the operations that wait, puts them into one transaction, commits once and then wakes the callers; while it waits for the disk the
// next ones gather. Sixteen senders so share a commit without knowing of each other, and a lonely caller waits for nobody.
//
// # The file
//
// It needs a local disk: SQLite's WAL mode works on no network file system. It is made with mode 0600, because dead letters hold
// payloads. Beside it stand path-wal and path-shm, which belong to it (copy all three, or none while the connector runs), and
// path.lock: the connector holds an OS lock on it for as long as it lives, so that two never write one state. What is in it (the holder's
// process id) is for messages only.
//
// # The database
//
// The other place, for hosts without a disk of their own. Statements are written once, for both: with ? for arguments and in words that SQLite and
// PostgreSQL share; a step of the schema is written in SQLite's words and translated. Only what differs is apart: file (sqlite.go) and server
// (server.go) are the two media of the one writer. A lock of the session makes a second process wait, every transaction checks that it is still
// this process's turn, and one whose answer was lost is looked up by its number.
package state
