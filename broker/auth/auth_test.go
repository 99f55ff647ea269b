package auth

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/xdg-go/scram"
)

type users map[string]Credential

func (u users) Credential(m Mechanism, user string) (Credential, bool) {
	c, ok := u[string(m)+"/"+user]
	return c, ok
}

func (u users) Iterations(m Mechanism) []int {
	var all []int
	for key, c := range u {
		if strings.HasPrefix(key, string(m)+"/") && !slices.Contains(all, c.Iterations) {
			all = append(all, c.Iterations)
		}
	}
	slices.Sort(all)
	return all
}

func newTestAuth(t *testing.T) *Authenticator {
	t.Helper()
	u := users{}
	for _, m := range []Mechanism{ScramSHA256, ScramSHA512} {
		c, err := NewCredential(m, "geheim", DefaultIterations)
		if err != nil {
			t.Fatal(err)
		}
		u[string(m)+"/alice"] = c
	}
	return New(u, []byte("secret of the store"), nil)
}

func clientFor(t *testing.T, m Mechanism, user, password, authzID string) *scram.ClientConversation {
	t.Helper()
	gen := scram.SHA256
	if m == ScramSHA512 {
		gen = scram.SHA512
	}
	c, err := gen.NewClient(user, password, authzID)
	if err != nil {
		t.Fatal(err)
	}
	return c.NewConversation()
}

// exchange runs a whole SCRAM exchange; alter may change the client's final
// message.
func exchange(a *Authenticator, m Mechanism, client *scram.ClientConversation, alter func(string) string) (string, error) {
	s, _ := a.Start(m, "10.0.0.1")
	first, err := client.Step("")
	if err != nil {
		return "", err
	}
	reply, done, err := s.Step([]byte(first))
	if err != nil || done {
		return "", err
	}
	final, err := client.Step(string(reply))
	if err != nil {
		return "", err
	}
	reply, done, err = s.Step([]byte(alter(final)))
	if err != nil {
		return "", err
	}
	if _, err := client.Step(string(reply)); err != nil {
		return "", err
	}
	if !done || !client.Valid() {
		return "", errors.New("not done")
	}
	return s.User(), nil
}

func TestScram(t *testing.T) {
	a := newTestAuth(t)
	same := func(s string) string { return s }
	for _, m := range []Mechanism{ScramSHA256, ScramSHA512} {
		for _, c := range []struct {
			name, user, password, authzID string
			alter                         func(string) string
			ok                            bool
		}{
			{"right password", "alice", "geheim", "", same, true},
			{"own authorisation id", "alice", "geheim", "alice", same, true},
			{"wrong password", "alice", "Geheim", "", same, false},
			{"unknown user", "bob", "geheim", "", same, false},
			{"another's authorisation id", "alice", "geheim", "admin", same, false},
			{"altered nonce", "alice", "geheim", "", func(s string) string { return strings.Replace(s, ",r=", ",r=x", 1) }, false},
			{"altered channel binding", "alice", "geheim", "", func(s string) string { return strings.Replace(s, "c=biws", "c=eSws", 1) }, false},
			{"no proof", "alice", "geheim", "", func(s string) string { return s[:strings.Index(s, ",p=")] }, false},
			{"empty", "alice", "geheim", "", func(string) string { return "" }, false},
		} {
			t.Run(string(m)+"/"+c.name, func(t *testing.T) {
				user, err := exchange(a, m, clientFor(t, m, c.user, c.password, c.authzID), c.alter)
				if c.ok && (err != nil || user != c.user) {
					t.Fatalf("got %q, %v", user, err)
				}
				if !c.ok && (!errors.Is(err, ErrFailed) || user != "") {
					t.Fatalf("got %q, %v, want ErrFailed", user, err)
				}
			})
		}
	}
}

func TestUnknownUserLooksLikeAKnownOne(t *testing.T) {
	a := newTestAuth(t)
	salt := func(user string) (string, int) {
		s, _ := a.Start(ScramSHA256, "10.0.0.1")
		reply, _, err := s.Step([]byte("n,,n=" + user + ",r=rOprNGfwEbeRWgbNEkqO"))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(reply), ",s=")
		return rest, len(reply)
	}
	known, knownLen := salt("alice")
	first, n := salt("mallory")
	again, _ := salt("mallory")
	other, _ := salt("trudy")
	if first != again {
		t.Errorf("salt of an unknown user changes: %q, %q", first, again)
	}
	if first == other || first == known {
		t.Errorf("unknown users share a salt")
	}
	if n != knownLen {
		t.Errorf("answer of %d bytes for an unknown user, %d for a known one", n, knownLen)
	}
}

func TestSessionIsSingleUse(t *testing.T) {
	a := newTestAuth(t)
	s, _ := a.Start(Plain, "10.0.0.1")
	if _, done, err := s.Step([]byte("\x00alice\x00geheim")); !done || err != nil {
		t.Fatal(done, err)
	}
	if _, _, err := s.Step([]byte("\x00alice\x00geheim")); !errors.Is(err, ErrFailed) {
		t.Fatalf("second use: %v", err)
	}
}

func TestPlain(t *testing.T) {
	a := newTestAuth(t)
	for _, c := range []struct {
		token string
		ok    bool
	}{
		{"\x00alice\x00geheim", true},
		{"alice\x00alice\x00geheim", true},
		{"admin\x00alice\x00geheim", false},
		{"\x00alice\x00wrong", false},
		{"\x00bob\x00geheim", false},
		{"\x00alice\x00", false},
		{"\x00\x00geheim", false},
		{"alice", false},
		{"", false},
		{"\x00alice\x00geheim\x00more", false},
	} {
		s, _ := a.Start(Plain, "10.0.0.1")
		_, done, err := s.Step([]byte(c.token))
		if done != c.ok || (err == nil) != c.ok {
			t.Errorf("%q: done %v, %v", c.token, done, err)
		}
		if !c.ok && s.User() != "" {
			t.Errorf("%q: user %q after a failure", c.token, s.User())
		}
	}
}

func TestCredentialBounds(t *testing.T) {
	for _, n := range []int{-1, 0, MinIterations - 1, MaxIterations + 1} {
		if _, err := FromSaltedPassword(ScramSHA256, []byte("salt"), make([]byte, 32), n); err == nil {
			t.Errorf("%d iterations accepted", n)
		}
	}
	if _, err := FromSaltedPassword(ScramSHA256, []byte("salt"), make([]byte, 64), 4096); err == nil {
		t.Error("salted password of the wrong size accepted")
	}
	if _, err := FromSaltedPassword(Plain, []byte("salt"), make([]byte, 32), 4096); err == nil {
		t.Error("PLAIN has a credential")
	}
}
