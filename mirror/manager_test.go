package mirror

import (
	"bytes"
	"reflect"
	"testing"
)

func TestCopiesEverythingOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const partitions, each = 3, 500
	w.create(t, "orders", partitions)
	for p := range int32(partitions) {
		w.west.produce(t, "orders", p, 0, each)
	}
	n := w.node("a", nil)
	n.Assign(w.copies(1, partitions, "orders"))
	eventually(t, "caught up", func() bool { return n.caughtUp(partitions) })
	for p := range int32(partitions) {
		w.west.produce(t, "orders", p, each, 2*each)
	}
	for p := range int32(partitions) {
		w.east.expect(t, "orders", p, 2*each)
		from, to := w.west.read(t, "orders", p, 2*each), w.east.read(t, "orders", p, 2*each)
		for i := range from {
			a, b := from[i], to[i]
			if !bytes.Equal(a.Key, b.Key) || !a.Timestamp.Equal(b.Timestamp) || !reflect.DeepEqual(a.Headers, b.Headers) {
				t.Fatalf("partition %d record %d: got %+v, want %+v", p, i, b, a)
			}
		}
	}
}
