package flow

import (
	"fmt"
	"strings"
	"time"
)

// Duration is a time.Duration that reads and prints as "1m30s".
type Duration time.Duration

// ParseDuration reads a duration that is not negative: "30s", "5m", "1h30m".
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, mistake{fmt.Sprintf("%q is not a duration", s), "write it like 30s, 5m or 1h30m"}
	}
	if d < 0 {
		return 0, mistake{fmt.Sprintf("%q is negative", s), "write it like 30s, 5m or 1h30m"}
	}
	return Duration(d), nil
}

// Std is the same span for package time.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String leaves out what is zero at the end: "1h", not "1h0m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is [ParseDuration].
func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDuration(string(b))
	return err
}
