package auth

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"time"
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
	// Iterations are those that users of a mechanism have, each once and in the
	// same order every time.
	Iterations(m Mechanism) []int
}

// Authenticator starts sessions. It is safe for concurrent use.
type Authenticator struct {
	users Users
	// fakeKey makes salts for users that do not exist.
	fakeKey  []byte
	attempts *attempts
	// deriving has a slot for each password that is being derived from, which is
	// milliseconds of a processor: others are left to those who are in.
	deriving chan struct{}
	tokens   *Tokens // nil: OAUTHBEARER is unknown
}

// New returns an Authenticator. The secret must stay the same over restarts, or
// a changing salt would tell an unknown user from a known one. Without tokens
// there is no OAUTHBEARER.
func New(users Users, secret []byte, tokens *Tokens) *Authenticator {
	return &Authenticator{
		users: users, fakeKey: bytes.Clone(secret), attempts: newAttempts(), tokens: tokens,
		deriving: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
}

// Told is what a client may know of an error of [Session.Step].
func Told(err error) string {
	var status *tokenStatus
	if errors.As(err, &status) {
		return string(status.json)
	}
	return "authentication failed"
}

// lookup returns a user's credential, or one that nothing matches.
func (a *Authenticator) lookup(m Mechanism, user string) (Credential, bool) {
	if len(user) <= maxName {
		if c, ok := a.users.Credential(m, user); ok {
			return c, true
		}
	}
	size := hashOf(m)().Size()
	hashed := mac(sha256.New, a.fakeKey, string(m)+"\x00"+user)
	c := Credential{
		Salt:       hashed[:saltSize],
		StoredKey:  make([]byte, size),
		ServerKey:  make([]byte, size),
		Iterations: DefaultIterations,
	}
	rand.Read(c.StoredKey)
	rand.Read(c.ServerKey)
	if known := a.users.Iterations(m); len(known) > 0 {
		c.Iterations = known[int(hashed[saltSize])%len(known)]
	}
	return c, false
}

// Session is one exchange. It is done after a Step that returns done or an
// error, and cannot be used again. What it proved can be asked of it for as long
// as the connection lives.
type Session interface {
	// Step takes the client's next token and returns the server's. Errors wrap
	// [ErrFailed].
	Step(token []byte) (reply []byte, done bool, err error)
	// User is the authenticated name, empty before Step has said done.
	User() string
	// Expires is when the proof itself ends, as a token does; zero is never.
	Expires() time.Time
	// Standing says what has become of the credential since it was proven.
	Standing() Standing
}

// Standing is what has become of a proven credential.
type Standing int

// The standings.
const (
	Unchanged Standing = iota
	Changed            // another password, or the same one salted anew
	Deleted
)

// proven is what a session of a stored credential proved.
type proven struct {
	auth      *Authenticator
	host      string
	mechanism Mechanism // whose credential it was
	user      string
	storedKey []byte
}

// User implements [Session].
func (p *proven) User() string { return p.user }

// Expires implements [Session]: passwords do not.
func (p *proven) Expires() time.Time { return time.Time{} }

// Standing implements [Session].
func (p *proven) Standing() Standing {
	switch c, ok := p.auth.users.Credential(p.mechanism, p.user); {
	case !ok:
		return Deleted
	case !hmac.Equal(c.StoredKey, p.storedKey):
		return Changed
	}
	return Unchanged
}

// Start begins an exchange with a client at host, an address. It returns false
// for a mechanism that this package does not know; which of them a listener offers
// is the caller's choice.
func (a *Authenticator) Start(m Mechanism, host string) (Session, bool) {
	switch {
	case m == Plain:
		return &plainSession{proven: proven{auth: a, host: host}}, true
	case m == OAuthBearer && a.tokens != nil:
		return &tokenSession{auth: a, host: host}, true
	case hashOf(m) != nil:
		return &scramSession{proven: proven{auth: a, host: host, mechanism: m}}, true
	}
	return nil, false
}

// errTooMany is why an attempt is refused unseen.
var errTooMany = errors.New("too many failed attempts")

type plainSession struct {
	proven
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
	// Either mechanism's credential proves the password. All are derived for
	// alike: an unknown user, and one who has only one of the two.
	var mechanism Mechanism
	var storedKey []byte
	s.auth.deriving <- struct{}{}
	if !s.auth.attempts.allow(s.host, user) { // asked late, so that guesses at once count too
		<-s.auth.deriving
		return nil, false, fmt.Errorf("%w: user %q: %w", ErrFailed, user, errTooMany)
	}
	for _, m := range []Mechanism{ScramSHA256, ScramSHA512} {
		c, known := s.auth.lookup(m, user)
		if right := c.Verifies(m, password); right && known {
			mechanism, storedKey = m, c.StoredKey
		}
	}
	<-s.auth.deriving
	if mechanism == "" {
		s.auth.attempts.failed(s.host, user)
		return nil, false, fmt.Errorf("%w: user %q", ErrFailed, user)
	}
	if authzID != "" && authzID != user {
		return nil, false, fmt.Errorf("%w: user %q: authorisation id is another user's", ErrFailed, user)
	}
	s.mechanism, s.user, s.storedKey = mechanism, user, storedKey
	return nil, true, nil
}
