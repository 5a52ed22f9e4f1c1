package config

import (
	"strings"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platform"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

// encryption reads platform.encryption. What it says of key and IV shows neither.
func (l *loader) encryption(n strict.Node) {
	e := &l.cfg.Platform.Encryption
	before := l.ps.Len()
	fields := block(n,
		entry{"algorithm", func(n strict.Node) { set(&e.Algorithm)(n.Enum(platform.Algorithms...)) }},
		entry{"key", l.secret(&e.Key)},
		entry{"keyFile", l.secretFile(&e.Key)},
		entry{"keyEncoding", func(n strict.Node) { set(&e.KeyEncoding)(n.Enum(platform.KeyEncodings...)) }},
		entry{"iv", l.secret(&e.IV)},
		entry{"ivFile", l.secretFile(&e.IV)},
		entry{"ivEncoding", func(n strict.Node) { set(&e.IVEncoding)(n.Enum(platform.KeyEncodings...)) }},
		entry{"encoding", func(n strict.Node) { set(&e.Encoding)(n.Enum(platform.Encodings...)) }},
	)
	if !n.IsMap() && !n.IsNull() {
		return // block has said it
	}
	at := or(n, l.root)
	if fields["algorithm"].IsZero() {
		l.ps.AddHint(at, "It is one of "+strings.Join(platform.Algorithms, ", ")+", as \"secure data transfer\" is configured in the self-built app.",
			"platform.encryption.algorithm is missing")
	}
	l.oneOf(at, fields, "platform.encryption", "key", "keyFile")
	if iv, file := fields["iv"], fields["ivFile"]; !iv.IsZero() && !file.IsZero() {
		l.ps.Add(file, "iv and ivFile are both there: keep one of them")
	}
	if e.IVEncoding == "" {
		e.IVEncoding = e.KeyEncoding
	}
	if l.ps.Len() > before {
		return // what key and IV must be is not known
	}
	if problem := platform.KeyProblem(e.Algorithm, e.KeyEncoding, e.Key.Reveal()); problem != "" {
		k := or(fields["key"], fields["keyFile"])
		l.ps.AddHint(k, "keyEncoding says how it is written: utf8, hex or base64.", "%s: %s", k.Key(), problem)
	}
	if e.IV.IsSet() {
		if problem := platform.IVProblem(e.Algorithm, e.IVEncoding, e.IV.Reveal()); problem != "" {
			iv := or(fields["iv"], fields["ivFile"])
			l.ps.AddHint(iv, "Without iv a random one stands in front of each ciphertext. ivEncoding says how it is written: utf8, hex or base64.", "%s: %s", iv.Key(), problem)
		}
	}
}
