package flow

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes that reads and prints as "50MiB" or "20MB".
type Size int64

// units from the largest down; those of a thousand behind those of 1024, so that
// what is a whole number of both prints as the first.
var units = []struct {
	name  string
	bytes int64
}{
	{"GiB", 1 << 30}, {"GB", 1e9}, {"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"KB", 1e3}, {"B", 1},
}

// ParseSize reads a size with a unit: "512KiB", "50MiB", "1GB".
func ParseSize(s string) (Size, error) {
	wrong := mistake{fmt.Sprintf("%q is not a size", s), "write a whole number and a unit, like 50MiB, 20MB or 1GiB"}
	digits := strings.TrimRight(s, "KMGiB")
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || digits != strconv.FormatUint(n, 10) {
		return 0, wrong
	}
	for _, u := range units {
		if s[len(digits):] != u.name {
			continue
		}
		if int64(n) > math.MaxInt64/u.bytes {
			return 0, mistake{fmt.Sprintf("%q is more than there is", s), wrong.fix}
		}
		return Size(int64(n) * u.bytes), nil
	}
	return 0, wrong
}

// String has the largest unit of which it is a whole number.
func (s Size) String() string {
	for _, u := range units {
		if int64(s)%u.bytes == 0 && s != 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return "0B"
}

// MarshalText is String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is [ParseSize].
func (s *Size) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSize(string(b))
	return err
}
