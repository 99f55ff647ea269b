package lineage

import (
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

// TestRulesAndQuarantineOfACopy asks for what the index knows of records that were left
// out, before and after a part of it was taken back.
func TestRulesAndQuarantineOfACopy(t *testing.T) {
	x, f := open(t, Config{})
	k := copyOf('a', 'b').Key()
	if _, ok, err := x.Rules(k, 1); ok || err != nil {
		t.Errorf("rules of a copy that nobody mentioned: %v %v", ok, err)
	}
	if q, err := x.Aside(k, 0); q != nil || err != nil {
		t.Errorf("what a copy put aside that nobody mentioned: %v %v", q, err)
	}
	f.page('b', begin('a', 'b', 1), &ledger.Rules{Copy: k, Epoch: 1, Text: "first"})
	f.page('b', &ledger.Quarantine{Copy: k, Epoch: 1, From: 0, Next: 20, Offset: 7, Records: 20}, hop('a', 'b', 1, 0, 20, 0))
	second := begin('a', 'b', 2)
	second.Resume = 20
	f.page('b', second, &ledger.Rules{Copy: k, Epoch: 2, From: 20, Text: "second"}, &ledger.Rules{Copy: k, Epoch: 1, Text: "late"})
	f.page('b', &ledger.Quarantine{Copy: k, Epoch: 2, From: 30, Next: 40, Offset: 27, Records: 10}, &ledger.Quarantine{Copy: k, Epoch: 1, From: 30, Next: 40, Offset: 99, Records: 10})
	for epoch, want := range map[uint64]string{1: "first", 2: "second", 3: ""} {
		if got, ok, err := x.Rules(k, epoch); got != want || ok != (want != "") || err != nil {
			t.Errorf("epoch %d: got %q %v %v, want %q", epoch, got, ok, err, want)
		}
	}
	asides := func(want map[int64]int64) {
		t.Helper()
		for offset, at := range want {
			got := int64(-1)
			q, err := x.Aside(k, offset)
			if q != nil {
				got = q.Offset
			}
			if got != at || err != nil {
				t.Errorf("offset %d: got %d %v, want %d", offset, got, err, at)
			}
		}
	}
	asides(map[int64]int64{0: 7, 19: 7, 20: -1, 29: -1, 30: 27, 39: 27, 40: -1})
	f.page('b', hop('a', 'b', 2, 20, 20, 20), &ledger.Retraction{Copy: k, Epoch: 2, Source: 15, Destination: 15})
	asides(map[int64]int64{14: 7, 15: -1, 19: -1, 30: -1, 39: -1})
	f.page('b', &ledger.Quarantine{Copy: k, Epoch: 2, From: 15, Next: 18, Offset: 77, Records: 3})
	asides(map[int64]int64{14: 7, 15: 77, 17: 77, 18: -1})
}
