package broker

import (
	"testing"

	"github.com/waybillhq/waybill/broker/replica"
)

// What provenance costs a request for each of its partitions.
func BenchmarkProvenanceOfAnAppend(b *testing.B) {
	p := &provenance{gathered: gathered{open: map[runKey]*run{}}, exempt: map[string]bool{}, kick: make(chan struct{}, 1)}
	part := &replica.Partition{Identity: replica.Identity{Topic: "orders"}}
	c := &Client{Principal: "User:shop", Host: "10.0.0.7", ClientID: "shop-producer-1", Software: "franz-go/1.22", Listener: "client"}
	b.ReportAllocs()
	for i := range int64(b.N) {
		p.produced(c, part, 7, i, i)
	}
}
