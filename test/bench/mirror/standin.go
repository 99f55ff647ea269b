package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// standIn is a broker that is all of its cluster: as a source it serves one batch
// again and again at rising offsets, as a sink it takes and counts what it is sent.
// It checks nothing, so that it costs little.
type standIn struct {
	cell  cell
	name  string // cluster.id
	batch record.Batch
	began time.Time // of a steady rate
	host  string
	port  int32

	taken atomic.Int64 // records of the topic, as a sink
	first sync.Once
	ends  sync.Map // topic/partition -> *atomic.Int64, as a sink
	pages pages    // of the ledger, as a sink that keeps them

	sessions sessions // of fetches, as a source
}

func topicID(name string) [16]byte {
	var id [16]byte
	copy(id[:], name)
	return id
}

// serve answers connections until ctx ends.
func (s *standIn) serve(ctx context.Context, l net.Listener) error {
	addr := l.Addr().(*net.TCPAddr)
	s.host, s.port = addr.IP.String(), int32(addr.Port)
	context.AfterFunc(ctx, func() { l.Close() })
	if s.cell.TLS {
		cert, err := certificate()
		if err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil // closed
		}
		go func() {
			defer conn.Close()
			if err := s.talk(conn); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				fmt.Println("stand-in:", err)
			}
		}()
	}
}

// talk answers the requests of one connection, one after the other.
func (s *standIn) talk(conn net.Conn) error {
	in := bufio.NewReaderSize(conn, 256<<10)
	var frame, out []byte
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err
		}
		size := int(binary.BigEndian.Uint32(head[:]))
		if cap(frame) < size {
			frame = make([]byte, size)
		}
		frame = frame[:size]
		if _, err := io.ReadFull(in, frame); err != nil {
			return err
		}
		resp, err := s.answer(frame)
		if err != nil {
			return err
		}
		if resp == nil {
			continue
		}
		out = append(out[:0], 0, 0, 0, 0)
		out = append(out, frame[4:8]...)
		if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
			out = append(out, 0)
		}
		out = resp.AppendTo(out)
		binary.BigEndian.PutUint32(out, uint32(len(out)-4))
		if _, err := conn.Write(out); err != nil {
			return err
		}
	}
}

// speaks are the versions that the mirrors need; newer ones would make no
// difference to what they do.
var speaks = map[kmsg.Key][2]int16{
	kmsg.Produce: {3, 8}, kmsg.Fetch: {4, 13}, kmsg.ListOffsets: {1, 5}, kmsg.Metadata: {0, 12}, kmsg.ApiVersions: {0, 3},
	kmsg.FindCoordinator: {0, 3}, kmsg.InitProducerID: {0, 4}, kmsg.AddPartitionsToTxn: {0, 3}, kmsg.EndTxn: {0, 3},
	kmsg.DescribeConfigs: {0, 4}, kmsg.CreateTopics: {0, 5}, kmsg.OffsetForLeaderEpoch: {0, 4},
}

func (s *standIn) answer(frame []byte) (kmsg.Response, error) {
	key, version := int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))
	req := kmsg.RequestForKey(key)
	if req == nil {
		return nil, fmt.Errorf("unknown request %d", key)
	}
	req.SetVersion(version)
	body := frame[8:]
	if n := int16(binary.BigEndian.Uint16(body)); n > 0 {
		body = body[n:]
	}
	body = body[2:]
	if req.IsFlexible() {
		body = body[1:] // no tags are sent
	}
	if err := req.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("%s v%d: %w", kmsg.NameForKey(key), version, err)
	}
	resp := req.ResponseKind()
	switch q := req.(type) {
	case *kmsg.ApiVersionsRequest:
		s.versions(resp.(*kmsg.ApiVersionsResponse))
	case *kmsg.MetadataRequest:
		s.metadata(q, resp.(*kmsg.MetadataResponse))
	case *kmsg.FindCoordinatorRequest:
		r := resp.(*kmsg.FindCoordinatorResponse)
		r.NodeID, r.Host, r.Port = 1, s.host, s.port
	case *kmsg.InitProducerIDRequest:
		r := resp.(*kmsg.InitProducerIDResponse)
		r.ProducerID, r.ProducerEpoch = time.Now().UnixNano()&0xffffff, 0
	case *kmsg.AddPartitionsToTxnRequest:
		added(q, resp.(*kmsg.AddPartitionsToTxnResponse))
	case *kmsg.ListOffsetsRequest:
		s.listOffsets(q, resp.(*kmsg.ListOffsetsResponse))
	case *kmsg.FetchRequest:
		s.fetch(q, resp.(*kmsg.FetchResponse))
	case *kmsg.ProduceRequest:
		s.produce(q, resp.(*kmsg.ProduceResponse))
	case *kmsg.DescribeConfigsRequest:
		for _, res := range q.Resources {
			r := kmsg.NewDescribeConfigsResponseResource()
			r.ResourceType, r.ResourceName = res.ResourceType, res.ResourceName
			rr := resp.(*kmsg.DescribeConfigsResponse)
			rr.Resources = append(rr.Resources, r)
		}
	}
	return resp, nil
}

func (s *standIn) versions(r *kmsg.ApiVersionsResponse) {
	for key, v := range speaks {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = int16(key), v[0], v[1]
		r.ApiKeys = append(r.ApiKeys, k)
	}
}

func (s *standIn) metadata(q *kmsg.MetadataRequest, r *kmsg.MetadataResponse) {
	r.ClusterID, r.ControllerID = &s.name, 1
	b := kmsg.NewMetadataResponseBroker()
	b.NodeID, b.Host, b.Port = 1, s.host, s.port
	r.Brokers = append(r.Brokers, b)
	for _, want := range q.Topics {
		name := topic
		if want.Topic != nil {
			name = *want.Topic
		}
		t := kmsg.NewMetadataResponseTopic()
		t.Topic, t.TopicID = &name, topicID(name)
		n := s.cell.Partitions
		if name == ledger.Topic {
			n = 4
		}
		for p := range n {
			part := kmsg.NewMetadataResponseTopicPartition()
			part.Partition, part.Leader, part.LeaderEpoch = int32(p), 1, 1
			part.Replicas, part.ISR = []int32{1}, []int32{1}
			t.Partitions = append(t.Partitions, part)
		}
		r.Topics = append(r.Topics, t)
	}
}

func added(q *kmsg.AddPartitionsToTxnRequest, r *kmsg.AddPartitionsToTxnResponse) {
	for _, t := range q.Topics {
		rt := kmsg.NewAddPartitionsToTxnResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			rp.Partition = p
			rt.Partitions = append(rt.Partitions, rp)
		}
		r.Topics = append(r.Topics, rt)
	}
}

// end is where a partition of the source ends now.
func (s *standIn) end() int64 {
	all := s.cell.perPartition()
	if s.cell.Rate == 0 {
		return all
	}
	s.first.Do(func() { s.began = time.Now() })
	due := int64(time.Since(s.began).Seconds() * float64(s.cell.Rate) / float64(s.cell.Partitions))
	return min(all, due/int64(s.cell.Batch)*int64(s.cell.Batch))
}

func (s *standIn) listOffsets(q *kmsg.ListOffsetsRequest, r *kmsg.ListOffsetsResponse) {
	for _, t := range q.Topics {
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewListOffsetsResponseTopicPartition()
			rp.Partition, rp.LeaderEpoch = p.Partition, 1
			if p.Timestamp == -1 && s.batch != nil {
				rp.Offset = s.end()
			} else {
				rp.Offset = 0
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		r.Topics = append(r.Topics, rt)
	}
}

// produce counts the records of each batch by its header.
func (s *standIn) produce(q *kmsg.ProduceRequest, r *kmsg.ProduceResponse) {
	for _, t := range q.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition = p.Partition
			b, _, err := record.Next(p.Records)
			if err != nil {
				rp.ErrorCode = 2
				rt.Partitions = append(rt.Partitions, rp)
				continue
			}
			at, _ := s.ends.LoadOrStore(fmt.Sprint(t.Topic, "/", p.Partition), &atomic.Int64{})
			n := int64(b.Count())
			rp.BaseOffset = at.(*atomic.Int64).Add(n) - n
			if t.Topic == topic {
				s.taken.Add(n)
			}
			if s.cell.KeepLedger {
				s.pages.take(t.Topic, b)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		r.Topics = append(r.Topics, rt)
	}
}
