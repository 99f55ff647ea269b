package txn

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/record"
)

// Versions of Kafka's record formats that are written.
const (
	keyVersion   = 0
	valueVersion = 1 // with tagged fields: other producer ids, the client's version
)

func key(id string) []byte {
	k := kmsg.NewTxnMetadataKey()
	k.Version, k.TransactionalID = keyVersion, id
	return k.AppendTo(nil)
}

// toRecord is the record of a transactional id.
func toRecord(t Txn) record.Record {
	v := kmsg.NewTxnMetadataValue()
	v.Version = valueVersion
	v.ProducerID, v.ProducerEpoch = t.Producer.ID, t.Producer.Epoch
	v.TimeoutMillis = int32(t.Timeout.Milliseconds())
	v.State = kmsg.TransactionState(t.State)
	v.PreviousProducerID, v.NextProducerID = t.PreviousID, t.NextID
	v.ClientTransactionVersion = int16(t.Version)
	v.LastUpdateTimestamp = t.Updated.UnixMilli()
	v.StartTimestamp = -1
	if !t.Started.IsZero() {
		v.StartTimestamp = t.Started.UnixMilli()
	}
	for _, tp := range t.Sorted() {
		if n := len(v.Topics); n == 0 || v.Topics[n-1].Topic != tp.Topic {
			topic := kmsg.NewTxnMetadataValueTopic()
			topic.Topic = tp.Topic
			v.Topics = append(v.Topics, topic)
		}
		last := &v.Topics[len(v.Topics)-1]
		last.Partitions = append(last.Partitions, tp.Partition)
	}
	if v.Topics == nil && t.State != Empty {
		v.Topics = []kmsg.TxnMetadataValueTopic{} // null is for Empty only
	}
	return record.Record{Timestamp: t.Updated.UnixMilli(), Key: key(t.ID), Value: v.AppendTo(nil)}
}

func tombstone(id string, now time.Time) record.Record {
	return record.Record{Timestamp: now.UnixMilli(), Key: key(id)}
}

// fromRecord reads a record of __transaction_state. live is false for a
// tombstone. A record that this version does not know is an error: to leave it
// out could be to forget a transaction.
func fromRecord(r record.Record) (t Txn, live bool, err error) {
	if len(r.Key) < 2 || binary.BigEndian.Uint16(r.Key) != keyVersion {
		return Txn{}, false, fmt.Errorf("unknown key of %d bytes", len(r.Key))
	}
	var k kmsg.TxnMetadataKey
	if err := k.ReadFrom(r.Key); err != nil {
		return Txn{}, false, fmt.Errorf("key: %w", err)
	}
	t = New(k.TransactionalID)
	if r.Value == nil {
		return t, false, nil
	}
	v := kmsg.NewTxnMetadataValue()
	if err := v.ReadFrom(r.Value); err != nil {
		return Txn{}, false, fmt.Errorf("transactional id %q: %w", t.ID, err)
	}
	if v.Version > valueVersion || v.State < 0 || State(v.State) > CompleteAbort {
		return Txn{}, false, fmt.Errorf("transactional id %q: version %d, state %d", t.ID, v.Version, v.State)
	}
	t.Producer = Producer{v.ProducerID, v.ProducerEpoch}
	t.PreviousID, t.NextID = v.PreviousProducerID, v.NextProducerID
	t.Version = Version(v.ClientTransactionVersion)
	t.Timeout = time.Duration(v.TimeoutMillis) * time.Millisecond
	t.State = State(v.State)
	t.Updated = time.UnixMilli(v.LastUpdateTimestamp)
	if v.StartTimestamp >= 0 {
		t.Started = time.UnixMilli(v.StartTimestamp)
	}
	for _, topic := range v.Topics {
		for _, p := range topic.Partitions {
			if t.Partitions == nil {
				t.Partitions = map[TopicPartition]struct{}{}
			}
			t.Partitions[TopicPartition{topic.Topic, p}] = struct{}{}
		}
	}
	return t, true, nil
}
