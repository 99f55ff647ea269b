package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/auth"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/internal/vfs"
)

const metadataFile = "data/metadata/metadata"

// quietBroker has as little of its own as a broker can.
func quietBroker(c *Config) {
	c.Provenance, c.OffsetsPartitions, c.TransactionsPartitions, c.BootstrapUsers = false, 1, 1, nil
}

// names are those in a directory, none if it is not there.
func (b *testBroker) names(t *testing.T, dir string) []string {
	t.Helper()
	names, err := b.fs.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return names
}

// refused is why a broker of the same configuration does not start.
func (b *testBroker) refused(t *testing.T) error {
	t.Helper()
	b.stop()
	cfg := b.cfg
	cfg.FS = b.fs
	again, err := New(cfg)
	if err == nil {
		t.Error("it starts")
		err = again.Close()
	}
	return err
}

// TestOldMetadataGiveNoTransactionalProducersIDAway: nothing but its coordinator may know
// of a producer that has written nothing yet.
func TestOldMetadataGiveNoTransactionalProducersIDAway(t *testing.T) {
	b := startBroker(t, quietBroker)
	old, err := vfs.ReadFile(b.fs, metadataFile, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 30*time.Second)
	init := func(b *testBroker, id *string) int64 {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID, req.TransactionTimeoutMillis = id, 60_000
		for {
			resp, err := req.RequestWith(ctx, b.client(t))
			if err != nil {
				t.Fatal(err)
			}
			if resp.ErrorCode == 0 {
				return resp.ProducerID
			}
		}
	}
	taken := init(b, kmsg.StringPtr("tx"))
	b.stop()
	if err := vfs.WriteFile(b.fs, metadataFile, old); err != nil {
		t.Fatal(err)
	}
	b = runBroker(t, b.cfg, b.fs, b.pool)
	if again := init(b, kmsg.StringPtr("tx")); again != taken { // its coordinator is there
		t.Fatalf("the transactional id has producer id %d, it had %d", again, taken)
	}
	if other := init(b, nil); other == taken {
		t.Errorf("producer id %d is given out twice", other)
	}
}

// TestOldMetadataGiveNoProducerIDBeforeTheCoordinatorsHaveLoaded: it may be one of theirs.
func TestOldMetadataGiveNoProducerIDBeforeTheCoordinatorsHaveLoaded(t *testing.T) {
	b := startBroker(t, quietBroker)
	b.makeTopic(t, "t", 1, 0)
	old, err := vfs.ReadFile(b.fs, metadataFile, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b = b.restart(t)
		produceN(t, b.client(t), "t", 0, 1)
	}
	b.stop()
	b.putMetadata(t, old)
	b = runPrepared(t, b.cfg, b.fs, b.pool, func(b *Broker) { // its coordinators lead nothing yet
		if id, err := (producerIDs{b}).NextProducerID(); !errors.Is(err, kerr.CoordinatorLoadInProgress) {
			t.Errorf("producer id %d, %v", id, err)
		}
	})
	b.awaitCoordinators(t)
	if _, err := (producerIDs{b.Broker}).NextProducerID(); err != nil {
		t.Errorf("when they have loaded: %v", err)
	}
	produceN(t, b.client(t), "t", 2, 1)
}

// TestLogsAreKeptWithoutTheirMetadata, and served again when it is put back.
func TestLogsAreKeptWithoutTheirMetadata(t *testing.T) {
	b := startBroker(t, quietBroker)
	produceN(t, b.client(t, kgo.AllowAutoTopicCreation()), "t", 0, 10)
	b.stop()
	kept, err := vfs.ReadFile(b.fs, metadataFile, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.fs.RemoveAll("data/metadata"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a refusal leaves nothing that makes the next start go on
		err := b.refused(t)
		if !errors.Is(err, ErrNoMetadata) || !strings.Contains(fmt.Sprint(err), "backup") || !strings.Contains(fmt.Sprint(err), "data/logs") {
			t.Fatalf("without metadata: %v", err)
		}
	}
	damaged := bytes.Clone(kept)
	damaged[len(damaged)-10] ^= 1
	b.putMetadata(t, damaged)
	if err := b.refused(t); !errors.Is(err, controller.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), "backup") {
		t.Fatalf("with damaged metadata: %v", err)
	}
	b.putMetadata(t, kept)
	b = b.restart(t)
	checkValues(t, consumeN(t, b.client(t), "t", 10), 10)
}

func (b *testBroker) putMetadata(t *testing.T, data []byte) {
	t.Helper()
	if err := errors.Join(b.fs.MkdirAll(filepath.Dir(metadataFile)), vfs.WriteFile(b.fs, metadataFile, data)); err != nil {
		t.Fatal(err)
	}
}

// TestOldMetadataRemovesNoLogs of topics, and of partitions, that were made after it.
func TestOldMetadataRemovesNoLogs(t *testing.T) {
	var log bytes.Buffer
	b := startBroker(t, func(c *Config) {
		quietBroker(c)
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	b.makeTopic(t, "grown", 1, 0)
	old, err := vfs.ReadFile(b.fs, metadataFile, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	b.makeTopic(t, "young", 2, 5)
	young, grown := b.topic("young").ID.String(), b.topic("grown").ID.String()
	if _, err := kadm.NewClient(b.client(t)).UpdatePartitions(t.Context(), 3, "grown"); err != nil {
		t.Fatal(err)
	}
	cl := b.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := cl.ProduceSync(within(t, 30*time.Second), &kgo.Record{Topic: "grown", Partition: 2}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	b.stop()
	b.putMetadata(t, old)
	log.Reset()
	b = b.restart(t)
	if b.topic("young") != nil || len(b.topic("grown").partitions) != 1 {
		t.Error("it serves what its metadata does not know")
	}
	if left := b.names(t, b.topicDir(b.topic("grown").ID)); !slices.Equal(left, []string{"0"}) {
		t.Errorf("partitions of the topic that has one: %q", left)
	}
	aside := b.names(t, "data/orphans")
	want := []string{grown + "-2-", young + "-"} // partition 1 has nothing in it
	slices.Sort(want)
	if len(aside) != len(want) {
		t.Fatalf("aside are %q, want %q", aside, want)
	}
	for i, name := range aside {
		if !strings.HasPrefix(name, want[i]) || !strings.Contains(log.String(), name) {
			t.Errorf("aside is %s, want %s..., with a warning: %s", name, want[i], &log)
		}
	}
	for _, name := range aside {
		if part := "data/orphans/" + name; strings.HasPrefix(name, young) {
			if got := b.names(t, part); !slices.Equal(got, []string{"0", "1"}) {
				t.Errorf("%s holds %q", part, got)
			}
		}
	}
	if n, bytes, err := b.Orphans(); n != len(want) || bytes < 3*int64(len("v")) || err != nil {
		t.Errorf("metrics count %d logs aside of %d bytes, %v; want %d", n, bytes, err, len(want))
	}
	again := b.restart(t)
	if got := again.names(t, "data/orphans"); !slices.Equal(got, aside) {
		t.Errorf("after another start aside are %q, were %q", got, aside)
	}
}

// TestADeletionIsCarriedOn: what the metadata says was deleted goes, at the next
// start if not before, and the metadata forgets it then.
func TestADeletionIsCarriedOn(t *testing.T) {
	b := startBroker(t, quietBroker)
	for _, name := range []string{"a", "b"} {
		b.makeTopic(t, name, 1, 5)
	}
	a, dir := b.topic("a"), b.topicDir(b.topic("a").ID)
	if err := b.deleteTopic(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	// Some of its files are there again, as if the power had gone while they were removed.
	if err := errors.Join(b.fs.MkdirAll(dir+"/0"), vfs.WriteFile(b.fs, dir+"/0/00000000000000000000.log", []byte("rest"))); err != nil {
		t.Fatal(err)
	}
	b = b.restart(t)
	if left := b.names(t, dir); left != nil {
		t.Errorf("logs of a deleted topic: %q", left)
	}
	waitUntil(t, func() bool { return len(b.ctl.Image().Deleted) == 0 }) // its groups have been asked
	for _, name := range []string{"b", "c", "d"} {
		if b.topic(name) == nil {
			b.makeTopic(t, name, 1, 0)
		}
		if err := b.deleteTopic(t.Context(), b.topic(name)); err != nil {
			t.Fatal(err)
		}
		if n := len(b.ctl.Image().Deleted); n != 1 {
			t.Errorf("%d tombstones", n)
		}
	}
	b = b.restart(t)
	waitUntil(t, func() bool { return len(b.ctl.Image().Deleted) == 0 })
	if aside := b.names(t, "data/orphans"); len(aside) > 0 {
		t.Errorf("aside are %q", aside)
	}
}

// TestAPowerCutBeforeGroupsForgetADeletedTopic leaves no position in the next topic of
// its name.
func TestAPowerCutBeforeGroupsForgetADeletedTopic(t *testing.T) {
	b := startBroker(t, quietBroker)
	b.makeTopic(t, "t", 1, 10)
	adm := kadm.NewClient(b.client(t))
	commit := func() {
		t.Helper()
		var offsets kadm.Offsets
		offsets.AddOffset("t", 0, 7, -1)
		if err := adm.CommitAllOffsets(within(t, 30*time.Second), "g", offsets); err != nil {
			t.Fatal(err)
		}
	}
	committed := func() (int, error) {
		got, err := adm.FetchOffsets(within(t, 30*time.Second), "g")
		return len(got), err
	}
	commit()
	b.stop()
	idle := opened(t, b.cfg, b.fs) // its coordinators do nothing yet
	if err := errors.Join(idle.deleteTopic(t.Context(), idle.topic("t")), idle.Close()); err != nil {
		t.Fatal(err)
	}
	crashed := func(b *testBroker) *testBroker {
		return runBroker(t, b.cfg, b.fs.Crash(nil), b.pool)
	}
	b = crashed(b)
	adm = kadm.NewClient(b.client(t))
	b.makeTopic(t, "t", 1, 10)
	if n, err := committed(); err != nil || n > 0 {
		t.Fatalf("the new topic has %d positions from the start, %v", n, err)
	}
	commit()
	for range 2 { // what is of the new topic stays
		b.stop()
		b = crashed(b)
		adm = kadm.NewClient(b.client(t))
		if n, err := committed(); err != nil || n != 1 {
			t.Errorf("the new topic has %d positions after a crash, %v", n, err)
		}
	}
}

// TestALostPartitionIsOffline: its folder, or all that is in it, is gone.
func TestALostPartitionIsOffline(t *testing.T) {
	b := startBroker(t, quietBroker)
	b.makeTopic(t, "t", 3, 5)
	b.stop()
	dir := b.topicDir(b.topic("t").ID)
	if err := errors.Join(b.fs.RemoveAll(dir+"/0"), b.fs.RemoveAll(dir+"/1"), b.fs.MkdirAll(dir+"/1")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the start before has not put something there that looks well
		b = b.restart(t)
		for p, part := range b.topic("t").partitions {
			if err := part.Offline(); (err != nil) != (p < 2) {
				t.Errorf("partition %d: %v", p, err)
			} else if err != nil && !strings.Contains(err.Error(), "the log is missing") {
				t.Errorf("partition %d does not say why: %v", p, err)
			}
		}
		topics, err := kadm.NewClient(b.client(t)).ListTopics(within(t, 30*time.Second), "t")
		if err != nil {
			t.Fatal(err)
		}
		if parts := topics["t"].Partitions; !errors.Is(parts[0].Err, kerr.LeaderNotAvailable) || parts[2].Err != nil {
			t.Errorf("clients are told %+v", parts)
		}
	}
}

// TestAPowerCutWhileTopicsAreMade, grow and are deleted leaves each of them whole or
// not there, and nothing beside them.
func TestAPowerCutWhileTopicsAreMade(t *testing.T) {
	changes := map[string]func(b *Broker) error{
		"make": func(b *Broker) error { _, err := b.createTopic("new", 2, nil); return err },
		"grow": func(b *Broker) error {
			_, err := b.changeTopic("old", nil, func(c controller.Topic) (controller.Topic, error) {
				c.Partitions = 3
				return c, nil
			})
			return err
		},
		"delete": func(b *Broker) error { return b.deleteTopic(t.Context(), b.topic("old")) },
	}
	prepared := startBroker(t, quietBroker)
	prepared.makeTopic(t, "old", 1, 3)
	prepared.stop()
	for what, change := range changes {
		for step, done := 0, false; !done; step++ {
			fsys := prepared.fs.Crash(nil)
			b := opened(t, prepared.cfg, fsys)
			(&testBroker{Broker: b, fs: fsys}).powerless(step)
			done = change(b) == nil
			for _, rng := range []*rand.Rand{nil, rand.New(rand.NewPCG(uint64(step), 1))} {
				left := fsys.Crash(rng)
				after := opened(t, prepared.cfg, left)
				for name, topic := range after.topics.Load().byName {
					for _, p := range topic.partitions {
						if p.Offline() != nil {
							t.Errorf("%s, step %d: %s of %d: %v", what, step, p, len(topic.partitions), p.Offline())
						}
					}
					if names, _ := left.ReadDir(after.topicDir(topic.ID)); len(names) != len(topic.partitions) {
						t.Errorf("%s, step %d: %s has folders %q", what, step, name, names)
					}
				}
				if names, _ := left.ReadDir("data/logs"); len(names) != len(after.topics.Load().byName) {
					t.Errorf("%s, step %d: logs are %q", what, step, names)
				}
				if names, _ := left.ReadDir("data/orphans"); len(names) > 0 {
					t.Errorf("%s, step %d: aside are %q", what, step, names)
				}
				if err := after.Close(); err != nil {
					t.Fatal(err)
				}
			}
			fsys.SetFault(nil)
			_ = b.Close() // its power is gone
			if done && step < 3 {
				t.Errorf("%s took %d steps on disk", what, step)
			}
		}
	}
}

// opened is a broker that does not run.
func opened(t *testing.T, cfg Config, fsys *vfs.Mem) *Broker {
	t.Helper()
	cfg.FS = fsys
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAStartThatFailsMakesNoStore: the users of the corrected configuration are those
// that the store begins with.
func TestAStartThatFailsMakesNoStore(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	noKeys := auth.DefaultTokenConfig()
	noKeys.JWKSFile = filepath.Join(t.TempDir(), "no-such-keys.json")
	for what, spoil := range map[string]func(c *Config){
		"a port that is taken": func(c *Config) { c.Listeners[1].Addr = taken.Addr().String() },
		"no certificate":       func(c *Config) { c.Listeners[1].TLS.CertFile += ".not" },
		"no keys for tokens":   func(c *Config) { c.Tokens, c.Listeners[1].Mechanisms = &noKeys, []auth.Mechanism{auth.OAuthBearer} },
		"a rule that is none":  func(c *Config) { c.BootstrapACLs = []acl.Rule{{}} },
	} {
		cfg, pool := testConfig(t)
		store := vfs.NewMem()
		cfg.FS = store
		good := cfg
		good.BootstrapUsers = map[string]string{"carol": "neu"}
		cfg.Listeners = slices.Clone(cfg.Listeners)
		spoil(&cfg)
		if b, err := New(cfg); err == nil {
			t.Fatalf("%s: it starts: %v", what, b.Close())
		}
		b := runBroker(t, good, store, pool)
		if got := slices.Collect(maps.Keys(b.ctl.Image().Users)); len(got) != 2 || got[0].Name != "carol" {
			t.Errorf("%s: the store begins with %v", what, got)
		}
		b.stop()
	}
}

// TestUsersThatAreNotTakenAreNamed: the configuration's are for a new store.
func TestUsersThatAreNotTakenAreNamed(t *testing.T) {
	rule := func(operation acl.Operation) acl.Rule { return allowRule("User:bob", acl.Topic, "orders", operation) }
	var log bytes.Buffer
	b := startBroker(t, func(c *Config) {
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		c.BootstrapACLs = []acl.Rule{rule(acl.Read)}
	})
	log.Reset()
	b = b.restart(t)
	if strings.Contains(log.String(), "first start only") {
		t.Errorf("nothing is ignored: %s", &log)
	}
	log.Reset()
	b.cfg.BootstrapUsers = map[string]string{"alice": "geheim", "bob": "another", "carol": "neu"}
	b.cfg.BootstrapACLs = append(b.cfg.BootstrapACLs, rule(acl.Write))
	b.restart(t).stop()
	for _, want := range []string{"missing=[carol] otherPassword=[bob]", "kafka-configs.sh", rule(acl.Write).String(), "kafka-acls.sh"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no word of %s: %s", want, &log)
		}
	}
	for _, no := range []string{"alice", "another", "neu]", rule(acl.Read).String()} {
		if strings.Contains(log.String(), no) {
			t.Errorf("there is %s in it: %s", no, &log)
		}
	}
}

// TestAFolderOfSomebodyElseIsRefused, and nothing is put into it.
func TestAFolderOfSomebodyElseIsRefused(t *testing.T) {
	for what, c := range map[string]struct {
		files []string
		want  string // in the refusal; empty is none
	}{
		"an Apache Kafka":    {[]string{"meta.properties", "t-0/00000000000000000000.log", ".lock"}, "Apache Kafka"},
		"other files":        {[]string{"a", "b", "c", "d", "e", "f", "g"}, "a, b, c, d, e and 2 more"},
		"a mount of its own": {[]string{"lost+found/x", ".snapshot/y", "lock"}, ""},
	} {
		cfg, _ := testConfig(t)
		quietBroker(&cfg)
		cfg.Dir = t.TempDir()
		for _, name := range c.files {
			path := filepath.Join(cfg.Dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		before, _ := os.ReadDir(cfg.Dir)
		b, err := New(cfg)
		if b != nil {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
		if (err != nil) != (c.want != "") || err != nil && (!errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", what, err)
		}
		if after, _ := os.ReadDir(cfg.Dir); err != nil && len(after) != len(before) {
			t.Errorf("%s: there is something new in it: %v", what, after)
		}
	}
}

// TestTheStoreIsOfOneNode for good, and says so.
func TestTheStoreIsOfOneNode(t *testing.T) {
	b := startBroker(t, quietBroker)
	id := b.cfg.NodeID
	b.cfg.NodeID = id + 1
	if err := b.refused(t); !errors.Is(err, controller.ErrNodeID) || !strings.Contains(err.Error(), "nodeId") {
		t.Errorf("another node's id: %v", err)
	}
	b.cfg.NodeID = id
	b.restart(t)
}

// TestOldMetadataCatchesUp with logs that were written to in later starts: nothing new
// is taken for a repetition, and no epoch is used twice.
func TestOldMetadataCatchesUp(t *testing.T) {
	var log bytes.Buffer
	b := startBroker(t, func(c *Config) {
		quietBroker(c)
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	b.makeTopic(t, "t", 1, 0)
	old, err := vfs.ReadFile(b.fs, metadataFile, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	const starts = 4
	for range starts {
		b = b.restart(t)
		produceN(t, b.client(t), "t", 0, 1)
	}
	if strings.Contains(log.String(), "older than the logs") {
		t.Errorf("metadata that is not old: %s", &log)
	}
	epoch, next := b.ctl.Image().Starts, b.ctl.Image().NextProducerID
	b.stop()
	b.putMetadata(t, old)
	for n := range starts { // as many producers as there were, with the same first sequences
		b = b.restart(t)
		cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr("plain")), kgo.DefaultProduceTopic("t"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := cl.ProduceSync(within(t, 30*time.Second), kgo.StringRecord("new")).First()
		cl.Close()
		if err != nil || r.Offset != int64(starts+n) {
			t.Errorf("record %d after old metadata: offset %d, %v", n, r.Offset, err)
		}
		if p, _ := b.partition("t", 0); p.LeaderEpoch() != epoch+1+int32(n) {
			t.Errorf("leader epoch %d, and it was %d", p.LeaderEpoch(), epoch)
		}
	}
	if b.ctl.Image().NextProducerID <= next {
		t.Errorf("producer ids begin at %d, and were at %d", b.ctl.Image().NextProducerID, next)
	}
	if strings.Count(log.String(), "older than the logs") != 1 {
		t.Errorf("it is not told once: %s", &log)
	}
	consumeN(t, b.client(t), "t", 2*starts)
}
