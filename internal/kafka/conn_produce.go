package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// produceVersion is what SendProduce writes: the last version with names and
// without flexible fields. It takes every codec, and every broker that knows
// transactions with batches of format v2 and zstd knows it (2.4 and later).
const produceVersion = 8

const produceKey = 0

// Produce is a request to append one batch to each of some partitions, with
// acks=all. A broker takes no more than one batch of a partition in a request.
type Produce struct {
	TransactionalID string // empty: no transaction
	// Timeout is how long the broker waits for its replicas.
	Timeout time.Duration
	Topics  []ProduceTopic
}

// ProduceTopic is the part of a [Produce] for one topic.
type ProduceTopic struct {
	Topic      string
	Partitions []ProducePartition
}

// ProducePartition is one batch for one partition, as it shall be on the wire.
type ProducePartition struct {
	Partition int32
	Batch     []byte
}

// SendProduce writes p and returns without waiting for the answer, which is a
// *kmsg.ProduceResponse. Batches are not copied on their way to the socket; when
// SendProduce returns they may be used again.
func (c *Conn) SendProduce(ctx context.Context, p *Produce) *Call {
	if v, err := c.Version(produceKey, produceVersion); err != nil || v != produceVersion {
		return failed(produceKey, errors.Join(err, fmt.Errorf("%w: the broker does not speak version %d", ErrNotSent, produceVersion)))
	}
	size, err := c.produceSize(p)
	if err != nil {
		return failed(produceKey, fmt.Errorf("%w: %w", ErrNotSent, err))
	}
	answer := kmsg.NewPtrProduceResponse()
	answer.SetVersion(produceVersion)
	k := c.newCall(ctx, answer)
	c.write(k, func(corr int32) net.Buffers {
		var bufs net.Buffers
		bufs, c.scratch = c.encodeProduce(p, size, corr, c.scratch[:0])
		return bufs
	})
	return k
}

// produceSize is the length of the whole request without its length field.
func (c *Conn) produceSize(p *Produce) (int32, error) {
	size := int64(2+2+4) + 2 + int64(len(c.clientID)) // header
	size += 2 + int64(len(p.TransactionalID)) + 2 + 4 + 4
	for _, t := range p.Topics {
		size += 2 + int64(len(t.Topic)) + 4
		if len(t.Topic) > math.MaxInt16 {
			return 0, fmt.Errorf("topic name of %d bytes", len(t.Topic))
		}
		for _, part := range t.Partitions {
			size += 4 + 4 + int64(len(part.Batch))
		}
	}
	if len(p.TransactionalID) > math.MaxInt16 || len(c.clientID) > math.MaxInt16 {
		return 0, errors.New("transactional id or client id is too long")
	}
	if size > math.MaxInt32 {
		return 0, fmt.Errorf("request of %d bytes", size)
	}
	return int32(size), nil
}

// encodeProduce lays the request out as buffers to be written one after the
// other: stretches of head and the batches themselves. It appends to head, and
// returns it for another use.
//
//	length i32 │ key i16 │ version i16 │ correlation i32 │ client id str
//	transactional id str or null │ acks i16 │ timeout ms i32 │ topics: count i32
//	  name str │ partitions: count i32
//	    index i32 │ batch length i32 │ batch
func (c *Conn) encodeProduce(p *Produce, size, corr int32, head []byte) (net.Buffers, []byte) {
	be := binary.BigEndian
	str := func(s string) {
		head = append(be.AppendUint16(head, uint16(len(s))), s...)
	}
	head = be.AppendUint32(head, uint32(size))
	head = be.AppendUint16(head, produceKey)
	head = be.AppendUint16(head, produceVersion)
	head = be.AppendUint32(head, uint32(corr))
	str(c.clientID)
	if p.TransactionalID == "" {
		head = be.AppendUint16(head, math.MaxUint16) // null is length -1
	} else {
		str(p.TransactionalID)
	}
	head = be.AppendUint16(head, math.MaxUint16) // acks=-1: all in-sync replicas
	head = be.AppendUint32(head, uint32(p.Timeout.Milliseconds()))
	head = be.AppendUint32(head, uint32(len(p.Topics)))

	var cuts []cut
	for _, t := range p.Topics {
		str(t.Topic)
		head = be.AppendUint32(head, uint32(len(t.Partitions)))
		for _, part := range t.Partitions {
			head = be.AppendUint32(head, uint32(part.Partition))
			head = be.AppendUint32(head, uint32(len(part.Batch)))
			cuts = append(cuts, cut{len(head), part.Batch})
		}
	}
	return spliced(head, cuts), head
}
