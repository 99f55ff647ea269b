//go:build chaos && linux

package chaos

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/api"
)

var fleetTime = flag.Duration("fleet-time", 10*time.Minute, "how long TestFleet breaks things; each fault is done once at least")

// fleetRun is a fleet whose nodes have networks and disks of their own.
type fleetRun struct {
	*chaos
	hosts     map[string]*host // by name of the node
	pauses    *pauses
	registers *registers
	rows      map[string]*fleetRow
	notes     map[string]int
}

// fleetRow is what has come of one kind of fault.
type fleetRow struct {
	injected, survived int
	pause              time.Duration // the longest, of any copy
}

// TestFleet kills, stops, cuts off and starves the nodes of a fleet, damages what
// they have on disk, sets their clocks, restarts them one after the other and takes
// it from three to five and back, while it copies and is asked for changes. It is
// run by make chaos-fleet, in a network namespace of its own.
func TestFleet(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d, %v", seed, *fleetTime)
	newBridge(t)
	c := &fleetRun{
		chaos: &chaos{
			world: newClusters(t), rng: rand.New(rand.NewPCG(seed, 0)), load: newLoad(t), began: time.Now(),
			declared: declared{user: users[1], host: home}, topics: map[string]*atomic.Int32{},
		},
		hosts: make(map[string]*host), rows: make(map[string]*fleetRow), notes: make(map[string]int),
	}
	c.fleet = newFleet(t, filepath.Join(c.dir, "fleet"), 0)
	for range 3 {
		c.grow()
	}
	c.addTopic("plain", 4, false, kgo.NoCompression())
	c.addTopic("txn", 3, true, kgo.Lz4Compression())
	c.addTopic("zipped", 3, false, kgo.ZstdCompression())
	c.apply()
	c.awaitProgress()
	c.pauses = watchPauses(t, c.eu, sortedTopics(c.topics))
	c.registers = c.beginRegisters(seed)
	whole := true
	for end := time.Now().Add(*fleetTime); (whole || time.Now().Before(end)) && !t.Failed(); whole = false {
		for _, i := range c.rng.Perm(len(fleetFaults)) {
			if f := fleetFaults[i]; (whole || time.Now().Before(end)) && (*onlyFlag == "" || slices.Contains(strings.Split(*onlyFlag, ","), f.name)) {
				c.breakFleet(f)
			}
		}
	}
	c.registers.end()
	c.say("all is put right")
	for _, n := range c.nodes {
		n.down = false
	}
	c.restoreFleet()
	c.load.end()
	c.awaitNoLag()
	c.check()
	c.say("everything is killed and started again")
	for _, p := range c.processes() {
		p.kill()
	}
	c.restoreFleet()
	c.awaitNoLag()
	c.check()
	c.registers.last(t)
	c.sameState()
	for _, n := range c.nodes {
		n.process.stop(t)
	}
	compareLogs(t, c.nodes)
	c.registers.check(t)
	for _, p := range c.processes() {
		if p.panicked() {
			t.Errorf("%s has panicked:\n%s", p.name, p.panic())
		}
	}
	c.table()
}

// grow starts one more node, on a host and with a disk of its own.
func (c *fleetRun) grow() *node {
	h := newHost(c.t, len(c.nodes)+1)
	n := c.add(h)
	c.hosts[n.name] = h
	n.newDisk()
	n.setClock(0)
	n.env = []string{clockVariable + "=" + n.clockFile()}
	n.start()
	return n
}

// breakFleet does one thing, and waits until all copies go on.
func (c *fleetRun) breakFleet(f fleetFault) {
	row := c.rows[f.name]
	if row == nil {
		row = new(fleetRow)
		c.rows[f.name] = row
	}
	c.say("%s", f.name)
	c.pauses.begin()
	did := f.do(c)
	c.restoreFleet()
	if !did {
		c.say("%s: there is nothing to do it to yet", f.name)
		return
	}
	row.injected++
	c.awaitProgress()
	row.survived++
	longest := c.pauses.longest()
	row.pause = max(row.pause, longest)
	c.say("%s: survived, the longest pause of a copy was %.1f s", f.name, longest.Seconds())
}

// restoreFleet has every node run, undisturbed.
func (c *fleetRun) restoreFleet() {
	for _, h := range c.hosts {
		h.heal()
	}
	for _, n := range c.nodes {
		n.setClock(0)
		c.wake(n.process)
		if !n.process.alive() && !c.retired(n) {
			n.start()
		}
	}
	for _, b := range []*broker{c.us, c.eu} {
		if !b.process.alive() {
			b.start()
		}
	}
	c.registers.listen()
}

// retired says of a node that it is down on purpose.
func (c *fleetRun) retired(n *node) bool {
	return !n.process.alive() && slices.Index(c.nodes, n) >= 3 && n.down
}

// leader is the node that leads, by the word of any.
func (c *fleetRun) leader() *node {
	c.t.Helper()
	var found *node
	eventually(c.t, recovery, "the fleet has a leader", func() error {
		s, err := c.status()
		if err != nil {
			return err
		}
		for _, n := range c.nodes {
			if n.name == s.Fleet.Leader && n.process.alive() && n.process.guard == nil {
				found = n
				return nil
			}
		}
		return fmt.Errorf("the leader is %q", s.Fleet.Leader)
	})
	return found
}

func (c *fleetRun) status() (s api.Status, err error) {
	b, err := c.anyNode(http.MethodGet, "/api/v1/status", "")
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

// running are the nodes whose processes run, the leader first, the others in any
// order.
func (c *fleetRun) running() []*node {
	leader := c.leader()
	all := []*node{leader}
	for _, i := range c.rng.Perm(len(c.nodes)) {
		if n := c.nodes[i]; n != leader && n.process.alive() {
			all = append(all, n)
		}
	}
	return all
}

// sameState checks that all nodes have the same state, by its hash at one revision.
func (c *fleetRun) sameState() {
	c.t.Helper()
	eventually(c.t, recovery, "all nodes have the same state", func() error {
		var first api.Members
		for i, n := range c.nodes {
			b, err := c.call(n, http.MethodGet, "/api/v1/fleet?consistency=stale", "")
			if err != nil {
				return err
			}
			var m api.Members
			if err := json.Unmarshal(b, &m); err != nil {
				return err
			}
			switch {
			case i == 0:
				first = m
			case m.Revision != first.Revision:
				return fmt.Errorf("%s is at revision %d, %s at %d", n.name, m.Revision, c.nodes[0].name, first.Revision)
			case m.Hash != first.Hash || m.Hash == "":
				c.t.Fatalf("at revision %d the state of %s has the hash %s, that of %s %s", m.Revision, n.name, m.Hash, c.nodes[0].name, first.Hash)
			}
		}
		return nil
	})
}

// table prints what was done and what came of it.
func (c *fleetRun) table() {
	var out strings.Builder
	fmt.Fprintf(&out, "%-34s %9s %9s %14s\n", "fault", "injected", "survived", "longest pause")
	injected, survived := 0, 0
	worst := make(map[string]time.Duration)
	for _, f := range fleetFaults {
		row := c.rows[f.name]
		if row == nil {
			continue
		}
		injected, survived = injected+row.injected, survived+row.survived
		worst[f.kind] = max(worst[f.kind], row.pause)
		fmt.Fprintf(&out, "%-34s %9d %9d %12.1f s\n", f.name, row.injected, row.survived, row.pause.Seconds())
	}
	fmt.Fprintf(&out, "%-34s %9d %9d\n", "all", injected, survived)
	for _, kind := range []string{takeover, handover, outage} {
		fmt.Fprintf(&out, "longest pause of a copy, %-9s %31.1f s\n", kind, worst[kind].Seconds())
	}
	for _, what := range sortedTopics(c.notes) {
		fmt.Fprintf(&out, "%-34s %9d\n", what, c.notes[what])
	}
	fmt.Println(out.String())
}
