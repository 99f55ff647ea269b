package raftnode

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

// ErrGroupRuns says that a node was to begin a group, and one runs already.
var ErrGroupRuns = fmt.Errorf("%w: a group runs already", ErrRefused)

// How long others are asked whether a group runs, before one is begun: members may be
// starting, or a packet be lost. The first node of all waits as long for nothing, once.
const (
	beginPatience = 3 * time.Second
	beginPause    = 100 * time.Millisecond // doubled each time
)

// beginGroup begins a group on an empty disk, unless one of the addresses to join
// answers as a member of one. A node that has lost its disk would begin a second group
// beside the one that it was a member of.
func (n *Node) beginGroup() error {
	others := slices.DeleteFunc(slices.Clone(n.cfg.Join), func(addr string) bool { return addr == n.cfg.Listen || addr == n.cfg.Advertise })
	until := time.Now().Add(beginPatience)
	for pause := beginPause; len(others) > 0; pause *= 2 {
		for _, addr := range others {
			ctx, cancel := context.WithTimeout(context.Background(), n.cfg.RPCTimeout)
			member := n.isMember(ctx, addr)
			cancel()
			if member {
				return fmt.Errorf("%w: the node at %s belongs to one; this node has an empty directory, and is not to begin another", ErrGroupRuns, addr)
			}
		}
		left := time.Until(until)
		if left <= 0 {
			break
		}
		<-time.After(min(pause, left))
	}
	n.log.Warn("this node begins a new group: its directory was empty", "asked", n.cfg.Join)
	return n.setGroup(randomHex(16))
}

// isMember reports whether the node at an address belongs to a group. What answers
// otherwise, or not at all, is taken for one that does not yet: the first node is
// started before the others.
func (n *Node) isMember(ctx context.Context, addr string) bool {
	var err error
	if n.cfg.Credentials.own {
		err = n.showsIdentity(ctx, addr)
	} else {
		err = n.hasLog(ctx, addr)
	}
	if err != nil {
		n.log.Debug("no group was found", "address", addr, "error", err)
	}
	return err == nil
}

// showsIdentity is nil if the node at an address has a certificate of a group's own
// authority, whichever that is: nobody has one before he has joined.
func (n *Node) showsIdentity(ctx context.Context, addr string) error {
	c, err := n.secured(ctx, addr, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{protoEnrol},
		InsecureSkipVerify: true, // nothing is told or believed
	})
	if err != nil {
		return err
	}
	defer c.Close()
	if got := c.ConnectionState().NegotiatedProtocol; got != protoEnrol {
		return fmt.Errorf("it speaks %q", got)
	}
	return nil
}

// hasLog is nil if the node at an address, which has a certificate of the same
// authority, has any entry in its log: one that has not joined has none.
func (n *Node) hasLog(ctx context.Context, addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := n.secured(ctx, addr, n.cfg.Credentials.client(host, protoPeer))
			if err != nil {
				return nil, err
			}
			return plainConn{c}, nil
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+peerPath+"id", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var who introduction
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxError)).Decode(&who); err != nil {
		return err
	}
	if who.Last == 0 {
		return fmt.Errorf("%s has joined no group", who.ID)
	}
	return nil
}

// secured dials an address with TLS.
func (n *Node) secured(ctx context.Context, addr string, conf *tls.Config) (*tls.Conn, error) {
	raw, err := n.cfg.Network.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, conf)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return c, nil
}
