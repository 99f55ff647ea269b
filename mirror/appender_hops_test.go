package mirror

import (
	"errors"
	"slices"
	"testing"
)

// What is not in the ledger yet bounds what is sent. Under load there is always
// something more when a page has come back: what that page told of must count no
// longer, or an appender stops each time that the sum has come to its bound.
func TestWhatIsInTheLedgerCountsNoLonger(t *testing.T) {
	acked := []placed{{}}
	for _, c := range []struct {
		name             string
		first, second    error
		bytes, unwritten int
		acked, mayGoOn   bool
	}{
		{"both pages are there", nil, nil, 5, 5, true, true},
		{"the first is not", errLedger, nil, 0, 0, false, false},
		{"the second is not", nil, errLedger, 0, 0, false, false},
	} {
		s := &stretch{writing: 2, inPages: 100, unwritten: 5, acked: slices.Clone(acked)}
		a := &appender{writing: 2, bytes: 105}
		a.note(pageWritten{[]*stretch{s}, c.first})
		if a.bytes != 105 {
			t.Errorf("%s: %d bytes while a page is under way, want 105", c.name, a.bytes)
		}
		a.note(pageWritten{[]*stretch{s}, c.second})
		if a.bytes != c.bytes || s.unwritten != c.unwritten || s.inPages != 0 || (len(s.acked) > 0) != c.acked {
			t.Errorf("%s: %d bytes, %d of the copy, %d in pages, %d chunks, want %d, %d, 0, %v", c.name, a.bytes, s.unwritten, s.inPages, len(s.acked), c.bytes, c.unwritten, c.acked)
		}
		if (s.fault == nil) != c.mayGoOn || s.fault != nil && !errors.Is(s.fault, errLedger) {
			t.Errorf("%s: fault %v", c.name, s.fault)
		}
	}
}
