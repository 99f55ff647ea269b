package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/internal/record"
)

// damages is what a bad copy may be, done to the records of one partition as they
// lie on the destination's disk. Each damaged topic has the name of its damage.
var damages = []struct {
	topic string
	do    func([]record.Record) []record.Record // nil leaves the files alone
	want  Verdict
}{
	{topic: "untouched"},
	{topic: "written-anew", do: func(r []record.Record) []record.Record { return r }},
	{topic: "dropped", do: func(r []record.Record) []record.Record { return slices.Delete(r, 40, 41) }, want: Verdict{Missing: 1}},
	{topic: "doubled", do: func(r []record.Record) []record.Record { return slices.Insert(r, 40, r[30]) }, want: Verdict{Duplicated: 1}},
	{topic: "swapped", do: func(r []record.Record) []record.Record { r[40], r[41] = r[41], r[40]; return r }, want: Verdict{Reordered: 1}},
	{topic: "flipped", do: func(r []record.Record) []record.Record { r[40].Value[3] ^= 0x10; return r }, want: Verdict{Mismatched: 1}},
}

// copied is how many records each topic gets; foreign, how many the destination
// holds before them.
const (
	copied  = 100
	foreign = 7
)

// TestDemonstrationSeesDamageOnDisk puts equal records into two brokers, damages
// the logs of the destination while it is down, and compares as the story does.
func TestDemonstrationSeesDamageOnDisk(t *testing.T) {
	w := &world{dir: t.TempDir()}
	w.us, w.eu = bundled(t, w.dir, "us"), bundled(t, w.dir, "eu")
	ctx := t.Context()
	run(t, w.us)
	stop := run(t, w.eu)
	for _, d := range damages {
		for _, dc := range []*datacenter{w.us, w.eu} {
			if err := dc.createTopic(ctx, d.topic, 1); err != nil {
				t.Fatal(err)
			}
		}
		fill(t, w.us, d.topic, 0)
		fill(t, w.eu, d.topic, foreign)
	}
	s := &story{world: w}
	for _, d := range damages {
		expectVerdict(t, s, d.topic, Verdict{}) // the damage is what makes the difference
	}
	stop()
	for _, d := range damages {
		if d.do != nil {
			rewrite(t, w.eu, d.topic, d.do)
		}
	}
	run(t, w.eu)
	for _, d := range damages {
		t.Run(d.topic, func(t *testing.T) { expectVerdict(t, s, d.topic, d.want) })
	}
}

func expectVerdict(t *testing.T, s *story, topic string, want Verdict) {
	t.Helper()
	_, _, got, err := s.compareTopic(t.Context(), topic)
	if err != nil {
		t.Fatalf("%s: %v", topic, err)
	}
	if (got.First == "") != want.OK() {
		t.Errorf("%s: the first difference is %q", topic, got.First)
	}
	want.Compared, got.First = copied, ""
	if got != want {
		t.Errorf("%s: got %+v, want %+v", topic, got, want)
	}
}

// bundled prepares a broker as the story's datacenters are: TLS, SCRAM, and a
// super user.
func bundled(t *testing.T, dir, name string) *datacenter {
	t.Helper()
	d := &datacenter{name: name, dir: filepath.Join(dir, name)}
	if err := errors.Join(os.MkdirAll(d.dir, 0o700), issue(d.dir, name, "broker"), writeSecret(d.passwordFile(userAdmin))); err != nil {
		t.Fatal(err)
	}
	return d
}

// run runs a datacenter in this process until the test ends or stop is called.
func run(t *testing.T, d *datacenter) (stop func()) {
	t.Helper()
	password, err := os.ReadFile(d.passwordFile(userAdmin))
	if err != nil {
		t.Fatal(err)
	}
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.Authorizer, cfg.SuperUsers = filepath.Join(d.dir, "data"), true, []string{"User:" + userAdmin}
	cfg.BootstrapUsers, cfg.BootstrapACLs = map[string]string{userAdmin: string(password)}, []acl.Rule{}
	cfg.Listeners = []broker.Listener{{
		Name: "client", Addr: "127.0.0.1:0", Protocol: broker.SASLTLS,
		TLS: broker.ListenerTLS{CertFile: filepath.Join(d.dir, "broker.pem"), KeyFile: filepath.Join(d.dir, "broker-key.pem")},
	}}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("broker %s: %v", d.name, err)
		}
	}
	t.Cleanup(stop)
	select {
	case <-b.Ready():
	case err := <-ended:
		t.Fatalf("broker %s: %v", d.name, err)
	}
	d.address = b.Addr("client")
	return stop
}

// aborted begins the record that no reader must see; the topic follows.
const aborted = "never committed to "

// fill writes the same records into any datacenter: behind some foreign ones,
// one transaction that is aborted and one that is committed.
func fill(t *testing.T, d *datacenter, topic string, foreign int) {
	t.Helper()
	cl, err := d.client(userAdmin, "test", kgo.TransactionalID("test-"+topic), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	transaction := func(end kgo.TransactionEndTry, records ...*kgo.Record) {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
	}
	var before []*kgo.Record
	for range foreign {
		before = append(before, &kgo.Record{Topic: topic, Value: []byte("here before"), Headers: []kgo.RecordHeader{{Key: foreignHeader}}})
	}
	if foreign > 0 {
		transaction(kgo.TryCommit, before...)
	}
	transaction(kgo.TryAbort, &kgo.Record{Topic: topic, Value: []byte(aborted + topic + ";")})
	var records []*kgo.Record
	for i := range copied {
		records = append(records, &kgo.Record{
			Topic: topic, Key: fmt.Appendf(nil, "k%d", i%7), Value: fmt.Appendf(nil, "event %d", i), Timestamp: time.UnixMilli(1517443200000 + int64(i)),
		})
	}
	transaction(kgo.TryCommit, records...)
}

// rewrite changes the committed records of a topic's partition on disk, in batches
// that are right in themselves. What the log knows beside its batches is removed,
// and found again by the broker.
func rewrite(t *testing.T, dc *datacenter, topic string, damage func([]record.Record) []record.Record) {
	t.Helper()
	path, text := findLog(t, dc, topic)
	var records []record.Record
	var leaderEpoch int32
	for len(text) > record.HeaderSize {
		b, rest, err := record.Next(text)
		if err != nil {
			break // what was preallocated
		}
		text = rest
		if b.Attributes().Control() || bytes.Contains(b, []byte(aborted)) {
			continue
		}
		decoded, err := b.Decode(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		records, leaderEpoch = append(records, decoded...), b.LeaderEpoch()
	}
	if len(records) != foreign+copied {
		t.Fatalf("%s: %d records on disk, want %d", topic, len(records), foreign+copied)
	}
	var out []byte
	for i, r := range append(records[:foreign:foreign], damage(slices.Clone(records[foreign:]))...) {
		b, err := record.Encode([]record.Record{r}, record.NoProducer(record.None))
		if err != nil {
			t.Fatal(err)
		}
		b.SetBaseOffset(int64(i))
		b.SetLeaderEpoch(leaderEpoch)
		out = append(out, b...)
	}
	dir := filepath.Dir(path)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700), os.WriteFile(path, out, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// findLog is the log whose aborted record names the topic: folders are named by
// topic ids.
func findLog(t *testing.T, dc *datacenter, topic string) (path string, text []byte) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dc.dir, "data", "logs", "*", "0", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte(aborted+topic+";")) {
			return path, text
		}
	}
	t.Fatalf("no log of %s in %s", topic, dc.dir)
	return "", nil
}
