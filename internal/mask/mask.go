package mask

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrNotJSON says that a field of a text was to be masked that is not JSON.
var ErrNotJSON = errors.New("is not JSON")

// maxPath bounds a path in names.
const maxPath = 32

// Path is where fields are, from the outermost inwards; empty is the whole text.
type Path []string

// ParsePath reads names with dots between them; a backslash before a dot, a
// backslash or a star makes it part of the name.
func ParsePath(text string) (Path, error) {
	var path Path
	var name strings.Builder
	literal := false // the name holds what was behind a backslash
	end := func() error {
		switch {
		case name.Len() == 0:
			return fmt.Errorf("%q has an empty name", text)
		case name.String() == "*" && literal:
			path = append(path, `\*`)
		default:
			path = append(path, name.String())
		}
		name.Reset()
		literal = false
		return nil
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && strings.IndexByte(`.\*`, text[i+1]) >= 0:
			i++
			literal = true
			name.WriteByte(text[i])
		case c == '\\':
			return nil, fmt.Errorf("%q has a backslash that stands before none of . \\ *", text)
		case c == '.':
			if err := end(); err != nil {
				return nil, err
			}
		default:
			name.WriteByte(c)
		}
	}
	if err := end(); err != nil {
		return nil, err
	}
	if len(path) > maxPath {
		return nil, fmt.Errorf("%q has %d names, %d are allowed", text, len(path), maxPath)
	}
	return path, nil
}

func (p Path) matches(name []byte) bool {
	switch p[0] {
	case "*":
		return true
	case `\*`:
		return string(name) == "*"
	}
	return string(name) == p[0]
}

// Rule is a path and what becomes of what is there: a constant if Replace is not
// nil, a hash if Key is not nil, else it is removed.
type Rule struct {
	Path    Path
	Replace *string
	Key     []byte
}

// Apply returns text masked by the rule: the same memory if there was nothing to
// mask, else other memory. A null text stays null. With an empty path the text need
// not be JSON, and becomes null if it is removed.
func (r *Rule) Apply(text []byte) ([]byte, error) {
	if text == nil {
		return nil, nil
	}
	if len(r.Path) == 0 {
		switch {
		case r.Replace != nil:
			return []byte(*r.Replace), nil
		case r.Key != nil:
			return []byte(r.hash(text)), nil
		}
		return nil, nil
	}
	if !json.Valid(text) {
		return nil, ErrNotJSON
	}
	w := walker{text: text, rule: r}
	w.value(r.Path)
	if len(w.out) == 0 && w.copied == 0 {
		return text, nil
	}
	return append(w.out, text[w.copied:]...), nil
}

// hash is an HMAC (RFC 2104) with SHA-256, in hexadecimal digits.
func (r *Rule) hash(b []byte) string {
	h := hmac.New(sha256.New, r.Key)
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil))
}

// masked is what stands for a JSON value. Equal texts have equal hashes, however
// they are escaped; of another value the bytes are hashed as they are written.
func (r *Rule) masked(value []byte) []byte {
	replacement := ""
	switch {
	case r.Replace != nil:
		replacement = *r.Replace
	case value[0] == '"':
		replacement = r.hash(unquote(value))
	default:
		replacement = r.hash(value)
	}
	b, err := json.Marshal(replacement)
	if err != nil { // texts always marshal
		panic("mask: " + err.Error())
	}
	return b
}

func (r *Rule) removes() bool { return r.Replace == nil && r.Key == nil }

// walker goes through a text that is valid JSON, and copies to out what the rule
// leaves: out is what becomes of text[:copied].
type walker struct {
	text   []byte
	rule   *Rule
	at     int
	out    []byte
	copied int
}

// put writes replacement in the place of text[from:to], which is behind all that
// has been replaced before.
func (w *walker) put(from, to int, replacement []byte) {
	w.out = append(append(w.out, w.text[w.copied:from]...), replacement...)
	w.copied = to
}

func (w *walker) space() {
	for w.at < len(w.text) && strings.IndexByte(" \t\r\n", w.text[w.at]) >= 0 {
		w.at++
	}
}

// value goes over one value, in which path leads to what is masked; nil: nowhere.
func (w *walker) value(path Path) {
	w.space()
	switch w.text[w.at] {
	case '{':
		w.object(path)
	case '[':
		w.list(path)
	case '"':
		w.quoted()
	default: // a number, true, false, null
		for w.at < len(w.text) && strings.IndexByte(",]} \t\r\n", w.text[w.at]) < 0 {
			w.at++
		}
	}
}

// quoted goes over a string.
func (w *walker) quoted() []byte {
	start := w.at
	for w.at++; w.text[w.at] != '"'; w.at++ {
		if w.text[w.at] == '\\' {
			w.at++
		}
	}
	w.at++
	return w.text[start:w.at]
}

func (w *walker) list(path Path) {
	w.at++
	for w.space(); w.text[w.at] != ']'; w.space() {
		if w.text[w.at] == ',' {
			w.at++
		}
		w.value(path)
	}
	w.at++
}

func (w *walker) object(path Path) {
	w.at++
	kept := false // a member before this one stays
	gap := w.at   // where the comma before this member, or the brace, ends the one before
	for w.space(); w.text[w.at] != '}'; w.space() {
		if w.text[w.at] == ',' {
			w.at++
			w.space()
		}
		start := w.at
		quotedName := w.quoted()
		w.space()
		w.at++ // the colon
		w.space()
		from := w.at
		found := len(path) > 0 && path.matches(unquote(quotedName))
		switch {
		case found && len(path) == 1:
			w.value(nil)
			if !w.rule.removes() {
				w.put(from, w.at, w.rule.masked(w.text[from:w.at]))
				kept = true
			} else {
				w.put(gap, w.at, nil)
			}
		default:
			if !kept && gap != start && w.copied == gap {
				w.put(gap, start, nil) // the comma behind members that are gone
			}
			kept = true
			if found {
				w.value(path[1:])
			} else {
				w.value(nil)
			}
		}
		gap = w.at
	}
	w.at++
}

// unquote is what a JSON string says.
func unquote(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil { // it is part of a valid text
		panic("mask: " + err.Error())
	}
	return []byte(s)
}
