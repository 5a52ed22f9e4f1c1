//go:build !chaosbug

package connector

// settlesUnsent would acknowledge changes before their records are delivered: see chaosbug.go.
const settlesUnsent = false
