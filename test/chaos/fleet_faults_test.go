//go:build chaos && linux

package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The kinds of fault: others take the work over, it is handed over, or nobody can
// do it for a while.
const (
	takeover = "takeover"
	handover = "handover"
	outage   = "outage"
)

// fleetFault is something that is done to the fleet. do leaves it to restoreFleet
// to put right what it has broken, and says whether it did anything.
type fleetFault struct {
	name, kind string
	do         func(*fleetRun) bool
}

var fleetFaults = []fleetFault{
	{"leader killed", takeover, func(c *fleetRun) bool { return c.kill(c.running()[0]) }},
	{"follower killed", takeover, func(c *fleetRun) bool { return c.kill(c.running()[1]) }},
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
	{"leader suspended", takeover, func(c *fleetRun) bool { return c.suspend(c.running()[0]) }},
	{"follower suspended", takeover, func(c *fleetRun) bool { return c.suspend(c.running()[1]) }},
	{"leader cut off", takeover, func(c *fleetRun) bool { return c.cutOff(c.running()[:1]) }},
	{"follower cut off", takeover, func(c *fleetRun) bool { return c.cutOff(c.running()[1:2]) }},
	{"all cut off from each other", outage, func(c *fleetRun) bool {
		for _, n := range c.running() {
			c.isolate(n)
		}
		c.pause(3000, 6000)
		return true
	}},
	{"leader hears and is not heard", takeover, func(c *fleetRun) bool {
		all := c.running()
		return c.oneWay(all[:1], all[1:])
	}},
	{"leader is heard and hears not", takeover, func(c *fleetRun) bool {
		all := c.running()
		return c.oneWay(all[1:], all[:1])
	}},
	{"follower hears and is not heard", takeover, func(c *fleetRun) bool {
		all := c.running()
		return c.oneWay(all[1:2], append(all[2:], all[0]))
	}},
	{"follower is heard and hears not", takeover, func(c *fleetRun) bool {
		all := c.running()
		return c.oneWay(append(all[2:], all[0]), all[1:2])
	}},
	{"bridge: one follower sees both", takeover, func(c *fleetRun) bool {
		all := c.running()
		c.hosts[all[0].name].mute(c.hosts[all[1].name])
		c.hosts[all[1].name].mute(c.hosts[all[0].name])
		c.pause(4000, 8000)
		return true
	}},
	{"bridge: the leader sees both", takeover, func(c *fleetRun) bool {
		all := c.running()
		c.hosts[all[1].name].mute(c.hosts[all[2].name])
		c.hosts[all[2].name].mute(c.hosts[all[1].name])
		c.pause(4000, 8000)
		return true
	}},
	{"links that come and go", takeover, func(c *fleetRun) bool {
		all := c.running()
		for range 12 {
			from, to := all[c.rng.IntN(len(all))], all[c.rng.IntN(len(all))]
			if from != to {
				c.hosts[from.name].mute(c.hosts[to.name])
			}
			c.pause(100, 900)
			if c.rng.IntN(2) == 0 {
				c.hosts[from.name].heal()
			}
		}
		return true
	}},
	{"disk of the leader full", takeover, func(c *fleetRun) bool { return c.fullDisk(c.running()[0]) }},
	{"disk of a follower full", takeover, func(c *fleetRun) bool { return c.fullDisk(c.running()[1]) }},
	{"raft log: a bit flipped", takeover, func(c *fleetRun) bool {
		return c.damage("raft.db", func(b []byte) []byte {
			b[c.rng.IntN(len(b))] ^= 1 << c.rng.IntN(8)
			return b
		})
	}},
	{"raft log: an entry altered", takeover, func(c *fleetRun) bool {
		n := c.running()[1]
		n.process.kill()
		entry := n.someEntry(c.rng)
		return c.damageOf(n, "raft.db", func(b []byte) []byte {
			altered := bytes.Clone(entry)
			altered[len(altered)/2] ^= 1
			return bytes.ReplaceAll(b, entry, altered) // also where it was before
		})
	}},
	{"raft log: truncated", takeover, func(c *fleetRun) bool {
		return c.damage("raft.db", func(b []byte) []byte { return b[:c.rng.IntN(len(b)/2)] })
	}},
	{"snapshot: a bit flipped", takeover, func(c *fleetRun) bool {
		return c.damage("state.bin", func(b []byte) []byte {
			b[c.rng.IntN(len(b))] ^= 1 << c.rng.IntN(8)
			return b
		})
	}},
	{"snapshot: truncated", takeover, func(c *fleetRun) bool {
		return c.damage("state.bin", func(b []byte) []byte { return b[:c.rng.IntN(len(b))] })
	}},
	{"clocks set", takeover, func(c *fleetRun) bool {
		for _, n := range c.running() {
			n.setClock([]time.Duration{30 * time.Minute, -50 * time.Minute, 12 * time.Hour, time.Minute}[c.rng.IntN(4)])
			c.pause(500, 2000)
		}
		c.pause(2000, 4000)
		return true
	}},
	{"clock of the leader set in leaps", takeover, func(c *fleetRun) bool {
		n := c.running()[0]
		for range 10 {
			n.setClock(time.Duration(c.rng.IntN(7200)-3000) * time.Second)
			c.pause(100, 700)
		}
		return true
	}},
	{"stopped and started in turn", handover, func(c *fleetRun) bool {
		for _, n := range c.running() {
			n.process.stop(c.t)
			n.start()
			c.awaitCopies(n)
		}
		return true
	}},
	{"drained and restarted in turn", handover, func(c *fleetRun) bool {
		for _, n := range c.running() {
			c.drain(n, true)
			n.process.stop(c.t)
			n.start()
			c.drain(n, false)
			c.awaitCopies(n)
		}
		return true
	}},
	{"from three to five and back", handover, func(c *fleetRun) bool {
		for len(c.nodes) < 5 {
			c.grow()
		}
		for _, n := range c.nodes[3:] {
			if n.down = false; !n.process.alive() {
				n.start()
			}
			c.awaitCopies(n)
		}
		c.registers.listen()
		c.pause(3000, 6000)
		for _, n := range c.nodes[3:] {
			c.drain(n, true)
			n.down = true
			c.remove(n)
		}
		return true
	}},
	{"a node replaced under its name", takeover, func(c *fleetRun) bool {
		n := c.running()[1]
		n.process.kill() // with its disk, say
		c.remove(n)
		n.start()
		c.awaitCopies(n)
		return true
	}},
}

func (c *fleetRun) kill(n *node) bool {
	c.say("%s is killed", n.name)
	n.process.kill()
	c.pause(4000, 7000) // others have its work before it comes back
	return true
}

func (c *fleetRun) suspend(n *node) bool {
	c.say("%s sleeps", n.name)
	n.process.suspend(c.t)
	c.pause(3000, 8000)
	return true
}

// isolate has nothing pass between a node and the others.
func (c *fleetRun) isolate(n *node) {
	for name, h := range c.hosts {
		if name != n.name {
			c.hosts[n.name].mute(h)
			h.mute(c.hosts[n.name])
		}
	}
}

func (c *fleetRun) cutOff(nodes []*node) bool {
	for _, n := range nodes {
		c.say("%s is cut off", n.name)
		c.isolate(n)
	}
	c.pause(4000, 9000)
	return true
}

// oneWay has nothing pass from some nodes to others.
func (c *fleetRun) oneWay(from, to []*node) bool {
	for _, f := range from {
		for _, n := range to {
			c.hosts[f.name].mute(c.hosts[n.name])
		}
	}
	c.pause(4000, 9000)
	return true
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

// fullDisk fills a node's disk and frees it after a while. The node may end: an
// init system starts it again then.
func (c *fleetRun) fullDisk(n *node) bool {
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
	c.pause(8000, 12000)
	if n.process.alive() {
		c.notes["disk full: the node lived"]++
	} else {
		c.notes["disk full: the node ended"]++
	}
	must(c.t, os.Remove(file))
	return true
}

// damage kills a node, damages a file of it and starts it: it says what is damaged
// and ends, and gets back what it had; or it is not harmed, and goes on with what it
// has. To put back then what was there before would be another fault: it has
// answered others since, and refuses a disk that does not know of it.
func (c *fleetRun) damage(name string, how func([]byte) []byte) bool {
	n := c.running()[1]
	n.process.kill()
	return c.damageOf(n, name, how)
}

func (c *fleetRun) damageOf(n *node, name string, how func([]byte) []byte) bool {
	files := n.files(name)
	if len(files) == 0 {
		return false
	}
	file := files[len(files)-1]
	whole, err := os.ReadFile(file)
	must(c.t, err)
	damaged := how(bytes.Clone(whole))
	if bytes.Equal(damaged, whole) {
		return false
	}
	must(c.t, os.WriteFile(file, damaged, 0o600))
	began, err := os.Stat(n.process.log)
	must(c.t, err)
	if n.tryStart() {
		c.notes[name+": harmless damage"]++
		return true
	}
	c.notes[name+": damage found"]++
	log, err := os.ReadFile(n.process.log)
	must(c.t, err)
	said := string(log[began.Size():])
	if !strings.Contains(said, name) && !strings.Contains(said, "entry") && !strings.Contains(said, "snapshot") {
		c.t.Errorf("%s does not start with a damaged %s, and does not say why:\n%s", n.name, name, said)
	}
	must(c.t, os.WriteFile(file, whole, 0o600))
	return true
}

// tryStart starts a node and reports whether it is ready, and not ended, after a
// while.
func (n *node) tryStart() bool {
	file, addr := filepath.Join(n.dir, "node.yaml"), filepath.Join(n.dir, "address")
	_ = os.Remove(addr)
	n.process = startCommand(n.t, n.dir, "node "+n.name, n.env, append(n.site.enter(), replicator, "serve", "--config", file, "--address-file", addr))
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-n.process.exited:
			return false
		case <-deadline:
			return true
		case <-tick.C:
			if resp, err := n.client.Get(n.api + "/readyz"); err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return true
				}
			}
		}
	}
}

// drain has a node's work moved and waits until it has none, or lets it have work
// again.
func (c *fleetRun) drain(n *node, on bool) {
	c.t.Helper()
	verb := map[bool]string{true: "drain", false: "undrain"}[on]
	c.say("%s: %s", n.name, verb)
	eventually(c.t, recovery, verb+" "+n.name, func() error {
		_, err := c.anyNode(http.MethodPost, "/api/v1/fleet/nodes/"+n.name+"/"+verb, "")
		return err
	})
	if !on {
		return
	}
	eventually(c.t, recovery, n.name+" has no work", func() error {
		s, err := c.status()
		if err != nil {
			return err
		}
		for _, of := range s.Fleet.Nodes {
			if of.Name == n.name && (of.Works > 0 || !of.Draining) {
				return fmt.Errorf("it has %d works, draining: %v", of.Works, of.Draining)
			}
		}
		return nil
	})
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

// awaitCopies waits until a node has its share again, and all copies run.
func (c *fleetRun) awaitCopies(n *node) {
	c.t.Helper()
	eventually(c.t, recovery, n.name+" has copies", func() error {
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
	})
}
