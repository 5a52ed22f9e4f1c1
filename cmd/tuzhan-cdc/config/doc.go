// Package config reads the configuration file, tuzhan-cdc.yaml, into a Config.
//
// Load decodes strictly: an unknown key, a value of the wrong type and a setting that this version does not honour are problems, each
// with file, line and column, and all of them come at once. Only package main imports it: the other packages take what
// they need through options of their own.
//
// Each key stands once, with its type, default, meaning and reader (load.go, entry.go): JSON Schema (schema.go) and the README's reference (reference.go) are made of the
// same entries.
//
// Relative paths: mappingFiles and the ...File twins of secrets count from the configuration file's folder; state.path counts from
// the working directory, which a service sets to where its data lies.
package config
