//go:build chaos && linux

package chaos

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/waybillhq/waybill/api"
)

// fleetFault is something that is done to the fleet. do leaves it to restoreFleet
// to put right what it has broken, and says whether it did anything.
type fleetFault struct {
	name string
	kind faultKind
	do   func(*fleetRun) bool
}

// fleetFaults is all of them.
var fleetFaults = slices.Concat(nodeFaults, clusterFaults(), damageFaults())

var nodeFaults = []fleetFault{
	{"leader killed", takeover, func(c *fleetRun) bool { return c.kill(leads) }},
	{"follower killed", takeover, func(c *fleetRun) bool { return c.kill(follows) }},
	{"leader and follower killed", outage, func(c *fleetRun) bool {
		all := c.running()
		all[0].process.kill()
		all[1].process.kill()
		c.pause(1000, 4000)
		return true
	}},
	{"all nodes killed", outage, func(c *fleetRun) bool {
		for _, n := range c.running() {
			n.process.kill()
		}
		return true
	}},
	{"leader suspended", takeover, func(c *fleetRun) bool { return c.suspend(leads) }},
	{"follower suspended", takeover, func(c *fleetRun) bool { return c.suspend(follows) }},
	{"leader cut off", takeover, func(c *fleetRun) bool { return c.cutOff(leads) }},
	{"follower cut off", takeover, func(c *fleetRun) bool { return c.cutOff(follows) }},
	{"all cut off from each other", outage, func(c *fleetRun) bool {
		for _, n := range c.running() {
			c.isolate(n)
		}
		c.pause(3000, 6000)
		return true
	}},
	{"leader hears and is not heard", takeover, func(c *fleetRun) bool {
		all := c.owning(leads)
		return c.oneWay(all[0], all[:1], all[1:])
	}},
	{"leader is heard and hears not", takeover, func(c *fleetRun) bool {
		all := c.owning(leads)
		return c.oneWay(all[0], all[1:], all[:1])
	}},
	{"follower hears and is not heard", takeover, func(c *fleetRun) bool {
		all := c.owning(follows)
		return c.oneWay(all[1], all[1:2], append(all[2:], all[0]))
	}},
	{"follower is heard and hears not", takeover, func(c *fleetRun) bool {
		all := c.owning(follows)
		return c.oneWay(all[1], append(all[2:], all[0]), all[1:2])
	}},
	{"bridge: one follower sees both", takeover, func(c *fleetRun) bool {
		all := c.running()
		c.mute(all[0], all[1])
		c.mute(all[1], all[0])
		c.pause(4000, 8000)
		return true
	}},
	{"bridge: the leader sees both", takeover, func(c *fleetRun) bool {
		all := c.running()
		c.mute(all[1], all[2])
		c.mute(all[2], all[1])
		c.pause(4000, 8000)
		return true
	}},
	{"links that come and go", takeover, func(c *fleetRun) bool {
		all := c.running()
		for range 12 {
			from, to := all[c.rng.IntN(len(all))], all[c.rng.IntN(len(all))]
			if from != to {
				c.mute(from, to)
			}
			c.pause(100, 900)
			if c.rng.IntN(2) == 0 {
				from.host().heal()
			}
		}
		return true
	}},
	{"disk of the leader full", takeover, func(c *fleetRun) bool { return c.fullDisk(leads) }},
	{"disk of a follower full", takeover, func(c *fleetRun) bool { return c.fullDisk(follows) }},
	{"clocks set", takeover, func(c *fleetRun) bool {
		for _, n := range c.running() {
			c.wrongClock(n, []time.Duration{30 * time.Minute, -50 * time.Minute, 12 * time.Hour, time.Minute}[c.rng.IntN(4)])
			c.pause(500, 2000)
		}
		c.pause(2000, 4000)
		return true
	}},
	{"clock of the leader set in leaps", takeover, func(c *fleetRun) bool {
		n := c.running()[0]
		for range 10 {
			c.wrongClock(n, time.Duration(c.rng.IntN(7200)-3000)*time.Second)
			c.pause(100, 700)
		}
		return true
	}},
	{"stopped and started in turn", handover, func(c *fleetRun) bool {
		for _, n := range c.running() {
			c.leaves(n, func() { n.process.stop(c.t) })
			n.start()
			c.awaitCopies(n)
		}
		return true
	}},
	{"drained and restarted in turn", handover, func(c *fleetRun) bool {
		for _, n := range c.running() {
			c.say("%s is drained", n.name)
			c.drainAlive(n)
			n.process.stop(c.t)
			n.start()
			c.drain(n, false)
			c.awaitCopies(n)
		}
		return true
	}},
	{"from three to five and back", handover, func(c *fleetRun) bool {
		c.awaitVoters(3)
		for len(c.nodes) < 5 {
			c.grow()
		}
		for _, n := range c.nodes[3:] {
			if n.down = false; !n.process.alive() {
				n.start()
			}
			c.awaitCopies(n)
		}
		c.awaitVoters(5)
		c.registers.listen()
		c.pause(3000, 6000)
		for _, n := range c.nodes[3:] {
			c.drainAlive(n)
			n.down = true
			c.remove(n)
		}
		c.awaitVoters(3)
		return true
	}},
	{"a node replaced under its name", takeover, func(c *fleetRun) bool {
		n := c.owning(follows)[follows]
		c.leaves(n, func() {
			n.process.kill() // with its disk, say
			c.remove(n)
		})
		n.start()
		c.awaitCopies(n)
		return true
	}},
}

// kill kills a node that owns copies. How long each of them pauses is noted.
func (c *fleetRun) kill(who role) bool {
	n := c.owning(who)[who]
	c.orphans = c.leaves(n, func() {
		n.process.kill()
		c.pauses.begin()
	})
	c.say("%s, %s, was killed and has left %d copies", n.name, who, len(c.orphans))
	c.pause(1000, 3000)
	return true
}

func (c *fleetRun) suspend(who role) bool {
	n := c.owning(who)[who]
	c.say("%s sleeps", n.name)
	c.leaves(n, func() { n.process.suspend(c.t) })
	c.pause(0, 4000)
	return true
}

// mute has nothing pass from one node to another.
func (c *fleetRun) mute(from, to *node) {
	c.t.Helper()
	from.host().mute(to.host().addr)
	if from.host().reaches(to.peer) {
		c.t.Errorf("%s is to be cut off from %s, and is not", from.name, to.name)
	}
}

// isolate has nothing pass between a node and the others.
func (c *fleetRun) isolate(n *node) {
	for _, other := range c.nodes {
		if other != n {
			c.mute(n, other)
			c.mute(other, n)
		}
	}
}

func (c *fleetRun) cutOff(who role) bool {
	n := c.owning(who)[who]
	c.say("%s is cut off", n.name)
	c.leaves(n, func() { c.isolate(n) })
	c.pause(1000, 5000)
	return true
}

// oneWay has nothing pass from some nodes to others, which takes one of them away.
func (c *fleetRun) oneWay(away *node, from, to []*node) bool {
	c.leaves(away, func() {
		for _, f := range from {
			for _, n := range to {
				c.mute(f, n)
			}
		}
	})
	c.pause(1000, 5000)
	return true
}

// wrongClock has a node's clock be wrong by so much, and sees by the node's answers that
// it is.
func (c *fleetRun) wrongClock(n *node, by time.Duration) {
	c.t.Helper()
	n.setClock(by)
	eventually(c.t, recovery, n.name+" has a wrong clock", func() error {
		resp, err := n.client.Get(n.api + "/readyz")
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		date, err := http.ParseTime(resp.Header.Get("Date"))
		if wrong := time.Until(date); err == nil && (wrong-by).Abs() > 20*time.Second {
			err = fmt.Errorf("it is wrong by %s, not by %s", wrong, by)
		}
		return err
	})
}

// diskSize is that of a node's disk.
const diskSize = "96m"

// newDisk gives a node's data a file system of its own. It goes with the mount
// namespace of the test.
func (n *node) newDisk() {
	n.t.Helper()
	dir := filepath.Join(n.dir, "data")
	must(n.t, os.MkdirAll(dir, 0o700))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+diskSize); err != nil {
		n.t.Fatalf("mount a small disk on %s: %v", dir, err)
	}
	n.t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// fullDisk fills a node's disk and frees it after a while: when the node has said that
// its raft log met that, and another leads. The node may end: an init system starts it
// again then.
func (c *fleetRun) fullDisk(who role) bool {
	n := c.running()[who]
	c.say("the disk of %s is full", n.name)
	file := filepath.Join(n.dir, "data", "filler")
	f, err := os.Create(file)
	must(c.t, err)
	zeros := make([]byte, 64<<10)
	for len(zeros) > 0 {
		if _, err := f.Write(zeros); errors.Is(err, syscall.ENOSPC) {
			zeros = zeros[:len(zeros)/2] // down to the last byte
		} else {
			must(c.t, err)
		}
	}
	must(c.t, f.Close())
	eventually(c.t, recovery, n.name+" has met its full disk, and another leads", func() error {
		if n.process.alive() {
			m, err := c.members(c.others(n))
			return errors.Join(err, notFull(m, n.name))
		}
		if !strings.Contains(n.process.tail(), syscall.ENOSPC.Error()) {
			return errors.New("it has ended, and its log does not say why")
		}
		return nil
	})
	c.pause(4000, 8000)
	if n.process.alive() {
		c.notes["disk full: the node lived"]++
	} else {
		c.notes["disk full: the node ended"]++
	}
	must(c.t, os.Remove(file))
	return true
}

// notFull says why a node has not been seen to meet a full disk, or leads with one.
func notFull(m api.Members, name string) error {
	if m.Leader == "" || m.Leader == name {
		return fmt.Errorf("the leader is %q", m.Leader)
	}
	for _, one := range m.Nodes {
		if one.Name == name && one.LogFull {
			return nil
		}
	}
	return fmt.Errorf("the log of %s has room", name)
}

// remove takes a node out of the fleet for good and wipes its disk: started again, it
// joins anew.
func (c *fleetRun) remove(n *node) {
	c.t.Helper()
	c.say("%s is removed", n.name)
	eventually(c.t, recovery, "remove "+n.name, func() error {
		_, err := c.anyNode(http.MethodDelete, "/api/v1/fleet/nodes/"+n.name, "")
		if err != nil && strings.Contains(err.Error(), "not a member") {
			return nil // an attempt before this one was not answered
		}
		return err
	})
	select {
	case <-n.process.exited:
	case <-time.After(30 * time.Second):
		c.t.Errorf("%s was removed and goes on:\n%s", n.name, n.process.tail())
		n.process.kill()
	}
	data, err := os.ReadDir(filepath.Join(n.dir, "data"))
	must(c.t, err)
	for _, f := range data {
		must(c.t, os.RemoveAll(filepath.Join(n.dir, "data", f.Name())))
	}
	var others []string
	for _, o := range c.nodes {
		if o != n && o.process.alive() {
			others = append(others, fmt.Sprintf("%q", o.peer))
		}
	}
	n.first = "join: [" + strings.Join(others, ", ") + "]"
}

// awaitCopies waits until a node has copies, its share of them after a start.
func (c *fleetRun) awaitCopies(n *node) {
	c.t.Helper()
	eventually(c.t, recovery, n.name+" has copies", func() error { return c.hasCopies(n) })
}

func (c *fleetRun) hasCopies(n *node) error {
	s, err := c.status()
	if err != nil {
		return err
	}
	for _, of := range s.Fleet.Nodes {
		if of.Name == n.name && of.Copies > 0 {
			return nil
		}
	}
	return errors.New("it has none")
}

// owning are the running nodes as soon as the one in a role has copies, so that what is
// done to it is felt.
func (c *fleetRun) owning(who role) (all []*node) {
	c.t.Helper()
	eventually(c.t, recovery, fmt.Sprintf("%s has copies", who), func() error {
		all = c.running()
		return c.hasCopies(all[who])
	})
	return all
}
