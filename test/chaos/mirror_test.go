//go:build chaos && interop && unix

package chaos

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

var (
	killsFlag = flag.Int("kills", 210, "owners of copies that TestMirror kills, over all pairs")
	rateFlag  = flag.Float64("rate", 20, "megabytes per second that are written at the source at least")
	pairsFlag = flag.String("pairs", "", "comma separated names of pairs of TestMirror; empty is all")
)

// pair is where from and where to, and which part of the kills falls to it: a
// takeover costs an Apache Kafka on the same machine more.
type pair struct {
	name     string
	from, to kind
	weight   int
	offsets  string // of the flow: translate or preserve
}

var pairs = []pair{
	{"mirror-topics", bundled, bundled, 2, preserve},
	{"bundled-bundled", bundled, bundled, 2, translate},
	{"bundled-kafka41", bundled, kafka41, 2, translate},
	{"kafka41-kafka39", kafka41, kafka39, 1, translate},
}

const (
	preserve  = "preserve"
	translate = "translate"
)

// shares deals kills to pairs by their weights.
func shares(kills int, of []pair) []int {
	total, dealt := 0, 0
	for _, p := range of {
		total += p.weight
	}
	var out []int
	for _, p := range of {
		out = append(out, kills*p.weight/total)
		dealt += out[len(out)-1]
	}
	out[0] += kills - dealt
	return out
}

// backlog is how many faults may wait for their recovery before the next one.
const backlog = 4

// TestMirror kills owners of copies while they write, makes zombies of them, cuts
// their connections and loses their answers, under load, between several pairs of
// clusters. Readers of both sides compare every record meanwhile.
func TestMirror(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d, %d kills, %.0f MB/s", seed, *killsFlag, *rateFlag)
	var chosen []pair
	for _, p := range pairs {
		if *pairsFlag == "" || slices.Contains(strings.Split(*pairsFlag, ","), p.name) {
			chosen = append(chosen, p)
		}
	}
	if len(chosen) == 0 {
		t.Fatalf("there is no pair %q", *pairsFlag)
	}
	var all report
	kills := shares(*killsFlag, chosen)
	for i, p := range chosen {
		t.Run(p.name, func(t *testing.T) {
			m := newMirrorRun(t, p, rand.New(rand.NewPCG(seed, uint64(i))))
			defer func() { all.rows = append(all.rows, m.row) }() // also if it fails half-way
			m.run(kills[i])
		})
	}
	all.print(t, seed)
	all.judge(t, *killsFlag, *rateFlag)
}

// mirrorRun is one pair, the fleet between, the load, and who compares.
type mirrorRun struct {
	*fleet
	us, eu *cluster
	rng    *rand.Rand
	flood  *flood
	check  *comparer
	began  time.Time
	row    row
	late   []func() // held requests that are still to be let go
}

func newMirrorRun(t *testing.T, p pair, rng *rand.Rand) *mirrorRun {
	t.Helper()
	dir := t.TempDir()
	m := &mirrorRun{rng: rng, began: time.Now(), row: row{pair: p, faults: map[string]int{}}}
	m.us, m.eu = startCluster(t, dir, "us", p.from), startCluster(t, dir, "eu", p.to)
	m.fleet = newFleet(t, filepath.Join(dir, "fleet"), 3)
	t.Cleanup(func() {
		if t.Failed() {
			m.fleet.describe()
			t.Logf("--- broker us:\n%s\n--- broker eu:\n%s", m.us.log(), m.eu.log())
		}
	})
	t.Cleanup(m.letGo)
	m.flood = startFlood(t, m.us, *rateFlag*1.05e6, rng)
	objects := m.us.declaration() + m.eu.declaration() + "apiVersion: waybill/v1\nkind: ReplicationFlow\nmetadata: {name: " + flowName + "}\nspec: {source: us, destination: eu, offsets: " + p.offsets + ", topics: {include: [\"*\"]}}\n"
	eventually(t, recovery, "apply", func() error {
		_, err := m.anyNode(http.MethodPost, "/api/v1/apply", objects)
		return err
	})
	m.check = startComparer(t)
	m.check.read(m.us, (*strand).source)
	m.awaitCounterparts()
	m.check.read(m.eu, (*strand).copied)
	if p.offsets == preserve {
		m.check.everyReader(m.us, (*twin).source)
		m.check.everyReader(m.eu, (*twin).copied)
	}
	return m
}

// awaitCounterparts returns when the topics are on the destination.
func (m *mirrorRun) awaitCounterparts() {
	m.t.Helper()
	eventually(m.t, recovery, "the destination has the topics", func() error { return counterparts(m.t, m.eu, streamTopics()...) })
}

func (m *mirrorRun) say(format string, args ...any) {
	m.t.Logf("%6.1fs %s", time.Since(m.began).Seconds(), fmt.Sprintf(format, args...))
}

// run does the faults until enough owners are killed, lets everything recover
// and counts.
func (m *mirrorRun) run(kills int) {
	m.check.mark(m.flood.counts())
	for m.row.kills < kills && len(m.check.wrong()) == 0 {
		m.awaitBacklog(backlog)
		m.breakSomething()
		m.pause(200, 1500)
	}
	m.letGo()
	m.us.tap.forget()
	m.eu.tap.forget()
	m.awaitBacklog(0)
	m.flood.end()
	must(m.t, m.flood.err())
	want := m.flood.counts()
	m.check.awaitEnd(want, m.us, m.eu)
	if m.row.pair.offsets == preserve {
		m.check.awaitTwins(endsOf(m.t, m.us, streamTopics()...))
	}
	m.row.verdict = m.check.finish(want)
	m.row.twins = m.check.sumOfTwins()
	m.row.account(m.flood, m.check)
	m.checkLedger()
	for _, p := range m.fleet.processes() {
		if p.panicked() {
			m.t.Errorf("%s has panicked:\n%s", p.name, p.tail())
		}
	}
	m.say("%d records compared", m.row.compared)
}

// awaitBacklog waits until not more than some faults wait for their recovery.
func (m *mirrorRun) awaitBacklog(most int) {
	m.t.Helper()
	eventually(m.t, 10*recovery, "the copies recover", func() error {
		n, oldest, err := m.check.pending()
		switch err = errors.Join(err, m.flood.err()); {
		case err != nil:
			m.t.Fatal(err)
		case oldest > recovery:
			m.explain()
			m.t.Fatalf("a fault of %.0f s ago is not recovered from:\n%s", oldest.Seconds(), strings.Join(m.check.behind(), "\n"))
		case n > most:
			return fmt.Errorf("%d faults wait for their recovery", n)
		}
		return nil
	})
}

// explain logs what the fleet and the destination say while both still run: a copy may
// stand still, or a transaction that nobody ends hide what it has written.
func (m *mirrorRun) explain() {
	status, err := m.anyNode(http.MethodGet, "/api/v1/status", "")
	m.t.Logf("--- status: %s %v", status, err)
	ctx, cancel := within(m.t)
	defer cancel()
	adm := kadm.NewClient(m.eu.open(m.t))
	stable, err := adm.ListCommittedOffsets(ctx, streamTopics()...)
	if err != nil {
		m.t.Log(err)
		return
	}
	ends, err := adm.ListEndOffsets(ctx, streamTopics()...)
	if err != nil {
		m.t.Log(err)
		return
	}
	stable.Each(func(o kadm.ListedOffset) {
		end, _ := ends.Lookup(o.Topic, o.Partition)
		m.t.Logf("eu %s/%d: last stable offset %d, high watermark %d", o.Topic, o.Partition, o.Offset, end.Offset)
		if end.Offset-o.Offset < 10_000 {
			return
		}
		of := kadm.TopicsSet{}
		of.Add(o.Topic, o.Partition)
		producers, err := adm.DescribeProducers(ctx, of)
		m.t.Logf("its producers: %v %+v", err, producers)
	})
}

func (m *mirrorRun) pause(least, most int) {
	time.Sleep(time.Duration(least+m.rng.IntN(most-least)) * time.Millisecond)
}

// mirrorFaults are what TestMirror does.
var mirrorFaults = []struct {
	name   string
	weight int
	do     func(*mirrorRun)
}{
	{"kill, records on their way", 32, func(m *mirrorRun) {
		m.bury(m.someWriter(sent, m.strike))
	}},
	{"kill, records at the broker", 20, func(m *mirrorRun) {
		m.bury(m.someWriter(arrived, m.strike))
	}},
	{"kill at any time", 5, func(m *mirrorRun) {
		n := m.nodes[m.rng.IntN(len(m.nodes))]
		m.strike(n)
		m.bury(n)
	}},
	{"kill, requests come late", 8, func(m *mirrorRun) {
		n := m.someWriter(sent, m.delay)
		m.pause(5, 200) // it sends what it can
		m.strike(n)
		m.bury(n)
	}},
	{"kill, answer lost", 5, func(m *mirrorRun) {
		if n := m.loseAnswer(); n != nil {
			m.strike(n)
			m.bury(n)
		}
	}},
	{"pause", 8, func(m *mirrorRun) {
		m.sleep(m.someWriter(arrived, nil))
	}},
	{"pause, requests come late", 4, func(m *mirrorRun) {
		n := m.someWriter(sent, m.delay)
		m.pause(5, 100)
		m.sleep(n)
	}},
	{"answer lost", 30, func(m *mirrorRun) {
		m.loseAnswer()
	}},
	{"cut at the destination", 8, func(m *mirrorRun) { m.eu.proxy.cut() }},
	{"cut at the source", 5, func(m *mirrorRun) { m.us.proxy.cut() }},
	{"answers late", 4, func(m *mirrorRun) {
		m.eu.proxy.hold()
		m.pause(100, 3000)
		m.eu.proxy.pass()
	}},
}

func (m *mirrorRun) breakSomething() {
	total := 0
	for _, f := range mirrorFaults {
		total += f.weight
	}
	n := m.rng.IntN(total)
	for _, f := range mirrorFaults {
		if n -= f.weight; n < 0 {
			m.row.faults[f.name]++
			m.check.mark(m.flood.counts())
			f.do(m)
			return
		}
	}
}

// nodeOf is the node of a client.id, nil if it is no node's.
func (m *mirrorRun) nodeOf(client string) *node {
	for _, n := range m.nodes {
		if client == clientID(n) {
			return n
		}
	}
	return nil
}

func clientID(n *node) string { return "waybill-" + n.name }

// someWriter is a node of which a request that writes records is in a moment of
// its life; do is done right then.
func (m *mirrorRun) someWriter(when moment, do func(*node)) *node {
	m.t.Helper()
	at := func(client string) {
		if n := m.nodeOf(client); n != nil && do != nil {
			do(n)
		}
	}
	select {
	case client := <-m.eu.tap.onRequest(when, m.rng.IntN(40), at, writeKeys...):
		if n := m.nodeOf(client); n != nil {
			return n
		}
		m.t.Fatalf("%q writes, which is the client.id of no node", client)
	case <-time.After(recovery):
		m.t.Fatal("nobody writes")
	}
	return nil
}

// decisive are the requests whose lost answers leave an owner in the dark most:
// data and hops, the commit, the partitions of a transaction, the fence.
var decisive = [][]int16{writeKeys, {int16(kmsg.EndTxn)}, {int16(kmsg.AddPartitionsToTxn)}, {int16(kmsg.InitProducerID)}}

// loseAnswer has the destination answer a request of some node, and nobody hear
// it. It returns the node, or nil if nobody has asked such a thing.
func (m *mirrorRun) loseAnswer() *node {
	keys := decisive[m.rng.IntN(len(decisive))]
	limit := 2 * time.Second
	if keys[0] == int16(kmsg.InitProducerID) {
		m.eu.proxy.cut() // has lanes begin anew
	}
	select {
	case client := <-m.eu.tap.loseAnswer(m.rng.IntN(3), keys...):
		m.row.lostAnswers++
		return m.nodeOf(client)
	case <-time.After(limit):
		m.eu.tap.forget()
		return nil
	}
}

// delay holds the requests of a node, which come to the destination some seconds
// later, whatever became of the node.
func (m *mirrorRun) delay(n *node) {
	release := m.eu.tap.holdRequests(clientID(n))
	m.late = append(m.late, release)
	time.AfterFunc(time.Duration(3000+m.rng.IntN(5000))*time.Millisecond, release)
}

// letGo lets every held request pass, now.
func (m *mirrorRun) letGo() {
	for _, release := range m.late {
		release()
	}
	m.late = nil
}

// strike kills a node (SIGKILL) and counts what it had sent to the destination
// in full, and had no answer to, when the signal was given.
func (m *mirrorRun) strike(n *node) {
	died := m.eu.tap.unanswered(clientID(n), func() { _ = n.process.cmd.Process.Kill() })
	m.row.kills++
	if died.writes > 0 {
		m.row.inFlight++
		m.row.requests += died.writes
	}
	m.say("kill %d, %s: %d requests with records under way, %d others", m.row.kills, n.name, died.writes, died.others)
}

// bury starts a killed node again: at once, or when others may have taken its
// copies over.
func (m *mirrorRun) bury(n *node) {
	m.t.Helper()
	n.process.kill() // returns when it is gone
	if m.rng.IntN(2) == 0 {
		m.pause(500, 4000)
	}
	n.start()
}

// sleep suspends a node (SIGSTOP) for longer than it takes to be replaced.
func (m *mirrorRun) sleep(n *node) {
	m.say("%s sleeps", n.name)
	m.row.pauses++
	n.process.suspend(m.t)
	m.pause(4000, 10000)
	n.process.resume(m.t)
}

// checkLedger reads the ledger by itself and holds what readers saw against it.
func (m *mirrorRun) checkLedger() {
	m.t.Helper()
	us, eu := m.ids(m.us), m.ids(m.eu)
	whole := m.row.pair.offsets == preserve
	copies := foldLedger(m.t, readAll(m.t, m.eu, ledger.Topic), whole)
	ends := endsOf(m.t, m.us, streamTopics()...)
	for _, topic := range streamTopics() {
		for p := range int32(floodPartitions) {
			id := ledger.CopyID{
				Source:      ledger.End{Cluster: us.cluster, TopicID: us.topics[topic], Partition: p},
				Destination: ledger.End{Cluster: eu.cluster, TopicID: eu.topics[topic], Partition: p},
			}
			f, s := copies[id.Key()], &m.check.strands[topic][p]
			s.checkLedger(m.t, f, ends[topic][p], whole)
			if f == nil {
				continue
			}
			m.row.epochs += len(f.owners)
			for range 3 {
				at := m.rng.Int64N(max(1, f.next))
				if want, ok := f.image(at); ok {
					m.fleet.translates(topic, p, at, want)
				}
			}
		}
	}
}

// identity is what the ledger calls a cluster and its topics.
type identity struct {
	cluster string
	topics  map[string]ledger.TopicID
}

func (m *mirrorRun) ids(of *cluster) identity {
	m.t.Helper()
	ctx, cancel := within(m.t)
	defer cancel()
	cl := of.open(m.t)
	id := identity{topics: map[string]ledger.TopicID{}}
	var err error
	id.cluster, err = kafka.ClusterID(ctx, cl)
	must(m.t, err)
	details, err := kadm.NewClient(cl).ListTopics(ctx, streamTopics()...)
	must(m.t, err)
	for _, d := range details {
		id.topics[d.Topic] = ledger.TopicID(d.ID)
	}
	return id
}
