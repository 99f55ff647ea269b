package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/record"
)

const (
	// maxDecompressed bounds what one batch may decompress to. A thousand times
	// the default max.message.bytes would be a bomb; 64 times is not unheard of.
	maxDecompressed = 64 << 20
	// concurrentDecompress bounds how many batches are decompressed at once, and
	// so their memory together.
	concurrentDecompress = 4
	// maxFailures bounds the records that an answer lists as refused.
	maxFailures = 100
)

// recordFailure says which record of a batch was refused.
type recordFailure struct {
	index  int32
	reason string
}

// checkProduced makes a batch of what a client sent for one partition, and
// refuses what a leader must refuse (Kafka's LogValidator). The producer's epoch,
// sequence and transaction are the log's to check.
func (b *Broker) checkProduced(t *topic, q *kmsg.ProduceRequest, records []byte) (record.Batch, []recordFailure, error) {
	if len(records) == 0 {
		return nil, nil, refuse(kerr.InvalidRecord, "no batch")
	}
	batch, rest, err := record.Next(records)
	if err != nil {
		return nil, nil, frameError(records, err)
	}
	if len(rest) != 0 {
		return nil, nil, refuse(kerr.InvalidRecord, "more than one batch for a partition")
	}
	if err := b.checkHeader(t, q, batch); err != nil {
		return nil, nil, err
	}
	if err := batch.Check(); err != nil {
		return nil, nil, err
	}
	section := batch.Records()
	if codec := batch.Attributes().Codec(); codec != record.None {
		b.decompress <- struct{}{}
		defer func() { <-b.decompress }()
		if section, err = record.Decompress(codec, section, maxDecompressed); err != nil {
			if errors.Is(err, record.ErrTooLarge) {
				return nil, nil, refuse(kerr.MessageTooLarge, fmt.Sprintf("batch decompresses to more than %d bytes", maxDecompressed))
			}
			return nil, nil, refuse(kerr.CorruptMessage, "records do not decompress")
		}
	}
	rules := recordRules{needKey: t.config.compacted, minTime: math.MinInt64, maxTime: math.MaxInt64}
	if !t.config.appendTime {
		rules.minTime, rules.maxTime = t.config.timeBounds(time.Now().UnixMilli())
	}
	greatest, failures, err := checkRecords(batch, section, rules)
	if err == nil && !t.config.appendTime && greatest != batch.MaxTimestamp() {
		batch.SetMaxTimestamp(greatest) // look-ups by time and retention go by it
	}
	return batch, failures, err
}

// frameError is what a client is told about bytes that are no batch of format v2.
func frameError(records []byte, err error) error {
	const magicAt = 16
	if len(records) > magicAt && records[magicAt] < 2 {
		return refuse(kerr.InvalidRecord, "records must be of format v2")
	}
	return errors.Join(refuse(kerr.CorruptMessage, "records are not a batch"), err)
}

func (b *Broker) checkHeader(t *topic, q *kmsg.ProduceRequest, batch record.Batch) error {
	attrs := batch.Attributes()
	switch {
	case batch.BaseOffset() != 0:
		return refuse(kerr.InvalidRecord, fmt.Sprintf("base offset %d: the broker assigns offsets, it must be 0", batch.BaseOffset()))
	case len(batch) > t.config.maxBatchBytes:
		return refuse(kerr.MessageTooLarge, fmt.Sprintf("batch of %d bytes, max.message.bytes is %d", len(batch), t.config.maxBatchBytes))
	case !batch.Dense():
		return refuse(kerr.InvalidRecord, fmt.Sprintf("batch has %d records over %d offsets", batch.Count(), int64(batch.LastOffsetDelta())+1))
	case attrs.Control():
		return refuse(kerr.InvalidRecord, "clients may not write control batches")
	case attrs.DeleteHorizon():
		return refuse(kerr.InvalidRecord, "clients may not set the delete horizon")
	case attrs.LogAppendTime():
		return refuse(kerr.InvalidTimestamp, "clients may not set LogAppendTime")
	case attrs.Codec() > record.Zstd:
		return kerr.UnsupportedCompressionType
	case attrs.Codec() == record.Zstd && q.Version < produceZstd:
		return kerr.UnsupportedCompressionType
	case batch.ProducerID() >= 0 && batch.BaseSequence() < 0:
		return refuse(kerr.InvalidRecord, "idempotent batch without sequence")
	case attrs.Transactional() && batch.ProducerID() < 0:
		return refuse(kerr.InvalidRecord, "transactional batch without producer id")
	}
	return nil
}

// timeBounds is what timestamps a topic takes at a moment, in milliseconds.
func (c *topicConfig) timeBounds(now int64) (least, most int64) {
	least, most = math.MinInt64, math.MaxInt64
	if c.beforeMax < now {
		least = now - c.beforeMax
	}
	if c.afterMax < math.MaxInt64-now {
		most = now + c.afterMax
	}
	return least, most
}

type recordRules struct {
	needKey          bool  // compacted topic
	minTime, maxTime int64 // milliseconds since 1970
}

// noTimestamp is a record that has none.
const noTimestamp = -1

// checkRecords walks a decompressed records section without decoding it, and
// refuses what a reader would stumble over or the topic does not take. It returns
// the greatest timestamp of the records: a header may claim any.
func checkRecords(batch record.Batch, section []byte, rules recordRules) (greatest int64, failed []recordFailure, err error) {
	greatest = noTimestamp
	w := recordWalker{buf: section}
	var keyless, mistimed []recordFailure
	for i := range batch.Count() {
		delta, offset, hasKey := w.record()
		if w.bad {
			return 0, nil, refuse(kerr.InvalidRecord, fmt.Sprintf("record %d is malformed", i))
		}
		if offset != int64(i) {
			return 0, nil, refuse(kerr.InvalidRecord, fmt.Sprintf("record %d has offset delta %d", i, offset))
		}
		if rules.needKey && !hasKey && len(keyless) < maxFailures {
			keyless = append(keyless, recordFailure{i, "compacted topic needs a key"})
		}
		at := batch.BaseTimestamp() + delta
		greatest = max(greatest, at)
		if at != noTimestamp && (at < rules.minTime || at > rules.maxTime) && len(mistimed) < maxFailures {
			mistimed = append(mistimed, recordFailure{i, fmt.Sprintf("timestamp %d is outside [%d, %d]", at, rules.minTime, rules.maxTime)})
		}
	}
	switch {
	case len(w.buf) != 0:
		return 0, nil, refuse(kerr.InvalidRecord, fmt.Sprintf("%d bytes after the last record", len(w.buf)))
	case len(keyless) > 0:
		return 0, keyless, refuse(kerr.InvalidRecord, "one or more records have been rejected: compacted topic needs keys")
	case len(mistimed) > 0:
		return 0, mistimed, refuse(kerr.InvalidTimestamp, "one or more records have been rejected due to invalid timestamp")
	}
	return greatest, nil, nil
}

// recordWalker steps over the records of a section; after the first fault bad is
// set.
type recordWalker struct {
	buf []byte
	bad bool
}

// record steps over one record and returns its timestamp and offset deltas and
// whether it has a key.
func (w *recordWalker) record() (timeDelta, offsetDelta int64, hasKey bool) {
	size := w.varint()
	if w.bad || size < 0 || size > int64(len(w.buf)) {
		w.bad = true
		return 0, 0, false
	}
	body := recordWalker{buf: w.buf[:size]}
	w.buf = w.buf[size:]
	body.skip(1)
	timeDelta, offsetDelta = body.varint(), body.varint()
	hasKey = body.field()
	body.field()
	for n := body.varint(); n != 0 && !body.bad; n-- {
		if n < 0 || n > int64(len(body.buf)) || !body.field() {
			body.bad = true // a header's key is never null
		}
		body.field()
	}
	w.bad = body.bad || len(body.buf) != 0
	return timeDelta, offsetDelta, hasKey
}

func (w *recordWalker) varint() int64 {
	v, n := binary.Varint(w.buf)
	if n <= 0 {
		w.bad, w.buf = true, nil
		return 0
	}
	w.buf = w.buf[n:]
	return v
}

func (w *recordWalker) skip(n int64) {
	if n < 0 || n > int64(len(w.buf)) {
		w.bad, w.buf = true, nil
		return
	}
	w.buf = w.buf[n:]
}

// field steps over a length and as many bytes; it reports false for null.
func (w *recordWalker) field() bool {
	n := w.varint()
	if n == -1 {
		return false
	}
	w.skip(n)
	return true
}
