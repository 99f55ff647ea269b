package flow

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Problem is one fault of a declaration and how to mend it. It never holds the
// value of a secret.
type Problem struct {
	File    string `json:"file,omitempty"`   // "" if the object did not come from a file
	Line    int    `json:"line,omitempty"`   // from 1; 0 if not known
	Column  int    `json:"column,omitempty"` // from 1, in characters; 0 if not known
	Object  string `json:"object,omitempty"` // "ReplicationFlow/orders", as far as it is known
	Path    string `json:"path,omitempty"`   // "spec.topics.include[0]"
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
}

// String is "file:line:column: path: message; fix". A problem without a place
// begins with the object's key instead.
func (p Problem) String() string {
	var parts []string
	switch {
	case p.Line > 0:
		parts = append(parts, fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column))
	case p.File != "":
		parts = append(parts, p.File)
	case p.Object != "":
		parts = append(parts, p.Object)
	}
	if p.Path != "" {
		parts = append(parts, p.Path)
	}
	text := p.Message
	if p.Fix != "" {
		text += "; " + p.Fix
	}
	return strings.Join(append(parts, text), ": ")
}

// mistake is the error of a value by itself, before anybody knows where it stands.
type mistake struct{ message, fix string }

func (m mistake) Error() string {
	if m.fix == "" {
		return m.message
	}
	return m.message + "; " + m.fix
}

func asMistake(err error) mistake {
	var m mistake
	if errors.As(err, &m) {
		return m
	}
	return mistake{message: err.Error()}
}

// Problems is an error that lists every fault, one a line. As a list it is
// ordered by file, line and column.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// err is the list as an error, in order; nil if there is none.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	ps.sort()
	return ps
}

func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// parent is the path around another: "a.b[0]" in "a.b[0].c", "a.b" in "a.b[0]".
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
