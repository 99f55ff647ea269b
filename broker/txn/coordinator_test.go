package txn

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/record"
)

// rig is a coordinator that leads its one partition over a log in memory.
type rig struct {
	*Coordinator
	t     *testing.T
	log   *memLog
	parts *memPartitions
	cfg   Config
	ids   *counter
	epoch int32
	stop  func() error
}

func newRig(t *testing.T, change ...func(*Config)) *rig {
	r := &rig{t: t, log: newMemLog(), parts: &memPartitions{bad: map[TopicPartition]error{}}, cfg: DefaultConfig(), ids: &counter{}}
	r.cfg.IDPartitions = 1
	for _, f := range change {
		f(&r.cfg)
	}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *rig) start() {
	r.Coordinator = NewCoordinator(r.cfg, r.parts, r.ids)
	r.epoch++
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	serve, err := r.Lead(0, r.epoch, r.log)
	if err != nil {
		r.t.Fatal(err)
	}
	go func() { ended <- serve(ctx) }()
	stopped := false
	var result error
	r.stop = func() error {
		cancel()
		if !stopped {
			result, stopped = <-ended, true
		}
		return result
	}
	for {
		if _, err := r.shard("any"); err == nil {
			return
		} else if len(ended) > 0 {
			r.t.Fatal(<-ended)
		}
		synctest.Wait()
	}
}

// crash restarts the coordinator with what was durable.
func (r *rig) crash() {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Fatalf("Lead: %v", err)
	}
	r.log.crash()
	r.start()
}

var a0, b1 = TopicPartition{"a", 0}, TopicPartition{"b", 1}

func (r *rig) init(id string, expected Producer) Producer {
	r.t.Helper()
	p, err := r.InitProducer(r.t.Context(), id, time.Minute, expected)
	if err != nil {
		r.t.Fatalf("init %s: %v", id, err)
	}
	return p
}

func (r *rig) add(id string, p Producer, tps ...TopicPartition) {
	r.t.Helper()
	if err := r.AddPartitions(r.t.Context(), id, V0, p, tps); err != nil {
		r.t.Fatalf("add partitions: %v", err)
	}
}

func (r *rig) end(ctx context.Context, id string, p Producer, commit bool) error {
	_, err := r.End(ctx, id, V0, p, commit)
	return err
}

func (r *rig) wantState(id string, want State) {
	r.t.Helper()
	if got, err := r.Get(r.t.Context(), id); err != nil || got.State != want {
		r.t.Errorf("state of %s: got %v, %v; want %v", id, got.State, err, want)
	}
}

func (r *rig) wantMarkers(want ...written) {
	r.t.Helper()
	r.parts.mu.Lock()
	defer r.parts.mu.Unlock()
	seen := map[written]int{}
	for _, m := range r.parts.markers {
		seen[m]++
	}
	wanted := map[written]int{}
	for _, m := range want {
		wanted[m]++
	}
	if !reflect.DeepEqual(seen, wanted) {
		r.t.Errorf("markers: got %v, want %v", r.parts.markers, want)
	}
}

func TestCommitWritesMarkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := r.init("x", NoProducer)
		r.add("x", p, a0)
		r.add("x", p, b1)
		if err := r.Verify(t.Context(), "x", p, []TopicPartition{a0, b1}); err != nil {
			t.Errorf("verify: %v", err)
		}
		if err := r.end(t.Context(), "x", p, true); err != nil {
			t.Fatal(err)
		}
		// End has waited for the markers, so the producer goes on at once.
		r.wantState("x", CompleteCommit)
		r.add("x", p, a0)
		if err := r.end(t.Context(), "x", p, false); err != nil {
			t.Fatal(err)
		}
		r.wantMarkers(written{a0, Marker{p, true, 1}}, written{b1, Marker{p, true, 1}}, written{a0, Marker{p, false, 1}})
		if err := r.Verify(t.Context(), "x", p, []TopicPartition{a0}); !errors.Is(err, kerr.InvalidTxnState) {
			t.Errorf("verify after the end: got %v, want INVALID_TXN_STATE", err)
		}
	})
}

func TestSecondProducerFencesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		first := r.init("x", NoProducer)
		r.add("x", first, a0)
		_, err := r.InitProducer(t.Context(), "x", time.Minute, NoProducer)
		if !errors.Is(err, kerr.ConcurrentTransactions) {
			t.Fatalf("init over a transaction: got %v, want CONCURRENT_TRANSACTIONS", err)
		}
		synctest.Wait()
		second := r.init("x", NoProducer)
		if want := (Producer{first.ID, first.Epoch + 2}); second != want {
			t.Errorf("second producer: got %v, want %v", second, want)
		}
		r.wantMarkers(written{a0, Marker{Producer{first.ID, first.Epoch + 1}, false, 1}})
		if err := r.AddPartitions(t.Context(), "x", V0, first, []TopicPartition{a0}); !errors.Is(err, kerr.ProducerFenced) {
			t.Errorf("first producer: got %v, want PRODUCER_FENCED", err)
		}
	})
}

func TestTimeoutAborts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p, err := r.InitProducer(t.Context(), "x", 10*time.Second, NoProducer)
		if err != nil {
			t.Fatal(err)
		}
		r.add("x", p, a0)
		time.Sleep(9 * time.Second)
		r.wantState("x", Ongoing)
		time.Sleep(3 * time.Second)
		r.wantState("x", CompleteAbort)
		r.wantMarkers(written{a0, Marker{Producer{p.ID, p.Epoch + 1}, false, 1}})
		if err := r.end(t.Context(), "x", p, true); !errors.Is(err, kerr.ProducerFenced) {
			t.Errorf("commit after the timeout: got %v, want PRODUCER_FENCED", err)
		}
		// A timeout also counts from before a restart.
		p, err = r.InitProducer(t.Context(), "x", 10*time.Second, NoProducer)
		if err != nil {
			t.Fatal(err)
		}
		r.add("x", p, a0)
		r.crash()
		time.Sleep(12 * time.Second)
		r.wantState("x", CompleteAbort)
	})
}

// TestRestartInEveryState stops the coordinator at each point of a commit and
// checks that the next one finishes what was decided and only that.
func TestRestartInEveryState(t *testing.T) {
	for _, c := range []struct {
		name    string
		durable bool // the decision
		state   State
	}{
		{"decision is lost", false, Ongoing},
		{"decision is durable", true, CompleteCommit},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				p := r.init("x", NoProducer)
				r.add("x", p, a0, b1)
				gate := make(chan struct{})
				r.parts.set(func() { r.parts.gate = gate })
				r.log.set(func() { r.log.hold = true })
				answer := make(chan error, 1)
				go func() { answer <- r.end(t.Context(), "x", p, true) }()
				synctest.Wait()
				if len(answer) != 0 {
					t.Fatal("answered before the decision was durable")
				}
				if c.durable {
					// Durable, and the markers do not get through.
					r.log.set(func() { r.log.hold = false })
					if err := <-answer; err != nil {
						t.Errorf("commit: %v", err)
					}
					r.wantState("x", PrepareCommit)
					_, err := r.InitProducer(t.Context(), "x", time.Minute, NoProducer)
					if !errors.Is(err, kerr.ConcurrentTransactions) {
						t.Errorf("init while settling: got %v", err)
					}
				}
				r.wantMarkers()
				r.crash()
				if !c.durable {
					if err := <-answer; err == nil {
						t.Error("a commit that was lost was acknowledged")
					}
				}
				close(gate)
				synctest.Wait()
				r.wantState("x", c.state)
				if c.durable {
					r.wantMarkers(written{a0, Marker{p, true, 2}}, written{b1, Marker{p, true, 2}})
				} else if err := r.end(t.Context(), "x", p, true); err != nil {
					t.Errorf("commit again: %v", err)
				}
				// And once more: the completed state was stored.
				n := r.parts.count()
				r.crash()
				synctest.Wait()
				r.wantState("x", CompleteCommit)
				if got := r.parts.count(); got != n {
					t.Errorf("%d markers after completion", got-n)
				}
			})
		})
	}
}

func TestMarkersAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := r.init("x", NoProducer)
		gone := TopicPartition{"gone", 0}
		r.parts.set(func() {
			r.parts.bad[a0] = errDisk
			r.parts.bad[gone] = kerr.UnknownTopicOrPartition
		})
		r.add("x", p, a0, b1, gone)
		begin := time.Now()
		if err := r.end(t.Context(), "x", p, true); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != r.cfg.EndWait {
			t.Errorf("answered after %v, want %v", took, r.cfg.EndWait)
		}
		r.wantState("x", PrepareCommit)
		// Another id is not held up.
		q := r.init("y", NoProducer)
		r.add("y", q, b1)
		if err := r.end(t.Context(), "y", q, true); err != nil {
			t.Fatal(err)
		}
		r.wantState("y", CompleteCommit)
		r.parts.set(func() { delete(r.parts.bad, a0) })
		time.Sleep(lastRetry)
		r.wantState("x", CompleteCommit)
	})
}

func TestFencedCoordinatorStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := r.init("x", NoProducer)
		r.add("x", p, a0)
		r.parts.set(func() { r.parts.bad[a0] = fmt.Errorf("append: %w", kerr.TransactionCoordinatorFenced) })
		if err := r.end(t.Context(), "x", p, true); err != nil {
			t.Errorf("the decision stands: %v", err)
		}
		synctest.Wait()
		if _, err := r.Get(t.Context(), "x"); !errors.Is(err, kerr.NotCoordinator) {
			t.Errorf("get: got %v, want NOT_COORDINATOR", err)
		}
		if err := r.stop(); !errors.Is(err, kerr.TransactionCoordinatorFenced) {
			t.Errorf("Lead: got %v", err)
		}
	})
}

func TestFailedLogEndsLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := r.init("x", NoProducer)
		r.log.set(func() { r.log.fail = errDisk })
		if err := r.AddPartitions(t.Context(), "x", V0, p, []TopicPartition{a0}); !errors.Is(err, kerr.CoordinatorNotAvailable) {
			t.Errorf("add: got %v, want COORDINATOR_NOT_AVAILABLE", err)
		}
		if err := r.stop(); !errors.Is(err, errDisk) {
			t.Errorf("Lead: got %v, want %v", err, errDisk)
		}
	})
}

func TestVerifyWaitsForTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := r.init("x", NoProducer)
		r.log.set(func() { r.log.hold = true })
		go r.AddPartitions(t.Context(), "x", V0, p, []TopicPartition{a0})
		synctest.Wait()
		verified := make(chan error, 1)
		go func() { verified <- r.Verify(t.Context(), "x", p, []TopicPartition{a0}) }()
		synctest.Wait()
		if len(verified) != 0 {
			t.Error("verified a partition that a crash would forget")
		}
		r.log.set(func() { r.log.hold = false })
		if err := <-verified; err != nil {
			t.Error(err)
		}
	})
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx := t.Context()
		p := r.init("x", NoProducer)
		_, noTimeout := r.InitProducer(ctx, "x", 0, NoProducer)
		_, longTimeout := r.InitProducer(ctx, "x", time.Hour, NoProducer)
		_, noID := r.InitProducer(ctx, "", time.Minute, NoProducer)
		_, stranger := r.InitProducer(ctx, "x", time.Minute, Producer{7, 0})
		_, unknown := r.Get(ctx, "y")
		for name, c := range map[string]struct{ got, want error }{
			"no timeout":         {noTimeout, kerr.InvalidTransactionTimeout},
			"long timeout":       {longTimeout, kerr.InvalidTransactionTimeout},
			"no id":              {noID, kerr.InvalidRequest},
			"stranger":           {stranger, kerr.ProducerFenced},
			"unknown":            {unknown, kerr.TransactionalIDNotFound},
			"add to unknown":     {r.AddPartitions(ctx, "y", V0, p, nil), kerr.InvalidProducerIDMapping},
			"verify unknown":     {r.Verify(ctx, "y", p, nil), kerr.InvalidProducerIDMapping},
			"end without begin":  {r.end(ctx, "x", p, true), kerr.InvalidTxnState},
			"end of another":     {r.end(ctx, "x", Producer{p.ID + 1, 0}, true), kerr.InvalidProducerIDMapping},
			"end of older epoch": {r.end(ctx, "x", Producer{p.ID, -1}, true), kerr.ProducerFenced},
		} {
			if !errors.Is(c.got, c.want) {
				t.Errorf("%s: got %v, want %v", name, c.got, c.want)
			}
		}
	})
}

func TestExpiryAndCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.IDExpiry = time.Hour; c.CheckpointRecords = 50 })
		r.init("idle", NoProducer)
		open, err := r.InitProducer(t.Context(), "open", 15*time.Minute, NoProducer)
		if err != nil {
			t.Fatal(err)
		}
		r.add("open", open, a0)
		p := r.init("busy", NoProducer)
		for range 100 {
			r.add("busy", p, a0)
			if err := r.end(t.Context(), "busy", p, true); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * time.Second)
		if got, end := r.log.StartOffset(), r.log.EndOffset(); end-got > 60 {
			t.Errorf("log holds [%d, %d)", got, end)
		}
		r.crash()
		all, err := r.List(t.Context())
		if err != nil || len(all) != 3 {
			t.Errorf("got %d ids, %v; want 3", len(all), err)
		}
		r.wantState("open", Ongoing)
		r.wantState("busy", CompleteCommit)
		r.wantState("idle", Empty)
		time.Sleep(50 * time.Minute)
		r.init("busy", NoProducer)
		time.Sleep(20 * time.Minute)
		r.crash()
		if _, err := r.Get(t.Context(), "idle"); !errors.Is(err, kerr.TransactionalIDNotFound) {
			t.Errorf("idle id: got %v", err)
		}
		r.wantState("busy", Empty)
	})
}

// TestEpochsRunOutOverARestart ends the last transaction of a producer id by the
// second protocol, and stops the coordinator before the markers are written: what
// EndTxn has promised is what the next coordinator gives.
func TestEpochsRunOutOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx := t.Context()
		p := r.init("x", NoProducer)
		for p.Epoch < maxEpoch {
			p = r.init("x", p)
		}
		if err := r.AddPartitions(ctx, "x", V2, p, []TopicPartition{a0}); err != nil {
			t.Fatal(err)
		}
		gate := make(chan struct{})
		r.parts.set(func() { r.parts.gate = gate })
		next, err := r.End(ctx, "x", V2, p, true)
		if err != nil || next.ID == p.ID || next.Epoch != 0 {
			t.Fatalf("commit: next is %v, %v", next, err)
		}
		if err := r.AddPartitions(ctx, "x", V2, next, []TopicPartition{a0}); !errors.Is(err, kerr.ConcurrentTransactions) {
			t.Errorf("add before the markers: got %v", err)
		}
		r.crash()
		if again, err := r.End(ctx, "x", V2, p, true); !errors.Is(err, kerr.ConcurrentTransactions) {
			t.Errorf("commit again, markers not written: got %v, %v", again, err)
		}
		close(gate)
		synctest.Wait()
		r.wantMarkers(written{a0, Marker{Producer{p.ID, p.Epoch + 1}, true, 2}})
		if again, err := r.End(ctx, "x", V2, p, true); err != nil || again != next {
			t.Errorf("commit again: got %v, %v; want %v", again, err, next)
		}
		if err := r.AddPartitions(ctx, "x", V2, next, []TopicPartition{a0}); err != nil {
			t.Errorf("next transaction: %v", err)
		}
	})
}

// TestAddWaitsForMarkers writes at once after a commit, while the markers take
// their time: the second protocol has no request in which a client could wait.
func TestAddWaitsForMarkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx := t.Context()
		p := r.init("x", NoProducer)
		if err := r.AddPartitions(ctx, "x", V2, p, []TopicPartition{a0}); err != nil {
			t.Fatal(err)
		}
		gate := make(chan struct{})
		r.parts.set(func() { r.parts.gate = gate })
		p, err := r.End(ctx, "x", V2, p, true)
		if err != nil {
			t.Fatal(err)
		}
		added := make(chan error, 1)
		go func() { added <- r.AddPartitions(ctx, "x", V2, p, []TopicPartition{a0}) }()
		synctest.Wait()
		if len(added) != 0 {
			t.Error("added before the markers")
		}
		close(gate)
		if err := <-added; err != nil {
			t.Errorf("add: %v", err)
		}
	})
}

func FuzzFromRecord(f *testing.F) {
	x, _, _ := New("x").Step(epoch, Init{time.Minute, NoProducer, 5})
	x, _, _ = x.Step(epoch, Add{V0, x.Producer, []TopicPartition{a0, b1}})
	for _, r := range []record.Record{toRecord(x), tombstone("x", epoch)} {
		f.Add(r.Key, r.Value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		x, live, err := fromRecord(record.Record{Key: key, Value: value})
		if err != nil || !live {
			return
		}
		again, _, err := fromRecord(toRecord(x))
		if err != nil || again.State != x.State || again.Producer != x.Producer || len(again.Partitions) != len(x.Partitions) {
			t.Errorf("got %+v, %v; want %+v", again, err, x)
		}
	})
}
