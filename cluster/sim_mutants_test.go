package cluster

import "time"

// simMutant is a decision that is made wrongly. The zero one is none.
type simMutant struct {
	name string
	// Broken parts of the pure core.
	onApply  func(n *simNode, s *State, index uint64, data []byte) (*State, []byte, error)
	onEncode func(s *State) ([]byte, error)
	onDecide func(c *controller, s *State, revision uint64, now time.Time) Command

	commitAlone   bool // an entry is committed by its leader alone
	unclearIsDone bool // an unclear proposal counts as applied
	noGrace       bool // a new leader does not wait for heartbeats
	answersAlone  bool // a leader answers heartbeats without a majority
	noLease       bool // a session never ends by itself
	lateLeader    bool // what a leader proposes may reach the next one
	noFence       bool // a takeover does not fence
	releaseEarly  bool // work is released before its last write is answered
}

func (m *simMutant) apply(n *simNode, s *State, index uint64, data []byte) (*State, []byte, error) {
	if m.onApply != nil {
		return m.onApply(n, s, index, data)
	}
	return machine{}.Apply(s, index, data)
}

func (m *simMutant) encode(s *State) ([]byte, error) {
	if m.onEncode != nil {
		return m.onEncode(s)
	}
	return machine{}.Encode(s)
}

func (m *simMutant) decide(c *controller, s *State, revision uint64, now time.Time) Command {
	if m.onDecide != nil {
		return m.onDecide(c, s, revision, now)
	}
	return c.decide(s, revision, now)
}
