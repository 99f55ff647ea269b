//go:build chaos && unix

package chaos

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// scale takes the fleet from three nodes to five and back, one step after the other: a
// pause then says which step it belongs to. A node that comes is started with nobody's
// state, and given what balance needs; one that goes is removed while it leads and without
// having been drained, which moves its work itself, and the other is drained and removed.
func (w *world) scale(row func(what string, how faultKind, do func())) {
	w.t.Helper()
	var came []*node
	for i := range 2 {
		n := w.add(nil)
		came = append(came, n)
		row(fmt.Sprintf("a node joins %d", 3+i), handover, func() {
			n.start()
			w.copiesOf(n)
		})
	}
	w.lead(came[1]) // while there are five: of four, three vote
	row("remove the leader, not drained", handover, func() {
		w.leaves(came[1], func() { w.removed(came[1]) })
	})
	row("drain one of four", handover, func() { w.drainAlive(came[0]) })
	row("remove it", handover, func() { w.removed(came[0]) })
}

// lead hands the fleet's leadership to a node.
func (w *world) lead(n *node) {
	w.t.Helper()
	eventually(w.t, recovery, n.name+" leads", func() error {
		m, err := w.members(w.nodes)
		if err != nil || m.Leader == n.name {
			return err
		}
		_, err = w.anyNode(http.MethodPost, "/api/v1/fleet/transfer?to="+n.name, "")
		return errors.Join(err, fmt.Errorf("%s leads", m.Leader))
	})
}

// removed takes a node out of the fleet for good, and waits for its end.
func (w *world) removed(n *node) {
	w.t.Helper()
	_, err := w.anyOf(w.others(n), http.MethodDelete, "/api/v1/fleet/nodes/"+n.name, "")
	must(w.t, err)
	endsBy(w.t, n.process, recovery)
	eventually(w.t, recovery, n.name+" is no member", func() error {
		s, err := w.statusBy(w.others(n))
		for _, of := range s.Fleet.Nodes {
			if of.Name == n.name {
				err = errors.Join(err, errors.New("it is one still"))
			}
		}
		return err
	})
}

// endsBy waits until a process has ended by itself.
func endsBy(t *testing.T, p *process, limit time.Duration) {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(limit):
		t.Fatalf("%s goes on:\n%s", p.name, p.tail())
	}
}
