package group

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
	t       *testing.T
	log     *memLog
	cfg     Config
	commits []Commit
	topics  *catalog
	stop    func() error
}

func newRig(t *testing.T, change ...func(*Config)) *rig {
	r := &rig{t: t, log: newMemLog(), cfg: DefaultConfig()}
	r.cfg.Partitions = 1
	r.cfg.InitialRebalanceDelay = 0
	r.topics = newCatalog(map[string]int32{"t": 2})
	r.cfg.Topics = func() Topics { return r.topics }
	r.cfg.OnCommit = func(c []Commit) { r.commits = append(r.commits, c...) }
	for _, f := range change {
		f(&r.cfg)
	}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *rig) start() {
	r.Coordinator = NewCoordinator(r.cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	serve, err := r.Lead(0, r.log)
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

func (r *rig) restart() {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Fatalf("Lead: %v", err)
	}
	r.start()
}

func tp(p int32) TopicPartition { return TopicPartition{"t", p} }

func at(p int32, offset int64) Offset {
	return Offset{tp(p), offset, 7, fmt.Sprintf("note %d", offset)}
}

func (r *rig) commit(group string, o ...Offset) error {
	return r.Commit(r.t.Context(), CommitRequest{Group: group, Generation: -1, Client: Client{Principal: "User:a"}, Offsets: o})
}

// offset returns what is committed for partition 0 of a group, and its error.
func (r *rig) offset(group string, stable bool) (int64, error) {
	r.t.Helper()
	got, err := r.Offsets(r.t.Context(), FetchRequest{Group: group, Partitions: []TopicPartition{tp(0)}, Stable: stable, MemberEpoch: -1})
	if err != nil {
		r.t.Fatalf("Offsets: %v", err)
	}
	return got[0].Offset.Offset, got[0].Err
}

func (r *rig) wantOffset(group string, want int64) {
	r.t.Helper()
	if got, err := r.offset(group, false); got != want || err != nil {
		r.t.Errorf("offset of %s: got %d, %v; want %d", group, got, err, want)
	}
}

func joining(id string) Join {
	return Join{
		MemberID: id, ClientID: "c", ClientHost: "/h", SessionTimeout: 10 * time.Second, RebalanceTimeout: 20 * time.Second,
		ProtocolType: "consumer", Protocols: []Protocol{{"range", []byte("meta")}},
	}
}

// stable makes a group of one member that has its assignment.
func (r *rig) stable(group string) Joined {
	r.t.Helper()
	j, err := r.Join(r.t.Context(), group, joining(""))
	if err != nil || j.Err != nil {
		r.t.Fatalf("join: %v, %v", err, j.Err)
	}
	_, err = r.Sync(r.t.Context(), group, Sync{MemberID: j.MemberID, Generation: j.Generation, Assignments: map[string][]byte{j.MemberID: []byte("p0")}})
	if err != nil {
		r.t.Fatalf("sync: %v", err)
	}
	return j
}

func TestCommitsSurviveRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		if err := r.commit("g", at(0, 10), at(1, 20)); err != nil {
			t.Fatal(err)
		}
		if err := r.commit("g", at(0, 11)); err != nil {
			t.Fatal(err)
		}
		want := []Commit{
			{Client{Principal: "User:a"}, "g", -1, at(0, 10)},
			{Client{Principal: "User:a"}, "g", -1, at(1, 20)},
			{Client{Principal: "User:a"}, "g", 10, at(0, 11)},
		}
		if !reflect.DeepEqual(r.commits, want) {
			t.Errorf("hook got %+v, want %+v", r.commits, want)
		}
		for range 2 {
			got, err := r.Offsets(t.Context(), FetchRequest{Group: "g", Stable: true, MemberEpoch: -1})
			want := []Fetched{{Offset: at(0, 11)}, {Offset: at(1, 20)}}
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("offsets: got %+v, %v; want %+v", got, err, want)
			}
			r.restart()
		}
		r.wantOffset("unknown", -1)
	})
}

func TestMembersSurviveRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		j := r.stable("g")
		r.restart()
		beat := Heartbeat{MemberID: j.MemberID, Generation: j.Generation}
		if err := r.Heartbeat(t.Context(), "g", beat); err != nil {
			t.Errorf("heartbeat after restart: %v", err)
		}
		d, err := r.Describe(t.Context(), "g")
		want := Description{"g", "consumer", "range", Stable, []Member{{j.MemberID, "", "c", "/h", []byte("meta"), []byte("p0")}}, false}
		if err != nil || !reflect.DeepEqual(d, want) {
			t.Errorf("describe: got %+v, %v; want %+v", d, err, want)
		}
		// Nobody beats: the session ends, which is saved.
		time.Sleep(11 * time.Second)
		r.restart()
		if d, _ := r.Describe(t.Context(), "g"); d.State != Empty {
			t.Errorf("state after the session: got %v, want %v", d.State, Empty)
		}
	})
}

func TestTwoMembersRebalance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.InitialRebalanceDelay = 3 * time.Second })
		type outcome struct {
			j   Joined
			s   Synced
			err error
		}
		done := make(chan outcome, 2)
		begin := time.Now()
		for range 2 {
			go func() {
				j, err := r.Join(t.Context(), "g", joining(""))
				o := outcome{j: j, err: err}
				if err == nil {
					e := Sync{MemberID: j.MemberID, Generation: j.Generation}
					for i, m := range j.Members {
						if e.Assignments == nil {
							e.Assignments = map[string][]byte{}
						}
						e.Assignments[m.MemberID] = fmt.Appendf(nil, "p%d", i)
					}
					o.s, o.err = r.Sync(t.Context(), "g", e)
				}
				done <- o
			}()
		}
		a, b := <-done, <-done
		if a.err != nil || b.err != nil || a.j.Err != nil || b.j.Err != nil {
			t.Fatalf("got %+v and %+v", a, b)
		}
		if took := time.Since(begin); took < 3*time.Second {
			t.Errorf("rebalance took %v, less than the initial delay", took)
		}
		if a.j.Generation != 1 || b.j.Generation != 1 || a.j.Leader != b.j.Leader {
			t.Errorf("members disagree: %+v and %+v", a.j, b.j)
		}
		if got := map[string]bool{string(a.s.Assignment): true, string(b.s.Assignment): true}; !got["p0"] || !got["p1"] {
			t.Errorf("assignments: got %q and %q", a.s.Assignment, b.s.Assignment)
		}
		// One leaves; the other is told, and may still commit.
		if errs, err := r.Leave(t.Context(), "g", []Leaver{{MemberID: a.j.MemberID}}); err != nil || errs[0] != nil {
			t.Errorf("leave: %v, %v", errs, err)
		}
		if err := r.Heartbeat(t.Context(), "g", Heartbeat{MemberID: b.j.MemberID, Generation: 1}); !errors.Is(err, kerr.RebalanceInProgress) {
			t.Errorf("heartbeat: got %v, want REBALANCE_IN_PROGRESS", err)
		}
		err := r.Commit(t.Context(), CommitRequest{Group: "g", MemberID: b.j.MemberID, Generation: 1, Offsets: []Offset{at(0, 3)}})
		if err != nil {
			t.Errorf("commit during a rebalance: %v", err)
		}
		if err := r.commit("g", at(0, 1)); !errors.Is(err, kerr.UnknownMemberID) {
			t.Errorf("commit from outside: got %v, want UNKNOWN_MEMBER_ID", err)
		}
	})
}

func TestNothingIsToldBeforeItIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.log.set(func() { r.log.hold = true })
		committed, fetched := make(chan error, 1), make(chan int64, 1)
		go func() { committed <- r.commit("g", at(0, 10)) }()
		synctest.Wait()
		go func() { o, _ := r.offset("g", false); fetched <- o }()
		synctest.Wait()
		if len(committed) != 0 || len(fetched) != 0 || len(r.commits) != 0 {
			t.Errorf("answered before durable: %d commits, %d fetches, hook %v", len(committed), len(fetched), r.commits)
		}
		r.log.release()
		if err, o := <-committed, <-fetched; err != nil || o != 10 {
			t.Errorf("got %v and offset %d, want 10", err, o)
		}
	})
}

func TestFailedLogEndsLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		j := r.stable("g")
		parked := make(chan error, 1)
		go func() {
			_, err := r.Join(t.Context(), "g", joining(""))
			parked <- err
		}()
		synctest.Wait()
		// A refusal concerns one request only.
		r.log.set(func() { r.log.refuse = fmt.Errorf("append: %w", kerr.MessageTooLarge) })
		if err := r.commit("other", at(0, 1)); !errors.Is(err, kerr.MessageTooLarge) {
			t.Errorf("refused commit: got %v", err)
		}
		if err := r.Heartbeat(t.Context(), "g", Heartbeat{MemberID: j.MemberID, Generation: 1}); !errors.Is(err, kerr.RebalanceInProgress) {
			t.Errorf("heartbeat after a refusal: got %v", err)
		}
		r.log.set(func() { r.log.refuse, r.log.fail = nil, errDisk })
		if err := r.commit("other", at(0, 1)); !errors.Is(err, kerr.CoordinatorNotAvailable) {
			t.Errorf("failed commit: got %v", err)
		}
		if err := <-parked; !errors.Is(err, kerr.CoordinatorNotAvailable) {
			t.Errorf("parked join: got %v, want COORDINATOR_NOT_AVAILABLE", err)
		}
		if err := r.stop(); !errors.Is(err, errDisk) {
			t.Errorf("Lead: got %v, want %v", err, errDisk)
		}
		if err := r.commit("other", at(0, 1)); !errors.Is(err, kerr.CoordinatorNotAvailable) {
			t.Errorf("commit after the end: got %v, want COORDINATOR_NOT_AVAILABLE", err)
		}
		if _, err := r.List(t.Context()); !errors.Is(err, kerr.CoordinatorNotAvailable) {
			t.Errorf("a list that is not whole: got %v, want COORDINATOR_NOT_AVAILABLE", err)
		}
	})
}

func verified(context.Context) error { return nil }

func (r *rig) hold(group string, pid int64, o Offset) error {
	req := CommitRequest{Group: group, Generation: -1, Client: Client{Principal: "User:txn"}, Offsets: []Offset{o}}
	return r.CommitInTransaction(r.t.Context(), req, pid, 0, verified)
}

func TestTransactionalOffsets(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarts=%v", restarts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				again := func() {
					if restarts {
						r.restart()
					}
				}
				check := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				check(r.commit("g", at(0, 5)))
				check(r.hold("g", 1, at(0, 10)))
				again()
				if got, err := r.offset("g", false); got != 5 || err != nil {
					t.Errorf("unstable read: got %d, %v; want 5", got, err)
				}
				if _, err := r.offset("g", true); !errors.Is(err, kerr.UnstableOffsetCommit) {
					t.Errorf("stable read: got %v, want UNSTABLE_OFFSET_COMMIT", err)
				}
				check(r.EndTransaction(t.Context(), 0, Marker{ProducerID: 1, Commit: true}))
				again()
				r.wantOffset("g", 10)
				// aborted
				check(r.hold("g", 1, at(0, 20)))
				check(r.EndTransaction(t.Context(), 0, Marker{ProducerID: 1}))
				again()
				r.wantOffset("g", 10)
				// a plain commit that stands later in the log wins over the transaction
				check(r.hold("g", 2, at(0, 30)))
				check(r.commit("g", at(0, 31)))
				check(r.EndTransaction(t.Context(), 0, Marker{ProducerID: 2, Commit: true}))
				again()
				r.wantOffset("g", 31)
				// a marker without a transaction
				check(r.EndTransaction(t.Context(), 0, Marker{ProducerID: 9, Commit: true}))
				// a group that is deleted takes what is pending with it
				check(r.hold("g", 2, at(0, 40)))
				check(r.Delete(t.Context(), "g"))
				again()
				check(r.EndTransaction(t.Context(), 0, Marker{ProducerID: 2, Commit: true}))
				again()
				r.wantOffset("g", -1)
			})
		})
	}
}

func TestTransactionThatEndsDuringVerification(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		req := CommitRequest{Group: "g", Generation: -1, Offsets: []Offset{at(0, 1)}}
		err := r.CommitInTransaction(t.Context(), req, 1, 0, func(ctx context.Context) error {
			return r.EndTransaction(ctx, 0, Marker{ProducerID: 1})
		})
		if !errors.Is(err, kerr.InvalidTxnState) {
			t.Errorf("got %v, want INVALID_TXN_STATE", err)
		}
		err = r.CommitInTransaction(t.Context(), req, 1, 0, func(context.Context) error { return kerr.InvalidProducerEpoch })
		if !errors.Is(err, kerr.InvalidProducerEpoch) {
			t.Errorf("got %v, want the verifier's error", err)
		}
		if _, err := r.offset("g", true); err != nil {
			t.Errorf("offset is unstable: %v", err)
		}
		// Once verified, a transaction is not asked about again.
		if err := r.CommitInTransaction(t.Context(), req, 1, 0, verified); err != nil {
			t.Fatal(err)
		}
		if err := r.CommitInTransaction(t.Context(), req, 1, 0, func(context.Context) error { return errDisk }); err != nil {
			t.Errorf("second commit: %v", err)
		}
		s, _ := r.shard("g")
		if n := len(s.verifying); n != 0 {
			t.Errorf("%d verifications are left over", n)
		}
	})
}

func TestCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.CheckpointRecords = 50; c.CleanupInterval = time.Second })
		j := r.stable("members")
		if err := r.commit("unstable", at(0, 7)); err != nil {
			t.Fatal(err)
		}
		if err := r.hold("unstable", 1, at(0, 8)); err != nil {
			t.Fatal(err)
		}
		before := r.log.EndOffset()
		for i := range int64(200) {
			if err := r.commit("g", at(0, i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * time.Second)
		if got := r.log.StartOffset(); got == 0 || got > before {
			t.Errorf("log starts at %d with a transaction open since about %d", got, before)
		}
		if err := r.EndTransaction(t.Context(), 0, Marker{ProducerID: 1, Commit: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if got, end := r.log.StartOffset(), r.log.EndOffset(); end-got > 60 {
			t.Errorf("log holds [%d, %d)", got, end)
		}
		r.restart()
		r.wantOffset("g", 199)
		r.wantOffset("unstable", 8)
		if err := r.Heartbeat(t.Context(), "members", Heartbeat{MemberID: j.MemberID, Generation: 1}); err != nil {
			t.Errorf("heartbeat: %v", err)
		}
	})
}

// TestTheGroupWithoutAName has offsets and nothing else.
func TestTheGroupWithoutAName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		if err := r.commit("", at(0, 7)); err != nil {
			t.Fatalf("commit: %v", err)
		}
		r.restart()
		r.wantOffset("", 7)
		if d, err := r.Describe(t.Context(), ""); err != nil || d.State != Empty {
			t.Errorf("describe: got %v, %v", d.State, err)
		}
		refused := map[string]error{"hold": r.hold("", 1, at(0, 8))}
		_, refused["join"] = r.Join(t.Context(), "", joining(""))
		_, refused["beat"] = r.beat("", "A", 0)
		_, refused["leave"] = r.Leave(t.Context(), "", []Leaver{{MemberID: "A"}})
		_, refused["describe consumer"] = r.DescribeConsumer(t.Context(), "")
		_, refused["delete offsets"] = r.DeleteOffsets(t.Context(), "", []TopicPartition{tp(0)})
		for what, err := range refused {
			if !errors.Is(err, kerr.InvalidGroupID) {
				t.Errorf("%s: got %v", what, err)
			}
		}
		if err := r.Delete(t.Context(), ""); err != nil {
			t.Errorf("delete: %v", err)
		}
		r.wantOffset("", -1)
	})
}

func TestDeleteAndList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		j := r.stable("live")
		if err := r.commit("idle", at(0, 1), at(1, 1)); err != nil {
			t.Fatal(err)
		}
		want := []Listed{{"idle", "", Empty, TypeClassic}, {"live", "consumer", Stable, TypeClassic}}
		if got, err := r.List(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("list: got %v, %v; want %v", got, err, want)
		}
		for group, want := range map[string]error{"live": kerr.NonEmptyGroup, "none": kerr.GroupIDNotFound, "": kerr.GroupIDNotFound} {
			if err := r.Delete(t.Context(), group); !errors.Is(err, want) {
				t.Errorf("delete %q: got %v, want %v", group, err, want)
			}
		}
		if errs, err := r.DeleteOffsets(t.Context(), "idle", []TopicPartition{tp(0), tp(9)}); err != nil || errs[0] != nil || errs[1] != nil {
			t.Errorf("delete offsets: %v, %v", errs, err)
		}
		// The metadata of "live" is not a consumer's: what it reads is unknown.
		if _, err := r.DeleteOffsets(t.Context(), "live", []TopicPartition{tp(0)}); !errors.Is(err, kerr.NonEmptyGroup) {
			t.Errorf("delete offsets of a live group: got %v", err)
		}
		r.restart()
		r.wantOffset("idle", -1)
		if err := r.Delete(t.Context(), "idle"); err != nil {
			t.Errorf("delete: %v", err)
		}
		if _, err := r.Leave(t.Context(), "live", []Leaver{{MemberID: j.MemberID}}); err != nil {
			t.Error(err)
		}
		if err := r.Delete(t.Context(), "live"); err != nil {
			t.Errorf("delete: %v", err)
		}
		r.restart()
		if got, _ := r.List(t.Context()); len(got) != 0 {
			t.Errorf("groups left: %v", got)
		}
	})
}

func TestForgetTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		other := Offset{TopicPartition{"other", 0}, 3, -1, ""}
		if err := r.commit("both", at(0, 1), at(1, 1), other); err != nil {
			t.Fatal(err)
		}
		if err := r.commit("one", at(0, 1)); err != nil {
			t.Fatal(err)
		}
		if err := r.hold("held", 1, at(0, 5)); err != nil {
			t.Fatal(err)
		}
		r.forget(t.Context(), "t")
		if err := r.EndTransaction(t.Context(), 0, Marker{ProducerID: 1, Commit: true}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			got, err := r.Offsets(t.Context(), FetchRequest{Group: "both", MemberEpoch: -1})
			if want := []Fetched{{Offset: other}}; err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, %v; want %v", got, err, want)
			}
			r.wantOffset("one", -1)
			r.wantOffset("held", -1)
			r.restart()
		}
	})
}

func FuzzReadRecord(f *testing.F) {
	now := time.UnixMilli(1_700_000_000_000)
	g := New("g", Rules{}, now)
	g.Step(now, Join{NewMemberID: "m", InstanceID: "i", ProtocolType: "consumer", Protocols: []Protocol{{"range", []byte("x")}}})
	seeds := recordsOf("g", g, g.parts(), now)
	c := someConsumer(now)
	seeds = append(seeds, recordsOf("g", c, c.parts(), now)...)
	seeds = append(seeds, tombstonesOf("g", c, now)...)
	for _, r := range append(seeds, offsetRecord("g", at(0, 1), now), tombstone(groupKey("g"), now)) {
		f.Add(r.Key, r.Value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r := record.Record{Key: key, Value: value}
		l, known, err := readRecord(r)
		if err != nil || !known {
			return
		}
		cfg := DefaultConfig()
		s := newShard(0, newMemLog(), &cfg, new(gone))
		b, err := record.Encode([]record.Record{r}, record.NoProducer(record.None))
		if err != nil {
			t.Skip()
		}
		if err := s.apply(l, r, b, now); err != nil {
			return
		}
		e := s.get(l.name)
		if g, ok := e.group.(*Consumer); ok {
			g.loaded(now)
			sameAfterReload(t, g, now)
			return
		}
		if l.group == nil {
			return
		}
		again, _, err := readRecord(recordsOf(l.name, e.group, e.group.parts(), now)[0])
		if err != nil || len(again.group.Members) != len(e.group.(*Group).members) {
			t.Errorf("group does not survive: %v", err)
		}
	})
}
