package group

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/record"
)

// catalog is topics for tests. The id of a topic has its name's bytes, and the
// life it is in.
type catalog struct {
	version int64
	topics  map[string]int32
	lives   map[string]byte
}

func newCatalog(topics map[string]int32) *catalog {
	return &catalog{version: 1, topics: topics, lives: map[string]byte{}}
}

func (c *catalog) id(name string) (id TopicID) {
	copy(id[:], name)
	id[15] = c.lives[name]
	return id
}

func (c *catalog) Version() int64 { return c.version }

func (c *catalog) Topic(name string) (TopicID, int32, bool) {
	n, ok := c.topics[name]
	return c.id(name), n, ok
}

func (c *catalog) Name(id TopicID) (string, bool) {
	for name := range c.topics {
		if c.id(name) == id {
			return name, true
		}
	}
	return "", false
}

func (c *catalog) Names() iter.Seq[string] { return maps.Keys(c.topics) }

// set changes the number of partitions of a topic; 0 deletes it.
func (c *catalog) set(name string, partitions int32) {
	next := maps.Clone(c.topics)
	if next[name] = partitions; partitions == 0 {
		delete(next, name)
		c.lives[name]++
	}
	c.topics, c.version = next, c.version+1
}

// actor is a client of the group: what it believes, which lags behind what the
// group knows whenever an answer is lost.
type actor struct {
	id, instance string
	classic      bool
	epoch        int32      // 0 until it has joined
	owned        Assignment // what it reads
	told         Assignment // what it was last told that it may read
	full         bool       // says everything with its next heartbeat
	joined       bool       // a classic one that has to synchronise
	topics       []string
	regex        string
	beat         time.Time // when it last heard from the group
}

// consumerWalk is a group of the consumer protocol and its clients, driven by
// choices.
type consumerWalk struct {
	t       *testing.T
	choose  func(n int) int
	g       *Consumer
	topics  *catalog
	now     time.Time
	actors  []*actor
	next    int
	log     []string
	records map[string]record.Record // what has been saved, by key
}

func newConsumerWalk(t *testing.T, choose func(int) int) *consumerWalk {
	rules := ConsumerRules{SessionTimeout: 10 * time.Second, MaxMembers: 7, Migration: MigrateNever}
	return &consumerWalk{
		t: t, choose: choose, g: NewConsumer("g", rules, epoch), now: epoch,
		topics:  newCatalog(map[string]int32{"a": 5, "b": 3, "c": 1}),
		records: map[string]record.Record{},
	}
}

// TestNoPartitionHasTwoOwners lets members of both protocols beat, lose answers,
// leave, restart, fall silent and change their minds, while topics come and go,
// and looks after each step at what every client believes that it may read.
func TestNoPartitionHasTwoOwners(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 40
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newConsumerWalk(t, rng.IntN)
		for range 300 {
			w.move()
		}
		w.settle()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// FuzzConsumerGroup is the same walk, with the choices of the fuzzer.
func FuzzConsumerGroup(f *testing.F) {
	f.Add([]byte("joins, beats, leaves and all the rest"))
	f.Add([]byte{0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20})
	f.Fuzz(func(t *testing.T, choices []byte) {
		if len(choices) > 2000 {
			t.Skip()
		}
		w := newConsumerWalk(t, func(n int) int {
			if len(choices) == 0 {
				return 0
			}
			c := int(choices[0]) % n
			choices = choices[1:]
			return c
		})
		for len(choices) > 0 {
			w.move()
		}
		w.settle()
	})
}

func (w *consumerWalk) fail(format string, args ...any) {
	w.t.Helper()
	for _, l := range w.log[max(0, len(w.log)-14):] {
		w.t.Log(l)
	}
	w.t.Fatalf(format, args...)
}

func (w *consumerWalk) note(format string, args ...any) {
	w.log = append(w.log, w.now.Sub(epoch).String()+" "+fmt.Sprintf(format, args...))
}

func (w *consumerWalk) move() {
	w.pass(time.Duration(w.choose(1500)) * time.Millisecond)
	switch n := w.choose(24); {
	case n == 0 && len(w.actors) < 8:
		w.next++
		a := &actor{id: fmt.Sprintf("m%d", w.next), full: true, classic: w.choose(4) == 0, beat: w.now}
		if w.choose(3) == 0 {
			a.instance = fmt.Sprintf("i%d", w.choose(3))
			// Two processes under one instance id fence each other by intent.
			for _, o := range w.actors {
				if o.instance == a.instance {
					a.instance = ""
				}
			}
		}
		a.want(w)
		w.actors = append(w.actors, a)
	case n == 1:
		names := []string{"a", "b", "c", "d"}
		w.topics.set(names[w.choose(len(names))], int32(w.choose(7)))
		w.note("topics %v", w.topics.topics)
	case n == 2:
		w.reload()
	case len(w.actors) == 0:
	default:
		w.act(w.actors[w.choose(len(w.actors))], n)
	}
}

func (a *actor) want(w *consumerWalk) {
	all := []string{"a", "b", "c", "d"}
	a.topics = all[w.choose(3):]
	a.regex = ""
	if !a.classic && w.choose(4) == 0 {
		a.topics, a.regex = []string{}, []string{"[ab]", ".*"}[w.choose(2)]
	}
	a.full = true
}

func (w *consumerWalk) act(a *actor, n int) {
	lost := w.choose(6) == 0
	switch {
	case n == 3:
		a.want(w)
	case n == 4:
		w.leave(a)
	case n == 5: // the process dies, and its session is over before anybody hears of it
		w.actors = slices.DeleteFunc(w.actors, func(o *actor) bool { return o == a })
		w.note("%s dies", a.id)
	case n == 6 && !a.classic && a.instance != "" && a.epoch > 0:
		w.step(ConsumerHeartbeat{MemberID: a.id, InstanceID: a.instance, MemberEpoch: LeaveStaticEpoch, RebalanceTimeout: -1})
		w.next++
		a.id, a.epoch, a.owned, a.told, a.full = fmt.Sprintf("m%d", w.next), 0, nil, nil, true
	case n < 12:
		a.revoke()
	case a.classic:
		w.beatClassic(a, lost)
	default:
		w.beat(a, lost)
	}
	w.check()
}

// revoke gives up what the actor was told that it may not read any more, and
// takes what it may.
func (a *actor) revoke() { a.owned = a.told }

// abandon gives everything up, as a member that is fenced does.
func (a *actor) abandon() { a.epoch, a.owned, a.told, a.full, a.joined = 0, nil, nil, true, false }

func (w *consumerWalk) leave(a *actor) {
	w.actors = slices.DeleteFunc(w.actors, func(o *actor) bool { return o == a })
	if a.classic {
		w.step(Leave{To: 1, Members: []Leaver{{a.id, a.instance}}})
		return
	}
	w.step(ConsumerHeartbeat{MemberID: a.id, InstanceID: a.instance, MemberEpoch: LeaveEpoch, RebalanceTimeout: -1})
}

func (w *consumerWalk) beat(a *actor, lost bool) {
	h := ConsumerHeartbeat{To: 1, MemberID: a.id, InstanceID: a.instance, MemberEpoch: a.epoch, RebalanceTimeout: -1, Topics: w.topics}
	if a.full || w.choose(8) == 0 {
		h.RebalanceTimeout, h.SubscribedTopicNames, h.SubscribedTopicRegex = 5*time.Second, a.topics, &a.regex
		assignor := Assignors()[w.choose(2)]
		h.ServerAssignor = &assignor
	}
	if a.full || w.choose(2) == 0 {
		h.Owned = AssignmentOf(a.owned)
	}
	if regex := w.g.unresolved(w.now, &h); regex != "" {
		topics, err := resolve(w.t.Context(), regex, w.topics, func(string) bool { return true })
		if err != nil {
			w.fail("%v", err)
		}
		h.Resolved = map[string][]string{regex: topics}
	}
	for _, f := range w.step(h) {
		b, ok := f.(ConsumerBeaten)
		if !ok {
			continue
		}
		if lost {
			a.full = true // a client that heard nothing says everything again
			continue
		}
		switch err := b.Err; {
		case err == nil:
			a.epoch, a.full, a.beat = b.MemberEpoch, false, w.now
			if b.Assignment != nil {
				a.told = b.Assignment
				// It stops reading at once what it has to; it says so when it has
				// committed.
				a.owned = a.owned.and(a.told)
				if w.choose(2) == 0 {
					a.owned = a.told
				}
			}
		case isOneOf(err, kerr.FencedMemberEpoch, kerr.UnknownMemberID):
			a.abandon()
		case isOneOf(err, kerr.GroupMaxSizeReached, kerr.UnreleasedInstanceID):
			a.full = true
		default:
			w.fail("%s: %v", a.id, b.Err)
		}
	}
}

func (w *consumerWalk) beatClassic(a *actor, lost bool) {
	var ev Event
	sub := kmsg.NewConsumerMemberMetadata()
	switch {
	case a.epoch == 0 || a.full:
		sub.Version, sub.Topics = 1, a.topics
		for id, ps := range a.owned.Topics() {
			if name, ok := w.topics.Name(id); ok {
				sub.OwnedPartitions = append(sub.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: name, Partitions: ps})
			}
		}
		j := Join{
			To: 1, MemberID: a.id, InstanceID: a.instance, NewMemberID: a.id, ProtocolType: "consumer", Topics: w.topics,
			SessionTimeout: 10 * time.Second, RebalanceTimeout: 5 * time.Second,
			Protocols: []Protocol{{"cooperative-sticky", sub.AppendTo(nil)}},
		}
		if a.epoch == 0 && a.instance != "" {
			j.MemberID = ""
		}
		ev = j
	case a.joined:
		ev = Sync{To: 1, MemberID: a.id, InstanceID: a.instance, Generation: a.epoch, Topics: w.topics}
	default:
		ev = Heartbeat{To: 1, MemberID: a.id, InstanceID: a.instance, Generation: a.epoch, Topics: w.topics}
	}
	for _, f := range w.step(ev) {
		var err error
		switch f := f.(type) {
		case Joined:
			if err = f.Err; err == nil && !lost {
				a.epoch, a.full, a.joined, a.beat = f.Generation, false, true, w.now
			}
		case Synced:
			if err = f.Err; err == nil && !lost {
				a.joined, a.beat = false, w.now
				a.told, _, _ = readAssignment(f.Assignment, w.topics)
				had := a.owned
				a.owned = a.owned.and(a.told)
				if !had.equal(a.owned) {
					a.full = true // it tells that it has revoked by joining again
				}
				a.owned = a.told
			}
		case Beaten:
			if err = f.Err; err == nil && !lost {
				a.beat = w.now
			}
		default:
			continue
		}
		if lost {
			continue
		}
		switch {
		case err == nil, errors.Is(err, kerr.GroupMaxSizeReached):
		case errors.Is(err, kerr.RebalanceInProgress):
			a.full = true
		case isOneOf(err, kerr.UnknownMemberID, kerr.IllegalGeneration, kerr.FencedInstanceID):
			a.abandon()
		default:
			w.fail("%s: %v", a.id, err)
		}
	}
}

func isOneOf(err error, of ...error) bool {
	return slices.ContainsFunc(of, func(e error) bool { return errors.Is(err, e) })
}

// pass lets time go by: ticks first, and then clients whose session is over give
// up by themselves.
func (w *consumerWalk) pass(d time.Duration) {
	end := w.now.Add(d)
	for {
		wake := w.g.Wake()
		if wake.IsZero() || wake.After(end) {
			break
		}
		w.now = wake
		w.step(Tick{})
		w.expire()
	}
	w.now = end
	w.expire()
}

// expire lets clients stop that the group has taken out: without an answer within
// the session, or the rebalance, they may not go on.
func (w *consumerWalk) expire() {
	for _, a := range w.actors {
		if w.g.members[a.id] == nil && a.epoch > 0 {
			a.abandon()
		}
	}
}

func (w *consumerWalk) step(e Event) []Effect {
	w.t.Helper()
	w.note("%T%+v", e, e)
	effects := unshared(w.t, w.g, len(w.log)%16 == 0, func() []Effect { return w.g.Step(w.now, e) })
	for _, f := range effects {
		w.note("  %T%+v", f, f)
		if s, ok := f.(Save); ok {
			for _, r := range recordsOf("g", w.g, s.Parts, w.now) {
				if w.records[string(r.Key)] = r; r.Value == nil {
					delete(w.records, string(r.Key))
				}
			}
		}
	}
	w.check()
	return effects
}

// check looks for partitions with two owners: in what the group knows, and in
// what the clients believe.
func (w *consumerWalk) check() {
	w.t.Helper()
	g := w.g
	owner := map[TopicID]map[int32]string{}
	n := 0
	for _, m := range g.ordered() {
		if m.epoch > g.assignmentEpoch || m.state != unrevoked && m.revoking.size() > 0 || m.assigned.meets(m.revoking) {
			w.fail("member %s stands at %+v", m.id, m.standing)
		}
		if m.instanceID != "" && g.static[m.instanceID] != m.id {
			w.fail("instance %s is not its member's", m.instanceID)
		}
		for _, a := range []Assignment{m.assigned, m.revoking} {
			for id, ps := range a {
				if owner[id] == nil {
					owner[id] = map[int32]string{}
				}
				for _, p := range ps {
					if o, taken := owner[id][p]; taken {
						w.fail("partition %d of %s is %s's and %s's", p, id[:1], o, m.id)
					}
					owner[id][p] = m.id
					n++
				}
			}
		}
	}
	known := 0
	for id, ps := range g.owners {
		for p, o := range ps {
			known++
			if owner[id][p] != o {
				w.fail("partition %d of %s is noted as %s's and is %q's", p, id[:1], o, owner[id][p])
			}
		}
	}
	if known != n || g.assignmentEpoch > g.epoch {
		w.fail("%d owners noted of %d, epoch %d, target of %d", known, n, g.epoch, g.assignmentEpoch)
	}
	reads := map[TopicID]map[int32]string{}
	for _, a := range w.actors {
		for id, ps := range a.owned {
			if reads[id] == nil {
				reads[id] = map[int32]string{}
			}
			for _, p := range ps {
				if o, taken := reads[id][p]; taken {
					w.fail("partition %d of %s is read by %s and %s", p, id[:1], o, a.id)
				}
				reads[id][p] = a.id
			}
		}
	}
}

// reload reads the group back from what has been saved, as a restart does.
func (w *consumerWalk) reload() {
	w.t.Helper()
	w.note("restart")
	g := NewConsumer("g", w.g.rules, w.now)
	for _, key := range slices.Sorted(maps.Keys(w.records)) {
		r := w.records[key]
		l, _, err := readRecord(r)
		if err == nil {
			err = g.replay(l.part, r, w.now)
		}
		if err != nil {
			w.fail("read back: %v", err)
		}
	}
	g.loaded(w.now)
	if diff := differ(w.g, g); diff != "" {
		w.fail("after a restart: %s", diff)
	}
	w.g = g
	w.check()
}

// settle lets all members beat until nothing changes: every partition that
// somebody wants is then read by one who does.
func (w *consumerWalk) settle() {
	w.t.Helper()
	honest := w.choose
	w.choose = func(n int) int { return 1 % n } // nothing is lost any more
	defer func() { w.choose = honest }()
	for range 60 {
		for _, a := range slices.Clone(w.actors) {
			a.revoke()
			if a.classic {
				w.beatClassic(a, false)
			} else {
				a.full = true
				w.beat(a, false)
			}
		}
		w.pass(time.Second)
	}
	for _, m := range w.g.ordered() {
		if m.gone() {
			return // what it has waits for it
		}
	}
	if len(w.actors) == 0 {
		return
	}
	if s := w.g.State(); len(w.g.members) > 0 && s != Stable {
		w.fail("the group does not settle: %s", s)
	}
	wanted, _ := w.g.subscribed()
	for name := range wanted {
		id, n, _ := w.topics.Topic(name)
		for p := range n {
			if w.g.owners[id][p] == "" {
				w.fail("partition %d of %s is nobody's", p, name)
			}
		}
	}
}

// differ says what two groups have not in common, of what is saved.
func differ(a, b *Consumer) string {
	switch {
	case a.epoch != b.epoch, a.assignmentEpoch != b.assignmentEpoch, a.metadata != b.metadata:
		return fmt.Sprintf("epoch %d/%d, target %d/%d", a.epoch, b.epoch, a.assignmentEpoch, b.assignmentEpoch)
	case len(a.members) != len(b.members), !maps.Equal(a.static, b.static):
		return fmt.Sprintf("members %d/%d, static %v/%v", len(a.members), len(b.members), a.static, b.static)
	case !maps.EqualFunc(a.target, b.target, Assignment.equal):
		return fmt.Sprintf("target %v/%v", a.target, b.target)
	case !maps.EqualFunc(a.patterns, b.patterns, func(x, y pattern) bool { return slices.Equal(x.topics, y.topics) }):
		return fmt.Sprintf("patterns %v/%v", a.patterns, b.patterns)
	}
	for id, m := range a.members {
		o := b.members[id]
		if o == nil || !m.standing.equal(o.standing) || !slices.Equal(m.topics, o.topics) || m.regex != o.regex ||
			m.instanceID != o.instanceID || m.rackID != o.rackID || m.clientID != o.clientID || m.clientHost != o.clientHost ||
			m.rebalance != o.rebalance || m.assignor != o.assignor || (m.classic == nil) != (o.classic == nil) {
			return fmt.Sprintf("member %+v/%+v", m, o)
		}
		if m.classic != nil && (m.classic.session != o.classic.session || len(m.classic.protocols) != len(o.classic.protocols)) {
			return fmt.Sprintf("classic member %+v/%+v", m.classic, o.classic)
		}
	}
	return ""
}

// sameAfterReload writes a group and reads it back.
func sameAfterReload(t *testing.T, g *Consumer, now time.Time) {
	t.Helper()
	again := NewConsumer("g", g.rules, now)
	for _, r := range recordsOf("g", g, g.parts(), now) {
		l, known, err := readRecord(r)
		if err == nil && known && r.Value != nil {
			err = again.replay(l.part, r, now)
		}
		if err != nil || !known {
			t.Fatalf("read back %+v: %v, %v", l.part, known, err)
		}
	}
	again.loaded(now)
	if diff := differ(g, again); diff != "" {
		t.Errorf("after a reload: %s", diff)
	}
}

// someConsumer is a group with members of every kind.
func someConsumer(now time.Time) *Consumer {
	g := NewConsumer("g", ConsumerRules{SessionTimeout: time.Minute}, now)
	topics := newCatalog(map[string]int32{"a": 3, "b": 2})
	rack, assignor, regex := "r1", Range, "[ab]"
	g.Step(now, ConsumerHeartbeat{
		MemberID: "m1", InstanceID: "i1", ClientID: "c", ClientHost: "/h", RackID: &rack, RebalanceTimeout: time.Minute,
		SubscribedTopicNames: []string{"b", "a"}, ServerAssignor: &assignor, Owned: Assignment{}, Topics: topics,
	})
	g.Step(now, ConsumerHeartbeat{
		MemberID: "m2", RebalanceTimeout: time.Minute, SubscribedTopicRegex: &regex, Owned: Assignment{}, Topics: topics,
		Resolved: map[string][]string{regex: {"a", "b"}},
	})
	sub := kmsg.NewConsumerMemberMetadata()
	sub.Topics = []string{"a"}
	g.Step(now, Join{
		NewMemberID: "m3", ProtocolType: "consumer", SessionTimeout: time.Second, RebalanceTimeout: time.Minute,
		Protocols: []Protocol{{"range", sub.AppendTo(nil)}}, Topics: topics,
	})
	return g
}
