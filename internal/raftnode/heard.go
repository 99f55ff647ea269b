package raftnode

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// memory is what a node knows of the disks of other members: their lives, which it
// keeps on its own disk, and what they have promised to it since it started.
type memory struct {
	stable raft.StableStore

	mu    sync.Mutex
	heard map[string]heard  // by disk
	lives map[string]uint64 // by disk
}

func openMemory(s raft.StableStore) (*memory, error) {
	m := &memory{stable: s, heard: make(map[string]heard), lives: make(map[string]uint64)}
	stored, err := get(s, keyLives)
	if err != nil || stored == nil {
		return m, err
	}
	if err := json.Unmarshal(stored, &m.lives); err != nil {
		return nil, fmt.Errorf("read the lives of other disks: %w", err)
	}
	return m, nil
}

// of returns the life of a disk, 0 if it is not known, and what it has promised.
func (m *memory) of(disk string) (life uint64, h heard) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lives[disk], m.heard[disk]
}

func (m *memory) allLives() map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.lives)
}

// noteLife returns when the life of a disk is on this node's disk, unless it knew.
func (m *memory) noteLife(disk string, life uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lives[disk] >= life {
		return nil
	}
	m.lives[disk] = life
	return m.store()
}

func (m *memory) store() error {
	b, err := json.Marshal(m.lives)
	if err == nil {
		err = m.stable.Set([]byte(keyLives), b)
	}
	if err != nil {
		return fmt.Errorf("note the lives of other disks: %w", err)
	}
	return nil
}

func (m *memory) note(at raft.ServerAddress, h heard) {
	p, err := parsePlace(at)
	if err != nil {
		return // raft's addresses are all places
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if h.beyond(m.heard[p.disk]) {
		m.heard[p.disk] = h
	}
}

// keep forgets disks that are not among those of the members.
func (m *memory) keep(members map[string]place) error {
	disks := make(map[string]bool)
	for _, p := range members {
		disks[p.disk] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.heard, func(disk string, _ heard) bool { return !disks[disk] })
	before := len(m.lives)
	maps.DeleteFunc(m.lives, func(disk string, _ uint64) bool { return !disks[disk] })
	if len(m.lives) == before {
		return nil
	}
	return m.store()
}

// transport notes in memory what peers acknowledge and in contacts who answers, asks for
// no votes while the node could not lead, and has raft replicate to a peer again as soon as
// that answers.
type transport struct {
	*raft.NetworkTransport
	memory   *memory
	room     *room
	contacts *contacts
	leads    func(at raft.ServerAddress, term uint64) bool // this node leads that member in that term
}

var (
	_ raft.Transport   = transport{}
	_ raft.WithPreVote = transport{}
)

// acknowledged is what a successful answer to a request promises: that the log is
// as the leader's up to the end of the request. A bare heartbeat promises the term
// only.
func acknowledged(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (heard, bool) {
	if !resp.Success || resp.Term != req.Term {
		return heard{}, false
	}
	h := heard{Term: req.Term, Index: req.PrevLogEntry}
	if n := len(req.Entries); n > 0 {
		h.Index = req.Entries[n-1].Index
	}
	return h, true
}

// AppendEntries implements raft.Transport.
func (t transport) AppendEntries(id raft.ServerID, at raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	sent := time.Now()
	err := t.NetworkTransport.AppendEntries(id, at, req, resp)
	t.contacts.note(at, req.Term, sent, err)
	if h, ok := acknowledged(req, resp); ok && err == nil {
		t.memory.note(at, h)
	}
	if err != nil && !isHeartbeat(req) {
		t.holdBack(at, req.Term)
	}
	return err
}

// isHeartbeat says that a request is one of those that raft sends beside replication, for as
// long as it leads, with pauses that never grow beyond half the heartbeat timeout.
func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return req.PrevLogEntry == 0 && req.PrevLogTerm == 0 && len(req.Entries) == 0 && req.LeaderCommitIndex == 0
}

// holdBackLook is between two looks whether the peer answers.
const holdBackLook = 20 * time.Millisecond

// holdBack keeps raft from learning that it could not replicate to a peer until that answers
// heartbeats, or need not any more. Raft doubles its pause with each failure, to ten
// seconds, and asks nobody meanwhile: a group of which another member died while that one
// was just back could commit nothing for as long.
func (t transport) holdBack(at raft.ServerAddress, term uint64) {
	since := time.Now()
	ticker := time.NewTicker(holdBackLook)
	defer ticker.Stop()
	for t.leads(at, term) && t.contacts.with(at, term).asked.Before(since) {
		<-ticker.C
	}
}

// RequestPreVote implements raft.WithPreVote. Without the votes that this would
// have brought, raft begins no election and no term.
func (t transport) RequestPreVote(id raft.ServerID, at raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if t.room.full.Load() {
		resp.Term = req.Term
		return nil // not granted
	}
	return t.NetworkTransport.RequestPreVote(id, at, req, resp)
}

// RequestVote implements raft.Transport.
func (t transport) RequestVote(id raft.ServerID, at raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	err := t.NetworkTransport.RequestVote(id, at, req, resp)
	if err == nil && resp.Granted {
		t.memory.note(at, heard{Term: req.Term})
	}
	return err
}

// InstallSnapshot implements raft.Transport.
func (t transport) InstallSnapshot(id raft.ServerID, at raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := t.NetworkTransport.InstallSnapshot(id, at, req, resp, data)
	if err == nil && resp.Success && resp.Term == req.Term {
		t.memory.note(at, heard{Term: req.Term, Index: req.LastLogIndex})
	}
	if err != nil {
		t.holdBack(at, req.Term)
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport.
func (t transport) AppendEntriesPipeline(id raft.ServerID, at raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := t.NetworkTransport.AppendEntriesPipeline(id, at)
	if err != nil {
		return nil, err
	}
	p := &pipeline{AppendPipeline: inner, memory: t.memory, at: at, answers: make(chan raft.AppendFuture), done: make(chan struct{})}
	go p.relay()
	return p, nil
}

// pipeline notes what passes on its way to raft. Its goroutine ends with Close.
type pipeline struct {
	raft.AppendPipeline
	memory  *memory
	at      raft.ServerAddress
	answers chan raft.AppendFuture
	done    chan struct{}
	once    sync.Once
}

func (p *pipeline) relay() {
	for {
		select {
		case f := <-p.AppendPipeline.Consumer():
			if f.Error() == nil {
				if h, ok := acknowledged(f.Request(), f.Response()); ok {
					p.memory.note(p.at, h)
				}
			}
			select {
			case p.answers <- f:
			case <-p.done:
				return
			}
		case <-p.done:
			return
		}
	}
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.done) })
	return p.AppendPipeline.Close()
}
