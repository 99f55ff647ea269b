package auth

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
)

// Mechanism is a SASL mechanism by its registered name.
type Mechanism string

// The mechanisms.
const (
	ScramSHA256 Mechanism = "SCRAM-SHA-256"
	ScramSHA512 Mechanism = "SCRAM-SHA-512"
	Plain       Mechanism = "PLAIN"
	OAuthBearer Mechanism = "OAUTHBEARER"
)

// Bounds on iterations are Kafka's: fewer are too cheap to attack, and a great
// number is work that a client makes the server's other clients do.
const (
	MinIterations     = 4096
	MaxIterations     = 16384
	DefaultIterations = 4096
)

// saltSize is what Kafka's own tools generate.
const saltSize = 26

// Credential is what the store keeps of a password, for one SCRAM mechanism.
type Credential struct {
	Salt       []byte `json:"salt"`
	StoredKey  []byte `json:"storedKey"`
	ServerKey  []byte `json:"serverKey"`
	Iterations int    `json:"iterations"`
}

// NewCredential derives a credential with a random salt. An error means that
// the mechanism is not SCRAM or the iterations are out of bounds.
func NewCredential(m Mechanism, password string, iterations int) (Credential, error) {
	salt := make([]byte, saltSize)
	rand.Read(salt)
	size := hashOf(m)
	if size == nil {
		return Credential{}, fmt.Errorf("mechanism %q has no credentials", m)
	}
	salted, err := pbkdf2.Key(size, password, salt, iterations, size().Size())
	if err != nil {
		return Credential{}, fmt.Errorf("derive salted password: %w", err)
	}
	return FromSaltedPassword(m, salt, salted, iterations)
}

// FromSaltedPassword derives a credential from what AlterUserScramCredentials
// carries (KIP-554): the client has salted the password already.
func FromSaltedPassword(m Mechanism, salt, salted []byte, iterations int) (Credential, error) {
	h := hashOf(m)
	switch {
	case h == nil:
		return Credential{}, fmt.Errorf("mechanism %q has no credentials", m)
	case iterations < MinIterations || iterations > MaxIterations:
		return Credential{}, fmt.Errorf("%d iterations are not between %d and %d", iterations, MinIterations, MaxIterations)
	case len(salt) == 0:
		return Credential{}, fmt.Errorf("salt is empty")
	case len(salted) != h().Size():
		return Credential{}, fmt.Errorf("salted password of %d bytes, %s has %d", len(salted), m, h().Size())
	}
	clientKey := mac(h, salted, "Client Key")
	stored := h()
	stored.Write(clientKey)
	return Credential{
		Salt:       salt,
		StoredKey:  stored.Sum(nil),
		ServerKey:  mac(h, salted, "Server Key"),
		Iterations: iterations,
	}, nil
}

// Verifies reports whether password is the one that c was derived from.
func (c Credential) Verifies(m Mechanism, password string) bool {
	h := hashOf(m)
	salted, err := pbkdf2.Key(h, password, c.Salt, c.Iterations, h().Size())
	if err != nil {
		return false
	}
	stored := h()
	stored.Write(mac(h, salted, "Client Key"))
	return hmac.Equal(stored.Sum(nil), c.StoredKey)
}

func hashOf(m Mechanism) func() hash.Hash {
	switch m {
	case ScramSHA256:
		return sha256.New
	case ScramSHA512:
		return sha512.New
	}
	return nil
}

func mac(h func() hash.Hash, key []byte, message string) []byte {
	w := hmac.New(h, key)
	w.Write([]byte(message))
	return w.Sum(nil)
}
