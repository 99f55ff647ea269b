//go:build chaos && linux

package chaos

import "net"

// clusterFaults are links between a node and a cluster that are cut, one way or both.
// The node goes on hearing from the others and keeps its copies, which wait.
func clusterFaults() (faults []fleetFault) {
	for _, shape := range []struct {
		name       string
		mute, deaf bool
	}{
		{"cut off from", true, true},
		{"not heard by", true, false},
		{"hears nothing from", false, true},
	} {
		for _, side := range []struct {
			name string
			of   func(*fleetRun) *broker
		}{
			{"the source", func(c *fleetRun) *broker { return c.us }},
			{"the destination", func(c *fleetRun) *broker { return c.eu }},
		} {
			faults = append(faults, fleetFault{"owner " + shape.name + " " + side.name, outage, func(c *fleetRun) bool {
				return c.cutCluster(c.someOwner(), side.of(c), shape.mute, shape.deaf)
			}})
		}
	}
	return faults
}

// cutCluster cuts links between a node and a broker, and has seen that they are.
func (c *fleetRun) cutCluster(n *node, b *broker, mute, deaf bool) bool {
	c.t.Helper()
	c.say("%s and %s: what it sends is lost: %v, what is sent to it: %v", n.name, b.name, mute, deaf)
	addr := b.proxy.Load().address()
	host, _, err := net.SplitHostPort(addr)
	must(c.t, err)
	if mute {
		n.host().mute(host)
	}
	if deaf {
		n.host().deafen(host)
	}
	if n.host().reaches(addr) {
		c.t.Errorf("%s is to be cut off from %s, and is not", n.name, b.name)
	}
	c.pause(4000, 9000)
	return true
}

// someOwner is a node that owns copies.
func (c *fleetRun) someOwner() *node {
	who := role(c.rng.IntN(2))
	return c.owning(who)[who]
}
