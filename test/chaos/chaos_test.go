//go:build chaos && unix

package chaos

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "chooses what is done; 0 takes one from the clock")
	timeFlag  = flag.Duration("time", 2*time.Minute, "how long things are broken")
	clockFlag = flag.Bool("clock", false, "build the replicator for TestFleet: with a clock that can be set, and frequent snapshots")
	onlyFlag  = flag.String("only", "", "comma separated names of faults; empty is all")
)

// recovery is how long everything may take to be well again in the end. The
// transaction of a lane that nobody could end holds readers up for a minute.
const recovery = 100 * time.Second

// replicator is the binary under test.
var replicator string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if replicator = os.Getenv("CHAOS_REPLICATOR"); replicator == "" {
		dir, err := os.MkdirTemp("", "waybill-chaos-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		replicator = filepath.Join(dir, "replicator")
		args := []string{"build", "-o", replicator}
		if *clockFlag {
			overlay, err := fleetOverlay(dir)
			if err != nil {
				fmt.Fprintln(os.Stderr, "a replicator for TestFleet:", err)
				return 1
			}
			args = append(args, "-overlay", overlay)
		}
		if out, err := exec.Command("go", append(args, "github.com/waybillhq/waybill/cmd/replicator")...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the replicator: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// chaos is one run: the world, what is declared in it, and what is written.
type chaos struct {
	*world
	rng      *rand.Rand
	load     *load
	began    time.Time
	declared declared
	topics   map[string]*atomic.Int32 // partitions by topic
}

// declared is what the objects say at the moment.
type declared struct {
	user    string
	host    string // that the bootstrap servers are called, "" for their own addresses
	groups  bool   // they follow
	label   int
	paused  bool
	exclude string
	gone    bool // the flow is deleted
}

func TestChaos(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d, %v", seed, *timeFlag)
	c := &chaos{
		world: newWorld(t), rng: rand.New(rand.NewPCG(seed, 0)), load: newLoad(t), began: time.Now(),
		declared: declared{user: users[1], host: "127.0.0.1"}, topics: map[string]*atomic.Int32{},
	}
	c.addTopic("plain", 4, false, kgo.NoCompression())
	c.addTopic("txn", 3, true, kgo.Lz4Compression())
	c.addTopic("zipped", 3, false, kgo.ZstdCompression())
	c.apply()
	whole := time.Now()
	for end := whole.Add(*timeFlag); time.Now().Before(end) && !t.Failed(); {
		c.breakSomething()
		if time.Since(whole) > 30*time.Second {
			c.awaitProgress()
			whole = time.Now()
		}
	}
	c.say("all is put right")
	c.restore()
	c.load.end()
	c.awaitNoLag()
	for _, p := range c.processes() {
		if p.panicked() {
			t.Errorf("%s has panicked:\n%s", p.name, p.tail())
		}
	}
	c.check()
	c.restartAll()
	c.awaitNoLag()
	c.check()
}

func (c *chaos) say(format string, args ...any) {
	line := fmt.Sprintf("%6.1fs ", time.Since(c.began).Seconds()) + fmt.Sprintf(format, args...)
	c.done = append(c.done, line)
	if testing.Verbose() {
		fmt.Println(line)
	}
}

func (c *chaos) addTopic(name string, partitions int32, txn bool, codec kgo.CompressionCodec) {
	c.us.admin("create "+name, func(adm *kadm.Client) error {
		_, err := adm.CreateTopic(c.t.Context(), partitions, 1, nil, name)
		if errors.Is(err, kerr.TopicAlreadyExists) {
			return nil // an attempt before this one was not answered
		}
		return err
	})
	n := new(atomic.Int32)
	n.Store(partitions)
	c.topics[name] = n
	c.load.begin(c.us, writing{name, n, txn, codec, rand.New(rand.NewPCG(c.rng.Uint64(), 1))})
}

// yaml is everything as declared.
func (c *chaos) yaml() string {
	var s strings.Builder
	for _, b := range []*broker{c.us, c.eu} {
		host, port, _ := strings.Cut(b.proxy.Load().address(), ":")
		fmt.Fprintf(&s, "apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: %s, labels: {n: \"%d\"}}\nspec:\n  bootstrapServers: [\"%s:%s\"]\n  tls: {caFile: %q}\n  sasl: {mechanism: SCRAM-SHA-256, username: %s, password: %q}\n---\n",
			b.name, c.declared.label, cmp.Or(c.declared.host, host), port, b.file("ca.pem"), c.declared.user, "${file:"+b.file(c.declared.user+".password")+"}")
	}
	if c.declared.gone {
		return s.String()
	}
	exclude := ""
	if c.declared.exclude != "" {
		exclude = ", exclude: [" + c.declared.exclude + "]"
	}
	groups := ""
	if c.declared.groups {
		groups = ", groups: {include: [\"*\"]}"
	}
	fmt.Fprintf(&s, "apiVersion: waybill/v1\nkind: ReplicationFlow\nmetadata: {name: %s}\nspec: {source: us, destination: eu, paused: %v, topics: {include: [\"*\"]%s}%s}\n", flowName, c.declared.paused, exclude, groups)
	return s.String()
}

// apply declares what is to be declared. A fleet without a majority refuses, so
// it is tried for a while.
func (c *chaos) apply() {
	c.t.Helper()
	eventually(c.t, recovery, "apply", func() error {
		_, err := c.anyNode(http.MethodPost, "/api/v1/apply", c.yaml())
		return err
	})
}

func (c *chaos) deleteFlow() {
	c.declared.gone = true
	eventually(c.t, recovery, "delete the flow", func() error {
		_, err := c.anyNode(http.MethodDelete, "/api/v1/objects/ReplicationFlow/"+flowName, "")
		if err != nil && strings.Contains(err.Error(), "404") {
			return nil // an attempt before this one was not answered
		}
		return err
	})
}

// restore puts everything right.
func (c *chaos) restore() {
	for _, n := range c.nodes {
		c.wake(n.process)
		if !n.process.alive() {
			n.start()
		}
	}
	for _, b := range []*broker{c.us, c.eu} {
		b.proxy.Load().slow(0)
		b.proxy.Load().pass()
		c.wake(b.process)
		if !b.process.alive() {
			b.start()
		}
	}
	c.declared.paused, c.declared.exclude, c.declared.gone = false, "", false
	c.apply()
}

func (c *chaos) wake(p *process) {
	if p.guard != nil {
		p.resume(c.t)
	}
}

// restartAll kills every process at once and starts them again: what was
// promised must be on the disks.
func (c *chaos) restartAll() {
	c.say("everything is killed and started again")
	for _, p := range c.processes() {
		p.kill()
	}
	c.restore()
}

// awaitProgress looks, while producers write and whatever has been done may be
// under way, whether all copies come to where the source ends now: what helps
// itself must not wait for a process to be started again.
func (c *chaos) awaitProgress() {
	c.t.Helper()
	type place struct {
		topic     string
		partition int32
	}
	ends := map[place]int64{}
	c.us.admin("list ends", func(adm *kadm.Client) error {
		listed, err := adm.ListCommittedOffsets(c.t.Context(), sortedTopics(c.topics)...)
		listed.Each(func(o kadm.ListedOffset) {
			ends[place{o.Topic, o.Partition}] = o.Offset
			err = errors.Join(err, o.Err)
		})
		return err
	})
	began := time.Now()
	eventually(c.t, recovery, "all copies go on", func() error {
		f, err := c.flow()
		if err != nil {
			return err
		}
		at := map[place]int64{}
		for _, topic := range f.Topics {
			for _, p := range topic.Partitions {
				at[place{topic.SourceTopic, p.Partition}] = p.Position
			}
		}
		for where, end := range ends {
			if at[where] < end {
				return fmt.Errorf("%v is at %d of %d", where, at[where], end)
			}
		}
		return nil
	})
	c.say("all copies went on within %.1f s", time.Since(began).Seconds())
}

// awaitNoLag waits until all partitions are copied to their end.
func (c *chaos) awaitNoLag() {
	c.t.Helper()
	want := 0
	for _, n := range c.topics {
		want += int(n.Load())
	}
	began := time.Now()
	eventually(c.t, recovery, "no lag", func() error {
		f, err := c.flow()
		if err != nil {
			return err
		}
		copies := 0
		for _, topic := range f.Topics {
			for _, p := range topic.Partitions {
				copies++
				if p.State != "running" || p.LagRecords != 0 {
					return fmt.Errorf("%s/%d is %s at %d, lag %d: %s", topic.SourceTopic, p.Partition, p.State, p.Position, p.LagRecords, p.Reason)
				}
			}
		}
		if copies != want {
			return fmt.Errorf("%d partitions are copied, want %d", copies, want)
		}
		return nil
	})
	c.say("no lag after %.1f s", time.Since(began).Seconds())
}
