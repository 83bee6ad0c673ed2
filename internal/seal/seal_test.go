package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var b64 = base64.StdEncoding.EncodeToString

func key(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }

func mustParse(t *testing.T, text string) *Secret {
	t.Helper()
	s, err := ParseSecret([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseSecret(t *testing.T) {
	good := b64(key('a', 32))
	for _, tc := range []struct {
		name, text string
		ids        []string
		err        string
	}{
		{"one line", "k1:" + good, []string{"k1"}, ""},
		{"first line is active", "k2:" + good + "\nk1:" + b64(key('b', 40)) + "\n", []string{"k2", "k1"}, ""},
		{"comments, empty lines, CRLF, no padding", "# new\r\n\r\nk1: " + strings.TrimRight(good, "=") + "\r\n", []string{"k1"}, ""},
		{"empty file", "", nil, "no line"},
		{"only comments", "# nothing\n", nil, "no line"},
		{"no colon", good, nil, "line 1: want id:base64"},
		{"short", "k1:" + b64(key('a', 31)), nil, "31 bytes"},
		{"long", "k1:" + b64(key('a', 1025)), nil, "1025 bytes"},
		{"bad base64", "k1:" + strings.Repeat("!", 44), nil, "not base64"},
		{"id with slash", "a/b:" + good, nil, "the id must"},
		{"empty id", ":" + good, nil, "the id must"},
		{"id twice", "k1:" + good + "\nk1:" + good, nil, "line 2: the id \"k1\" is taken"},
		{"too many", strings.Repeat("#\n", 3) + manyLines(17, good), nil, "more than 16"},
		{"huge", strings.Repeat("#", maxSecretFile+1), nil, "larger than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := ParseSecret([]byte(tc.text))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				if strings.Contains(err.Error(), good) {
					t.Fatal("the error shows the secret")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.ids, s.IDs()); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func manyLines(n int, v string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%d:%s\n", i, v)
	}
	return b.String()
}

func TestAGeneratedSecretIsOne(t *testing.T) {
	if s, err := ParseSecret(GenerateSecret(rand.Reader)); err != nil || len(s.IDs()) != 1 {
		t.Fatal(s, err)
	}
}

func TestDeriveGivesOneKeyPerLineAndLabel(t *testing.T) {
	s := mustParse(t, "k2:"+b64(key('b', 32))+"\nk1:"+b64(key('a', 32)))
	old := mustParse(t, "k1:"+b64(key('a', 32)))
	gossip := s.Derive(LabelGossip, 32)
	if len(gossip) != 2 || len(gossip[0]) != 32 || bytes.Equal(gossip[0], gossip[1]) {
		t.Fatal(gossip)
	}
	if !bytes.Equal(gossip[1], old.Derive(LabelGossip, 32)[0]) {
		t.Fatal("a line gives another key when it is not the first")
	}
	if bytes.Equal(gossip[0], s.Derive(LabelKEK, 32)[0]) {
		t.Fatal("two labels give one key")
	}
}

func TestSealOpensOnlyAtItsRecord(t *testing.T) {
	k, err := NewKeyring(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	plain := []byte("a private key")
	sealed, err := k.Seal("cas/user", plain)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, plain) {
		t.Fatal("plaintext in the sealed value")
	}
	if got, err := k.Open("cas/user", sealed); err != nil || !bytes.Equal(got, plain) {
		t.Fatal(got, err)
	}
	if _, err := k.Open("cas/host", sealed); !errors.Is(err, ErrOpen) {
		t.Fatal("opened at another record:", err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := k.Open("cas/user", bad); !errors.Is(err, ErrOpen) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		if _, err := k.Open("cas/user", sealed[:i]); !errors.Is(err, ErrOpen) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	other, _ := NewKeyring(rand.Reader)
	if _, err := other.Open("cas/user", sealed); !errors.Is(err, ErrOpen) || !strings.Contains(err.Error(), k.active) {
		t.Fatal("another keyring should name the key it lacks:", err)
	}
}

func TestRotationRewrapsOneRecord(t *testing.T) {
	l1, l2 := "k1:"+b64(key('a', 32)), "k2:"+b64(key('b', 32))
	s1, s12, s21, s2 := mustParse(t, l1), mustParse(t, l1+"\n"+l2), mustParse(t, l2+"\n"+l1), mustParse(t, l2)
	k, _ := NewKeyring(rand.Reader)
	sealed, _ := k.Seal("passwords/alice", []byte("hash"))
	w1, err := k.Wrap(s1)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Secret{s1, s12, s21} {
		ring, err := Unwrap(s, w1, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ring.Open("passwords/alice", sealed); err != nil {
			t.Fatal(err)
		}
	}
	for s, want := range map[*Secret]bool{s1: false, s12: false, s21: true} {
		if got, err := NeedsRewrap(s, w1); got != want || err != nil {
			t.Fatal(s, got, err)
		}
	}
	var unknown *UnknownKeyError
	if _, err := Unwrap(s2, w1, rand.Reader); !errors.As(err, &unknown) || unknown.Want != "k1" || !strings.Contains(err.Error(), `"k1"`) {
		t.Fatal(err)
	}
	w2, err := k.Wrap(s21)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := Unwrap(s2, w2, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ring.Open("passwords/alice", sealed); err != nil || string(got) != "hash" {
		t.Fatal(got, err)
	}
	impostor := mustParse(t, "k1:"+b64(key('x', 32)))
	if _, err := Unwrap(impostor, w1, rand.Reader); !errors.Is(err, ErrOpen) || !strings.Contains(err.Error(), `"k1"`) {
		t.Fatal(err)
	}
	if bytes.Contains(w1, []byte(b64(k.keys[k.active]))) {
		t.Fatal("the wrapped record shows the data key")
	}
}

func TestSecretsStayOutOfFormats(t *testing.T) {
	s := mustParse(t, "k1:"+b64(key('a', 32)))
	k, _ := NewKeyring(rand.Reader)
	out := fmt.Sprintf("%v %+v %#v %v %+v %#v", s, s, s, k, k, k)
	if strings.Contains(out, "97 97") || strings.Contains(out, "aaaa") || strings.Contains(out, "0x61") {
		t.Fatal(out)
	}
}

func FuzzParseSecret(f *testing.F) {
	f.Add([]byte("k1:" + b64(key('a', 32))))
	f.Add([]byte("# c\n\nk2:" + b64(key('b', 33)) + "\r\nk1:AAAA"))
	f.Add([]byte("k1:\x00:=="))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseSecret(text)
		if err != nil {
			return
		}
		for _, l := range s.lines {
			if !validKeyID(l.id) || len(l.key) < minSecretBytes {
				t.Fatalf("accepted %q with %d bytes", l.id, len(l.key))
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	k, _ := NewKeyring(rand.Reader)
	good, _ := k.Seal("r", []byte("x"))
	f.Add(good)
	f.Add([]byte{1, 255})
	f.Add(append([]byte{1, 255}, key('i', 300)...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if plain, err := k.Open("r", b); err == nil && !bytes.Equal(b, good) {
			t.Fatalf("opened a forgery: %q", plain)
		}
		_, _ = Unwrap(&Secret{lines: []secretLine{{"k", key('a', 32)}}}, b, rand.Reader)
	})
}
