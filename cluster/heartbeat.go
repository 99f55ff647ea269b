package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Peer requests of the fleet, besides raftnode's:
//
//	POST /fleet/heartbeat   heartbeat -> heartbeatAnswer
//	GET  /fleet/status      -> FleetStatus, without its Works
//	GET  /fleet/works       -> ownWorks
//
// The first two are for the leader; another node answers 421. Heartbeats come all
// the time, so they carry next to nothing: who is there, and the loads of copies
// that have changed by much (see meter). How work is doing is asked of its owners
// when somebody wants to know.
const (
	heartbeatPath = "/fleet/heartbeat"
	statusPath    = "/fleet/status"
	worksPath     = "/fleet/works"
	// maxHeartbeat bounds a heartbeat: the loads of 300 000 copies.
	maxHeartbeat = 4 << 20
	// maxPeerBody bounds an answer: the statuses of about 50 000 copies of one node.
	maxPeerBody = 32 << 20
	// worksTimeout bounds how long an owner is waited for that says how its work is
	// doing.
	worksTimeout = 2 * time.Second
)

// heartbeat is what a node tells the leader.
type heartbeat struct {
	Node string `json:"node"`
	// Incarnation of its session, 0 if it has none.
	Incarnation uint64 `json:"incarnation,omitempty"`
	// Loads of its copies that the leader does not know yet.
	Loads []topicLoads `json:"loads,omitempty"`
}

// ownWorks is how the work of a node's incarnation is doing.
type ownWorks struct {
	Incarnation uint64       `json:"incarnation"`
	Works       []WorkStatus `json:"works"`
}

// heartbeatAnswer is what the leader answers.
type heartbeatAnswer struct {
	// Ended: the incarnation is over.
	Ended bool `json:"ended,omitempty"`
	// Removed: the fleet does not have the node.
	Removed bool `json:"removed,omitempty"`
}

// WorkStatus is how a piece of work is doing.
type WorkStatus struct {
	Work  Work   `json:"work"`
	Epoch uint64 `json:"epoch"`
	// Node is filled in by who asks.
	Node    string `json:"node,omitempty"`
	State   string `json:"state,omitempty"`
	Problem string `json:"problem,omitempty"`
	// Detail is for whoever asks for the fleet's status.
	Detail json.RawMessage `json:"detail,omitempty"`
}

// beat sends heartbeats to the leader until ctx ends, or the node has been
// removed.
func (n *Node) beat(ctx context.Context) error {
	ticker := time.NewTicker(n.cfg.HeartbeatInterval)
	defer ticker.Stop()
	b := beater{node: n, pulse: pulse{interval: n.cfg.StatusInterval}}
	for {
		_, until := n.raft.Following()
		select {
		case <-ticker.C:
		case <-n.beatNow:
		case <-until.Done():
			if n.Leader() == "" {
				continue // until there is another
			}
		case <-ctx.Done():
			return nil
		}
		removed, err := b.beat(ctx)
		if removed {
			n.removed.Store(true)
			n.endSession(ErrRemoved)
			return ErrRemoved
		}
		b.note(err)
	}
}

// pulse is what a node remembers of its heartbeats, and decides what the next one
// says. It has no clock and no I/O: the simulation runs the same one.
type pulse struct {
	interval   time.Duration // between looks at loads: Config.StatusInterval
	leader     string        // the last one known
	reportedTo string        // the leader that knows the loads; "lost" if none is known to
	reportedAt time.Time
}

// next returns the heartbeat to send to the leader at now, if there is one to send
// it to and one that would answer. The node is registered if the fleet has, or had,
// it as a member, incarnation is that of its session or 0, and loads are those of its
// copies that have changed, or all of them.
func (p *pulse) next(node string, registered bool, incarnation uint64, loads func(now time.Time, all bool) []topicLoads, now time.Time) (hb heartbeat, ok bool) {
	if p.leader == "" || !registered && p.reportedTo == "" {
		return heartbeat{}, false // not a member yet, or nobody has been elected
	}
	hb = heartbeat{Node: node, Incarnation: incarnation}
	if another := p.reportedTo != p.leader; incarnation != 0 && (another || now.Sub(p.reportedAt) >= p.interval) {
		hb.Loads = loads(now, another)
		p.reportedAt = now
	}
	return hb, true
}

// answered notes that a heartbeat was answered.
func (p *pulse) answered() { p.reportedTo = p.leader }

// lost notes that a heartbeat was not answered: all loads go out again.
func (p *pulse) lost() { p.reportedTo = "lost" }

// beater sends heartbeats. Only the goroutine of Node.beat uses it.
type beater struct {
	pulse
	node    *Node
	failing bool
}

// beat sends one heartbeat and renews the session's lease if it is answered.
func (b *beater) beat(ctx context.Context) (removed bool, err error) {
	n := b.node
	leader, until := n.raft.Following()
	if leader != "" {
		b.leader = leader
	}
	var incarnation uint64
	var loads func(time.Time, bool) []topicLoads
	s := n.openSession()
	if s != nil {
		incarnation, loads = s.incarnation, s.loads
	}
	_, registered := n.State().Members[n.cfg.Name]
	registered = registered || n.registered.Load()
	sent := time.Now()
	hb, ok := b.next(n.cfg.Name, registered, incarnation, loads, sent)
	if !ok {
		return false, nil
	}
	answer, err := b.send(ctx, until, hb)
	if err != nil {
		b.lost()
		return false, err
	}
	b.answered()
	switch {
	case answer.Removed:
		return true, nil
	case s != nil && answer.Ended:
		s.cancel(ErrIncarnationEnded)
	case s != nil:
		s.renew(sent)
	}
	return false, nil
}

// send gives up after HeartbeatTimeout, or when the leader has changed: the next
// one has not heard of this node yet.
func (b *beater) send(ctx, until context.Context, hb heartbeat) (a heartbeatAnswer, err error) {
	n := b.node
	ctx, cancel := context.WithTimeout(ctx, n.cfg.HeartbeatTimeout)
	defer cancel()
	defer context.AfterFunc(until, cancel)()
	if l := n.leading.Load(); l != nil {
		return l.hear(ctx, hb)
	}
	body, err := json.Marshal(hb)
	if err != nil {
		return a, fmt.Errorf("encode heartbeat: %w", err)
	}
	err = n.call(ctx, http.MethodPost, b.leader, heartbeatPath, body, &a)
	return a, err
}

// note logs when heartbeats begin to fail, and when they succeed again.
func (b *beater) note(err error) {
	switch {
	case err != nil && !b.failing:
		b.node.log.Warn("heartbeat is not answered", "leader", b.leader, "error", err)
	case err == nil && b.failing:
		b.node.log.Info("heartbeats are answered again", "leader", b.leader)
	}
	b.failing = err != nil
}

// call sends a request to a peer and reads its JSON answer.
func (n *Node) call(ctx context.Context, method, peer, path string, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+peer+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := n.raft.Client().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxPeerBody+1))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", peer, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", peer, resp.Status, bytes.TrimSpace(b[:min(len(b), 512)]))
	}
	if len(b) > maxPeerBody {
		return fmt.Errorf("%s answers more than %d bytes", peer, maxPeerBody)
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("answer of %s: %w", peer, err)
	}
	return nil
}

// handler answers the peers.
func (n *Node) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+heartbeatPath, n.serveHeartbeat)
	mux.HandleFunc("GET "+statusPath, n.serveStatus)
	mux.HandleFunc("GET "+worksPath, func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, n.ownWorks()) })
	if n.cfg.PeerHandler != nil {
		mux.Handle("/", n.cfg.PeerHandler)
	}
	return mux
}

func (n *Node) serveHeartbeat(w http.ResponseWriter, req *http.Request) {
	hb, err := decodeHeartbeat(http.MaxBytesReader(w, req.Body, maxHeartbeat))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !PeerIs(req.Context(), hb.Node) {
		http.Error(w, fmt.Sprintf("the certificate does not name %q", hb.Node), http.StatusForbidden)
		return
	}
	l := n.leading.Load()
	if l == nil {
		http.Error(w, "not the leader", http.StatusMisdirectedRequest)
		return
	}
	answer, err := l.hear(req.Context(), hb)
	if err != nil {
		http.Error(w, err.Error(), http.StatusMisdirectedRequest)
		return
	}
	answerJSON(w, answer)
}

func decodeHeartbeat(r io.Reader) (hb heartbeat, err error) {
	if err := json.NewDecoder(r).Decode(&hb); err != nil {
		return hb, fmt.Errorf("decode heartbeat: %w", err)
	}
	return hb, nil
}

func (n *Node) serveStatus(w http.ResponseWriter, _ *http.Request) {
	l := n.leading.Load()
	if l == nil {
		http.Error(w, "not the leader", http.StatusMisdirectedRequest)
		return
	}
	answerJSON(w, l.fleetStatus())
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // to a peer that may have gone
}
