package raftnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// standing is what this node knows of itself and of the members.
func (n *Node) standing() standing {
	s := standing{id: n.cfg.ID, disk: n.diskNow(), lives: n.memory.allLives()}
	for { // a term that changes in between would not fit the index
		term := n.raft.CurrentTerm()
		s.now = heard{Term: term, Index: n.raft.LastIndex()}
		if n.raft.CurrentTerm() == term {
			break
		}
	}
	f := n.raft.GetConfiguration()
	s.members = members(f.Configuration())
	if len(s.members) > 0 {
		s.index = f.Index()
	}
	return s
}

// members are the places of a configuration, by id.
func members(c raft.Configuration) map[string]place {
	all := make(map[string]place, len(c.Servers))
	for _, s := range c.Servers {
		if p, err := parsePlace(s.Address); err == nil {
			all[string(s.ID)] = p
		}
	}
	return all
}

// errProbed ends a connection that was only a question.
var errProbed = errors.New("answered")

// meet is the acceptor's end of a hello.
func (n *Node) meet(ctx context.Context, c *portConn) error {
	defer deadline(ctx, c)()
	var h hello
	if err := readHello(c, &h); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	if !names(c.cert, h.ID) || !onDisk(c.cert, h.Disk) {
		return fmt.Errorf("hello: the certificate of %q is not that of %q on disk %q", c.cert.Subject.CommonName, h.ID, h.Disk)
	}
	wait := n.probed
	if h.Probe { // two that wait for each other's probe would wait in vain
		wait = n.ready
	}
	select {
	case <-wait:
	case <-ctx.Done():
		return errors.New("hello: this node is not ready yet")
	}
	s := n.standing()
	code, reason, own := s.judge(h)
	if own != nil {
		n.doom(own)
	}
	a := helloAnswer{ID: n.cfg.ID, Life: s.disk.life, Code: code, Refusal: reason}
	_, a.Heard = n.memory.of(h.Disk)
	if code == "" {
		if err := n.memory.noteLife(h.Disk, h.Life); err != nil {
			return err
		}
	}
	if err := writeHello(c, a); err != nil {
		return fmt.Errorf("answer hello of %s: %w", h.ID, err)
	}
	if code != "" {
		return fmt.Errorf("hello of %s: %s", h.ID, reason)
	}
	if h.Probe {
		return errProbed
	}
	if h.Group != "" && s.disk.group == "" {
		return n.setGroup(h.Group)
	}
	return nil
}

// greetAt opens a connection for raft to a member.
func (n *Node) greetAt(ctx context.Context, at place, probe bool) (net.Conn, error) {
	c, err := n.port.dial(ctx, at.addr, protoRaft, "")
	if err != nil {
		return nil, err
	}
	s := n.standing()
	h := hello{Group: s.disk.group, ID: s.id, Disk: s.disk.id, Life: s.disk.life, Configuration: s.index, To: at.disk, Probe: probe}
	h.ToLife, h.Heard = n.memory.of(at.disk)
	a, err := greet(ctx, c, h)
	switch {
	case err != nil:
	case !names(c.cert, a.ID):
		err = fmt.Errorf("the certificate at %s is not that of %q", at.addr, a.ID)
	case a.Code == codeStale:
		err = errStale("%s", a.Refusal)
		n.doom(err)
	case a.Heard.beyond(n.standing().now):
		err = errStale("%s has acknowledgements of this disk up to term %d, entry %d", a.ID, a.Heard.Term, a.Heard.Index)
		n.doom(err)
	case a.Code != "":
		err = fmt.Errorf("refused by %s: %s", a.ID, a.Refusal)
	default:
		err = n.memory.noteLife(at.disk, a.Life)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// probe asks the other members, once, whether they have heard more from this disk
// than is on it. Until it returns raft talks to nobody: a disk that was put back
// could vote twice in a term before it is told so. Members that do not answer
// within twice the heartbeat timeout are not waited for, or a group that starts
// as a whole never would.
func (n *Node) probe(ctx context.Context) {
	defer close(n.probed)
	if n.fresh {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*n.cfg.HeartbeatTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for id, at := range n.standing().members {
		if id == n.cfg.ID {
			continue
		}
		wg.Go(func() {
			if c, err := n.greetAt(ctx, at, true); err == nil {
				_ = c.Close()
			}
		})
	}
	wg.Wait()
}

// raftStream is the raft protocol of a port, as raft wants it.
type raftStream struct {
	*queue
	node *Node
}

var _ raft.StreamLayer = raftStream{}

// Addr implements net.Listener: raft takes it for the node's own address.
func (s raftStream) Addr() net.Addr { return memoryAddr(s.node.place().String()) }

// Dial implements raft.StreamLayer.
func (s raftStream) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	at, err := parsePlace(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	select {
	case <-s.node.probed:
	case <-ctx.Done():
		return nil, errors.New("this node is not ready yet")
	}
	return s.node.greetAt(ctx, at, false)
}
