package main

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// sessions are those of fetches (KIP-227): without them whoever reads ten thousand
// partitions would name each of them in every request, which no broker asks for.
type sessions struct {
	mu   sync.Mutex
	all  map[int32]*fetchSession
	last int32
}

// fetchSession is what a client reads. Only the connection that made it uses it.
type fetchSession struct {
	list []*fetchPlace
	at   map[placeName]*fetchPlace
	turn int // where in list the next answer begins, so that each partition has its turn
}

type placeName struct {
	topic     string
	id        [16]byte
	partition int32
}

type fetchPlace struct {
	placeName
	offset int64
	max    int32
	left   bool // forgotten by the client
}

// of is the session of a request, told of what has changed, and whether it is new.
func (s *sessions) of(q *kmsg.FetchRequest) (f *fetchSession, id int32, fresh bool) {
	s.mu.Lock()
	if f = s.all[q.SessionID]; f == nil || q.SessionEpoch <= 0 {
		f, fresh = &fetchSession{at: map[placeName]*fetchPlace{}}, true
		if q.SessionEpoch == 0 {
			if s.all == nil {
				s.all = map[int32]*fetchSession{}
			}
			s.last++
			id, s.all[s.last] = s.last, f
		}
	} else {
		id = q.SessionID
	}
	s.mu.Unlock()
	for _, t := range q.Topics {
		for _, p := range t.Partitions {
			name := placeName{t.Topic, t.TopicID, p.Partition}
			at := f.at[name]
			if at == nil {
				at = &fetchPlace{placeName: name}
				f.at[name], f.list = at, append(f.list, at)
			}
			at.offset, at.max = p.FetchOffset, p.PartitionMaxBytes
		}
	}
	for _, t := range q.ForgottenTopics {
		for _, p := range t.Partitions {
			name := placeName{t.Topic, t.TopicID, p}
			if at := f.at[name]; at != nil {
				at.left = true
				delete(f.at, name)
			}
		}
	}
	if len(f.list) > 2*len(f.at)+16 {
		kept := f.list[:0]
		for _, at := range f.list {
			if !at.left {
				kept = append(kept, at)
			}
		}
		f.list = kept
	}
	return f, id, fresh
}

// fetch serves whole batches from the offsets that are asked for, as a broker does
// that is woken by what is produced.
func (s *standIn) fetch(q *kmsg.FetchRequest, r *kmsg.FetchResponse) {
	f, id, fresh := s.sessions.of(q)
	r.SessionID = id
	var waitUntil time.Time
	for {
		size := s.read(f, int(q.MaxBytes), fresh, r)
		switch now := time.Now(); {
		case size > 0 || s.cell.Rate == 0 && fresh:
			return
		case waitUntil.IsZero():
			waitUntil = now.Add(time.Duration(q.MaxWaitMillis) * time.Millisecond)
		case now.After(waitUntil):
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// read puts what there is into an answer; a whole fetch hears of every partition.
func (s *standIn) read(f *fetchSession, left int, whole bool, r *kmsg.FetchResponse) (size int) {
	r.Topics = r.Topics[:0]
	end, batch := s.end(), int64(s.cell.Batch)
	first := f.turn
	for i := range f.list {
		p := f.list[(first+i)%len(f.list)]
		at := p.offset / batch * batch
		n := min(int(p.max), left) / len(s.batch)
		n = min(max(n, 1), int((end-at)/batch))
		if left <= 0 {
			n = 0
		}
		if p.left || n <= 0 && !whole {
			if left <= 0 {
				break
			}
			continue
		}
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.Partition, rp.HighWatermark, rp.LastStableOffset, rp.LogStartOffset = p.partition, end, end, 0
		rp.RecordBatches = make([]byte, 0, max(n, 0)*len(s.batch))
		for range n {
			from := len(rp.RecordBatches)
			rp.RecordBatches = append(rp.RecordBatches, s.batch...)
			binary.BigEndian.PutUint64(rp.RecordBatches[from:], uint64(at))
			at += batch
		}
		left -= len(rp.RecordBatches)
		size += len(rp.RecordBatches)
		f.turn = (first + i + 1) % len(f.list)
		if k := len(r.Topics); k == 0 || r.Topics[k-1].Topic != p.topic || r.Topics[k-1].TopicID != p.id {
			rt := kmsg.NewFetchResponseTopic()
			rt.Topic, rt.TopicID = p.topic, p.id
			r.Topics = append(r.Topics, rt)
		}
		rt := &r.Topics[len(r.Topics)-1]
		rt.Partitions = append(rt.Partitions, rp)
	}
	return size
}
