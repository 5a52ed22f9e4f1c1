package platformsim

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
	"testing"
	"time"
)

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSM4 has the examples of GB/T 32907-2016, appendix A: one encryption, and a million.
func TestSM4(t *testing.T) {
	key := unhex(t, "0123456789ABCDEFFEDCBA9876543210")
	c, err := newSM4(key)
	if err != nil {
		t.Fatal(err)
	}
	got := bytes.Clone(key)
	c.Encrypt(got, got)
	if want := unhex(t, "681EDF34D206965E86B3E94F536E4246"); !bytes.Equal(got, want) {
		t.Fatalf("once: %x", got)
	}
	c.Decrypt(got, got)
	if !bytes.Equal(got, key) {
		t.Fatalf("decrypted: %x", got)
	}
	for range 1_000_000 {
		c.Encrypt(got, got)
	}
	if want := unhex(t, "595298C7C6FD271F0402F804C33D3F66"); !bytes.Equal(got, want) {
		t.Errorf("a million times: %x", got)
	}
}

// TestDecrypter: what it refuses. That it decrypts rightly is shown by the client's tests, whose encryption is other code.
func TestDecrypter(t *testing.T) {
	key := []byte("0123456789abcdef")
	for _, algorithm := range []string{"", "des-cbc", "aes", "aes-ctr", "sm4-gcm"} {
		if _, err := Decrypter(algorithm, key, nil, false); err == nil {
			t.Errorf("%q is taken", algorithm)
		}
	}
	for _, algorithm := range []string{"aes-cbc", "sm4-cbc"} {
		if _, err := Decrypter(algorithm, key[:15], nil, false); err == nil {
			t.Errorf("%s takes 15 bytes", algorithm)
		}
	}
	open, err := Decrypter("aes-ecb", key, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"no base64": "!", "nothing": "", "half a block": base64.StdEncoding.EncodeToString(key[:8]),
		"no padding": base64.StdEncoding.EncodeToString(key)} {
		if _, err := open([]byte(text)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	cbc, err := Decrypter("aes-cbc", key, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cbc([]byte("00")); err == nil {
		t.Error("one byte is taken, IV and all")
	}
	if _, err := cbc([]byte(strings.Repeat("00", 16))); err == nil {
		t.Error("an IV alone is taken")
	}
}

// TestOpenPointOptions: the clock that timestamp is measured by, and the body of the endpoint that takes points away.
func TestOpenPointOptions(t *testing.T) {
	s := New(Options{ClockSkew: time.Minute, OpenDecrease: true})
	if r := send(t, s, PointOpen, goodOpen); !strings.Contains(r.Msg, "timestamp: is more than 1m0s from now") {
		t.Errorf("an old timestamp: %s", r.body)
	}
	now := strings.Replace(goodOpen, "1700000000000", strconv.FormatInt(time.Now().UnixMilli(), 10), 1)
	mustApply(t, s, PointOpen, now)
	mustApply(t, s, PointDecrease, now)
	if r := send(t, s, PointDecrease, goodPoint); !strings.Contains(r.Msg, "nonce") && !strings.Contains(r.Msg, "unknown") {
		t.Errorf("the other body: %s", r.body)
	}
	mustApply(t, s, Point, goodPoint)
}
