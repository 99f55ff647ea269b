package broker

import (
	"errors"
	"testing"
)

// FuzzHandle takes frames of an authenticated client through decoding, handler
// and encoding of a whole broker: none may panic.
func FuzzHandle(f *testing.F) {
	for _, row := range apis() {
		f.Add(frameOf(newRequest(row.key), row.max)[frameLengthSize:])
		f.Add(frameOf(newRequest(row.key), row.min)[frameLengthSize:])
	}
	b := fedBroker(f)
	f.Cleanup(func() { b.stop(f) })
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 16<<10 {
			return
		}
		if _, err := b.feed(raw); errors.Is(err, errPanic) {
			t.Fatal("handler panicked")
		}
	})
}
