package flow

import "regexp"

// Secret is a reference to a secret: ${env:NAME} or ${file:PATH}. A literal is
// refused when it is parsed, so an object never holds a secret and may be
// printed, stored and compared.
type Secret string

// ErrLiteralSecret says that a secret was written out where a reference belongs.
// Its text never holds the value.
var ErrLiteralSecret error = mistake{"is not a reference to a secret", "write ${env:NAME} or ${file:PATH}, never the secret itself"}

var secretReference = regexp.MustCompile(`^\$\{(env:[A-Za-z_][A-Za-z0-9_]*|file:[^\x00-\x1f{}]+)\}$`)

// ParseSecret accepts a reference and refuses everything else with
// [ErrLiteralSecret].
func ParseSecret(s string) (Secret, error) {
	if !secretReference.MatchString(s) {
		return "", ErrLiteralSecret
	}
	return Secret(s), nil
}

// UnmarshalText is [ParseSecret].
func (s *Secret) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSecret(string(b))
	return err
}
