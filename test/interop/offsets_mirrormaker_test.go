//go:build interop && unix

package interop

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

const offsetsKafka = "4.1.1"

// workload is a topic and the groups that read it, by how far they are of the records
// that can be read.
type workload struct {
	topic   string
	configs map[string]string
	groups  map[string]func(readable int) int // index of the next record
	write   func(w *offsetsWorld, topic string, round int)
}

var workloads = []workload{
	{"orders", nil, map[string]func(int) int{
		"app-lagging":   func(n int) int { return n / 4 },
		"app-near-head": func(n int) int { return n - 7 },
		"app-at-end":    func(n int) int { return n },
		"app-at-zero":   func(int) int { return 0 },
	}, func(w *offsetsWorld, topic string, round int) { w.plain(topic, 2000) }},
	{"payments", nil, map[string]func(int) int{
		"app-transactional":      func(n int) int { return n / 3 },
		"app-transactional-head": func(n int) int { return n - 5 },
	}, func(w *offsetsWorld, topic string, round int) { w.transactions(topic, 20) }},
	{"accounts", map[string]string{"cleanup.policy": "compact", "segment.ms": "500", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "1000"}, map[string]func(int) int{
		"app-compacted":      func(n int) int { return n / 2 },
		"app-compacted-head": func(n int) int { return n - 3 },
	}, func(w *offsetsWorld, topic string, round int) { w.keyed(topic, 400) }},
}

// offsetsWorld is two Apache Kafkas and everything that was written to the first.
type offsetsWorld struct {
	t      *testing.T
	us, eu *endpoint
	// written has the offset at the source of every record that was committed, by topic
	// and value, also of those that a cleaner has removed since.
	written map[string]map[string]int64
	next    int
}

func (w *offsetsWorld) value() []byte {
	w.next++
	return fmt.Appendf(nil, "record-%d", w.next)
}

func (w *offsetsWorld) note(records ...*kgo.Record) {
	for _, r := range records {
		if w.written[r.Topic] == nil {
			w.written[r.Topic] = map[string]int64{}
		}
		w.written[r.Topic][string(r.Value)] = r.Offset
	}
}

func (w *offsetsWorld) plain(topic string, n int) {
	var records []*kgo.Record
	for range n {
		records = append(records, &kgo.Record{Topic: topic, Value: w.value()})
	}
	must(w.t, "produce", w.us.cl.ProduceSync(w.t.Context(), records...).FirstErr())
	w.note(records...)
}

// transactions of which every fourth is aborted.
func (w *offsetsWorld) transactions(topic string, n int) {
	cl := newClient(w.t, w.us.c, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("writer-of-"+topic))
	defer cl.Close()
	for i := range n {
		must(w.t, "begin", cl.BeginTransaction())
		var records []*kgo.Record
		for range 1 + i%7 {
			records = append(records, &kgo.Record{Topic: topic, Value: w.value()})
		}
		must(w.t, "produce", cl.ProduceSync(w.t.Context(), records...).FirstErr())
		commit := i%4 != 3
		must(w.t, "end", cl.EndTransaction(w.t.Context(), kgo.TransactionEndTry(commit)))
		if commit {
			w.note(records...)
		}
	}
}

// keyed records of few keys, for a cleaner.
func (w *offsetsWorld) keyed(topic string, n int) {
	var records []*kgo.Record
	for i := range n {
		records = append(records, &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "key-%d", i%37+i/200*1000), Value: w.value()})
	}
	must(w.t, "produce", w.us.cl.ProduceSync(w.t.Context(), records...).FirstErr())
	w.note(records...)
}

// cost is what a group would meet that went on at an offset of a copy: records that it
// has read at the source and would read again, and unread ones that it would skip.
func (w *offsetsWorld) cost(topic, copied string, read, goesOn int64) (reread, skipped int) {
	for _, r := range w.eu.read(copied) {
		at, ok := w.written[topic][string(r.Value)]
		switch {
		case !ok:
			w.t.Errorf("%s has %q, which was never committed to %s", copied, r.Value, topic)
		case at < read && r.Offset >= goesOn:
			reread++
		case at >= read && r.Offset < goesOn:
			skipped++
		}
	}
	return reread, skipped
}

const offsetsFlow = `apiVersion: waybill/v1
kind: ReplicationFlow
metadata: {name: us-eu}
spec:
  source: us
  destination: eu
  topics: {include: [orders, payments, accounts], rename: {prefix: "wb."}}
  groups: {include: ["app-*"]}
  mirrorMaker2: {sourceAlias: wb, destinationAlias: wb-eu}
`

const mirrorMakerOffsets = `clusters = us, eu
us.bootstrap.servers = %s
eu.bootstrap.servers = %s
us->eu.enabled = true
us->eu.topics = orders, payments, accounts
us->eu.groups = app-.*
us->eu.sync.group.offsets.enabled = true
us->eu.sync.group.offsets.interval.seconds = 1
us->eu.emit.checkpoints.interval.seconds = 1
us->eu.refresh.groups.interval.seconds = 1
us->eu.refresh.topics.interval.seconds = 5
eu->us.enabled = false
us.consumer.isolation.level = read_committed
offset.flush.interval.ms = 1000
tasks.max = 1
replication.factor = 1
checkpoints.topic.replication.factor = 1
heartbeats.topic.replication.factor = 1
offset-syncs.topic.replication.factor = 1
offset.storage.replication.factor = 1
status.storage.replication.factor = 1
config.storage.replication.factor = 1
`

// TestOffsetsBesideMirrorMaker has a flow and MirrorMaker 2 copy the same topics, and
// follow the same groups, from one Apache Kafka to another at once. Then it fails over:
// what would each group read again, and skip? Of ours: nothing. Apache Kafka's own
// clients of MirrorMaker read of the flow what they read of MirrorMaker.
func TestOffsetsBesideMirrorMaker(t *testing.T) {
	us := newEndpoint(t, apachekafka.Start(t, apachekafka.Config{Version: offsetsKafka}).Cluster(""))
	eu := newEndpoint(t, apachekafka.Start(t, apachekafka.Config{Version: offsetsKafka}).Cluster(""))
	w := &offsetsWorld{t: t, us: us, eu: eu, written: map[string]map[string]int64{}}
	for _, l := range workloads {
		us.topic(l.topic, l.configs)
		l.write(w, l.topic, 0)
	}
	f := startFleet(t)
	f.apply(declaredPair(us, eu) + offsetsFlow)
	libs := startMirrorMaker(t, us, eu)
	for round := range 5 { // while both run
		for _, l := range workloads {
			l.write(w, l.topic, 1+round)
		}
	}
	positions := w.place()
	for _, prefix := range []string{"wb.", "us."} {
		for _, l := range workloads {
			f.wait(prefix+l.topic+" to be copied", func() error { return w.copied(l.topic, prefix+l.topic) })
		}
	}
	w.settle(f, positions)
	w.table(positions)
	remoteClients(t, f, w, libs)
}

// startMirrorMaker runs MirrorMaker 2 in its dedicated mode.
func startMirrorMaker(t *testing.T, us, eu *endpoint) (libs string) {
	libs, err := apachekafka.MirrorMakerJars(t.Context(), offsetsKafka)
	must(t, "MirrorMaker 2", err)
	dir := t.TempDir()
	config := filepath.Join(dir, "mm2.properties")
	must(t, "mm2.properties", os.WriteFile(config, fmt.Appendf(nil, mirrorMakerOffsets, us.address(), eu.address()), 0o600))
	startChild(t, dir, "mirrormaker", exec.Command("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(libs, "*"), "org.apache.kafka.connect.mirror.MirrorMaker", config))
	return libs
}

// place commits the groups' positions at the source.
func (w *offsetsWorld) place() map[string]map[string]int64 {
	positions := map[string]map[string]int64{} // by topic and group
	for _, l := range workloads {
		records := w.us.read(l.topic)
		positions[l.topic] = map[string]int64{}
		for group, next := range l.groups {
			at := records[len(records)-1].Offset + 1
			if n := next(len(records)); n < len(records) {
				at = records[n].Offset
			}
			positions[l.topic][group] = at
			w.us.commit(group, l.topic, at, "of-"+group)
		}
	}
	return positions
}

// copied says whether the last record of a topic has come.
func (w *offsetsWorld) copied(topic, to string) error {
	want := w.us.read(topic)
	ends, err := w.eu.adm.ListCommittedOffsets(w.t.Context(), to)
	if err = errors.Join(err, ends.Error()); err != nil {
		return err
	}
	if end, _ := ends.Lookup(to, 0); end.Offset == 0 {
		return errors.New("nothing is there")
	}
	have := w.eu.read(to)
	if len(have) == 0 || string(have[len(have)-1].Value) != string(want[len(want)-1].Value) {
		return fmt.Errorf("%d records are there, the last is another one", len(have))
	}
	return nil
}

// settle waits until nothing has changed for a while in what both have committed, and
// both have committed something.
func (w *offsetsWorld) settle(f *fleet, positions map[string]map[string]int64) {
	w.t.Helper()
	const still = 15 * time.Second
	last, since := "", time.Now()
	f.wait("the groups' positions to stand still", func() error {
		now, ours, theirs := "", 0, 0
		for topic, groups := range positions {
			for group := range groups {
				a, err1 := w.eu.committed(group, "wb."+topic)
				b, err2 := w.eu.committed(group, "us."+topic)
				if err := errors.Join(err1, err2); err != nil {
					return err
				}
				if now += fmt.Sprintf("%s %s %d %d\n", topic, group, a, b); a >= 0 {
					ours++
				}
				if b >= 0 {
					theirs++
				}
			}
		}
		lines := sortedLines(now)
		if now = strings.Join(lines, "\n"); now != last {
			last, since = now, time.Now()
		}
		if ours < len(lines) || theirs == 0 || time.Since(since) < still {
			return fmt.Errorf("%d and %d of %d groups are there", ours, theirs, len(lines))
		}
		return nil
	})
}

// table prints what each group would meet, and fails if ours is not nothing.
func (w *offsetsWorld) table(positions map[string]map[string]int64) {
	var text strings.Builder
	fmt.Fprintf(&text, "\n%-24s %-10s %9s | %28s | %28s\n", "", "", "", "this flow", "MirrorMaker 2 "+offsetsKafka)
	fmt.Fprintf(&text, "%-24s %-10s %9s | %9s %10s %7s | %9s %10s %7s\n", "group", "topic", "position", "goes on", "read again", "skipped", "goes on", "read again", "skipped")
	sums := [4]int{}
	for _, l := range workloads {
		for group := range l.groups {
			read := positions[l.topic][group]
			var cells [2]string
			for i, prefix := range []string{"wb.", "us."} {
				at, err := w.eu.committed(group, prefix+l.topic)
				must(w.t, "committed", err)
				reread, skipped := w.cost(l.topic, prefix+l.topic, read, max(at, 0))
				sums[2*i], sums[2*i+1] = sums[2*i]+reread, sums[2*i+1]+skipped
				place := fmt.Sprint(at)
				if at < 0 {
					place = "nowhere" // auto.offset.reset, here taken to be earliest
				}
				cells[i] = fmt.Sprintf("%9s %10d %7d", place, reread, skipped)
				if i == 0 && reread+skipped > 0 {
					w.t.Errorf("group %s in %s: %d records are read again, %d skipped", group, l.topic, reread, skipped)
				}
			}
			fmt.Fprintf(&text, "%-24s %-10s %9d | %s | %s\n", group, l.topic, read, cells[0], cells[1])
		}
	}
	fmt.Fprintf(&text, "%-45s | %9s %10d %7d | %9s %10d %7d\n", "all", "", sums[0], sums[1], "", sums[2], sums[3])
	w.t.Log(text.String())
}

// remoteClients asks Apache Kafka's clients and formatters about what the flow has written.
func remoteClients(t *testing.T, f *fleet, w *offsetsWorld, libs string) {
	t.Helper()
	var want, groups []string
	for _, l := range workloads {
		for g := range l.groups {
			groups = append(groups, g)
		}
	}
	f.wait("the flow's rows", func() error {
		var rows struct{ Rows []offsets.Row }
		err := f.call(http.MethodGet, "/api/v1/flows/us-eu/groups", "", &rows)
		want = []string{"upstream us wb", "hops 1", "heartbeats heartbeats us.heartbeats wb.heartbeats", "checkpoints us.checkpoints.internal wb.checkpoints.internal"}
		for _, r := range rows.Rows {
			if strings.HasPrefix(r.Group, "app-") {
				want = append(want, fmt.Sprintf("group %s %s %d %d of-%s", r.Group, r.Destination.Topic, r.Destination.Partition, r.Result.Offset, r.Group))
			}
		}
		if len(want) != 4+len(groups) { // a broker whose coordinators have just moved lists none
			err = errors.Join(err, fmt.Errorf("%d rows", len(rows.Rows)))
		}
		return err
	})
	classes := javaClasses(t, libs, "RemoteOffsets.java")
	classpath := []string{filepath.Join(libs, "*"), classes}
	f.wait("Apache Kafka's clients to see it", func() error {
		got, err := jvm(t, classpath, append([]string{"RemoteOffsets", w.eu.address(), "wb"}, groups...)...)
		if have, want := strings.Join(sortedLines(got), "\n"), strings.Join(sortedLines(strings.Join(want, "\n")), "\n"); have != want {
			return errors.Join(err, fmt.Errorf("got\n%s\nwant\n%s", have, want))
		}
		return err
	})
	for _, c := range []struct{ formatter, topic, server, has string }{
		{"CheckpointFormatter", "wb.checkpoints.internal", w.eu.address(), "consumerGroupId=app-"},
		{"HeartbeatFormatter", "wb.heartbeats", w.eu.address(), "sourceClusterAlias=wb-eu, targetClusterAlias=wb"},
		{"OffsetSyncFormatter", "mm2-offset-syncs.wb-eu.internal", w.us.address(), "upstreamOffset="},
	} {
		got, err := jvm(t, classpath, "RemoteOffsets", "format", c.server, c.topic, "org.apache.kafka.connect.mirror.formatters."+c.formatter)
		if err != nil || !strings.Contains(strings.ReplaceAll(strings.ReplaceAll(got, "\"", ""), "'", ""), c.has) {
			t.Errorf("%s of %s: got %q %v, want %q in it", c.formatter, c.topic, got, err, c.has)
		}
	}
}
