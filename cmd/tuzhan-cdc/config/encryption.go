package config

import (
	"strings"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platform"
	"github.com/tuzhan-cdc/tuzhan-cdc/mapping/strict"
)

func (l *loader) encryptionKeys() []entry {
	e := &l.cfg.Platform.Encryption
	return []entry{
		key("algorithm", enum(&e.Algorithm, platform.Algorithms...), "as it is configured in the self-built app").required(),
		key("key", l.secret(&e.Key, ""), "AES: 16, 24 or 32 bytes; SM4: 16").or("required"),
		key("keyFile", l.secretFile(&e.Key), "a file that holds it, instead; read again for each request"),
		key("keyEncoding", enum(&e.KeyEncoding, platform.KeyEncodings...), "how the key is written"),
		key("iv", l.secret(&e.IV, ""), "16 bytes for `cbc`, 12 (or 16) for `gcm`, the same for all requests. Without it a random one stands in front of each ciphertext").or("random"),
		key("ivFile", l.secretFile(&e.IV), "a file that holds it, instead; read again for each request"),
		key("ivEncoding", enum(&e.IVEncoding, platform.KeyEncodings...), "how the IV is written").or("the key's"),
		key("encoding", enum(&e.Encoding, platform.Encodings...), "of the ciphertext"),
	}
}

// encryption reads platform.encryption. What it says of key and IV shows neither.
func (l *loader) encryption(n strict.Node) {
	e := &l.cfg.Platform.Encryption
	before := l.ps.Len()
	fields := block(n, l.encryptionKeys())
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
