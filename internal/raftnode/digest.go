package raftnode

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Members that have applied the same commands must hold the same state. The leader
// looks whether they do: each keeps its states at a few indices that are the same
// everywhere, the leader asks for their digests, and a member that differs from the
// majority stops with [ErrDiverged], be it the leader itself.

// ErrDiverged says that a member's state is not that of the others after the same
// commands: its memory or its binary is at fault.
var ErrDiverged = errors.New("the state differs from that of the other members")

const (
	// markEvery is how many log entries lie between two states that are kept to be
	// compared; keepMarks how many are.
	markEvery = 256
	keepMarks = 4
	// compareEvery is how often the leader looks.
	compareEvery = 10 * time.Second
	// maxDigests bounds an answer.
	maxDigests = 4 << 10
)

// digests are those of states, by index.
type digests map[uint64]string

// marks are the states that a replica keeps to be compared. They are immutable, so
// keeping one costs what has changed since.
type marks[S any] struct {
	mu     sync.Mutex
	kept   []marked[S] // oldest first
	latest marked[S]   // the current state when somebody last asked
}

type marked[S any] struct {
	index  uint64
	digest func() (string, error) // encodes the state when it is first called
}

// mark is of a state that may be asked for its digest.
func (r *Replica[S]) mark(state S, index uint64) marked[S] {
	return marked[S]{index, sync.OnceValues(func() (string, error) {
		b, err := r.machine.Encode(state)
		if err != nil {
			return "", fmt.Errorf("encode the state at %d: %w", index, err)
		}
		sum := sha256.Sum256(b)
		return hex.EncodeToString(sum[:]), nil
	})}
}

// passed keeps a state if it is the first after a multiple of markEvery.
func (r *Replica[S]) passed(before uint64, state S, index uint64) {
	if index/markEvery == before/markEvery {
		return
	}
	r.marks.mu.Lock()
	defer r.marks.mu.Unlock()
	r.marks.kept = append(r.marks.kept, r.mark(state, index))
	if len(r.marks.kept) > keepMarks {
		r.marks.kept = slices.Delete(r.marks.kept, 0, 1)
	}
}

// digests returns those of the kept states and of the current one. It encodes them
// without the lock: raft publishes states meanwhile.
func (r *Replica[S]) digests() (digests, error) {
	all := make(digests)
	for _, m := range r.toCompare() {
		d, err := m.digest()
		if err != nil {
			return nil, err
		}
		all[m.index] = d
	}
	return all, nil
}

func (r *Replica[S]) toCompare() []marked[S] {
	r.marks.mu.Lock()
	defer r.marks.mu.Unlock()
	if state, index := r.Current(); r.marks.latest.digest == nil || r.marks.latest.index != index {
		r.marks.latest = r.mark(state, index)
	}
	return append(slices.Clone(r.marks.kept), r.marks.latest)
}

// verdict is a member whose state differs.
type verdict struct {
	ID    string `json:"id"`
	Index uint64 `json:"index"`
	// Has is the digest of its state, Want that of Agree members out of Of.
	Has   string `json:"has"`
	Want  string `json:"want"`
	Agree int    `json:"agree"`
	Of    int    `json:"of"`
}

func (v verdict) err() error {
	return fmt.Errorf("%w: at entry %d it has the digest %.16s, %d of %d members have %.16s. Remove this node from the group, wipe its directory and let it join anew",
		ErrDiverged, v.Index, v.Has, v.Agree, v.Of, v.Want)
}

// differing compares what members report at the highest index at which they differ.
// The digest of most members is right; among equals, the leader's.
func differing(reports map[string]digests, leader string) (all []verdict) {
	var indices []uint64
	for _, r := range reports {
		indices = slices.AppendSeq(indices, maps.Keys(r))
	}
	slices.Sort(indices)
	for _, index := range slices.Backward(slices.Compact(indices)) {
		votes, of := make(map[string]int), 0
		for _, r := range reports {
			if d, ok := r[index]; ok {
				votes[d]++
				of++
			}
		}
		if len(votes) < 2 {
			continue
		}
		want := ""
		for _, d := range slices.Sorted(maps.Keys(votes)) {
			if votes[d] > votes[want] || votes[d] == votes[want] && reports[leader][index] == d {
				want = d
			}
		}
		for _, id := range slices.Sorted(maps.Keys(reports)) {
			if has, ok := reports[id][index]; ok && has != want {
				all = append(all, verdict{ID: id, Index: index, Has: has, Want: want, Agree: votes[want], Of: of})
			}
		}
		return all
	}
	return nil
}

// comparison is the leader's look at all states. Only the steward uses it.
type comparison struct {
	next   time.Time
	agreed uint64 // the index at which all members have agreed
}

// compareStates asks all members for their digests, and tells those that differ. It
// takes at most a hundredth of the time: a large state is compared less often.
func (n *Node) compareStates(ctx context.Context, c *comparison) {
	if time.Now().Before(c.next) || n.cfg.Replica.index() == c.agreed {
		return
	}
	began := time.Now()
	own, err := n.cfg.Replica.digests()
	if err != nil {
		n.log.Warn("compare states", "error", err)
		return
	}
	c.next = time.Now().Add(max(compareEvery, 100*time.Since(began)))
	places := members(n.raft.GetConfiguration().Configuration())
	reports, answers := n.collectDigests(ctx, places), 1
	reports[n.cfg.ID] = own
	index := n.cfg.Replica.index()
	for id, r := range reports {
		if _, same := r[index]; same && id != n.cfg.ID {
			answers++
		}
	}
	all := differing(reports, n.cfg.ID)
	if len(all) == 0 && answers == len(places) {
		c.agreed = index
	}
	for _, v := range all {
		n.log.Error("a member's state differs", "id", v.ID, "entry", v.Index, "has", v.Has, "want", v.Want, "agree", v.Agree, "of", v.Of)
		if v.ID == n.cfg.ID {
			n.doom(v.err())
			continue
		}
		body, err := json.Marshal(v)
		if err == nil {
			_, _, err = n.post(ctx, places[v.ID].addr, "diverged", body)
		}
		if err != nil && ctx.Err() == nil {
			n.log.Warn("tell a member that its state differs; trying again", "id", v.ID, "error", err)
		}
	}
}

func (n *Node) collectDigests(ctx context.Context, places map[string]place) map[string]digests {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.RPCTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	reports := make(map[string]digests)
	for id, at := range places {
		if id == n.cfg.ID || n.silentFor(at.server()) > 0 {
			continue
		}
		wg.Go(func() {
			_, body, err := n.post(ctx, at.addr, "digests", nil)
			var d digests
			if err == nil {
				err = json.Unmarshal(body, &d)
			}
			if err != nil {
				return // it is asked again
			}
			mu.Lock()
			defer mu.Unlock()
			reports[id] = d
		})
	}
	wg.Wait()
	return reports
}

func (n *Node) serveDigests(w http.ResponseWriter, _ *http.Request) {
	d, err := n.cfg.Replica.digests()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, http.StatusOK, d)
}

// serveDiverged stops the node if it is as the leader says. Nobody else has compared.
func (n *Node) serveDiverged(w http.ResponseWriter, req *http.Request) {
	if _, leader := n.raft.LeaderWithID(); !PeerIs(req.Context(), string(leader)) {
		n.refuse(w, errNotLeader)
		return
	}
	var v verdict
	if err := json.NewDecoder(io.LimitReader(req.Body, maxDigests)).Decode(&v); err != nil {
		http.Error(w, "request: "+err.Error(), http.StatusBadRequest)
		return
	}
	own, err := n.cfg.Replica.digests()
	if err != nil || own[v.Index] == "" || own[v.Index] == v.Want {
		http.Error(w, "this node's state is another by now", http.StatusUnprocessableEntity)
		return
	}
	n.log.Error("this node's state differs from that of the others", "entry", v.Index, "has", own[v.Index], "want", v.Want, "agree", v.Agree, "of", v.Of)
	n.doom(v.err())
}
