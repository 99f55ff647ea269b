//go:build chaos && linux

package chaos

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
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
	pauses    *pauses
	registers *registers
	groups    *groups
	rows      map[string]*fleetRow
	notes     map[string]int
	orphans   []string        // copies of the node that this fault has killed
	takeovers []time.Duration // pauses of such copies, of all kills
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
			declared: declared{user: users[1], groups: true}, topics: map[string]*atomic.Int32{},
		},
		rows: make(map[string]*fleetRow), notes: make(map[string]int),
	}
	faults := chosenFaults(t)
	defer c.table(faults)
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
	c.groups = beginGroups(t, c.us, c.eu, sortedTopics(c.topics))
	whole := true
	for end := time.Now().Add(*fleetTime); (whole || time.Now().Before(end)) && !t.Failed(); whole = false {
		for _, i := range c.rng.Perm(len(faults)) {
			if whole || time.Now().Before(end) {
				c.breakFleet(faults[i])
			}
		}
	}
	c.registers.end()
	c.groups.end()
	c.say("all is put right")
	for _, n := range c.nodes {
		n.down = false
	}
	c.restoreFleet()
	c.load.end()
	c.awaitNoLag()
	c.groups.check(c.check())
	c.say("everything is killed and started again")
	for _, p := range c.processes() {
		p.kill()
	}
	c.restoreFleet()
	c.awaitNoLag()
	c.groups.check(c.check())
	c.registers.last(t)
	c.sameState()
	for _, n := range c.nodes {
		n.process.stop(t)
	}
	for _, n := range aloneIn(compareLogs(t, c.nodes), c.nodes) {
		t.Errorf("the raft log of %s has no entry that another one has: nothing was compared", n)
	}
	c.registers.check(t)
	for _, p := range c.processes() {
		if p.panicked() {
			t.Errorf("%s has panicked:\n%s", p.name, p.panic())
		}
	}
	c.judge(faults)
}

// grow starts one more node, on a host and with a disk of its own.
func (c *fleetRun) grow() *node {
	h := newHost(c.t, len(c.nodes)+1)
	n := c.add(h)
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
	c.orphans = nil
	c.pauses.begin()
	began := time.Now()
	did := f.do(c)
	lasted := time.Since(began)
	c.restoreFleet()
	if !did {
		row.skipped++
		c.say("%s: there was nothing to do it to", f.name)
		return
	}
	row.injected++
	c.awaitProgress()
	eventually(c.t, recovery, "a reader of the destination sees all copies go on", c.pauses.unfinished)
	c.takeovers = append(c.takeovers, c.pauses.of(c.orphans)...)
	longest, bound := c.pauses.longest(), f.kind.bound(lasted)
	row.note(longest, bound)
	c.say("%s: the longest pause of a copy was %.1f s, %s the bound of %.1f s", f.name, longest.Seconds(), against(longest, bound), bound.Seconds())
}

// restoreFleet has every node run, undisturbed.
func (c *fleetRun) restoreFleet() {
	for _, n := range c.nodes {
		n.host().heal()
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

// awaitVoters waits until the fleet has so many.
func (c *fleetRun) awaitVoters(want int) {
	c.t.Helper()
	eventually(c.t, recovery, fmt.Sprintf("%d voters", want), func() error {
		m, err := c.members(c.nodes)
		if err == nil && m.Voters != want {
			err = fmt.Errorf("there are %d", m.Voters)
		}
		return err
	})
}

// sameState checks that all nodes have the same state, by its hash at one revision.
func (c *fleetRun) sameState() {
	c.t.Helper()
	eventually(c.t, recovery, "all nodes have the same state", func() error {
		all := make([]api.Members, len(c.nodes))
		for i, n := range c.nodes {
			var err error
			if all[i], err = c.members([]*node{n}); err != nil {
				return err
			}
		}
		differ, err := compareStates(all)
		if differ != "" {
			c.t.Error(differ)
		}
		return err
	})
}

// compareStates says which node has another state than the first one at its revision. An
// error is that they are not at one revision.
func compareStates(all []api.Members) (differ string, err error) {
	for i, m := range all {
		switch {
		case m.Revision != all[0].Revision:
			return "", fmt.Errorf("node %d is at revision %d, node 1 at %d", i+1, m.Revision, all[0].Revision)
		case m.Hash != all[0].Hash || m.Hash == "":
			return fmt.Sprintf("at revision %d the state of node %d has the hash %q, that of node 1 %q", m.Revision, i+1, m.Hash, all[0].Hash), nil
		}
	}
	return "", nil
}
