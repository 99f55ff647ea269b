package offsets

import (
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

// FuzzMap folds whatever a ledger can be made to say and holds the map to its
// invariants: tiles follow each other, runs ascend, and every answer lies where a
// run is or at an edge.
func FuzzMap(f *testing.F) {
	f.Add([]byte{0, 1, 0, 1, 1, 0, 5, 0, 1, 1, 5, 3, 9})
	f.Add([]byte{0, 1, 9, 1, 1, 9, 5, 0, 2, 1, 11, 2, 1, 1, 11, 7, 30, 0, 2, 40})
	f.Add([]byte{1, 1, 4, 5, 0, 1, 1, 2, 9, 3, 2, 2, 0, 0, 1, 2, 0, 200, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		m := NewMap()
		take := func() int64 {
			if len(script) == 0 {
				return 0
			}
			v := script[0]
			script = script[1:]
			return int64(v)
		}
		for len(script) > 0 {
			switch take() % 3 {
			case 0:
				m.Apply(begin(uint64(take()%8), take()))
			case 1:
				epoch, from := uint64(take()%8), take()
				count, dest := 1+take()%40, take()
				if dest%5 == 4 {
					dest = -(1 + dest%8)
				}
				m.Apply(hop(epoch, from, count, dest, 1, gapControl))
			case 2:
				m.Apply(&ledger.Retraction{Copy: testCopy.Key(), Epoch: uint64(take() % 8), Source: take(), Destination: take()})
			}
			sound(t, m)
		}
	})
}

func sound(t *testing.T, m *Map) {
	t.Helper()
	if m.Start() < 0 {
		return
	}
	at, dest := int64(-1), int64(0)
	for e, tl := range m.tiles.from(0) {
		if at >= 0 && tl.source != at || tl.count <= 0 || e.source != tl.source {
			t.Fatalf("tile %+v does not begin at %d", tl, at)
		}
		if at = tl.end(); tl.run() {
			if tl.dest < dest {
				t.Fatalf("run %+v goes back below %d", tl, dest)
			}
			dest = tl.destEnd()
		}
	}
	if at >= 0 && (at != m.Next() || dest != m.tiles.last.dest) || m.Start() > m.Next() {
		t.Fatalf("map from %d to %d, destination %d; its tiles end at %d, destination %d", m.Start(), m.Next(), m.tiles.last.dest, at, dest)
	}
	for x := range m.Next() + 2 {
		there := Route{There: m}.Translate(x, AnyBounds)
		if there.Offset > dest {
			t.Fatalf("%d -> %+v, beyond %d", x, there, dest)
		}
		if there.Why == Copied {
			if back := (Route{Back: m}).Translate(there.Offset, AnyBounds); back.Offset > x {
				t.Fatalf("%d -> %+v -> %+v skips", x, there, back)
			}
		}
		_ = Route{There: m, Back: m}.Translate(x, AnyBounds)
	}
}
