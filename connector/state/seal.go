package state

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
)

// sealer encrypts what dead letters hold of customers (payload, change, answer) with AES-256-GCM. A nil one leaves all as it is.
//
// What is sealed begins with a byte that no JSON begins with, so that what was stored before there was a key stays readable. The table seal holds a
// sealed text, by which a wrong key shows when the state is opened.
type sealer struct{ aead cipher.AEAD }

const (
	sealMark  = 1
	sealProbe = "tuzhan-cdc"
)

var errSealed = errors.New("it can't be decrypted")

// loadKey reads a key file: 32 bytes, as they are or in hex or base64, a line end behind it or not. Without a file there is no sealer.
func loadKey(file string) (*sealer, error) {
	if file == "" {
		return nil, nil
	}
	fail := func(err error) (*sealer, error) {
		return nil, &Error{Op: "opening", Place: "key " + file, Err: err,
			Cure: "let state.keyFile name a file with 32 random bytes in hex or base64: openssl rand -hex 32 > " + file + " && chmod 600 " + file}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return fail(err)
	}
	key := data
	if text := strings.TrimSpace(string(data)); len(data) != 32 {
		var decoded []byte
		if decoded, err = hex.DecodeString(text); err != nil {
			decoded, err = base64.StdEncoding.DecodeString(text)
		}
		if err != nil || len(decoded) != 32 {
			return fail(fmt.Errorf("it holds no key of 32 bytes (raw, hex or base64), but %d bytes", len(data)))
		}
		key = decoded
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return fail(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return fail(err)
	}
	return &sealer{aead}, nil
}

// seal encrypts; nothing stays nothing.
func (s *sealer) seal(plain []byte) []byte {
	if s == nil || len(plain) == 0 {
		return plain
	}
	out := make([]byte, 1+s.aead.NonceSize(), 1+s.aead.NonceSize()+len(plain)+s.aead.Overhead())
	out[0] = sealMark
	_, _ = rand.Read(out[1:]) // it never fails
	return s.aead.Seal(out, out[1:], plain, []byte(sealProbe))
}

// open decrypts what seal made, and gives anything else as it is.
func (s *sealer) open(stored []byte) ([]byte, error) {
	if len(stored) == 0 || stored[0] != sealMark {
		return stored, nil
	}
	if s == nil || len(stored) <= 1+s.aead.NonceSize() {
		return nil, errSealed
	}
	plain, err := s.aead.Open(nil, stored[1:1+s.aead.NonceSize()], stored[1+s.aead.NonceSize():], []byte(sealProbe))
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

// A sealed text, in a column that holds text.
const sealedText = "sealed:"

func (s *sealer) sealText(plain string) string {
	if s == nil || plain == "" {
		return plain
	}
	return sealedText + base64.StdEncoding.EncodeToString(s.seal([]byte(plain)))
}

func (s *sealer) openText(stored string) (string, error) {
	text, sealed := strings.CutPrefix(stored, sealedText)
	if !sealed {
		return stored, nil
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		b, err = s.open(b)
	}
	return string(b), err
}

// checkKey compares the reader's key with the one that the state was written with; fresh: it was written with none.
func (r *Reader) checkKey(ctx context.Context) (fresh bool, err error) {
	var probe []byte
	err = r.db.QueryRowContext(ctx, "SELECT probe FROM seal WHERE id = 1").Scan(&probe)
	if errors.Is(err, sql.ErrNoRows) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	cure := "let state.keyFile name the file with the key that this state was written with; a lost key can't be replaced: what it has encrypted is lost with it"
	if r.seal == nil {
		return false, &Error{Op: "opening", Place: r.place, Err: errors.New("its dead letters are encrypted, and state.keyFile is not set"), Cure: cure}
	}
	if plain, err := r.seal.open(probe); err != nil || !bytes.Equal(plain, []byte(sealProbe)) {
		return false, &Error{Op: "opening", Place: r.place, Err: errors.New("its dead letters are encrypted with another key than that of state.keyFile"), Cure: cure}
	}
	return false, nil
}

// putKey notes which key is used, at the first opening with one.
func (s *Store) putKey(ctx context.Context) error {
	fresh, err := s.checkKey(ctx)
	if err != nil || !fresh || s.seal == nil {
		return err
	}
	return s.w.q.do(ctx, func(w *writer) error {
		return w.exec("INSERT INTO seal (id, probe) VALUES (1, ?)", s.seal.seal([]byte(sealProbe)))
	})
}
