package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/xdg-go/scram"
)

// ErrFailed says that a client did not prove who it is. It wraps the cause,
// which the client is not told.
var ErrFailed = errors.New("authentication failed")

// maxName bounds user names; Kafka has no bound, a connection's memory does.
const maxName = 256

// Users looks credentials up. It is called for every exchange and must be safe
// for concurrent use.
type Users interface {
	Credential(m Mechanism, user string) (Credential, bool)
}

// Authenticator starts sessions. It is safe for concurrent use.
type Authenticator struct {
	users Users
	// fakeKey makes salts for users that do not exist.
	fakeKey []byte
	scram   map[Mechanism]*scram.Server
}

// New returns an Authenticator. The secret must stay the same over restarts, or
// a changing salt would tell an unknown user from a known one.
func New(users Users, secret []byte) (*Authenticator, error) {
	a := &Authenticator{users: users, fakeKey: bytes.Clone(secret), scram: map[Mechanism]*scram.Server{}}
	for m, generate := range map[Mechanism]scram.HashGeneratorFcn{ScramSHA256: scram.SHA256, ScramSHA512: scram.SHA512} {
		server, err := generate.NewServer(func(user string) (scram.StoredCredentials, error) {
			c, _ := a.lookup(m, user)
			return scram.StoredCredentials{
				KeyFactors: scram.KeyFactors{Salt: string(c.Salt), Iters: c.Iterations},
				StoredKey:  c.StoredKey,
				ServerKey:  c.ServerKey,
			}, nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s server: %w", m, err)
		}
		a.scram[m] = server
	}
	return a, nil
}

// lookup returns a user's credential, or one that nothing matches.
func (a *Authenticator) lookup(m Mechanism, user string) (Credential, bool) {
	if len(user) <= maxName {
		if c, ok := a.users.Credential(m, user); ok {
			return c, true
		}
	}
	size := hashOf(m)().Size()
	c := Credential{
		Salt:       mac(sha256.New, a.fakeKey, string(m)+"\x00"+user)[:saltSize],
		StoredKey:  make([]byte, size),
		ServerKey:  make([]byte, size),
		Iterations: DefaultIterations,
	}
	rand.Read(c.StoredKey)
	rand.Read(c.ServerKey)
	return c, false
}

// Session is one exchange. It is done after a Step that returns done or an
// error, and cannot be used again.
type Session interface {
	// Step takes the client's next token and returns the server's. Errors wrap
	// [ErrFailed].
	Step(token []byte) (reply []byte, done bool, err error)
	// User is the authenticated name, empty before Step has said done.
	User() string
}

// Start begins an exchange. It returns false for a mechanism that this package
// does not know; which of them a listener offers is the caller's choice.
func (a *Authenticator) Start(m Mechanism) (Session, bool) {
	if m == Plain {
		return &plainSession{auth: a}, true
	}
	server, ok := a.scram[m]
	if !ok {
		return nil, false
	}
	return &scramSession{auth: a, mechanism: m, conv: server.NewConversation()}, true
}

type scramSession struct {
	auth      *Authenticator
	mechanism Mechanism
	conv      *scram.ServerConversation
	user      string
	failed    bool
}

func (s *scramSession) Step(token []byte) ([]byte, bool, error) {
	if s.failed || s.conv.Done() {
		return nil, false, fmt.Errorf("%w: exchange is over", ErrFailed)
	}
	reply, err := s.conv.Step(string(token))
	if err == nil {
		// A user name is refused only at the end, like a wrong proof.
		if id := s.conv.AuthzID(); id != "" && id != s.conv.Username() {
			err = errors.New("authorisation id is another user's")
		}
	}
	if err != nil {
		s.failed = true
		return nil, false, fmt.Errorf("%w: user %q: %w", ErrFailed, s.conv.Username(), err)
	}
	if !s.conv.Done() {
		return []byte(reply), false, nil
	}
	if _, known := s.auth.lookup(s.mechanism, s.conv.Username()); !s.conv.Valid() || !known {
		s.failed = true
		return nil, false, fmt.Errorf("%w: user %q", ErrFailed, s.conv.Username())
	}
	s.user = s.conv.Username()
	return []byte(reply), true, nil
}

func (s *scramSession) User() string { return s.user }

type plainSession struct {
	auth *Authenticator
	user string
	over bool
}

func (s *plainSession) Step(token []byte) ([]byte, bool, error) {
	if s.over {
		return nil, false, fmt.Errorf("%w: exchange is over", ErrFailed)
	}
	s.over = true
	parts := bytes.Split(token, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 || len(parts[2]) == 0 || !utf8.Valid(token) {
		return nil, false, fmt.Errorf("%w: malformed PLAIN token", ErrFailed)
	}
	authzID, user, password := string(parts[0]), string(parts[1]), string(parts[2])
	// Either mechanism's credential proves the password. An unknown user is
	// derived for like a known one.
	mechanism := ScramSHA512
	c, known := s.auth.lookup(mechanism, user)
	if !known {
		if other, ok := s.auth.lookup(ScramSHA256, user); ok {
			mechanism, c, known = ScramSHA256, other, true
		}
	}
	right := c.verifies(mechanism, password)
	if !right || !known {
		return nil, false, fmt.Errorf("%w: user %q", ErrFailed, user)
	}
	if authzID != "" && authzID != user {
		return nil, false, fmt.Errorf("%w: user %q: authorisation id is another user's", ErrFailed, user)
	}
	s.user = user
	return nil, true, nil
}

func (s *plainSession) User() string { return s.user }
