package mirror

import (
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/record"
)

// requestBuilder packs one batch of each of some partitions into a request.
type requestBuilder struct {
	topics  []kafka.ProduceTopic
	index   map[string]int
	entries map[flow.TopicPartition]entry
	size    int
}

func newRequestBuilder() *requestBuilder {
	return &requestBuilder{index: map[string]int{}, entries: map[flow.TopicPartition]entry{}}
}

func (r *requestBuilder) has(tp flow.TopicPartition) bool { _, ok := r.entries[tp]; return ok }

func (r *requestBuilder) add(tp flow.TopicPartition, b record.Batch, e entry) {
	i, ok := r.index[tp.Topic]
	if !ok {
		i = len(r.topics)
		r.index[tp.Topic] = i
		r.topics = append(r.topics, kafka.ProduceTopic{Topic: tp.Topic})
	}
	r.topics[i].Partitions = append(r.topics[i].Partitions, kafka.ProducePartition{Partition: tp.Partition, Batch: b})
	r.entries[tp] = e
	r.size += len(b)
}

func (r *requestBuilder) request(transactionalID string) *kafka.Produce {
	return &kafka.Produce{TransactionalID: transactionalID, Timeout: ackTimeout, Topics: r.topics}
}
