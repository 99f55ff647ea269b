package mirror

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// trouble20 has a broker answer one code to one kind of request, again and again, and
// counts how often.
type trouble20 struct {
	mu    sync.Mutex
	code  int16 // 0: none
	times int
}

func (r *trouble20) set(code int16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.code, r.times = code, 0
}

func (r *trouble20) met() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.times
}

// next is the code to answer now, 0 for what the broker says.
func (r *trouble20) next() int16 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.code != 0 {
		r.times++
	}
	return r.code
}

func writesTo(req *kmsg.ProduceRequest, topic string) bool {
	for _, t := range req.Topics {
		if t.Topic == topic {
			return true
		}
	}
	return false
}

// refused answers every partition of a produce request with a code.
func refused(req *kmsg.ProduceRequest, code int16) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range req.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode, rp.BaseOffset = p.Partition, code, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func (r *trouble20) refuseProduce(topic string) func(kmsg.Request) kmsg.Response {
	return func(req kmsg.Request) kmsg.Response {
		if p, ok := req.(*kmsg.ProduceRequest); ok && writesTo(p, topic) {
			if code := r.next(); code != 0 {
				return refused(p, code)
			}
		}
		return nil
	}
}

// spoilProduce has requests carried out, and says that they were not.
func (r *trouble20) spoilProduce(topic string) func(kmsg.Request, kmsg.Response) {
	return func(req kmsg.Request, resp kmsg.Response) {
		p, ok := req.(*kmsg.ProduceRequest)
		if !ok || !writesTo(p, topic) {
			return
		}
		code := r.next()
		for i := range resp.(*kmsg.ProduceResponse).Topics {
			for j := range resp.(*kmsg.ProduceResponse).Topics[i].Partitions {
				if at := &resp.(*kmsg.ProduceResponse).Topics[i].Partitions[j]; code != 0 {
					at.ErrorCode, at.BaseOffset = code, -1
				}
			}
		}
	}
}

func (r *trouble20) spoilFetch(whole bool) func(kmsg.Request, kmsg.Response) {
	return func(_ kmsg.Request, resp kmsg.Response) {
		f, ok := resp.(*kmsg.FetchResponse)
		if !ok || len(f.Topics) == 0 {
			return
		}
		code := r.next()
		if code == 0 {
			return
		}
		if whole {
			f.ErrorCode, f.Topics = code, nil
			return
		}
		for i := range f.Topics {
			for j := range f.Topics[i].Partitions {
				p := &f.Topics[i].Partitions[j]
				p.ErrorCode, p.RecordBatches, p.HighWatermark, p.LastStableOffset, p.LogStartOffset = code, nil, -1, -1, -1
			}
		}
	}
}

// refuseTxn answers a request to the coordinator in its place. Of InitProducerId, that
// nobody sends who is well, the lane is made to by a refusal of what it writes.
func (r *trouble20) refuseTxn(key kmsg.Key) func(kmsg.Request) kmsg.Response {
	return func(req kmsg.Request) kmsg.Response {
		if p, ok := req.(*kmsg.ProduceRequest); ok && key == kmsg.InitProducerID && writesTo(p, "orders") {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.code != 0 {
				return refused(p, kerr.NotLeaderForPartition.Code)
			}
			return nil
		}
		if req.Key() != int16(key) {
			return nil
		}
		code := r.next()
		if code == 0 {
			return nil
		}
		switch resp := req.ResponseKind().(type) {
		case *kmsg.InitProducerIDResponse:
			resp.ErrorCode = code
			return resp
		case *kmsg.EndTxnResponse:
			resp.ErrorCode = code
			return resp
		case *kmsg.AddPartitionsToTxnResponse:
			for _, t := range req.(*kmsg.AddPartitionsToTxnRequest).Topics {
				rt := kmsg.NewAddPartitionsToTxnResponseTopic()
				rt.Topic = t.Topic
				for _, p := range t.Partitions {
					rp := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
					rp.Partition, rp.ErrorCode = p, code
					rt.Partitions = append(rt.Partitions, rp)
				}
				resp.Topics = append(resp.Topics, rt)
			}
			return resp
		}
		return nil
	}
}

func (r *trouble20) spoilEnd(_ kmsg.Request, resp kmsg.Response) {
	if e, ok := resp.(*kmsg.EndTxnResponse); ok && e.ErrorCode == 0 {
		e.ErrorCode = r.next()
	}
}

// What a broker may answer, by the protocol's own list of errors, that only asks for
// another try; the codes of a coordinator come from Produce where the broker verifies
// transactions (KIP-890).
var (
	produceCodes = []*kerr.Error{
		kerr.CorruptMessage, kerr.UnknownTopicOrPartition, kerr.LeaderNotAvailable, kerr.NotLeaderForPartition, kerr.RequestTimedOut,
		kerr.BrokerNotAvailable, kerr.ReplicaNotAvailable, kerr.NetworkException, kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable,
		kerr.NotCoordinator, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.KafkaStorageError, kerr.FencedLeaderEpoch,
		kerr.UnknownLeaderEpoch, kerr.ThrottlingQuotaExceeded, kerr.UnknownTopicID, kerr.ConcurrentTransactions, kerr.TransactionAbortable,
	}
	appliedCodes = []*kerr.Error{kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend, kerr.NetworkException, kerr.KafkaStorageError}
	fetchCodes   = []*kerr.Error{
		kerr.CorruptMessage, kerr.UnknownTopicOrPartition, kerr.LeaderNotAvailable, kerr.NotLeaderForPartition, kerr.RequestTimedOut,
		kerr.BrokerNotAvailable, kerr.ReplicaNotAvailable, kerr.NetworkException, kerr.KafkaStorageError, kerr.FencedLeaderEpoch,
		kerr.UnknownLeaderEpoch, kerr.OffsetNotAvailable, kerr.ThrottlingQuotaExceeded, kerr.UnknownTopicID, kerr.InconsistentTopicID,
	}
	sessionCodes = []*kerr.Error{kerr.FetchSessionIDNotFound, kerr.InvalidFetchSessionEpoch, kerr.FetchSessionTopicIDError, kerr.KafkaStorageError}
	txnCodes     = []*kerr.Error{
		kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.ConcurrentTransactions, kerr.RequestTimedOut,
		kerr.NetworkException, kerr.NotEnoughReplicas, kerr.ThrottlingQuotaExceeded,
	}
)

// quietly are codes of which nothing shows: the fetcher asks anew, without a session.
var quietly = map[*kerr.Error]bool{kerr.FetchSessionIDNotFound: true, kerr.InvalidFetchSessionEpoch: true, kerr.FetchSessionTopicIDError: true}

// TestEveryRetriableCodeTwentyTimes has a broker answer each code that asks for another
// try at least twenty times in a row, to each kind of request that a copy rests on,
// whether the request was carried out or not. The status says which code it is. Then all
// goes on by itself, with nothing lost, doubled or out of order. All of it is waiting, so
// it is done side by side, a few codes each.
func TestEveryRetriableCodeTwentyTimes(t *testing.T) {
	var all sync.WaitGroup
	defer all.Wait()
	for name, c := range map[string]struct {
		side     string
		ask      func(*trouble20) func(kmsg.Request) kmsg.Response
		say      func(*trouble20) func(kmsg.Request, kmsg.Response)
		codes    []*kerr.Error
		delivery string
		feeds    bool // what is found to be written is not asked for again: each time needs another record
	}{
		"data is refused":                   {side: "east", ask: func(r *trouble20) func(kmsg.Request) kmsg.Response { return r.refuseProduce("orders") }, codes: produceCodes},
		"data is written":                   {side: "east", say: func(r *trouble20) func(kmsg.Request, kmsg.Response) { return r.spoilProduce("orders") }, codes: appliedCodes},
		"the ledger is refused":             {side: "east", ask: func(r *trouble20) func(kmsg.Request) kmsg.Response { return r.refuseProduce(ledger.Topic) }, codes: appliedCodes},
		"the ledger is written":             {side: "east", say: func(r *trouble20) func(kmsg.Request, kmsg.Response) { return r.spoilProduce(ledger.Topic) }, codes: appliedCodes},
		"at least once, data is refused":    {side: "east", ask: func(r *trouble20) func(kmsg.Request) kmsg.Response { return r.refuseProduce("orders") }, codes: produceCodes, delivery: flow.DeliveryAtLeastOnce},
		"at least once, data is written":    {side: "east", say: func(r *trouble20) func(kmsg.Request, kmsg.Response) { return r.spoilProduce("orders") }, codes: appliedCodes, delivery: flow.DeliveryAtLeastOnce, feeds: true},
		"a partition's fetch is refused":    {side: "west", say: func(r *trouble20) func(kmsg.Request, kmsg.Response) { return r.spoilFetch(false) }, codes: fetchCodes},
		"a fetch is refused":                {side: "west", say: func(r *trouble20) func(kmsg.Request, kmsg.Response) { return r.spoilFetch(true) }, codes: sessionCodes},
		"a lane is not opened":              {side: "east", ask: func(r *trouble20) func(kmsg.Request) kmsg.Response { return r.refuseTxn(kmsg.InitProducerID) }, codes: txnCodes},
		"partitions are not added":          {side: "east", ask: func(r *trouble20) func(kmsg.Request) kmsg.Response { return r.refuseTxn(kmsg.AddPartitionsToTxn) }, codes: txnCodes},
		"a transaction is not committed":    {side: "east", ask: func(r *trouble20) func(kmsg.Request) kmsg.Response { return r.refuseTxn(kmsg.EndTxn) }, codes: txnCodes},
		"a transaction is committed anyhow": {side: "east", say: func(r *trouble20) func(kmsg.Request, kmsg.Response) { return r.spoilEnd }, codes: txnCodes, feeds: true},
	} {
		for codes := range slices.Chunk(c.codes, 4) {
			all.Go(func() {
				t.Run(name, func(t *testing.T) {
					r := &trouble20{}
					var ask func(kmsg.Request) kmsg.Response
					var say func(kmsg.Request, kmsg.Response)
					if c.ask != nil {
						ask = c.ask(r)
					}
					if c.say != nil {
						say = c.say(r)
					}
					w := newWorldBehind(t, nil, map[string]*liar{c.side: newLiar(t, ask, say)})
					w.bundledOnly("west", "east")
					w.create(t, "orders", 1)
					n := w.node("a", func(c *Config) { c.MaxRetryWait = 2 * time.Millisecond })
					list := w.copies(1, 1, "orders")
					if c.delivery != "" {
						list = delivered(list, c.delivery)
					}
					n.Assign(list)
					sent := 0
					for _, code := range codes {
						w.west.produce(t, "orders", 0, sent, sent+3)
						eventually(t, "caught up before "+code.Message, func() bool { return n.caughtUp(1) })
						r.set(code.Code)
						w.west.produce(t, "orders", 0, sent+3, sent+10)
						sent += 10
						shown, fed := c.feeds || quietly[code], 0
						look := func() {
							s := n.only()
							if times := r.met(); c.feeds && times > fed {
								w.west.produce(t, "orders", 0, sent, sent+1)
								sent, fed = sent+1, times
							}
							shown = shown || s.State != Running && strings.Contains(s.Reason, code.Message)
						}
						for times := range 20 { // one by one, so that a slow machine has its time
							eventually(t, fmt.Sprintf("%s %d times", code.Message, times+1), func() bool { look(); return r.met() > times })
						}
						eventually(t, code.Message+" shows", func() bool { look(); return shown })
						r.set(0)
					}
					w.west.produce(t, "orders", 0, sent, sent+3) // what is doubled lies before these
					sent += 3
					eventually(t, "caught up", func() bool { s := n.only(); return n.caughtUp(1) && s.Reason == "" })
					w.east.expect(t, "orders", 0, sent)
					if s := n.only(); s.MayBeDoubled != 0 || s.ForeignRecords != 0 {
						t.Errorf("%d may be doubled, %d are foreign, want none", s.MayBeDoubled, s.ForeignRecords)
					}
				})
			})
		}
	}
}
