package platform

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/emmansun/gmsm/sm4"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
)

// Encryption says how the bodies of points are encrypted, where the app has "secure data transfer" switched on. The platform's page names
// {"encryptStr": ...} and no cipher: that is as the app is configured.
type Encryption struct {
	// Algorithm is one of Algorithms. The modes ECB and CBC pad as PKCS#7 says; the tag of GCM stands behind the ciphertext.
	Algorithm string
	// Key is asked before every request, so that a changed file is seen.
	Key func() (string, error)
	// KeyEncoding is one of KeyEncodings; empty: utf8.
	KeyEncoding string
	// IV, asked as Key is, is the same for all requests: the initialisation vector of CBC, the nonce of GCM. nil: a random one stands in front of
	// each ciphertext, 16 bytes for CBC and 12 for GCM. ECB has none.
	IV func() (string, error)
	// IVEncoding is one of KeyEncodings; empty: as the key's.
	IVEncoding string
	// Encoding is that of the ciphertext, one of Encodings; empty: base64.
	Encoding string
}

// Algorithms, KeyEncodings and Encodings list what an Encryption may hold.
var (
	Algorithms   = []string{"aes-ecb", "aes-cbc", "aes-gcm", "sm4-ecb", "sm4-cbc"}
	KeyEncodings = []string{"utf8", "hex", "base64"}
	Encodings    = []string{"base64", "hex"}
)

const (
	blockSize = 16 // of both ciphers, in bytes
	gcmNonce  = 12 // bytes that a random nonce has
)

// KeyProblem says what is wrong with a key for an algorithm, without showing it; empty: nothing.
func KeyProblem(algorithm, encoding, key string) string {
	_, problem := readKey(algorithm, encoding, key)
	return problem
}

// IVProblem says what is wrong with a fixed IV for an algorithm, without showing it; empty: nothing.
func IVProblem(algorithm, encoding, iv string) string {
	_, problem := readIV(algorithm, encoding, iv)
	return problem
}

func readKey(algorithm, encoding, key string) (decoded []byte, problem string) {
	want, sizes := "16 bytes", []int{16}
	if strings.HasPrefix(algorithm, "aes-") {
		want, sizes = "16, 24 or 32 bytes", []int{16, 24, 32}
	}
	return sized(algorithm, "a key", want, sizes, encoding, key)
}

func readIV(algorithm, encoding, iv string) (decoded []byte, problem string) {
	switch _, mode, _ := strings.Cut(algorithm, "-"); mode {
	case "ecb":
		return nil, algorithm + " has no IV"
	case "gcm":
		return sized(algorithm, "a nonce", "12 bytes (or 16)", []int{gcmNonce, 16}, encoding, iv)
	}
	return sized(algorithm, "an IV", "16 bytes", []int{blockSize}, encoding, iv)
}

func sized(algorithm, what, want string, sizes []int, encoding, text string) (decoded []byte, problem string) {
	var err error
	switch encoding {
	case "", "utf8":
		encoding, decoded = "utf8", []byte(text)
	case "hex":
		decoded, err = hex.DecodeString(text)
	default:
		decoded, err = base64.StdEncoding.DecodeString(text)
	}
	if err != nil {
		return nil, fmt.Sprintf("it is no %s", encoding) // the error itself quotes
	}
	if !slices.Contains(sizes, len(decoded)) {
		return nil, fmt.Sprintf("%s takes %s of %s, this one, read as %s, has %d", algorithm, what, want, encoding, len(decoded))
	}
	return decoded, ""
}

// check gives what is wrong with the settings, without the key.
func (e *Encryption) check() error {
	var errs []error
	one := func(key, value string, of []string) {
		if !slices.Contains(of, value) {
			errs = append(errs, fmt.Errorf("platform.encryption.%s: want one of %s", key, strings.Join(of, ", ")))
		}
	}
	one("algorithm", e.Algorithm, Algorithms)
	one("keyEncoding", e.KeyEncoding, append([]string{""}, KeyEncodings...))
	one("ivEncoding", e.IVEncoding, append([]string{""}, KeyEncodings...))
	one("encoding", e.Encoding, append([]string{""}, Encodings...))
	if e.Key == nil {
		errs = append(errs, errors.New("platform.encryption.key is missing"))
	}
	if e.IV != nil && strings.HasSuffix(e.Algorithm, "-ecb") {
		errs = append(errs, fmt.Errorf("platform.encryption.iv: %s has no IV", e.Algorithm))
	}
	return errors.Join(errs...)
}

func (e *Encryption) ivEncoding() string {
	if e.IVEncoding == "" {
		return e.KeyEncoding
	}
	return e.IVEncoding
}

// sealer encrypts bodies. Safe for concurrent use.
type sealer struct {
	Encryption
	mode string // ecb, cbc, gcm

	current atomic.Pointer[keyed]
}

// keyed is a key and an IV that were read, and the cipher made of them.
type keyed struct {
	keyText, ivText string

	block cipher.Block
	aead  cipher.AEAD // for gcm
	iv    []byte      // nil: random
}

// newSealer makes a sealer of settings that check has passed.
func newSealer(e Encryption) *sealer {
	s := &sealer{Encryption: e}
	_, s.mode, _ = strings.Cut(e.Algorithm, "-")
	return s
}

// key gives the cipher of key and IV as they are now.
func (s *sealer) key() (*keyed, error) {
	const setting = "platform.encryption.key"
	k := &keyed{}
	var err error
	if k.keyText, err = s.Key(); err != nil {
		return nil, secretProblem(setting, err.Error(), err)
	}
	if s.IV != nil {
		if k.ivText, err = s.IV(); err != nil {
			return nil, secretProblem("platform.encryption.iv", err.Error(), err)
		}
	}
	if was := s.current.Load(); was != nil && was.keyText == k.keyText && was.ivText == k.ivText {
		return was, nil
	}
	key, problem := readKey(s.Algorithm, s.KeyEncoding, k.keyText)
	if problem != "" {
		return nil, secretProblem(setting, problem, nil)
	}
	if s.IV != nil {
		if k.iv, problem = readIV(s.Algorithm, s.ivEncoding(), k.ivText); problem != "" {
			return nil, secretProblem("platform.encryption.iv", problem, nil)
		}
	}
	if strings.HasPrefix(s.Algorithm, "sm4-") {
		k.block, err = sm4.NewCipher(key)
	} else {
		k.block, err = aes.NewCipher(key)
	}
	if err == nil && s.mode == "gcm" {
		size := gcmNonce
		if k.iv != nil {
			size = len(k.iv)
		}
		k.aead, err = cipher.NewGCMWithNonceSize(k.block, size)
	}
	if err != nil {
		return nil, secretProblem(setting, err.Error(), nil)
	}
	s.current.Store(k)
	return k, nil
}

func secretProblem(setting, reason string, cause error) *Error {
	return &Error{Op: setting, Reason: reason, verdict: connector.SetupWrong, cause: cause}
}

// seal appends {"encryptStr": "..."} of the plain body to dst.
func (s *sealer) seal(dst, plain []byte) ([]byte, error) {
	k, err := s.key()
	if err != nil {
		return dst, err
	}
	var out []byte // the IV where it is random, and the ciphertext
	iv := k.iv
	if iv == nil && s.mode != "ecb" {
		size := blockSize
		if s.mode == "gcm" {
			size = gcmNonce
		}
		out = make([]byte, size, size+len(plain)+2*blockSize)
		_, _ = rand.Read(out) // it never fails
		iv = out[:size:size]
	}
	start := len(out)
	if s.mode == "gcm" {
		out = k.aead.Seal(out, iv, plain, nil)
	} else {
		out = pad(append(out, plain...), len(plain))
		switch body := out[start:]; s.mode {
		case "cbc":
			cipher.NewCBCEncrypter(k.block, iv).CryptBlocks(body, body)
		default:
			for ; len(body) > 0; body = body[blockSize:] {
				k.block.Encrypt(body[:blockSize], body[:blockSize])
			}
		}
	}
	dst = append(dst, `{"encryptStr":"`...)
	if s.Encoding == "hex" {
		dst = hex.AppendEncode(dst, out)
	} else {
		dst = base64.StdEncoding.AppendEncode(dst, out)
	}
	return append(dst, `"}`...), nil
}

// pad appends the padding of PKCS#7 (RFC 5652, 6.3) for n bytes: one to sixteen, each of which says how many there are.
func pad(dst []byte, n int) []byte {
	size := blockSize - n%blockSize
	return append(dst, bytes.Repeat([]byte{byte(size)}, size)...)
}
