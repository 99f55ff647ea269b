package broker

import (
	"context"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The memory of decoded requests and of their answers is taken of a budget before
// it is used: what an answer will be about as large as its request is counted with
// it, and handlers whose answers may be larger say so with [request.spend]. An
// answer gives back what its encoded form does not need, and the rest when it is
// written. Records are not counted: they stay in their files.
const (
	// spendStep is the memory of one request that is not counted.
	spendStep = 32 << 10
	// answerPatience is how long a client may take for a large answer while others
	// wait for memory.
	answerPatience = 2 * time.Second
)

// What elements of answers take, with room for their encoded form, which grows by
// doubling.
const (
	partitionMemory = int(unsafe.Sizeof(kmsg.MetadataResponseTopicPartition{})) + 96
	configMemory    = int(unsafe.Sizeof(kmsg.DescribeConfigsResponseResourceConfig{})) + 2*int(unsafe.Sizeof(kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{})) + 600
	entryMemory     = 256 // a group, rule, user, transaction, producer
)

// affords takes memory for a request of a connection whose client is there until
// ctx ends.
func (c *conn) affords(ctx context.Context) func(r *request, n int64) error {
	return func(r *request, n int64) error {
		if r.claim == nil {
			r.claim = c.b.answers.claim(0, c.cutShort)
		}
		began := time.Now()
		defer func() { r.waited += time.Since(began) }()
		return r.claim.take(ctx, n)
	}
}

// spend takes n bytes for the answer before they are used. If it returns false the
// client has gone or was cut meanwhile: the request is not answered, and what the
// handler returns is dropped.
func (r *request) spend(n int) bool {
	if r.owed += int64(n); r.owed >= spendStep && r.conn != nil && r.conn.afford != nil && r.unpaid == nil {
		r.unpaid = r.conn.afford(r, r.owed)
		r.owed = 0
	}
	return r.unpaid == nil
}

// decode decodes the request's body, which an answer of its size is counted with.
func (r *request) decode(frame []byte, body kmsg.Request) (clientID string, err error) {
	return decodeWithin(frame, body, r.form(r.version), func(memory int) error {
		r.spend(2 * memory)
		return r.unpaid
	})
}
