package api

import (
	"reflect"
	"strings"
	"testing"
)

func TestIfMatch(t *testing.T) {
	at := func(revisions ...uint64) *Precondition { return &Precondition{Revisions: revisions} }
	for header, want := range map[string]*Precondition{
		"":                        nil,
		"*":                       {Present: true},
		`"7"`:                     at(7),
		"7":                       at(7),
		`"6", "7"`:                at(6, 7),
		`"6","7"`:                 at(6, 7),
		"6, 7":                    at(6, 7),
		` ,"6" ,, "7",`:           at(6, 7), // empty members count for nothing
		`W/"6", "7"`:              at(7),
		`"other", "7"`:            at(7), // of whom it may be, it is no revision
		`"a,b", "7"`:              at(7), // one tag with a comma
		`"18446744073709551615"`:  at(1<<64 - 1),
		`"18446744073709551616"`:  nil, // from here they never hold
		`W/"7"`:                   nil,
		`"x"`:                     nil,
		`x`:                       nil,
		`"7`:                      nil,
		`7"`:                      nil,
		`"7" "8"`:                 nil,
		`W/7`:                     nil,
		`*, "7"`:                  nil,
		`-7`:                      nil,
		`"-7"`:                    nil,
		strings.Repeat("7,", 200): nil,
	} {
		got, err := ifMatch(header)
		if fails := want == nil && header != ""; !reflect.DeepEqual(got, want) || (err != nil) != fails {
			t.Errorf("%s: got %+v, %v; want %+v", header, got, err, want)
		}
	}
}

func TestPreconditionsHold(t *testing.T) {
	for _, c := range []struct {
		p        *Precondition
		revision uint64
		want     bool
	}{
		{nil, 0, true},
		{nil, 7, true},
		{At(7), 7, true},
		{At(7), 8, false},
		{At(7), 0, false},
		{At(0), 0, true},
		{At(0), 7, false},
		{&Precondition{Present: true}, 7, true},
		{&Precondition{Present: true}, 0, false},
		{&Precondition{Revisions: []uint64{6, 7}}, 7, true},
		{&Precondition{Revisions: []uint64{6, 7}}, 8, false},
	} {
		if got := c.p.Holds(c.revision); got != c.want {
			t.Errorf("%+v at %d: got %v", c.p, c.revision, got)
		}
	}
	if got := (&Precondition{Revisions: []uint64{6, 7}}).Wanted(); got != "6 or 7" {
		t.Errorf("in words: %s", got)
	}
}
