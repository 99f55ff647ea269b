package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// TokenConfig says which tokens prove who a client is (KIP-255, KIP-768). Names
// in brackets are Kafka's.
type TokenConfig struct {
	// JWKSFile or JWKSURL, exactly one, has the keys that tokens are signed with.
	// The URL is https, its host one of AllowedHosts (sasl.oauthbearer.jwks.endpoint.url,
	// org.apache.kafka.sasl.oauthbearer.allowed.urls).
	JWKSFile     string
	JWKSURL      string
	AllowedHosts []string
	// JWKSCAFile are the authorities that the URL's certificate must chain to;
	// empty is the system's.
	JWKSCAFile string
	// JWKSRefresh is how often the URL is asked (sasl.oauthbearer.jwks.endpoint.refresh.ms).
	JWKSRefresh time.Duration

	Issuer    string   // sasl.oauthbearer.expected.issuer; empty takes any
	Audiences []string // sasl.oauthbearer.expected.audience: one of them; empty takes any
	// SubjectClaim names the user (sasl.oauthbearer.sub.claim.name), ScopeClaim
	// what the token is for (sasl.oauthbearer.scope.claim.name). A token must
	// have all of RequiredScopes.
	SubjectClaim   string
	ScopeClaim     string
	RequiredScopes []string
	ClockSkew      time.Duration // sasl.oauthbearer.clock.skew.seconds
	Algorithms     []string      // of signatures; none and HMAC cannot be named

	// Unsecured takes tokens that nobody signed, from whoever can connect. It is
	// for development, on loopback, and takes the place of the keys.
	Unsecured bool
}

// signatureAlgorithms are those with a public key. With one that is not, a client
// could sign with what everybody may read.
var signatureAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// DefaultTokenConfig has Kafka's defaults; keys are missing.
func DefaultTokenConfig() TokenConfig {
	return TokenConfig{
		JWKSRefresh:  time.Hour,
		SubjectClaim: "sub",
		ScopeClaim:   "scope",
		ClockSkew:    30 * time.Second,
		Algorithms:   slices.Clone(signatureAlgorithms),
	}
}

// Validate says everything that is wrong with the configuration. One without keys
// is wrong: it would leave signatures unchecked (CVE-2026-110985).
func (c *TokenConfig) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case c.Unsecured && (c.JWKSFile != "" || c.JWKSURL != ""):
		bad("unsecured tokens need no keys: remove one of the two")
	case !c.Unsecured && (c.JWKSFile == "") == (c.JWKSURL == ""):
		bad("signatures are checked with the keys of a file or of a URL: set one of the two")
	}
	if c.JWKSURL != "" {
		if err := c.checkURL(c.JWKSURL); err != nil {
			bad("jwks url: %w", err)
		}
		if c.JWKSRefresh < keysAgain {
			bad("jwks refresh of %v is shorter than %v", c.JWKSRefresh, keysAgain)
		}
	}
	if c.SubjectClaim == "" || c.ScopeClaim == "" {
		bad("names of claims are empty")
	}
	if c.ClockSkew < 0 || c.ClockSkew > maxClockSkew {
		bad("clock skew of %v is not between 0 and %v", c.ClockSkew, maxClockSkew)
	}
	if len(c.Algorithms) == 0 {
		bad("no signature algorithm")
	}
	for _, alg := range c.Algorithms {
		if !slices.Contains(signatureAlgorithms, alg) {
			bad("signature algorithm %q: use some of %s", alg, strings.Join(signatureAlgorithms, ", "))
		}
	}
	return errors.Join(errs...)
}

// maxClockSkew keeps a typing error from making tokens everlasting.
const maxClockSkew = 10 * time.Minute

// Tokens checks tokens. It is safe for concurrent use. Whoever makes one runs
// [Tokens.Run] beside it, or its keys never change.
type Tokens struct {
	cfg        TokenConfig
	algorithms []jose.SignatureAlgorithm
	keys       *keySet // nil for unsecured tokens
}

// NewTokens reads the keys. A file must have some; a URL that does not answer
// leaves a Tokens that takes no token until it does, and why is returned beside
// it as a warning.
func NewTokens(ctx context.Context, cfg TokenConfig) (t *Tokens, warning, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, nil, err
	}
	t = &Tokens{cfg: cfg}
	for _, alg := range cfg.Algorithms {
		t.algorithms = append(t.algorithms, jose.SignatureAlgorithm(alg))
	}
	if cfg.Unsecured {
		return t, nil, nil
	}
	if t.keys, err = newKeySet(&t.cfg); err != nil {
		return nil, nil, err
	}
	if err := t.keys.refresh(ctx); err != nil {
		if cfg.JWKSFile != "" {
			return nil, nil, err
		}
		return t, err, nil
	}
	return t, nil, nil
}

// token is what a good token proves.
type token struct {
	user    string
	expires time.Time
}

// verify checks signature and claims.
func (t *Tokens) verify(raw string, now time.Time) (token, error) {
	var claims tokenClaims
	var err error
	if t.cfg.Unsecured {
		err = claims.readUnsecured(raw)
	} else {
		err = t.readSigned(raw, &claims)
	}
	if err != nil {
		return token{}, err
	}
	return t.judge(&claims, now)
}

func (t *Tokens) readSigned(raw string, claims *tokenClaims) error {
	parsed, err := jwt.ParseSigned(raw, t.algorithms)
	if err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	if len(parsed.Headers) != 1 {
		return fmt.Errorf("%d signatures", len(parsed.Headers))
	}
	key, err := t.keys.find(parsed.Headers[0].KeyID, parsed.Headers[0].Algorithm)
	if err != nil {
		return err
	}
	if err := parsed.Claims(key, &claims.standard, &claims.all); err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	return nil
}

// tokenClaims is a token's body: the registered claims and all of them.
type tokenClaims struct {
	standard jwt.Claims
	all      map[string]any
}

// readUnsecured reads a token of "alg":"none" (RFC 7519 section 6).
func (c *tokenClaims) readUnsecured(raw string) error {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || parts[2] != "" {
		return errors.New("not an unsecured token")
	}
	var header struct {
		Alg string `json:"alg"`
	}
	for i, into := range [][]any{{&header}, {&c.standard, &c.all}} {
		body, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
		if err != nil {
			return fmt.Errorf("part %d: %w", i+1, err)
		}
		for _, v := range into {
			if err := json.Unmarshal(body, v); err != nil {
				return fmt.Errorf("part %d: %w", i+1, err)
			}
		}
	}
	if header.Alg != "none" {
		return fmt.Errorf("algorithm %q", header.Alg)
	}
	return nil
}

// judge checks what a token says. Like Kafka it wants to know when the token was
// issued and when it ends.
func (t *Tokens) judge(claims *tokenClaims, now time.Time) (token, error) {
	c := &claims.standard
	switch {
	case c.Expiry == nil || c.IssuedAt == nil:
		return token{}, errors.New("claims exp and iat are needed")
	case !c.Expiry.Time().After(c.IssuedAt.Time()):
		return token{}, errors.New("ends before it was issued")
	}
	want := jwt.Expected{Issuer: t.cfg.Issuer, Time: now}
	if len(t.cfg.Audiences) > 0 {
		want.AnyAudience = t.cfg.Audiences
	}
	if err := c.ValidateWithLeeway(want, t.cfg.ClockSkew); err != nil {
		return token{}, err
	}
	user, ok := claims.all[t.cfg.SubjectClaim].(string)
	if !ok || strings.TrimSpace(user) == "" || len(user) > maxName || !utf8.ValidString(user) || strings.ContainsFunc(user, isControl) {
		return token{}, fmt.Errorf("claim %s names no user", t.cfg.SubjectClaim)
	}
	scopes, err := scopesOf(claims.all[t.cfg.ScopeClaim])
	if err != nil {
		return token{}, fmt.Errorf("claim %s: %w", t.cfg.ScopeClaim, err)
	}
	for _, scope := range t.cfg.RequiredScopes {
		if !slices.Contains(scopes, scope) {
			return token{}, fmt.Errorf("scope %q is missing", scope)
		}
	}
	return token{user, c.Expiry.Time()}, nil
}

// scopesOf reads a scope claim: words in a string (RFC 8693), or a list of them.
func scopesOf(claim any) ([]string, error) {
	switch v := claim.(type) {
	case nil:
		return nil, nil
	case string:
		return strings.Fields(v), nil
	case []any:
		var scopes []string
		for _, s := range v {
			word, ok := s.(string)
			if !ok {
				return nil, errors.New("not a list of strings")
			}
			scopes = append(scopes, word)
		}
		return scopes, nil
	}
	return nil, errors.New("neither a string nor a list")
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// tokenStatus is the error of RFC 7628 section 3.2.2. The client is told it twice:
// as the answer to its token, which it must acknowledge, and in the error then.
type tokenStatus struct{ json []byte }

func (*tokenStatus) Error() string { return "token refused" }

// tokenSession is the server's side of OAUTHBEARER (RFC 7628): the token, and
// after one that was refused the client's acknowledgement, then over.
type tokenSession struct {
	auth    *Authenticator
	host    string
	over    bool
	refused error
	token   token
}

// User implements [Session].
func (s *tokenSession) User() string { return s.token.user }

// Expires implements [Session].
func (s *tokenSession) Expires() time.Time { return s.token.expires }

// Standing implements [Session]: a token stands until it expires.
func (s *tokenSession) Standing() Standing { return Unchanged }

// Step implements [Session].
func (s *tokenSession) Step(message []byte) ([]byte, bool, error) {
	switch {
	case s.over:
		return nil, false, fmt.Errorf("%w: exchange is over", ErrFailed)
	case s.refused != nil:
		// What the client says now changes nothing; it should be one byte.
		s.over = true
		return nil, false, fmt.Errorf("%w: %w", ErrFailed, s.refused)
	case !s.auth.attempts.allow(s.host, ""):
		s.over = true
		return nil, false, fmt.Errorf("%w: %w", ErrFailed, errTooMany)
	}
	m, err := parseTokenMessage(string(message))
	if err != nil {
		s.over = true
		return nil, false, fmt.Errorf("%w: %w", ErrFailed, err)
	}
	proof, err := s.auth.tokens.verify(m.token, time.Now())
	if err != nil {
		s.auth.attempts.failed(s.host, "")
		status := &tokenStatus{s.auth.tokens.status()}
		s.refused = fmt.Errorf("%w: %w", status, err)
		return status.json, false, nil
	}
	s.over = true
	if m.authzID != "" && m.authzID != proof.user {
		return nil, false, fmt.Errorf("%w: user %q: authorisation id is another user's", ErrFailed, proof.user)
	}
	s.token = proof
	return nil, true, nil
}

// status says which scopes a token needs, besides that it was not good.
func (t *Tokens) status() []byte {
	status := struct {
		Status string `json:"status"`
		Scope  string `json:"scope,omitempty"`
	}{"invalid_token", strings.Join(t.cfg.RequiredScopes, " ")}
	b, err := json.Marshal(status)
	if err != nil {
		panic(err) // two strings
	}
	return b
}

// tokenMessage is the client's only message of meaning:
// gs2-header, then ^A-separated pairs of which one is the token.
type tokenMessage struct{ authzID, token string }

var (
	bearer       = regexp.MustCompile(`^(?i:bearer) +([A-Za-z0-9._~+/=-]+)$`)
	extensionKey = regexp.MustCompile(`^[A-Za-z]+$`)
)

func parseTokenMessage(s string) (tokenMessage, error) {
	const separator = "\x01"
	gs2, pairs, ok := strings.Cut(s, separator)
	fields := strings.Split(gs2, ",")
	if !ok || !utf8.ValidString(s) || len(fields) != 3 || fields[0] != "n" || fields[2] != "" || !strings.HasSuffix(pairs, separator+separator) {
		return tokenMessage{}, errors.New("malformed oauthbearer message")
	}
	var m tokenMessage
	if fields[1] != "" {
		if m.authzID, ok = saslname(fields[1], "a="); !ok {
			return tokenMessage{}, errors.New("malformed oauthbearer message: authorisation id")
		}
	}
	for pair := range strings.SplitSeq(strings.TrimSuffix(pairs, separator+separator), separator) {
		key, value, ok := strings.Cut(pair, "=")
		switch {
		case !ok || !extensionKey.MatchString(key):
			return tokenMessage{}, errors.New("malformed oauthbearer message: extension")
		case key != "auth":
			continue // Kafka's extensions (KIP-342) are for plug-ins
		case m.token != "":
			return tokenMessage{}, errors.New("malformed oauthbearer message: two tokens")
		}
		match := bearer.FindStringSubmatch(value)
		if match == nil {
			return tokenMessage{}, errors.New("malformed oauthbearer message: no bearer token")
		}
		m.token = match[1]
	}
	if m.token == "" {
		return tokenMessage{}, errors.New("malformed oauthbearer message: no token")
	}
	return m, nil
}
