package mirror

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/ledger"
)

// sessions is a broker's side of KIP-227, as little of it as there is: what the
// partitions of its session are after each request.
type sessions struct {
	id, epoch int32
	has       map[place]kmsg.FetchRequestTopicPartition
	keeps     bool // sessions at all
}

// fetch answers a request as a broker does that has nothing to send.
func (b *sessions) fetch(req *kmsg.FetchRequest) *kmsg.FetchResponse {
	resp := kmsg.NewPtrFetchResponse()
	switch {
	case req.SessionEpoch == 0:
		b.id, b.epoch, b.has = b.id+1, 1, map[place]kmsg.FetchRequestTopicPartition{}
	case req.SessionID != b.id:
		resp.ErrorCode = kerr.FetchSessionIDNotFound.Code
		return resp
	case req.SessionEpoch != b.epoch:
		resp.ErrorCode = kerr.InvalidFetchSessionEpoch.Code
		return resp
	case b.epoch == math.MaxInt32:
		b.epoch = 1
	default:
		b.epoch++
	}
	for _, t := range req.Topics {
		at := place{topic: t.Topic, id: t.TopicID}
		if at.id != (ledger.TopicID{}) {
			at.topic = "" // v13 names by id alone
		}
		for _, p := range t.Partitions {
			at.partition = p.Partition
			b.has[at] = p
		}
	}
	for _, t := range req.ForgottenTopics {
		for _, p := range t.Partitions {
			delete(b.has, place{topic: t.Topic, id: t.TopicID, partition: p})
		}
	}
	if b.keeps {
		resp.SessionID = b.id
	}
	return resp
}

// A broker's session always says what is wanted, whatever is added, moved and
// dropped, and whether or not the broker forgets it.
func TestASessionSaysWhatIsWanted(t *testing.T) {
	for _, keeps := range []bool{true, false} {
		rng := rand.New(rand.NewPCG(5, 6))
		broker := &sessions{keeps: keeps}
		f := &fetcher{pace: newPace()}
		s := &f.session
		var list []wanted
		named := 0
		for step := range 2000 {
			switch rng.IntN(5) {
			case 0: // a copy more
				c := newCopier(Assignment{SourceTopic: fmt.Sprint("t", rng.IntN(4)), Partition: int32(step)}, func() {}, nil)
				w := wanted{c: c, topicID: ledger.TopicID{1, c.source().Topic[1]}}
				if step > 1500 { // one without an id makes all of them go by name
					w.topicID = ledger.TopicID{}
				}
				list = append(list, w)
			case 1: // one less
				if n := len(list); n > 1 {
					at := rng.IntN(n)
					if !s.drop(list[at].c) {
						t.Fatalf("step %d: nothing was wanted of a copy", step)
					}
					if rng.IntN(3) == 0 { // and one that begins anew, in its place
						again := list[at]
						again.c = newCopier(again.c.a, func() {}, nil)
						list[at] = again
						break
					}
					list[at] = list[n-1]
					list = list[:n-1]
				}
			case 2: // records came
				if n := len(list); n > 0 {
					list[rng.IntN(n)].offset += int64(rng.IntN(100))
				}
			case 3: // another leader
				if n := len(list); n > 0 {
					list[rng.IntN(n)].leaderEpoch++
				}
			}
			if rng.IntN(50) == 0 {
				broker.id += 10 // it was restarted
			}
			if len(list) == 0 {
				continue
			}
			for _, w := range list {
				s.set(w)
			}
			ask := func() (lost bool) {
				req := f.request(time.Now(), fetchBytes)
				for _, topic := range req.Topics {
					named += len(topic.Partitions)
				}
				if s.version == fetchByName {
					for i := range req.Topics {
						req.Topics[i].TopicID = ledger.TopicID{}
					}
				}
				lost, _ = f.session.answered(broker.fetch(req))
				return lost
			}
			if lost := ask(); lost {
				if again := ask(); again {
					t.Fatalf("step %d: the session was lost twice", step)
				}
			}
			want := map[place]kmsg.FetchRequestTopicPartition{}
			for _, w := range list {
				p := kmsg.NewFetchRequestTopicPartition()
				p.Partition, p.FetchOffset, p.CurrentLeaderEpoch = w.c.source().Partition, w.offset, w.leaderEpoch
				p.PartitionMaxBytes = partitionShare(len(list))
				want[s.place(w)] = p
				if got := s.at(s.place(w)); got == nil || got.c != w.c || got.offset != w.offset {
					t.Fatalf("step %d: the fetcher itself takes %+v for what it wants, not %+v", step, got, w)
				}
			}
			same := func(a, b kmsg.FetchRequestTopicPartition) bool {
				return a.FetchOffset == b.FetchOffset && a.CurrentLeaderEpoch == b.CurrentLeaderEpoch && a.PartitionMaxBytes == b.PartitionMaxBytes
			}
			if len(s.has) != len(want) {
				t.Fatalf("step %d: %d places are kept of %d", step, len(s.has), len(want))
			}
			if !maps.EqualFunc(broker.has, want, same) {
				t.Fatalf("step %d: the broker has\n%+v, wanted is\n%+v", step, broker.has, want)
			}
		}
		t.Logf("sessions %v: %d partitions named", keeps, named)
	}
}

func TestASessionsNumberGoesRoundAndItsErrorsBeginAnew(t *testing.T) {
	answer := func(id int32, err *kerr.Error) *kmsg.FetchResponse {
		resp := kmsg.NewPtrFetchResponse()
		if resp.SessionID = id; err != nil {
			resp.ErrorCode = err.Code
		}
		return resp
	}
	for _, c := range []struct {
		name      string
		epoch     int32
		answer    *kmsg.FetchResponse
		lost      bool
		wantEpoch int32
	}{
		{"a first answer", 0, answer(7, nil), false, 1},
		{"the next", 1, answer(7, nil), false, 2},
		{"after the last number", math.MaxInt32, answer(7, nil), false, 1},
		{"a broker that keeps none", 0, answer(0, nil), false, 0},
		{"one that gives it up", 5, answer(0, nil), false, 0},
		{"an unknown session", 5, answer(0, kerr.FetchSessionIDNotFound), true, 0},
		{"another number", 5, answer(0, kerr.InvalidFetchSessionEpoch), true, 0},
		{"names of another kind", 5, answer(0, kerr.FetchSessionTopicIDError), true, 0},
		{"an error of the request", 5, answer(0, kerr.UnknownServerError), false, 0},
	} {
		s := fetchSession{id: 7, epoch: c.epoch}
		lost, err := s.answered(c.answer)
		if lost != c.lost || s.epoch != c.wantEpoch || (err != nil) != (c.answer.ErrorCode != 0) {
			t.Errorf("%s: lost %v, epoch %d, %v; want %v, %d", c.name, lost, s.epoch, err, c.lost, c.wantEpoch)
		}
	}
}

// TestALostSessionIsAskedForAnewOnce: a broker that says of a new one that it is lost has
// a fault, after which the fetcher waits.
func TestALostSessionIsAskedForAnewOnce(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.FetchSessionIDNotFound, kerr.InvalidFetchSessionEpoch, kerr.FetchSessionTopicIDError} {
		s := fetchSession{id: 7, epoch: 3}
		resp := &kmsg.FetchResponse{ErrorCode: code.Code}
		if lost, _ := s.answered(resp); !lost || s.id != 0 {
			t.Errorf("%v of session 7: lost %v, it is %d", code, lost, s.id)
		}
		if lost, err := s.answered(resp); lost || !errors.Is(err, code) {
			t.Errorf("%v of a new one: lost %v, %v", code, lost, err)
		}
	}
}
