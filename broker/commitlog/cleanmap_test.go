package commitlog

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

func TestTheKeyMapEqualsAPlainMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 9))
	m, plain := newKeyMap(1<<20, 5000), map[string]int64{}
	for i := range int64(20_000) {
		key := fmt.Appendf(nil, "key-%d", rng.IntN(4000))
		if m.full() {
			t.Fatalf("full with %d keys", m.count)
		}
		m.put(key, i)
		plain[string(key)] = i
	}
	if m.count != len(plain) {
		t.Fatalf("%d keys, want %d", m.count, len(plain))
	}
	for key := range maps.Keys(plain) {
		if got := m.get([]byte(key)); got != plain[key] {
			t.Fatalf("%s at %d, want %d", key, got, plain[key])
		}
	}
	if got := m.get([]byte("never")); got != -1 {
		t.Fatalf("a key that was never put is at %d", got)
	}
	small := newKeyMap(100, 1000)
	if len(small.slots) > 100 {
		t.Fatalf("%d bytes, at most 100 were allowed", len(small.slots))
	}
}
