package platform

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tuzhan-cdc/tuzhan-cdc/connector"
	"github.com/tuzhan-cdc/tuzhan-cdc/connector/platformsim"
)

// sealed gives the ciphertext of a body that seal has made.
func sealed(t *testing.T, s *sealer, plain []byte) []byte {
	t.Helper()
	body, err := s.seal(nil, plain)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(body, &got); err != nil || len(got) != 1 {
		t.Fatalf("the body is %s", body)
	}
	decode := base64.StdEncoding.DecodeString
	if s.Encoding == "hex" {
		decode = hex.DecodeString
	}
	b, err := decode(got["encryptStr"])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVectors has the examples of the standards: FIPS 197 appendix C, NIST SP 800-38A appendix F, the GCM specification's test cases (in NIST
// SP 800-38D's terms), GB/T 32907-2016 appendix A, and SM4 in CBC as in draft-ribose-cfrg-sm4. Behind the example's blocks stands the one
// that padding adds.
func TestVectors(t *testing.T) {
	const (
		nist = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
		k128 = "2b7e151628aed2a6abf7158809cf4f3c"
		k192 = "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b"
		k256 = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
		iv   = "000102030405060708090a0b0c0d0e0f"
		fips = "00112233445566778899aabbccddeeff"
		gb   = "0123456789abcdeffedcba9876543210"
		gcmK = "feffe9928665731c6d6a8f9467308308"
		gcmP = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
	)
	for _, v := range []struct{ name, algorithm, key, iv, plain, want string }{
		{"FIPS 197 C.1", "aes-ecb", "000102030405060708090a0b0c0d0e0f", "", fips, "69c4e0d86a7b0430d8cdb78070b4c55a"},
		{"FIPS 197 C.2", "aes-ecb", "000102030405060708090a0b0c0d0e0f1011121314151617", "", fips, "dda97ca4864cdfe06eaf70a0ec0d7191"},
		{"FIPS 197 C.3", "aes-ecb", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "", fips, "8ea2b7ca516745bfeafc49904b496089"},
		{"SP 800-38A F.1.1", "aes-ecb", k128, "", nist, "3ad77bb40d7a3660a89ecaf32466ef97f5d3d58503b9699de785895a96fdbaaf43b1cd7f598ece23881b00e3ed0306887b0c785e27e8ad3f8223207104725dd4"},
		{"SP 800-38A F.1.3", "aes-ecb", k192, "", nist, "bd334f1d6e45f25ff712a214571fa5cc974104846d0ad3ad7734ecb3ecee4eefef7afd2270e2e60adce0ba2face6444e9a4b41ba738d6c72fb16691603c18e0e"},
		{"SP 800-38A F.1.5", "aes-ecb", k256, "", nist, "f3eed1bdb5d2a03c064b5a7e3db181f8591ccb10d410ed26dc5ba74a31362870b6ed21b99ca6f4f9f153e7b1beafed1d23304b7a39f9f3ff067d8d8f9e24ecc7"},
		{"SP 800-38A F.2.1", "aes-cbc", k128, iv, nist, "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b273bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7"},
		{"SP 800-38A F.2.3", "aes-cbc", k192, iv, nist, "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a571b242012fb7ae07fa9baac3df102e008b0e27988598881d920a9e64f5615cd"},
		{"SP 800-38A F.2.5", "aes-cbc", k256, iv, nist, "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b"},
		{"GCM test case 3", "aes-gcm", gcmK, "cafebabefacedbaddecaf888", gcmP,
			"42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f59854d5c2af327cd64a62cf35abd2ba6fab4"},
		{"GB/T 32907 A.1", "sm4-ecb", gb, "", gb, "681edf34d206965e86b3e94f536e4246"},
		{"draft-ribose-cfrg-sm4 A.2.2", "sm4-cbc", gb, iv, "aaaaaaaabbbbbbbbccccccccddddddddeeeeeeeeffffffffaaaaaaaabbbbbbbb", "78ebb11cc40b0a48312aaeb2040244cb4cb7016951909226979b0d15dc6a8f6d"},
	} {
		for _, encoding := range []string{"", "hex"} {
			e := Encryption{Algorithm: v.algorithm, Key: static(v.key), KeyEncoding: "hex", Encoding: encoding}
			if v.iv != "" {
				e.IV = static(v.iv)
			}
			if err := e.check(); err != nil {
				t.Errorf("%s: %v", v.name, err)
				continue
			}
			plain, err := hex.DecodeString(v.plain)
			if err != nil {
				t.Fatal(err)
			}
			got := hex.EncodeToString(sealed(t, newSealer(e), plain))
			padding := 2 * blockSize
			if v.algorithm == "aes-gcm" {
				padding = 0
			}
			if len(got) != len(v.want)+padding || !strings.HasPrefix(got, v.want) {
				t.Errorf("%s: got %s, want %s", v.name, got, v.want)
			}
		}
	}
}

// TestPadding: PKCS#7 for every length, and the random IV in front, another one each time.
func TestPadding(t *testing.T) {
	for _, algorithm := range Algorithms {
		open, err := platformsim.Decrypter(algorithm, []byte("0123456789abcdef"), nil, false)
		if err != nil {
			t.Fatal(err)
		}
		s := newSealer(Encryption{Algorithm: algorithm, Key: static("0123456789abcdef")})
		seen := map[string]bool{}
		for n := range 50 {
			plain := strings.Repeat("x", n)
			b := sealed(t, s, []byte(plain))
			got, err := open([]byte(base64.StdEncoding.EncodeToString(b)))
			if err != nil || string(got) != plain {
				t.Errorf("%s of %d bytes: %q, %v", algorithm, n, got, err)
			}
			if !strings.HasSuffix(algorithm, "ecb") {
				seen[string(b[:12])] = true
			}
		}
		if len(seen) != 50 && !strings.HasSuffix(algorithm, "ecb") {
			t.Errorf("%s: %d different IVs of 50", algorithm, len(seen))
		}
	}
}

// TestSimulatorDecrypts: the simulator, whose ciphers are other code, takes what the client sends in every mode, key encoding, IV and ciphertext
// encoding; the probe is encrypted too, events are not, and a plain point is refused.
func TestSimulatorDecrypts(t *testing.T) {
	const hexKey, hexIV = "00112233445566778899aabbccddeeff", "0f0e0d0c0b0a09080706050403020100"
	raw := func(text string) []byte {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, algorithm := range Algorithms {
		for _, fixed := range []bool{false, true} {
			for _, keyEncoding := range KeyEncodings {
				e := Encryption{Algorithm: algorithm, KeyEncoding: keyEncoding}
				key, iv := raw(hexKey), raw(hexIV)
				switch keyEncoding {
				case "utf8":
					key, iv = []byte("sixteen bytes ok"), []byte("an IV of 16 byte")
					e.Key, e.IV = static(string(key)), static(string(iv))
				case "hex":
					e.Key, e.IV, e.Encoding = static(hexKey), static(hexIV), "hex"
				case "base64":
					e.Key, e.IV, e.IVEncoding = static(base64.StdEncoding.EncodeToString(key)), static(hexIV), "hex"
				}
				if !fixed || strings.HasSuffix(algorithm, "ecb") {
					if fixed {
						continue
					}
					e.IV, e.IVEncoding, iv = nil, "", nil
				}
				decrypt, err := platformsim.Decrypter(algorithm, key, iv, e.Encoding == "hex")
				if err != nil {
					t.Fatal(err)
				}
				t.Run(fmt.Sprintf("%s %s fixed %v", algorithm, keyEncoding, fixed), func(t *testing.T) {
					sim := platformsim.New(platformsim.Options{Decrypt: decrypt})
					paths := Paths{Point: platformsim.DefaultPaths()[platformsim.Point], PointDecrease: platformsim.DefaultPaths()[platformsim.PointDecrease]}
					base := serve(t, sim.ServeHTTP)
					c := newClient(t, base, func(cfg *Config) { cfg.Paths, cfg.Encryption = paths, &e })
					decrease := pointRequest()
					decrease.Endpoint = connector.PointDecreaseEndpoint
					for _, req := range []*connector.Request{pointRequest(), decrease, simEvents(2), simGroups(2)} {
						if a := c.Send(t.Context(), req); a.Verdict != connector.Delivered {
							t.Errorf("%v: %v %s %v", req.Endpoint, a.Verdict, a.Msg, a.Err)
						}
					}
					if applied := sim.Ledger(); len(applied) != 6 || string(applied[0].Record) != string(pointRequest().Records[0].Payload) {
						t.Errorf("applied %+v", applied)
					}
					for _, end := range []connector.Endpoint{connector.PointEndpoint, connector.PointDecreaseEndpoint, connector.EventEndpoint} {
						if a := c.Probe(t.Context(), end); a.Verdict != connector.Delivered || sim.Count("") != 6 {
							t.Errorf("probe of %v: %v %v", end, a.Verdict, a.Err)
						}
					}
					for _, r := range sim.Requests() {
						if strings.Contains(r.Refusal, "encryptStr") {
							t.Errorf("refused: %s", r.Refusal)
						}
					}
					plain := newClient(t, base, func(cfg *Config) { cfg.Paths = paths })
					if a := plain.Send(t.Context(), pointRequest()); a.Verdict != connector.Rejected || !strings.Contains(a.Msg, "encryptStr") {
						t.Errorf("a plain body: %v %s", a.Verdict, a.Msg)
					}
				})
			}
		}
	}
}

// TestEncryptionSettings: each setting that is wrong is said, and none shows key or IV.
func TestEncryptionSettings(t *testing.T) {
	const leak = "leak-leak-leak"
	for _, tc := range []struct{ algorithm, encoding, key, want string }{
		{"aes-cbc", "utf8", "0123456789abcdef", ""},
		{"aes-cbc", "", "0123456789abcdef01234567", ""},
		{"aes-gcm", "utf8", "0123456789abcdef0123456789abcdef", ""},
		{"aes-cbc", "utf8", leak, "aes-cbc takes a key of 16, 24 or 32 bytes, this one, read as utf8, has 14"},
		{"aes-cbc", "utf8", "钥匙钥匙钥", "has 15"},
		{"sm4-ecb", "utf8", "0123456789abcdef01234567", "sm4-ecb takes a key of 16 bytes, this one, read as utf8, has 24"},
		{"sm4-ecb", "hex", leak, "it is no hex"},
		{"sm4-ecb", "hex", "00112233", "read as hex, has 4"},
		{"aes-ecb", "base64", "leak leak", "it is no base64"},
		{"aes-ecb", "base64", "AAAAAAAAAAAAAAAAAAAAAA==", ""},
	} {
		if got := KeyProblem(tc.algorithm, tc.encoding, tc.key); tc.want == "" && got != "" || !strings.Contains(got, tc.want) || strings.Contains(got, "leak") {
			t.Errorf("%+v: %q", tc, got)
		}
	}
	for _, tc := range []struct{ algorithm, iv, want string }{
		{"aes-cbc", "0123456789abcdef", ""}, {"sm4-cbc", "0123456789abcdef", ""}, {"aes-gcm", "0123456789ab", ""}, {"aes-gcm", "0123456789abcdef", ""},
		{"aes-cbc", leak, "aes-cbc takes an IV of 16 bytes"}, {"aes-gcm", leak, "aes-gcm takes a nonce of 12 bytes (or 16)"}, {"sm4-ecb", leak, "sm4-ecb has no IV"},
	} {
		if got := IVProblem(tc.algorithm, "utf8", tc.iv); tc.want == "" && got != "" || !strings.Contains(got, tc.want) || strings.Contains(got, "leak") {
			t.Errorf("%+v: %q", tc, got)
		}
	}
	_, err := New(Config{BaseURL: "https://h", Token: static("x"), Encryption: &Encryption{Algorithm: "des", KeyEncoding: "x", IVEncoding: "y", Encoding: "z", IV: static(leak)}})
	for _, want := range []string{"encryption.algorithm: want one of aes-ecb", "encryption.keyEncoding", "encryption.ivEncoding", "encryption.encoding", "encryption.key is missing"} {
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), leak) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
	_, err = New(Config{BaseURL: "https://h", Token: static("x"), Encryption: &Encryption{Algorithm: "aes-ecb", Key: static("x"), IV: static(leak)}})
	if err == nil || !strings.Contains(err.Error(), "platform.encryption.iv: aes-ecb has no IV") {
		t.Error(err)
	}
}

// TestEncryptionKeyIsReadAgain: a key that changes is used from the next request on; one that is gone or wrong pauses, and turns no record into a
// dead letter.
func TestEncryptionKeyIsReadAgain(t *testing.T) {
	keys := []string{"0123456789abcdef", "fedcba9876543210"}
	var now, seen atomic.Int32
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		body, _ := io.ReadAll(r.Body)
		var got struct{ EncryptStr string }
		_ = json.Unmarshal(body, &got)
		open, err := platformsim.Decrypter("aes-cbc", []byte(keys[now.Load()]), nil, false)
		if err != nil {
			t.Error(err)
		}
		if plain, err := open([]byte(got.EncryptStr)); err != nil || string(plain) != string(pointRequest().Records[0].Payload) {
			t.Errorf("%q: %v", plain, err)
		}
		_, _ = io.WriteString(w, delivered)
	})
	key, fail := keys[0], error(nil)
	c := newClient(t, base, func(cfg *Config) {
		cfg.Encryption = &Encryption{Algorithm: "aes-cbc", Key: func() (string, error) { return key, fail }}
	})
	for i := range 2 {
		now.Store(int32(i))
		key = keys[i]
		if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.Delivered {
			t.Errorf("key %d: %v %v", i, a.Verdict, a.Err)
		}
	}
	key = "leak"
	if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.SetupWrong || !a.NotApplied || !strings.Contains(a.Err.Error(), "platform.encryption.key: aes-cbc takes a key of") {
		t.Errorf("a key of a wrong size: %v %v", a.Verdict, a.Err)
	} else {
		wantClean(t, a.Err)
	}
	key = keys[1]
	c.sealer.IV = static("leak")
	if a := c.Send(t.Context(), pointRequest()); a.Verdict != connector.SetupWrong || !strings.Contains(a.Err.Error(), "platform.encryption.iv: aes-cbc takes an IV of 16 bytes") {
		t.Errorf("an IV of a wrong size: %v %v", a.Verdict, a.Err)
	}
	c.sealer.IV = nil
	fail = os.ErrNotExist
	if a := c.Probe(t.Context(), connector.PointEndpoint); a.Verdict != connector.SetupWrong || !a.NotApplied {
		t.Errorf("no key: %v %v", a.Verdict, a.Err)
	}
	if seen.Load() != 2 {
		t.Errorf("%d requests, want 2", seen.Load())
	}
}
