package raftnode

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// The node's own peer requests are
//
//	POST /raftnode/apply    a command -> its result, index in a header
//	POST /raftnode/barrier  -> index in a header
//	POST /raftnode/join     {id, place, group, update} -> group in a header
//	POST /raftnode/remove   {id, force, disk}
//	POST /raftnode/removable {id, disk} whether remove would be refused
//	POST /raftnode/transfer {id}
//	POST /raftnode/renew    -> the caller's certificate anew, DER
//	POST /raftnode/digests  -> digests of states by index
//	POST /raftnode/diverged the leader's verdict: the node stops if it is true
//	GET  /raftnode/id       -> what the node says of itself
//
// All but the last four are for the leader; another node answers 421 with the
// leader's address in a header. 409 is ErrUnclear, 422 ErrRefused, 404
// ErrNotMember. Everything but join and id is for members only: a header says who
// asks and from which disk, and the certificate must fit; else 403.
const (
	peerPath     = "/raftnode/"
	indexHeader  = "Waybill-Index"
	leaderHeader = "Waybill-Leader"
	fromHeader   = "Waybill-From" // id@place of who asks
	groupHeader  = "Waybill-Group"
	// removedHeader is the leader's word that the caller is no member, by the
	// configuration of that index.
	removedHeader = "Waybill-Removed"
	maxError      = 4 << 10
)

// newServer serves the peers. Its limits are for members with a bug: strangers
// do not get past the handshake.
func (n *Node) newServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+peerPath+"apply", n.serveApply)
	mux.HandleFunc("POST "+peerPath+"barrier", n.serveBarrier)
	mux.HandleFunc("POST "+peerPath+"join", n.serveJoin)
	mux.HandleFunc("POST "+peerPath+"remove", n.serveRemove)
	mux.HandleFunc("POST "+peerPath+"removable", n.serveRemovable)
	mux.HandleFunc("POST "+peerPath+"transfer", n.serveTransfer)
	mux.HandleFunc("POST "+peerPath+"renew", n.serveRenew)
	mux.HandleFunc("POST "+peerPath+"digests", n.serveDigests)
	mux.HandleFunc("POST "+peerPath+"diverged", n.serveDiverged)
	mux.HandleFunc("GET "+peerPath+"id", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, n.introduction())
	})
	if n.cfg.Handler != nil {
		mux.Handle("/", n.cfg.Handler)
	}
	return &http.Server{
		Handler:           n.membersOnly(mux),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if p, ok := c.(*portConn); ok && p.cert != nil {
				return withPeer(ctx, p.cert)
			}
			return ctx
		},
	}
}

// membersOnly lets nodes that are no members do nothing but introduce themselves
// and join. So a certificate is of no use any more once its node has been removed,
// and neither is that of the one before to a node that was replaced.
func (n *Node) membersOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != peerPath+"join" && req.URL.Path != peerPath+"id" {
			err := n.checkMember(req)
			if err != nil && strings.HasPrefix(req.URL.Path, peerPath) && n.raft.State() != raft.Leader {
				err = errNotLeader // who leads knows better who is a member
			}
			if errors.Is(err, errNotLeader) {
				n.refuse(w, err)
				return
			}
			if err != nil {
				if errors.Is(err, ErrRemoved) && n.raft.State() == raft.Leader {
					w.Header().Set(removedHeader, strconv.FormatUint(n.raft.GetConfiguration().Index(), 10))
				}
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, req)
	})
}

// caller is who asks, by the header and the certificate that fits it.
func caller(req *http.Request) (id string, from place, cert *x509.Certificate, err error) {
	id, rest, _ := strings.Cut(req.Header.Get(fromHeader), "@")
	from, err = parsePlace(raft.ServerAddress(rest))
	cert, _ = req.Context().Value(peerKey{}).(*x509.Certificate)
	if err != nil || cert == nil || !names(cert, id) || !onDisk(cert, from.disk) {
		return "", place{}, nil, fmt.Errorf("the certificate does not fit the caller %q", req.Header.Get(fromHeader))
	}
	return id, from, cert, nil
}

func (n *Node) checkMember(req *http.Request) error {
	id, from, _, err := caller(req)
	if err != nil {
		return err
	}
	at, ok := members(n.raft.GetConfiguration().Configuration())[id]
	switch {
	case !ok:
		return fmt.Errorf("%w: %s is not a member, as %s knows it", ErrRemoved, id, n.cfg.ID)
	case at.disk != from.disk:
		return fmt.Errorf("%w: %s is a member with another disk than %s: it has been replaced", ErrRemoved, id, from.disk)
	}
	return nil
}

// dialError marks a request that was never sent.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// newClient returns a client for URLs https://<member id or host:port>/...
func (n *Node) newClient() *http.Client {
	return &http.Client{Transport: introduced{n, &http.Transport{
		DialTLSContext: func(ctx context.Context, _, hostport string) (net.Conn, error) {
			addr, id, err := n.resolve(hostport)
			if err != nil {
				return nil, dialError{err}
			}
			ctx, cancel := context.WithTimeout(ctx, n.cfg.RPCTimeout)
			defer cancel()
			conn, err := n.port.dial(ctx, addr, protoPeer, id)
			if err != nil {
				return nil, dialError{err}
			}
			return conn, nil
		},
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}}}
}

// introduced says in every request who asks.
type introduced struct {
	node *Node
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (i introduced) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set(fromHeader, i.node.cfg.ID+"@"+i.node.place().String())
	resp, err := i.next.RoundTrip(req)
	if err == nil && resp.Header.Get(removedHeader) != "" {
		i.node.hearRemoved(resp.Header.Get(removedHeader))
	}
	return resp, err
}

// hearRemoved ends the node if the leader does not have it as a member any more, by a
// configuration that is not older than its own. A node that has none is joining.
func (n *Node) hearRemoved(index string) {
	select {
	case <-n.ready:
	default:
		return
	}
	f := n.raft.GetConfiguration()
	if removed, err := strconv.ParseUint(index, 10, 64); err == nil && len(f.Configuration().Servers) > 0 && removed >= f.Index() {
		n.doom(ErrRemoved)
	}
}

// CloseIdleConnections is found by http.Client.
func (i introduced) CloseIdleConnections() {
	if c, ok := i.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// Client returns an HTTP client for the other members' Handlers, and this node's
// own. The host of a URL is a member's id: https://node-2/path. Requests should
// carry a context with a deadline.
func (n *Node) Client() *http.Client { return n.client }

// resolve turns the host of a peer URL into an address, and the member's id if it
// is one. net/http adds the port 443 to a bare member id.
func (n *Node) resolve(hostport string) (addr, id string, err error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil || port != "443" {
		return hostport, "", err
	}
	select {
	case <-n.ready:
	default:
		return hostport, "", nil
	}
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if string(s.ID) == host {
			return addrOf(s.Address), host, nil
		}
	}
	return hostport, "", nil
}

// post sends a request to a member and turns the answer's status into an error. A
// member that takes the request and stays silent is not waited for: none of them takes
// longer than a few RPCs.
func (n *Node) post(ctx context.Context, addr, path string, body []byte) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*n.cfg.RPCTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr+peerPath+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	resp, err := n.client.Do(req)
	if err != nil {
		var dial dialError
		if errors.As(err, &dial) {
			return nil, nil, fmt.Errorf("%w: %w", errNotLeader, err)
		}
		return nil, nil, fmt.Errorf("%w: %w", ErrUnclear, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: read answer: %w", ErrUnclear, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, answer, nil
	}
	kind := ErrUnclear
	switch resp.StatusCode {
	case http.StatusMisdirectedRequest:
		kind = errNotLeader
	case http.StatusUnprocessableEntity:
		kind = ErrRefused
	case http.StatusForbidden:
		kind = ErrRefused
	case http.StatusNotFound:
		kind = ErrNotMember
	}
	text := strings.TrimSpace(string(answer[:min(len(answer), maxError)]))
	return resp, nil, fmt.Errorf("%w: %s: %s", kind, addr, text)
}

// atLeader sends a request to whom this node takes for the leader. One that has
// been replaced and cannot say so, because it sleeps or is cut off, is not waited
// for: its connection may stay open for minutes.
func (n *Node) atLeader(ctx context.Context, r *raft.Raft, path string, body []byte) (index uint64, answer []byte, err error) {
	_, until := n.Following()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(until, func() { time.AfterFunc(n.cfg.HeartbeatTimeout, cancel) })()
	addr, _ := r.LeaderWithID()
	if addr == "" {
		return 0, nil, errNotLeader
	}
	resp, answer, err := n.post(ctx, addrOf(addr), path, body)
	if err != nil {
		return 0, nil, err
	}
	if index, err = strconv.ParseUint(resp.Header.Get(indexHeader), 10, 64); err != nil {
		return 0, nil, fmt.Errorf("%w: index in answer: %w", ErrUnclear, err)
	}
	return index, answer, nil
}

func (n *Node) applyAtLeader(ctx context.Context, r *raft.Raft, command []byte) (Applied, error) {
	index, result, err := n.atLeader(ctx, r, "apply", command)
	if err != nil {
		return Applied{}, err
	}
	return Applied{Index: index, Result: result}, nil
}

func (n *Node) barrierAtLeader(ctx context.Context, r *raft.Raft) (uint64, error) {
	index, _, err := n.atLeader(ctx, r, "barrier", nil)
	if errors.Is(err, ErrUnclear) {
		err = fmt.Errorf("%w: %w", errNotLeader, err) // a barrier may be tried again
	}
	return index, err
}

func (n *Node) serveApply(w http.ResponseWriter, req *http.Request) {
	command, err := io.ReadAll(http.MaxBytesReader(w, req.Body, MaxCommand))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	applied, err := n.applyHere(n.raft, command)
	if err != nil {
		n.refuse(w, err)
		return
	}
	w.Header().Set(indexHeader, strconv.FormatUint(applied.Index, 10))
	_, _ = w.Write(applied.Result) // a caller that has gone finds it unclear
}

func (n *Node) serveBarrier(w http.ResponseWriter, _ *http.Request) {
	index, err := n.barrierHere(n.raft)
	if err != nil {
		n.refuse(w, err)
		return
	}
	w.Header().Set(indexHeader, strconv.FormatUint(index, 10))
}

// refuse answers with the status that stands for err.
func (n *Node) refuse(w http.ResponseWriter, err error) {
	status := http.StatusConflict
	switch {
	case errors.Is(err, errNotLeader):
		status = http.StatusMisdirectedRequest
		addr, _ := n.raft.LeaderWithID()
		w.Header().Set(leaderHeader, addrOf(addr))
	case errors.Is(err, ErrRefused):
		status = http.StatusUnprocessableEntity
	case errors.Is(err, ErrNotMember):
		status = http.StatusNotFound
	}
	http.Error(w, err.Error(), status)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // to a caller that may have gone
}
