package broker

import (
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
	// concurrentDecompress bounds how many batches are decompressed, or compressed
	// anew, at once, and so their memory together.
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
	section, codec := batch.Records(), batch.Attributes().Codec()
	stored := t.config.storedAs(codec)
	if codec != record.None || stored != codec {
		b.decompress <- struct{}{}
		defer func() { <-b.decompress }()
	}
	if codec != record.None {
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
	if err != nil || stored == codec {
		return batch, failures, err
	}
	if batch, err = batch.Recompressed(stored, section); err == nil {
		err = checkSize(t, batch)
	}
	return batch, nil, err
}

// checkSize refuses a batch that is larger than its topic takes.
func checkSize(t *topic, batch record.Batch) error {
	switch {
	case len(batch) > t.config.maxBatchBytes:
		return refuse(kerr.MessageTooLarge, fmt.Sprintf("batch of %d bytes, max.message.bytes is %d", len(batch), t.config.maxBatchBytes))
	case int64(len(batch)) > t.config.log.SegmentBytes:
		return refuse(kerr.RecordListTooLarge, fmt.Sprintf("batch of %d bytes, segment.bytes is %d", len(batch), t.config.log.SegmentBytes))
	}
	return nil
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
	return checkSize(t, batch)
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
	w := record.NewWalker(section)
	var keyless, mistimed []recordFailure
	for i := range batch.Count() {
		r, fault := w.Next()
		if fault != "" {
			return 0, nil, refuse(kerr.InvalidRecord, fmt.Sprintf("record %d: %s", i, fault))
		}
		if r.OffsetDelta != i {
			return 0, nil, refuse(kerr.InvalidRecord, fmt.Sprintf("record %d has offset delta %d", i, r.OffsetDelta))
		}
		if rules.needKey && !r.HasKey && len(keyless) < maxFailures {
			keyless = append(keyless, recordFailure{i, "compacted topic needs a key"})
		}
		at, ok := addTime(batch.BaseTimestamp(), r.TimestampDelta)
		greatest = max(greatest, at)
		if (!ok || at != noTimestamp && (at < rules.minTime || at > rules.maxTime)) && len(mistimed) < maxFailures {
			mistimed = append(mistimed, recordFailure{i, fmt.Sprintf("timestamp %d is outside [%d, %d]", at, rules.minTime, rules.maxTime)})
		}
	}
	switch {
	case w.Rest() != 0:
		return 0, nil, refuse(kerr.InvalidRecord, fmt.Sprintf("%d bytes after the last record", w.Rest()))
	case len(keyless) > 0:
		return 0, keyless, refuse(kerr.InvalidRecord, "one or more records have been rejected: compacted topic needs keys")
	case len(mistimed) > 0:
		return 0, mistimed, refuse(kerr.InvalidTimestamp, "one or more records have been rejected due to invalid timestamp")
	}
	return greatest, nil, nil
}

// addTime is a record's timestamp, in milliseconds; ok is false if there is no
// such time, and the sum is then nonsense.
func addTime(base, delta int64) (sum int64, ok bool) {
	sum = base + delta
	return sum, (sum < base) == (delta < 0)
}
