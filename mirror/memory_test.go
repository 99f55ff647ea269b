package mirror

import (
	"slices"
	"testing"
)

func TestMemoryIsLentInFewSizes(t *testing.T) {
	if !slices.IsSorted(memorySizes[:]) {
		t.Fatal("sizes are not sorted")
	}
	for n := 1; n <= memorySizes[len(memorySizes)-1]+10; n += 1 + n/50 {
		i, ok := class(n)
		want := 0
		for want < len(memorySizes) && memorySizes[want] < n {
			want++
		}
		kept := want < len(memorySizes) && n > memorySizes[0]/2
		if ok != kept || ok && i != want {
			t.Fatalf("%d bytes: size %d (%v), want %d (%v)", n, i, ok, want, kept)
		}
	}
	var m memory
	for _, n := range []int{1, 100 << 10, 1 << 20, 20 << 20} {
		b := m.get(n)
		if len(b) < n {
			t.Fatalf("asked for %d bytes, got %d", n, len(b))
		}
		m.put(b)
	}
}
