// Package throwaway runs a PostgreSQL server that nobody keeps: a cluster of its own in a directory of its own, from the machine's own
// binaries, or a container where there are none. The demo runs on one, and so do the integration tests where no Docker daemon answers.
//
//	Start        the machine's own binaries (initdb, postgres), as user postgres when we are root
//	StartDocker  a container of an image that is there already, by the docker command
//	StartAny     the first, or where the machine has no binaries the second
//
// The server listens on 127.0.0.1 only, asks for a password, and is set up for logical replication. It goes when [Cluster.Close] is
// called and also when this process dies in any other way, kill -9 included: a small shell process waits for that and clears up.
package throwaway
