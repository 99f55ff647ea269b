package mirror

import (
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// appendBuilder packs chunks of some copies into a request, those of one in order.
type appendBuilder struct {
	req    *mirrorwire.AppendRequest
	sent   [][]sentChunk
	index  map[[16]byte]int
	frames []*frame
	size   int
}

func newAppendBuilder() *appendBuilder {
	return &appendBuilder{
		req:   &mirrorwire.AppendRequest{TimeoutMillis: int32(ackTimeout.Milliseconds())},
		index: map[[16]byte]int{},
	}
}

func (r *appendBuilder) add(s *stretch, p mirrorwire.AppendRequestPartition, k chunk, f *frame) {
	id, _ := s.c.copyIDs()
	i, ok := r.index[id.Destination.TopicID]
	if !ok {
		i = len(r.req.Topics)
		r.index[id.Destination.TopicID] = i
		r.req.Topics = append(r.req.Topics, mirrorwire.AppendRequestTopic{TopicID: id.Destination.TopicID, Source: mirrorSource(id.Source)})
		r.sent = append(r.sent, nil)
	}
	t := &r.req.Topics[i]
	t.Partitions = append(t.Partitions, p)
	k.size, k.batch = len(k.batch), nil
	r.sent[i] = append(r.sent[i], sentChunk{s, k})
	r.frames = append(r.frames, f)
	r.size += len(p.Batches) + appendOverhead
	s.flying++
}

// appendOverhead is what an append takes in a request beside its batches.
const appendOverhead = 64

// release gives back what the chunks' bytes are in.
func (r *appendBuilder) release() {
	for _, f := range r.frames {
		f.release()
	}
	for i := range r.req.Topics {
		for j := range r.req.Topics[i].Partitions {
			r.req.Topics[i].Partitions[j].Batches = nil
		}
	}
}

// mirrorSource is what a mirror topic's mirror.source says of a source.
func mirrorSource(e ledger.End) string { return e.Cluster + "/" + e.TopicID.String() }

// fits says that an answer is, partition by partition, about the request.
func (f *appendFlight) fits(r *mirrorwire.AppendResponse) bool {
	if r == nil || len(r.Topics) != len(f.sent) {
		return false
	}
	for i, t := range r.Topics {
		if t.TopicID != f.req.Topics[i].TopicID || len(t.Partitions) != len(f.sent[i]) {
			return false
		}
		for j, p := range t.Partitions {
			if p.Partition != f.req.Topics[i].Partitions[j].Partition {
				return false
			}
		}
	}
	return true
}
