package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"unicode/utf8"
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
}

// New returns an Authenticator. The secret must stay the same over restarts, or
// a changing salt would tell an unknown user from a known one.
func New(users Users, secret []byte) *Authenticator {
	return &Authenticator{users: users, fakeKey: bytes.Clone(secret)}
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
	switch {
	case m == Plain:
		return &plainSession{auth: a}, true
	case hashOf(m) != nil:
		return &scramSession{auth: a, mechanism: m}, true
	}
	return nil, false
}

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
