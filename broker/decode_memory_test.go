//go:build !race

// The race detector allocates more, and for itself.

package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestDecodingIsCounted: arrays by their elements in memory, strings by their bytes.
func TestDecodingIsCounted(t *testing.T) {
	q := kmsg.NewPtrMetadataRequest()
	q.Topics = nil
	for range 1000 {
		q.Topics = append(q.Topics, kmsg.MetadataRequestTopic{Topic: kmsg.StringPtr("a-topic")})
	}
	form, err := shapeOf(func() kmsg.Request { return kmsg.NewPtrMetadataRequest() }, 12)
	if err != nil {
		t.Fatal(err)
	}
	q.SetVersion(12)
	body := q.AppendTo(nil)
	memory, ok := form.measure(body)
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			decoded := kmsg.NewPtrMetadataRequest() // a used one has an array
			decoded.SetVersion(12)
			if err := decoded.ReadFrom(body); err != nil {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	if !ok || int64(memory) < allocated*2/3 || int64(memory) > 2*allocated {
		t.Errorf("%d bytes are counted, decoding takes %d", memory, allocated)
	}
}
