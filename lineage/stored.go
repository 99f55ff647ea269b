package lineage

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// Headers says of which records an answer about an event has the headers, and with
// them what the record's batch and its producer tell.
type Headers string

// What is shown of records.
const (
	HeadersAuto   Headers = "auto"   // keys, where the cluster does not record who produced
	HeadersKeys   Headers = "keys"   // keys, everywhere
	HeadersValues Headers = "values" // keys and values, everywhere
	HeadersNone   Headers = "none"   // no record is read
)

// Stored is what the record of an event says of it, as its cluster holds it now.
type Stored struct {
	NotShown string         `json:"notShown,omitempty" doc:"Why there is nothing else of the record"`
	Time     *time.Time     `json:"time,omitempty" doc:"The record's timestamp"`
	Batch    *StoredBatch   `json:"batch,omitempty"`
	Producer *ProducerState `json:"producer,omitempty" doc:"Absent: the partition's leader does not know the producer any more, or cannot be asked"`
	// TransactionalID is that of the batch's producer id, as coordinators know it now.
	TransactionalID string         `json:"transactionalId,omitempty" doc:"By ListTransactions, asked now (basis producer-state)"`
	Headers         []StoredHeader `json:"headers,omitempty" doc:"In order; keys may come again"`
	More            int            `json:"moreHeaders,omitempty" doc:"Headers that are not listed"`
	Unknown         []string       `json:"unknown,omitempty"`
}

// StoredBatch is what the header of the event's batch says.
type StoredBatch struct {
	Basis         string `json:"basis" doc:"batch: the batch as it is stored"`
	First         int64  `json:"first" doc:"Base offset"`
	Last          int64  `json:"last"`
	ProducerID    int64  `json:"producerId" doc:"-1: produced without idempotence"`
	ProducerEpoch int16  `json:"producerEpoch"`
	BaseSequence  int32  `json:"baseSequence"`
	Transactional bool   `json:"transactional"`
	TimestampType string `json:"timestampType" doc:"CreateTime or LogAppendTime"`
	Compression   string `json:"compression"`
	LeaderEpoch   int32  `json:"leaderEpoch"`
}

// ProducerState is what the leader of the partition still knows of the producer whose
// id the batch has.
type ProducerState struct {
	Basis            string     `json:"basis" doc:"producer-state: DescribeProducers, asked now"`
	ProducerEpoch    int32      `json:"producerEpoch" doc:"Its latest"`
	LastSequence     int32      `json:"lastSequence" doc:"-1: not known"`
	LastAt           *time.Time `json:"lastAt,omitempty" doc:"The timestamp of what it last produced to the partition"`
	CoordinatorEpoch int32      `json:"coordinatorEpoch" doc:"-1: it has ended no transaction"`
	OpenFrom         *int64     `json:"openFrom,omitempty" doc:"Offset from which a transaction of its is open"`
}

// StoredHeader is a header of a record.
type StoredHeader struct {
	Key        string  `json:"key"`
	Bytes      int     `json:"bytes" doc:"Of the value; -1: it is null"`
	Value      *string `json:"value,omitempty" doc:"If it is asked for, and is text"`
	ValueBytes []byte  `json:"valueBase64,omitempty" doc:"If it is asked for, and is no text"`
	Cut        bool    `json:"cut,omitempty" doc:"The key or the value is longer"`
}

const (
	basisBatch         = "batch"
	basisProducerState = "producer-state"

	// An answer has so many headers of a record, and so much of each.
	mostHeaders     = 100
	mostHeaderKey   = 256
	mostHeaderValue = 4096
)

// At is an offset of one life of a topic.
type At struct {
	Cluster   string // cluster.id
	Topic     string
	TopicID   ledger.TopicID
	Partition int32
	Offset    int64
}

// Found is what a cluster holds at an offset, and knows of who produced it.
type Found struct {
	Batch  record.Batch
	Record *record.Record
	// Producer is nil if the batch has no producer id or the leader does not know it;
	// ProducerErr is why that cannot be told.
	Producer    *ProducerState
	ProducerErr error
	// TransactionalID is "" if the batch is of no transaction or no coordinator knows its
	// producer id; TransactionalIDErr is why that cannot be told.
	TransactionalID    string
	TransactionalIDErr error
}

// Stored adds to an answer what the records say: that of the place which was asked about,
// and that of the place where the event was produced. It needs Read on the topic, and for
// a transactional id Describe on it or on the cluster.
func (x *Index) Stored(ctx context.Context, caller Caller, a *Answer, headers Headers) {
	if headers == HeadersNone || x.cfg.Live == nil {
		return
	}
	v := x.viewer(ctx, caller)
	var reading sync.WaitGroup
	var mu sync.Mutex // of the viewer
	for i := range a.Nodes {
		n := &a.Nodes[i]
		if n.Redacted || i > 0 && !n.Origin || headers == HeadersAuto && x.tells(n.ClusterID) {
			continue
		}
		mu.Lock()
		n.Stored = v.withheld(n)
		mu.Unlock()
		if n.Stored != nil {
			continue
		}
		at, err := n.at()
		if err != nil {
			n.Stored = &Stored{NotShown: err.Error()}
			continue
		}
		reading.Go(func() {
			found, err := x.cfg.Live.Record(ctx, at)
			if err != nil {
				n.Stored = &Stored{NotShown: err.Error()}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			n.Stored = stored(found, headers == HeadersValues)
			v.transaction(n.ClusterID, n.Stored, found)
		})
	}
	reading.Wait()
}

// withheld is why nothing is read at a place, nil if it is.
func (v *viewer) withheld(n *Node) *Stored {
	switch {
	case !v.may(acl.Read, n.ClusterID, acl.Topic, n.Topic):
		return &Stored{NotShown: "Read on the topic is needed to see what is in records"}
	case n.EarlierLife:
		return &Stored{NotShown: "the topic was recreated since, and what was in it is gone"}
	}
	return nil
}

// transaction notes of which transactional id the batch is. Who may not Describe the
// cluster is told of one that he may Describe, and of no other, nor whether there is any.
func (v *viewer) transaction(cluster string, s *Stored, f *Found) {
	unknown := ""
	switch {
	case !s.Batch.Transactional:
	case f.TransactionalID != "" && (v.everything(cluster) || v.allowed(cluster, acl.TransactionalID, f.TransactionalID)):
		s.TransactionalID = f.TransactionalID
	case !v.everything(cluster):
		unknown = "Describe on it, or on the cluster, is needed to see whether there is one still"
	case f.TransactionalIDErr != nil:
		unknown = f.TransactionalIDErr.Error()
	default:
		unknown = "no coordinator knows the producer id any more"
	}
	if unknown != "" {
		s.Unknown = append(s.Unknown, "the transactional id: "+unknown)
	}
}

func (n *Node) at() (At, error) {
	id, err := ledger.ParseTopicID(n.TopicID)
	return At{Cluster: n.ClusterID, Topic: n.Topic, TopicID: id, Partition: n.Partition, Offset: n.Offset}, err
}

// stored is what is shown of a record to whoever may read it.
func stored(f *Found, values bool) *Stored {
	b, at := f.Batch, time.UnixMilli(f.Record.Timestamp).UTC()
	s := &Stored{Time: &at, Batch: &StoredBatch{
		Basis: basisBatch, First: b.BaseOffset(), Last: b.LastOffset(), ProducerID: b.ProducerID(), ProducerEpoch: b.ProducerEpoch(),
		BaseSequence: b.BaseSequence(), Transactional: b.Attributes().Transactional(), TimestampType: "CreateTime",
		Compression: b.Attributes().Codec().String(), LeaderEpoch: b.LeaderEpoch(),
	}, Producer: f.Producer}
	if b.Attributes().LogAppendTime() {
		s.Batch.TimestampType = "LogAppendTime"
	}
	if s.Producer != nil {
		s.Producer.Basis = basisProducerState
	}
	switch {
	case b.ProducerID() < 0:
		s.Unknown = append(s.Unknown, "the producer: the batch has no producer id")
	case f.ProducerErr != nil:
		s.Unknown = append(s.Unknown, fmt.Sprintf("the producer's state: %v", f.ProducerErr))
	case f.Producer == nil:
		s.Unknown = append(s.Unknown, fmt.Sprintf("the producer's state: the cluster does not know producer id %d in the partition any more", b.ProducerID()))
	}
	for _, h := range f.Record.Headers[:min(len(f.Record.Headers), mostHeaders)] {
		s.Headers = append(s.Headers, storedHeader(h, values))
	}
	s.More = len(f.Record.Headers) - len(s.Headers)
	return s
}

func storedHeader(h record.Header, value bool) StoredHeader {
	key, cut := h.Key, false
	if len(key) > mostHeaderKey {
		key, cut = key[:mostHeaderKey], true
	}
	s := StoredHeader{Key: strings.ToValidUTF8(key, "\ufffd"), Bytes: len(h.Value), Cut: cut}
	if h.Value == nil {
		s.Bytes = -1
		return s
	}
	if !value {
		return s
	}
	v, text := h.Value, utf8.Valid(h.Value)
	if len(v) > mostHeaderValue {
		v, s.Cut = v[:mostHeaderValue], true
	}
	if text {
		s.Value = new(string)
		*s.Value = strings.ToValidUTF8(string(v), "") // the cut may go through a character
	} else {
		s.ValueBytes = slices.Clone(v)
	}
	return s
}
