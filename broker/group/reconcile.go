package group

// memberState is where a member of a consumer group stands on its way to its
// target. The numbers are those of Kafka's records.
type memberState int8

const (
	// stable: it has what its epoch says, and may be behind the group's.
	stable memberState = 1
	// unrevoked: it must give partitions up before it goes on.
	unrevoked memberState = 2
	// unreleased: it waits for partitions that others have not yet given up.
	unreleased memberState = 3
)

// standing is what a member has, and which epoch says so.
//
// Invariants: assigned and revoking have nothing in common; revoking is empty
// unless state is unrevoked.
type standing struct {
	state memberState
	// epoch is what the member must name; previous is the one before, which it may
	// name while the answer that told it of epoch can have been lost.
	epoch, previous int32
	// assigned is what it may read, revoking what it was told to give up and may
	// still be reading. Both are its own: nobody else is given them.
	assigned, revoking Assignment
}

// reconcile takes a member one step towards target, the assignment of targetEpoch
// (KIP-848). What it must give up comes before anything that it is given. owned
// is what its client says to have; nil is that it did not say. free tells which
// partitions no other member has.
func (s standing) reconcile(target Assignment, targetEpoch int32, owned Assignment, free func(TopicID, int32) bool) standing {
	has := func(a Assignment) bool { return len(a) > 0 && (owned == nil || owned.meets(a)) }
	switch s.state {
	case stable:
		if s.epoch == targetEpoch {
			return s
		}
	case unrevoked:
		if has(s.revoking) {
			return s
		}
	}
	next := standing{state: stable, epoch: s.epoch, previous: s.previous, assigned: s.assigned.and(target)}
	if lost := s.assigned.minus(target); has(lost) {
		next.state, next.revoking = unrevoked, lost
		next.advance(s.epoch)
		return next
	}
	missing := target.minus(next.assigned)
	given := missing.keep(free)
	if given.size() < missing.size() {
		next.state = unreleased
	}
	next.assigned = next.assigned.plus(given)
	next.advance(targetEpoch)
	return next
}

// advance moves to an epoch. One step takes the previous epoch along also when
// the epoch stays, so that a retry is known by the epoch that its client has.
func (s *standing) advance(epoch int32) { s.previous, s.epoch = s.epoch, epoch }

func (s standing) equal(o standing) bool {
	return s.state == o.state && s.epoch == o.epoch && s.previous == o.previous &&
		s.assigned.equal(o.assigned) && s.revoking.equal(o.revoking)
}
