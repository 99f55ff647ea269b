package mirror

import (
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

// TestPlaces: where somebody has added partitions to a ledger, all that is told goes to those
// that are written to all the same. Who wrote was told to no partition, for some producer ids.
func TestPlaces(t *testing.T) {
	id := ledger.CopyID{Source: ledger.End{Cluster: "a", TopicID: ledger.TopicID{1}}, Destination: ledger.End{Cluster: "b", TopicID: ledger.TopicID{2}}}
	for _, partitions := range []int{1, 3, ledgerPartitions, ledgerPartitions + 1, 5 * ledgerPartitions} {
		p, used := newPlaces(partitions), min(int32(partitions), ledgerPartitions)
		for n := range int32(300) {
			if at := p.ofWriter(int64(4000 + n)); at < 0 || at >= used {
				t.Errorf("%d partitions: writer %d is told of in %d", partitions, 4000+n, at)
			}
			id.Source.Partition, id.Destination.Partition = n, n
			if at := p.of(id); at != ledger.PartitionOf(id, used) {
				t.Errorf("%d partitions: copy of partition %d is in %d", partitions, n, at)
			}
		}
	}
}
