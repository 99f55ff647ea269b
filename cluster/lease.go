package cluster

import (
	"maps"
	"time"
)

// tenure is how long a session lasts by the clock of its own node: from when the
// last heartbeat that was answered was sent.
type tenure struct {
	lease time.Duration
	until time.Time
}

// newTenure is that of an incarnation that was asked for when it began. Until the
// first heartbeat is answered it lasts no longer than a new leader's grace: one that
// was elected a moment before may find the incarnation in its state, and counts from
// then.
func newTenure(cfg *Config, began time.Time) tenure {
	return tenure{lease: cfg.SessionLease, until: began.Add(min(cfg.SessionLease, cfg.LeaderGrace))}
}

// renew notes that a heartbeat was answered that had been sent then. It may come
// late: the leader says with its answer that the incarnation has not ended.
func (t *tenure) renew(sent time.Time) { t.until = sent.Add(t.lease) }

// leases are a leader's memory of whom it has heard. They are not replicated: a
// new leader starts with none, and gives everybody the grace period. All times
// come from one process's monotonic clock.
type leases struct {
	timeout time.Duration
	graceTo time.Time
	last    map[string]lease     // by node, of its present incarnation
	contact map[string]time.Time // by node, with or without an incarnation
}

type lease struct {
	incarnation uint64
	at          time.Time // when its clock began, or was last set
	heard       bool
}

// newLeases begins at now: an incarnation of members that is silent is over after
// grace. Later ones are when they are silent for timeout.
func newLeases(members map[string]Member, now time.Time, grace, timeout time.Duration) *leases {
	l := &leases{
		timeout: timeout,
		graceTo: now.Add(grace),
		last:    make(map[string]lease),
		contact: make(map[string]time.Time),
	}
	for name, m := range members {
		if m.Incarnation != 0 {
			l.last[name] = lease{incarnation: m.Incarnation, at: l.graceTo.Add(-timeout)}
		}
	}
	return l
}

// beat notes that a node was heard at now, in an incarnation that has not ended,
// or in none (0), and reports whether that is the first time.
func (l *leases) beat(node string, incarnation uint64, now time.Time) (first bool) {
	l.contact[node] = now
	if incarnation != 0 {
		first = !l.confirmed(node, incarnation)
		l.last[node] = lease{incarnation: incarnation, at: now, heard: true}
	}
	return first
}

// confirmed reports whether a node was heard in an incarnation.
func (l *leases) confirmed(node string, incarnation uint64) bool {
	last := l.last[node]
	return last.incarnation == incarnation && last.heard
}

// alive reports whether a node was heard within the timeout.
func (l *leases) alive(node string, now time.Time) bool {
	at, ok := l.contact[node]
	return ok && now.Sub(at) < l.timeout
}

// settled reports whether every member has been heard in its incarnation, or the
// grace period is over: who has not come by then is not waited for.
func (l *leases) settled(members map[string]Member, now time.Time) bool {
	if !now.Before(l.graceTo) {
		return true
	}
	for name, m := range members {
		if last := l.last[name]; m.Incarnation == 0 || last.incarnation != m.Incarnation || !last.heard {
			return false
		}
	}
	return true
}

// expired returns the incarnations that are to end at now, by node. One that it
// sees for the first time has its clock set to now.
func (l *leases) expired(members map[string]Member, now time.Time) map[string]uint64 {
	gone := make(map[string]uint64)
	for name, m := range members {
		if m.Incarnation == 0 {
			continue
		}
		last, ok := l.last[name]
		if !ok || last.incarnation != m.Incarnation {
			l.last[name] = lease{incarnation: m.Incarnation, at: now}
			continue
		}
		if now.Sub(last.at) >= l.timeout {
			gone[name] = m.Incarnation
		}
	}
	stranger := func(name string) bool { _, ok := members[name]; return !ok }
	maps.DeleteFunc(l.last, func(name string, _ lease) bool { return stranger(name) })
	maps.DeleteFunc(l.contact, func(name string, _ time.Time) bool { return stranger(name) })
	return gone
}
