//go:build chaos && linux

package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// role is a place in the list of running nodes.
type role int

const (
	leads role = iota
	follows
)

func (r role) String() string { return [...]string{"the leader", "a follower"}[r] }

// stored is a file of a node's raft store that can be damaged. What is wrong with a
// file that mustTell is found whenever the node starts; a page of the log's file that
// is damaged may be one that nothing is in.
type stored struct {
	name     string
	mustTell bool
	newest   func(*node) string // path, "" if there is none yet
}

var (
	raftLog      = stored{"raft.db", false, (*node).logFile}
	raftEntry    = stored{"raft.db", true, (*node).logFile}
	raftSnapshot = stored{"state.bin", true, func(n *node) string {
		path, _ := n.newestSnapshot()
		return path
	}}
)

// damageFaults are what is done to what nodes have on disk, leaders and followers.
func damageFaults() (faults []fleetFault) {
	for _, d := range []struct {
		what, how string
		file      stored
		do        func(*fleetRun, *node, []byte) []byte
	}{
		{"raft log", "a bit flipped", raftLog, flipBit},
		{"raft log", "an entry altered", raftEntry, alterEntry},
		{"raft log", "truncated", raftLog, func(c *fleetRun, _ *node, b []byte) []byte { return b[:c.rng.IntN(len(b)/2)] }},
		{"snapshot", "a bit flipped", raftSnapshot, flipBit},
		{"snapshot", "truncated", raftSnapshot, func(c *fleetRun, _ *node, b []byte) []byte { return b[:c.rng.IntN(len(b))] }},
	} {
		for _, who := range []role{leads, follows} {
			name := fmt.Sprintf("%s of %s: %s", d.what, who, d.how)
			faults = append(faults, fleetFault{name, takeover, func(c *fleetRun) bool { return c.damage(who, d.file, d.do) }})
		}
	}
	return faults
}

func flipBit(c *fleetRun, _ *node, b []byte) []byte {
	b[c.rng.IntN(len(b))] ^= 1 << c.rng.IntN(8)
	return b
}

// alterEntry flips a bit of an entry wherever it is in the file, also where it was
// before.
func alterEntry(c *fleetRun, n *node, b []byte) []byte {
	entry := n.someEntry(c.rng)
	altered := bytes.Clone(entry)
	altered[len(altered)/2] ^= 1
	return bytes.ReplaceAll(b, entry, altered)
}

// damage kills a node, damages a file of it and starts it: it says what is damaged
// and ends, and gets back what it had; or it is not harmed, and goes on with what it
// has. To put back then what was there before would be another fault: it has
// answered others since, and refuses a disk that does not know of it.
func (c *fleetRun) damage(who role, of stored, how func(*fleetRun, *node, []byte) []byte) bool {
	var n *node
	eventually(c.t, recovery, fmt.Sprintf("%s has a file %s", who, of.name), func() error {
		if n = c.owning(who)[who]; of.newest(n) == "" {
			return errors.New("it has none")
		}
		return nil
	})
	copies := c.copiesOf(n)
	n.process.kill()
	file := of.newest(n)
	whole, err := os.ReadFile(file)
	must(c.t, err)
	damaged := how(c, n, bytes.Clone(whole))
	if bytes.Equal(damaged, whole) {
		return false
	}
	must(c.t, os.WriteFile(file, damaged, 0o600))
	before, err := os.ReadFile(n.process.log)
	must(c.t, err)
	outcome := n.tryStart()
	log, err := os.ReadFile(n.process.log)
	must(c.t, err)
	said := string(log[len(before):])
	named := strings.Contains(said, file)
	c.say("%s of %s, %s, is damaged: it %s, and names the file: %v", of.name, n.name, who, outcome, named)
	c.notes[fmt.Sprintf("%s damaged, node %s, named: %v", of.name, outcome, named)]++
	switch {
	case outcome == hangs:
		c.t.Errorf("%s, with a damaged %s, is neither ready nor does it end:\n%s", n.name, file, said)
		n.process.kill()
	case !named && (outcome == ended || of.mustTell):
		c.t.Errorf("%s, with a damaged %s, %s and does not name it:\n%s", n.name, file, outcome, said)
	}
	if outcome != ready {
		c.awaitTaken(n, copies)
		must(c.t, os.WriteFile(file, whole, 0o600))
	}
	return true
}

// outcome is what comes of starting a node.
type outcome int

const (
	ready outcome = iota
	ended
	hangs // neither, for as long as anything may take to recover
)

func (o outcome) String() string { return [...]string{"is ready", "ended", "hangs"}[o] }

// tryStart starts a node that may not be able to.
func (n *node) tryStart() outcome {
	n.launch()
	deadline := time.After(recovery)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-n.process.exited:
			return ended
		case <-deadline:
			return hangs
		case <-tick.C:
			if resp, err := n.client.Get(n.api + "/readyz"); err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return ready
				}
			}
		}
	}
}
