//go:build chaosbug

package connector

// settlesUnsent is the bug that the chaos test must find (make chaos-proves): changes count as settled as soon as their records are queued, so that a kill
// loses what was not delivered. No release is built with this tag.
const settlesUnsent = true
