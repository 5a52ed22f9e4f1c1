package platformsim

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// Decrypter makes an Options.Decrypt for an app whose "secure data transfer" has that algorithm: aes-ecb, aes-cbc, aes-gcm, sm4-ecb or
// sm4-cbc. With iv nil the IV (16 bytes for cbc, 12 for gcm) stands in front of the ciphertext. The ciphertext is hexadecimal or base64.
func Decrypter(algorithm string, key, iv []byte, hexadecimal bool) (func([]byte) ([]byte, error), error) {
	name, mode, _ := strings.Cut(algorithm, "-")
	var block cipher.Block
	var err error
	switch name {
	case "aes":
		block, err = aes.NewCipher(key)
	case "sm4":
		block, err = newSM4(key)
	default:
		err = errors.New("want aes or sm4 in front")
	}
	if err == nil && mode != "ecb" && mode != "cbc" && (mode != "gcm" || name != "aes") {
		err = errors.New("want ecb, cbc or gcm (aes only) behind")
	}
	if err != nil {
		return nil, fmt.Errorf("platformsim: the algorithm %q with a key of %d bytes: %w", algorithm, len(key), err)
	}
	return func(text []byte) ([]byte, error) {
		var sealed []byte
		var err error
		if hexadecimal {
			sealed, err = hex.DecodeString(string(text))
		} else {
			sealed, err = base64.StdEncoding.Strict().DecodeString(string(text))
		}
		if err != nil {
			return nil, err
		}
		iv := iv
		if size := map[string]int{"cbc": 16, "gcm": 12}[mode]; iv == nil {
			if len(sealed) < size {
				return nil, errors.New("too short for an IV")
			}
			iv, sealed = sealed[:size], sealed[size:]
		}
		if mode == "gcm" {
			aead, err := cipher.NewGCMWithNonceSize(block, len(iv))
			if err != nil {
				return nil, err
			}
			return aead.Open(nil, iv, sealed, nil)
		}
		return decryptBlocks(block, mode, iv, sealed)
	}, nil
}

// decryptBlocks decrypts ECB and CBC, and takes the padding of PKCS#7 off.
func decryptBlocks(block cipher.Block, mode string, iv, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 || len(sealed)%16 != 0 {
		return nil, errors.New("the ciphertext is no whole number of blocks")
	}
	plain := make([]byte, len(sealed))
	for i := 0; i < len(sealed); i += 16 {
		block.Decrypt(plain[i:i+16], sealed[i:i+16])
		if mode == "cbc" {
			for j := range iv {
				plain[i+j] ^= iv[j]
			}
			iv = sealed[i : i+16]
		}
	}
	n := int(plain[len(plain)-1])
	if n < 1 || n > 16 {
		return nil, errors.New("the padding is wrong")
	}
	for _, b := range plain[len(plain)-n:] {
		if int(b) != n {
			return nil, errors.New("the padding is wrong")
		}
	}
	return plain[:len(plain)-n], nil
}

// sm4 is the block cipher of GB/T 32907-2016, by its round keys.
type sm4 [32]uint32

func newSM4(key []byte) (*sm4, error) {
	if len(key) != 16 {
		return nil, errors.New("sm4 takes a key of 16 bytes")
	}
	k := words(key)
	for i, fk := range [4]uint32{0xA3B1BAC6, 0x56AA3350, 0x677D9197, 0xB27022DC} {
		k[i] ^= fk
	}
	c := &sm4{}
	for i := range uint32(32) {
		ck := (4*i*7)&0xFF<<24 | ((4*i+1)*7)&0xFF<<16 | ((4*i+2)*7)&0xFF<<8 | ((4*i+3)*7)&0xFF
		b := substitute(k[1] ^ k[2] ^ k[3] ^ ck)
		c[i] = k[0] ^ b ^ bits.RotateLeft32(b, 13) ^ bits.RotateLeft32(b, 23)
		k = [4]uint32{k[1], k[2], k[3], c[i]}
	}
	return c, nil
}

// BlockSize is 16.
func (*sm4) BlockSize() int { return 16 }

// Encrypt encrypts one block.
func (c *sm4) Encrypt(dst, src []byte) { c.rounds(dst, src, func(i int) uint32 { return c[i] }) }

// Decrypt decrypts one block: the round keys go backwards.
func (c *sm4) Decrypt(dst, src []byte) { c.rounds(dst, src, func(i int) uint32 { return c[31-i] }) }

func (c *sm4) rounds(dst, src []byte, key func(int) uint32) {
	x := words(src)
	for i := range 32 {
		b := substitute(x[1] ^ x[2] ^ x[3] ^ key(i))
		b ^= bits.RotateLeft32(b, 2) ^ bits.RotateLeft32(b, 10) ^ bits.RotateLeft32(b, 18) ^ bits.RotateLeft32(b, 24)
		x = [4]uint32{x[1], x[2], x[3], x[0] ^ b}
	}
	for i := range 16 {
		dst[i] = byte(x[3-i/4] >> (24 - 8*(i%4)))
	}
}

func words(b []byte) (w [4]uint32) {
	for i := range 16 {
		w[i/4] = w[i/4]<<8 | uint32(b[i])
	}
	return w
}

// substitute puts each byte through the S-box.
func substitute(x uint32) uint32 {
	return uint32(sbox[x>>24])<<24 | uint32(sbox[x>>16&0xFF])<<16 | uint32(sbox[x>>8&0xFF])<<8 | uint32(sbox[x&0xFF])
}

// sbox is the S-box, made by its algebra: A(1/A(x)) in GF(2^8) modulo x^8+x^7+x^6+x^5+x^4+x^2+1, with A(x) = M·x + 0xD3 and the rows of M the
// rotations of 0xA7.
var sbox = func() (box [256]byte) {
	affine := func(x byte) (y byte) {
		for i := range 8 {
			y |= byte(bits.OnesCount8(x&bits.RotateLeft8(0xA7, i))&1) << i
		}
		return y ^ 0xD3
	}
	times := func(a, b byte) (product byte) {
		for ; b > 0; b >>= 1 {
			if b&1 == 1 {
				product ^= a
			}
			if a >= 0x80 {
				a = a<<1 ^ 0xF5
			} else {
				a <<= 1
			}
		}
		return product
	}
	for x := range 256 {
		in := affine(byte(x))
		inverse := byte(1)
		for range 254 { // x^254 is 1/x, and 0 for 0
			inverse = times(inverse, in)
		}
		box[x] = affine(inverse)
	}
	return box
}()
