package offsets

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// ProgressKey names the position of a group in a partition of one life of a topic.
type ProgressKey struct {
	Group     string
	TopicID   ledger.TopicID
	Partition int32
}

func (k ProgressKey) compare(o ProgressKey) int {
	return cmp.Or(strings.Compare(k.Group, o.Group), bytes.Compare(k.TopicID[:], o.TopicID[:]), cmp.Compare(k.Partition, o.Partition))
}

// Told is what a ledger says last of a group's position.
type Told struct {
	Topic string // label
	Next  int64
	Gone  bool // and that it is there no more
	At    time.Time
}

// SeenPosition is a committed offset, as a look at a cluster found it.
type SeenPosition struct {
	ProgressKey
	Topic   string
	Offset  int64
	Members bool // the group had some
	Flow    bool // a flow wrote it, and not the group
	// Start and End are those of the log, asked for after the commit; End is below 0 where
	// they are not known.
	Start, End int64
}

// Sight is one look at the positions of groups.
type Sight struct {
	// Asked is when the cluster was asked, Answered when it had answered.
	Asked, Answered time.Time
	Seen            []SeenPosition
	// Watched says whether the look was at a group and topic: what is missing from Seen
	// then is not there.
	Watched func(group, topic string) bool
	// Unsure are topics of which it is not known which life was seen, Unread groups whose
	// positions were not.
	Unsure, Unread map[string]bool
}

const (
	// progressEvery is how long what a group does in a partition is gathered before it is
	// written again.
	progressEvery = time.Minute
	// maxTurns is how many entries of one group and partition are written at once. What a
	// group does besides is told together, as that it went from there to here.
	maxTurns = 8
	// maxApart is how far apart two looks may be between which a position was watched.
	maxApart = time.Minute
)

// Progress turns looks at the positions of groups into entries of the cluster's ledger.
// What it says of a position joins on to what the ledger says of it last. It is not safe
// for concurrent use.
type Progress struct {
	stands map[ProgressKey]*stand
	ledger func(ProgressKey) (Told, bool)
}

// stand is what is known of one position.
type stand struct {
	topic string
	told  *Told // by the ledger, what is on its way there and what is pending; nil: nothing

	// What the last look saw; asked is zero if there was none.
	at      int64
	members bool
	asked   time.Time

	pending, onWay []*ledger.Progress
	written        time.Time // when something was, by this Progress
}

// NewProgress goes on from what a ledger says, which it asks about positions that it
// begins to watch later on.
func NewProgress(told map[ProgressKey]Told, ledger func(ProgressKey) (Told, bool)) *Progress {
	p := &Progress{stands: map[ProgressKey]*stand{}, ledger: ledger}
	for k, t := range told {
		if !t.Gone {
			p.stands[k] = &stand{topic: t.Topic, told: &t}
		}
	}
	return p
}

// Look takes in what was seen.
func (p *Progress) Look(s Sight) {
	s.Asked, s.Answered = s.Asked.UTC().Truncate(time.Millisecond), s.Answered.UTC().Truncate(time.Millisecond)
	seen := make(map[ProgressKey]bool, len(s.Seen))
	for _, at := range s.Seen {
		if s.Unsure[at.Topic] || !s.Watched(at.Group, at.Topic) {
			continue
		}
		seen[at.ProgressKey] = true
		if at.End < 0 {
			continue // the next look tells of it, too
		}
		st := p.stands[at.ProgressKey]
		if st == nil {
			st = &stand{}
			if told, ok := p.ledger(at.ProgressKey); ok {
				st.told = &told
			}
			p.stands[at.ProgressKey] = st
		}
		st.topic = at.Topic
		st.see(at, s)
	}
	for k, st := range p.stands {
		switch {
		case seen[k], s.Unsure[st.topic], s.Unread[k.Group]:
		case s.Watched(k.Group, st.topic):
			if st.miss(k, s); st.over(s.Answered) {
				delete(p.stands, k)
			}
		default:
			delete(p.stands, k) // another may watch it from now on, and tell of it
		}
	}
}

// Groups are those of which a position is told that is not gone.
func (p *Progress) Groups() map[string]bool {
	all := map[string]bool{}
	for k, st := range p.stands {
		if st.told != nil && !st.told.Gone {
			all[k.Group] = true
		}
	}
	return all
}

// see takes in where a position is. What lies behind the end of the log nobody can have
// read, nor, that is known, what was deleted before it was passed over.
func (st *stand) see(now SeenPosition, s Sight) {
	before, since, members := st.at, st.asked, now.Members || st.members
	st.at, st.members, st.asked = now.Offset, now.Members, s.Asked
	switch {
	case now.Flow:
		return // flows move idle groups: that is known from their copies
	case since.IsZero():
		st.turn(now, now.Offset, time.Time{}, s.Answered)
	case now.Offset == before:
	case now.Offset > before && members && now.Offset <= now.End && s.Asked.Sub(since) <= maxApart:
		st.turn(now, before, time.Time{}, since) // where a flow had moved it meanwhile
		if from := min(now.Start, now.Offset); from > before {
			st.turn(now, from, since, s.Answered)
			before = from
		}
		if now.Offset > before {
			st.advance(now, before, since, s.Answered)
		}
	default:
		st.turn(now, now.Offset, since, s.Answered)
	}
}

// turn says that a position is elsewhere than was told, and that no reading is known. It
// was where it was before at a time, or when that was told.
func (st *stand) turn(k SeenPosition, to int64, since, at time.Time) {
	e := &ledger.Progress{
		Place: ledger.Place{TopicID: k.TopicID, Topic: k.Topic, Partition: k.Partition, First: to, Last: to},
		Group: k.Group, Kind: ledger.Found, Next: to, FirstAt: at, At: at,
	}
	if st.told != nil && !st.told.Gone {
		if e.FirstAt = since; since.IsZero() {
			e.FirstAt = st.told.At
		}
		switch from := st.told.Next; {
		case to == from:
			return
		case to > from:
			e.Kind, e.First, e.Last = ledger.Leapt, from, to-1
		default:
			e.Kind, e.First, e.Last = ledger.Reset, to, from-1
		}
	}
	st.add(e)
}

// advance says that a group with members went forward.
func (st *stand) advance(k SeenPosition, from int64, firstAt, at time.Time) {
	if n := len(st.pending); n > 0 && st.pending[n-1].Kind == ledger.Advanced {
		last := st.pending[n-1]
		last.Last, last.Next, last.At = k.Offset-1, k.Offset, at
		st.tell(last)
		return
	}
	st.add(&ledger.Progress{
		Place: ledger.Place{TopicID: k.TopicID, Topic: k.Topic, Partition: k.Partition, First: from, Last: k.Offset - 1},
		Group: k.Group, Kind: ledger.Advanced, Next: k.Offset, FirstAt: firstAt, At: at,
	})
}

// miss takes in that a position is not there.
func (st *stand) miss(k ProgressKey, s Sight) {
	since := st.asked
	st.asked, st.members = time.Time{}, false
	if st.told == nil || st.told.Gone {
		return
	}
	if since.IsZero() {
		since = st.told.At
	}
	at := st.told.Next
	st.add(&ledger.Progress{
		Place: ledger.Place{TopicID: k.TopicID, Topic: st.topic, Partition: k.Partition, First: at, Last: at},
		Group: k.Group, Kind: ledger.Gone, Next: at, FirstAt: since, At: s.Answered,
	})
}

// over says that the ledger has all that there is to be said: that the position is gone.
func (st *stand) over(now time.Time) bool {
	return (st.told == nil || st.told.Gone) && len(st.pending)+len(st.onWay) == 0 && now.Sub(st.written) >= progressEvery
}

// add is for an entry that joins on to what is told.
func (st *stand) add(e *ledger.Progress) {
	st.pending = append(st.pending, e)
	if len(st.pending) > maxTurns {
		st.together()
	}
	st.tell(e)
}

func (st *stand) tell(e *ledger.Progress) {
	st.told = &Told{Topic: e.Topic, Next: e.Next, Gone: e.Kind == ledger.Gone, At: e.At}
}

// together tells the last two of what is pending as one: the group went from where the one
// began to where the other ended.
func (st *stand) together() {
	n := len(st.pending)
	a, b := st.pending[n-2], st.pending[n-1]
	one := *b
	one.FirstAt = a.FirstAt
	from, known := start(a)
	switch {
	case b.Kind == ledger.Gone && n > 2 && st.pending[n-3].Kind == ledger.Gone:
		st.pending = st.pending[:n-2] // as before
		return
	case b.Kind == ledger.Gone:
	case !known || b.Kind == ledger.Found:
		one.Kind, one.First, one.Last = ledger.Found, b.Next, b.Next
	case b.Next > from:
		one.Kind, one.First, one.Last = ledger.Leapt, from, b.Next-1
	case b.Next < from:
		one.Kind, one.First, one.Last = ledger.Reset, b.Next, from-1
	default:
		st.pending = st.pending[:n-2] // it is where it was
		return
	}
	st.pending = append(st.pending[:n-2], &one)
}

// start is where an entry begins, if it joins on to another.
func start(e *ledger.Progress) (from int64, ok bool) {
	switch e.Kind {
	case ledger.Found:
		return 0, false
	case ledger.Reset:
		return e.Last + 1, true
	}
	return e.First, true
}

// Due are the entries to be written now: of positions of which nothing was written for a
// while, those first that have waited longest, and of whole positions, until they are limit
// or more. They are on their way until [Progress.Written] or [Progress.Failed].
func (p *Progress) Due(now time.Time, limit int) []*ledger.Progress {
	var waiting []ProgressKey
	for k, st := range p.stands {
		if len(st.pending) > 0 && len(st.onWay) == 0 && (st.written.IsZero() || now.Sub(st.written) >= progressEvery) {
			waiting = append(waiting, k)
		}
	}
	slices.SortFunc(waiting, func(a, b ProgressKey) int {
		return cmp.Or(p.stands[a].written.Compare(p.stands[b].written), a.compare(b))
	})
	var due []*ledger.Progress
	for _, k := range waiting {
		st := p.stands[k]
		st.onWay, st.pending = st.pending, nil
		if due = append(due, st.onWay...); len(due) >= limit {
			break
		}
	}
	return due
}

// onWay says that something is.
func (p *Progress) onWay() bool {
	for _, st := range p.stands {
		if len(st.onWay) > 0 {
			return true
		}
	}
	return false
}

// Written says that what was due is in the ledger.
func (p *Progress) Written(now time.Time) {
	for _, st := range p.stands {
		if len(st.onWay) > 0 {
			st.onWay, st.written = nil, now
		}
	}
}

// Failed says that it is not known whether what was due is in the ledger, which has been
// read since: what it does not have is due again.
func (p *Progress) Failed() {
	for k, st := range p.stands {
		n := len(st.onWay)
		if n == 0 {
			continue
		}
		last := st.onWay[n-1]
		if told, ok := p.ledger(k); !ok || told.Next != last.Next || !told.At.Equal(last.At) {
			st.pending = append(st.onWay, st.pending...)
			for len(st.pending) > maxTurns {
				st.together()
			}
		}
		st.onWay = nil
	}
}
