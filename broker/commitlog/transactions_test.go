package commitlog

import (
	"errors"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/vfs"
)

func TestStableOffsetWaitsForMarkersBelowTheWatermark(t *testing.T) {
	l := open(t, vfs.NewMem(), small())
	add(t, l, nobody, 5)              // 0-4
	add(t, l, from{1, 0, 0, true}, 2) // 5-6
	add(t, l, from{2, 0, 0, true}, 1) // 7
	mark := func(id int64, commit bool) {
		_, err := l.AppendMarker(Marker{id, 0, commit, 0}, 0)
		must(t, err)
	}
	mark(1, true) // 8
	for _, c := range []struct{ watermark, want int64 }{
		{3, 3}, {5, 5}, {6, 5}, {8, 5}, {9, 7},
	} {
		if got := l.StableOffset(c.watermark); got != c.want {
			t.Errorf("two open: stable at %d is %d, want %d", c.watermark, got, c.want)
		}
	}
	mark(2, false) // 9
	if got := l.StableOffset(9); got != 7 {
		t.Errorf("marker not below the watermark: stable %d, want 7", got)
	}
	if got := l.StableOffset(10); got != 10 {
		t.Errorf("all ended: stable %d, want 10", got)
	}
	if n := len(l.OpenTransactions()); n != 0 {
		t.Errorf("%d open transactions, want none", n)
	}
}

func TestAbortedTransactionsAreFoundAcrossSegments(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, small())
	add(t, l, from{1, 0, 0, true}, 2) // 0-1: long
	for i := range int32(30) {
		add(t, l, from{2, 0, i, true}, 1)
		_, err := l.AppendMarker(Marker{2, 0, i%3 != 0, 0}, 0)
		must(t, err)
	}
	_, err := l.AppendMarker(Marker{1, 0, false, 0}, 0)
	must(t, err)
	if n := len(l.view.Load().segments); n < 3 {
		t.Fatalf("%d segments, want several", n)
	}
	for range 2 {
		got := l.Aborted(20, 24)
		want := []AbortedTxn{{1, 0, 62}, {2, 20, 21}}
		if !slices.Equal(got, want) {
			t.Fatalf("aborted in [20,24): %v, want %v", got, want)
		}
		if got := len(l.Aborted(0, l.EndOffset())); got != 11 {
			t.Fatalf("%d aborted, want 11", got)
		}
		must(t, l.Close())
		l = open(t, fsys, small())
	}
}

func TestReplicatedTransactions(t *testing.T) {
	leader, follower := open(t, vfs.NewMem(), small()), open(t, vfs.NewMem(), small())
	add(t, leader, from{1, 3, 7, true}, 2)
	_, err := leader.AppendMarker(Marker{1, 3, false, 2}, 0)
	must(t, err)
	add(t, leader, from{1, 3, 9, true}, 1)
	add(t, leader, nobody, 10)
	for end := int64(0); end < leader.EndOffset(); end = follower.EndOffset() {
		buf, err := leader.Read(end, 300, leader.EndOffset())
		must(t, err)
		_, err = follower.AppendReplicated(buf, end)
		must(t, err)
	}
	if got, want := follower.Aborted(0, 10), leader.Aborted(0, 10); !slices.Equal(got, want) || len(got) != 1 {
		t.Errorf("aborted %v, want %v", got, want)
	}
	if got, want := follower.OpenTransactions(), (OpenTxn{1, 3, 3}); len(got) != 1 || got[0] != want {
		t.Errorf("open %v, want %v", got, want)
	}
	if got := follower.StableOffset(follower.EndOffset()); got != 3 {
		t.Errorf("stable %d, want 3", got)
	}
	if _, err := follower.Append(batch(t, from{1, 3, 11, true}, 1, 0), 0, FromClient); !errors.Is(err, ErrOutOfOrderSequence) {
		t.Errorf("after a failover: %v, want ErrOutOfOrderSequence", err)
	}
}

func TestMarkersAreKafkas(t *testing.T) {
	want := Marker{ProducerID: 7, ProducerEpoch: 3, Commit: true, CoordinatorEpoch: 258}
	b, err := encodeMarker(want, 1234)
	must(t, err)
	must(t, b.Check())
	records, err := b.Decode(100)
	must(t, err)
	if got := records[0]; !slices.Equal(got.Key, []byte{0, 0, 0, 1}) || !slices.Equal(got.Value, []byte{0, 0, 0, 0, 1, 2}) || got.Timestamp != 1234 {
		t.Errorf("record %+v", got)
	}
	if attr := b.Attributes(); !attr.Control() || !attr.Transactional() || b.BaseSequence() != -1 {
		t.Errorf("attributes %b, sequence %d", attr, b.BaseSequence())
	}
	if got, err := decodeMarker(b); got != want || err != nil {
		t.Errorf("decoded %+v, %v, want %+v", got, err, want)
	}
}

func TestEpochs(t *testing.T) {
	e := epochs(nil).assign(0, 0).assign(2, 10).assign(5, 30)
	for _, c := range []struct {
		ask, found int32
		end        int64
	}{{-1, -1, -1}, {0, 0, 10}, {1, 0, 10}, {2, 2, 30}, {4, 2, 30}, {5, 5, 44}, {6, -1, -1}} {
		if found, end := e.end(c.ask, 0, 44); found != c.found || end != c.end {
			t.Errorf("end of %d is (%d, %d), want (%d, %d)", c.ask, found, end, c.found, c.end)
		}
	}
	for _, c := range []struct {
		name      string
		got, want epochs
	}{
		{"an empty epoch is replaced", e.assign(6, 30), epochs{{0, 0}, {2, 10}, {6, 30}}},
		{"cut between", e.cutFrom(20), epochs{{0, 0}, {2, 10}}},
		{"cut at a start", e.cutFrom(10), epochs{{0, 0}}},
		{"start between", e.startFrom(15), epochs{{2, 10}, {5, 30}}},
		{"start at a start", e.startFrom(30), epochs{{2, 10}, {5, 30}}},
		{"start at the beginning", e.startFrom(0), e},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
	for start, want := range map[int64][]epochStart{ // by the epoch asked for
		15: {{0, 15}, {1, 15}, {2, 30}, {3, 30}, {5, 44}},
		30: {{1, 30}, {2, 30}, {4, 30}, {5, 44}},
		44: {{2, 44}, {4, 44}, {5, 44}},
	} {
		for _, w := range want {
			if found, end := e.startFrom(start).end(w.Epoch, start, 44); end != w.Start {
				t.Errorf("start %d: epoch %d is (%d, %d), want its end to be %d", start, w.Epoch, found, end, w.Start)
			}
		}
	}
}

func TestLeaderEpochsOutliveACrash(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, small())
	must(t, l.AssignEpoch(4))
	b := batch(t, nobody, 3, 0)
	_, err := l.Append(b, 4, FromClient)
	must(t, err)
	must(t, l.WaitDurable(t.Context(), 3))
	_, err = l.Append(batch(t, nobody, 3, 0), 6, FromClient)
	must(t, err)
	must(t, l.WaitDurable(t.Context(), 6))
	must(t, l.AssignEpoch(9))
	if _, err := l.Append(batch(t, nobody, 1, 0), 8, FromClient); !errors.Is(err, ErrStaleLeaderEpoch) {
		t.Fatalf("append at an old epoch: %v, want ErrStaleLeaderEpoch", err)
	}
	l = open(t, fsys.Crash(nil), small())
	if got := l.LatestEpoch(); got != 9 {
		t.Errorf("latest %d, want 9", got)
	}
	for _, c := range []struct {
		ask, found int32
		end        int64
	}{{4, 4, 3}, {5, 4, 3}, {6, 6, 6}, {8, 6, 6}, {9, 9, 6}} {
		if found, end := l.EpochEnd(c.ask); found != c.found || end != c.end {
			t.Errorf("end of %d is (%d, %d), want (%d, %d)", c.ask, found, end, c.found, c.end)
		}
	}
}

func TestAnEpochWithoutRecordsDoesNotRefuseTheLeadersBatches(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, small())
	add(t, l, nobody, 2)
	must(t, l.AssignEpoch(7)) // It led at 7, and another leads now.
	b := batch(t, nobody, 2, 0)
	b.SetBaseOffset(2)
	b.SetLeaderEpoch(6)
	_, err := l.AppendReplicated(b, 2)
	must(t, err)
	for range 2 {
		if got := l.LatestEpoch(); got != 6 {
			t.Fatalf("latest epoch %d, want 6", got)
		}
		must(t, l.Close())
		l = open(t, fsys, small())
	}
}
