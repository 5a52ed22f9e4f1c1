// Package connector is the heart of tuzhan-cdc: the words that all of its rooms share, and the pipeline that joins them.
//
// The data's way:
//
//	postgres   streams committed changes, in commit order, each with its position
//	mapping    turns a change into records (or a dead letter of class mapping)
//	delivery   orders records by customer, fills batches, reads the platform's answers
//	platform   speaks the HTTP contract
//	state      keeps the checkpoint, the intents of points and the dead letters
//
// The pipeline in this package reads, maps, delivers, settles, writes the checkpoint and confirms it to PostgreSQL, in that order and never in another:
// PostgreSQL is told only what the checkpoint on disk covers, and the checkpoint covers only what is settled.
//
// The interfaces stand here, where they are used (ports.go); the packages beside this one implement them and import only this one.
package connector
