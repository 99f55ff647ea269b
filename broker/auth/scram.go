package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// nonceSize is the random part of a server's nonce, in bytes before base64.
const nonceSize = 24

// errMalformed says that a client's message is not what RFC 5802 section 7 allows.
var errMalformed = errors.New("malformed scram message")

// strictBase64 refuses line breaks and stray bits at the end.
var strictBase64 = base64.StdEncoding.Strict()

// scramSession is the server's side of one SCRAM exchange: clientFirst, then
// clientFinal, then over.
type scramSession struct {
	proven
	steps int
	name  string // as claimed

	credential  Credential
	known       bool
	first       clientFirst
	nonce       string // the client's and then ours
	serverFirst string
}

// Step implements [Session].
func (s *scramSession) Step(token []byte) (reply []byte, done bool, err error) {
	s.steps++
	switch s.steps {
	case 1:
		reply, err = s.start(string(token))
	case 2:
		reply, err = s.finish(string(token))
		done = err == nil
	default:
		err = errors.New("exchange is over")
	}
	if err != nil {
		s.steps = 2 // nothing follows an error
		return nil, false, fmt.Errorf("%w: user %q: %w", ErrFailed, s.name, err)
	}
	return reply, done, nil
}

func (s *scramSession) start(token string) ([]byte, error) {
	m, err := parseClientFirst(token)
	if err != nil {
		return nil, fmt.Errorf("client's first message: %w", err)
	}
	s.first, s.name = m, m.user
	if m.authzID != "" && m.authzID != m.user {
		return nil, errors.New("authorisation id is another user's")
	}
	if !s.auth.attempts.allow(s.host, m.user) {
		return nil, errTooMany
	}
	// A user that is not there is refused only at the end, like a wrong proof.
	s.credential, s.known = s.auth.lookup(s.mechanism, m.user)
	random := make([]byte, nonceSize)
	rand.Read(random)
	s.nonce = m.nonce + base64.StdEncoding.EncodeToString(random)
	s.serverFirst = "r=" + s.nonce +
		",s=" + base64.StdEncoding.EncodeToString(s.credential.Salt) +
		",i=" + strconv.Itoa(s.credential.Iterations)
	return []byte(s.serverFirst), nil
}

func (s *scramSession) finish(token string) ([]byte, error) {
	m, err := parseClientFinal(token)
	if err != nil {
		return nil, fmt.Errorf("client's final message: %w", err)
	}
	// Some clients always say "n,,", even after an authorisation id, which can
	// only be the user's own.
	if m.binding != s.first.gs2Header && m.binding != "n,," {
		return nil, errors.New("channel binding is not that of the first message")
	}
	// Equal to ours says the RFC. librdkafka before 2.6.1 puts its own part in
	// front once more. Kafka compared nothing until CVE-2024-56128 and refuses it
	// since; what must not be missing is all of ours.
	if !strings.HasPrefix(m.nonce, s.first.nonce) || !strings.HasSuffix(m.nonce, s.nonce) {
		return nil, errors.New("nonce is not that of this exchange")
	}
	h := hashOf(s.mechanism)
	message := s.first.bare + "," + s.serverFirst + "," + m.withoutProof
	clientKey := mac(h, s.credential.StoredKey, message)
	if len(m.proof) != len(clientKey) {
		return nil, fmt.Errorf("%w: proof of %d bytes", errMalformed, len(m.proof))
	}
	subtle.XORBytes(clientKey, clientKey, m.proof)
	stored := h()
	stored.Write(clientKey)
	if !s.auth.attempts.allow(s.host, s.name) { // of many exchanges that began at once
		return nil, errTooMany
	}
	right := hmac.Equal(stored.Sum(nil), s.credential.StoredKey)
	if !right || !s.known {
		s.auth.attempts.failed(s.host, s.name)
		return nil, errors.New("wrong proof or unknown user")
	}
	s.user, s.storedKey = s.name, s.credential.StoredKey
	signature := mac(h, s.credential.ServerKey, message)
	return []byte("v=" + base64.StdEncoding.EncodeToString(signature)), nil
}

// clientFirst is client-first-message: gs2-header, then
// "n=" saslname ",r=" nonce ["," extensions].
type clientFirst struct {
	gs2Header, bare      string
	authzID, user, nonce string
}

func parseClientFirst(s string) (clientFirst, error) {
	fields := strings.Split(s, ",")
	// A client that could bind to the channel ("y", "p=") is none of Kafka's, and
	// a mandatory extension ("m=") is one that we do not know.
	if !utf8.ValidString(s) || len(fields) < 4 || fields[0] != "n" {
		return clientFirst{}, errMalformed
	}
	m := clientFirst{
		gs2Header: fields[0] + "," + fields[1] + ",",
		bare:      strings.Join(fields[2:], ","),
	}
	ok := true
	if fields[1] != "" {
		m.authzID, ok = saslname(fields[1], "a=")
	}
	if !ok {
		return clientFirst{}, fmt.Errorf("%w: authorisation id", errMalformed)
	}
	if m.user, ok = saslname(fields[2], "n="); !ok {
		return clientFirst{}, fmt.Errorf("%w: user name", errMalformed)
	}
	if m.nonce, ok = printable(fields[3], "r="); !ok {
		return clientFirst{}, fmt.Errorf("%w: nonce", errMalformed)
	}
	if !extensions(fields[4:]) {
		return clientFirst{}, fmt.Errorf("%w: extension", errMalformed)
	}
	return m, nil
}

// clientFinal is client-final-message:
// "c=" base64 ",r=" nonce ["," extensions] ",p=" base64.
type clientFinal struct {
	binding, nonce, withoutProof string
	proof                        []byte
}

func parseClientFinal(s string) (clientFinal, error) {
	fields := strings.Split(s, ",")
	if !utf8.ValidString(s) || len(fields) < 3 {
		return clientFinal{}, errMalformed
	}
	m := clientFinal{withoutProof: s[:strings.LastIndexByte(s, ',')]}
	binding, ok := encoded(fields[0], "c=")
	if !ok {
		return clientFinal{}, fmt.Errorf("%w: channel binding", errMalformed)
	}
	m.binding = string(binding)
	if m.nonce, ok = printable(fields[1], "r="); !ok {
		return clientFinal{}, fmt.Errorf("%w: nonce", errMalformed)
	}
	last := len(fields) - 1
	if m.proof, ok = encoded(fields[last], "p="); !ok {
		return clientFinal{}, fmt.Errorf("%w: proof", errMalformed)
	}
	if !extensions(fields[2:last]) {
		return clientFinal{}, fmt.Errorf("%w: extension", errMalformed)
	}
	return m, nil
}

// saslname undoes the escapes =2C and =3D. Every other "=" is an error, as is an
// empty name or one with a NUL.
func saslname(field, key string) (string, bool) {
	s, ok := strings.CutPrefix(field, key)
	if !ok || s == "" || strings.IndexByte(s, 0) >= 0 {
		return "", false
	}
	var name strings.Builder
	for {
		before, after, escaped := strings.Cut(s, "=")
		name.WriteString(before)
		switch {
		case !escaped:
			return name.String(), true
		case strings.HasPrefix(after, "2C"):
			name.WriteByte(',')
		case strings.HasPrefix(after, "3D"):
			name.WriteByte('=')
		default:
			return "", false
		}
		s = after[2:]
	}
}

// printable takes a nonce: one or more of the visible characters of ASCII.
func printable(field, key string) (string, bool) {
	s, ok := strings.CutPrefix(field, key)
	for i := range len(s) {
		ok = ok && s[i] > ' ' && s[i] < 0x7f
	}
	return s, ok && s != ""
}

func encoded(field, key string) ([]byte, bool) {
	s, ok := strings.CutPrefix(field, key)
	if !ok || strings.ContainsAny(s, "\r\n") { // which decoders skip
		return nil, false
	}
	b, err := strictBase64.DecodeString(s)
	return b, err == nil
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// extensions reports whether each field is letters "=" value. They are optional
// by their place, so they are ignored; Kafka's own have long names (KIP-48).
// "m" stands for what may not be ignored.
func extensions(fields []string) bool {
	for _, f := range fields {
		key, value, _ := strings.Cut(f, "=")
		if key == "" || key == "m" || value == "" || strings.Trim(key, letters) != "" {
			return false
		}
	}
	return true
}
