package broker

import (
	"testing"

	"github.com/waybillhq/waybill/broker/guard"
)

// FuzzHandle takes frames of an authenticated client, at first those that real ones
// sent, through decoding, handler and encoding of a whole broker: none may panic.
func FuzzHandle(f *testing.F) {
	for _, frame := range oneOfEach(f) {
		f.Add(frame)
	}
	b := fedBroker(f)
	f.Cleanup(func() { b.stop(f) })
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 16<<10 {
			return
		}
		if _, err := b.feed(raw); guard.Is(err) {
			t.Fatal("handler panicked")
		}
	})
}
