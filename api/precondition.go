package api

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Precondition is what a caller wants to be there before he changes it, as If-Match
// and If-None-Match say (RFC 9110, 13.1). Nil is none.
type Precondition struct {
	// Present: at whichever revision; Revisions are empty then.
	Present bool
	// Revisions, one of which it must have; 0: it must not be there.
	Revisions []uint64
}

// At is the precondition of one revision.
func At(revision uint64) *Precondition { return &Precondition{Revisions: []uint64{revision}} }

// Holds reports whether something at a revision, 0 if it is not there, is as was wanted.
func (p *Precondition) Holds(revision uint64) bool {
	switch {
	case p == nil:
		return true
	case p.Present:
		return revision != 0
	}
	return slices.Contains(p.Revisions, revision)
}

// Wanted is the revisions in words, such as "6 or 7".
func (p *Precondition) Wanted() string {
	var b strings.Builder
	for i, r := range p.Revisions {
		if i > 0 {
			b.WriteString(" or ")
		}
		fmt.Fprint(&b, r)
	}
	return b.String()
}

// maxTags bounds the entity tags of one If-Match.
const maxTags = 100

// ifMatch reads an If-Match: "*", or entity tags of which a strong one has to match. A
// number without quotes is a revision too, as people type it.
func ifMatch(header string) (*Precondition, error) {
	switch header {
	case "":
		return nil, nil
	case "*":
		return &Precondition{Present: true}, nil
	}
	var p Precondition
	for n, rest := 0, header; rest != ""; n++ {
		tag, after, err := entityTag(rest)
		if err != nil || n == maxTags {
			return nil, Errorf(http.StatusPreconditionFailed, "If-Match %s is not a list of entity tags", header).
				WithHint(`write what you have read as ETag: If-Match: "7"`)
		}
		rest = after
		// Weak ones never match, nor what is no revision.
		if revision, err := strconv.ParseUint(tag, 10, 64); err == nil {
			p.Revisions = append(p.Revisions, revision)
		}
	}
	if len(p.Revisions) == 0 {
		return nil, Errorf(http.StatusPreconditionFailed, "If-Match %s names no revision: it can never hold", header).
			WithHint(`write a number, such as the ETag of what you have read: If-Match: "7"`)
	}
	return &p, nil
}

// entityTag takes the first member off a list. What is in its quotes is returned, with
// the W/ before it where it is weak; empty for an empty member.
func entityTag(list string) (tag, rest string, err error) {
	list = strings.TrimLeft(list, " \t")
	weak := strings.HasPrefix(list, "W/")
	opaque, quoted := strings.CutPrefix(strings.TrimPrefix(list, "W/"), `"`)
	closed := true
	switch {
	case quoted: // it may hold commas
		tag, rest, closed = strings.Cut(opaque, `"`)
	case weak:
		closed = false
	default:
		end := strings.IndexByte(list, ',')
		if end < 0 {
			end = len(list)
		}
		tag, rest = strings.TrimRight(list[:end], " \t"), list[end:]
	}
	rest = strings.TrimLeft(rest, " \t")
	after, more := strings.CutPrefix(rest, ",")
	if !closed || rest != "" && !more || !quoted && strings.Trim(tag, "0123456789") != "" {
		return "", "", fmt.Errorf("%q is not an entity tag", list)
	}
	if weak {
		tag = "W/" + tag
	}
	return tag, after, nil
}
