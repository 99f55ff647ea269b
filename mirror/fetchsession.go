package mirror

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/ledger"
)

// place is a partition as a fetch names it: by topic id, or by name. The other
// of the two is left empty.
type place struct {
	topic     string
	id        ledger.TopicID
	partition int32
}

// fetchSession is what one source broker remembers of one fetcher (KIP-227): the
// partitions that it fetches, and from where. A fetch then names what has changed
// since the last one, and an answer those that have something new: ten thousand
// idle partitions cost neither side anything. Its zero value has no session yet.
type fetchSession struct {
	id, epoch int32 // epoch 0: the next fetch is a whole one and asks for a session
	version   int16 // of the requests; it decides how partitions are named
	share     int32 // bytes of each partition

	of       map[*copier]*fetchedPlace // what is wanted
	has      map[place]*fetchedPlace   // what the last request has left the broker with
	changed  []*fetchedPlace           // since then
	nameless int                       // of those wanted, how many have no topic id

	sorted []*fetchedPlace // memory of the last whole fetch; nil when others are wanted than then
	turn   int             // which of them is first
}

// fetchedPlace is a partition that is, or was, wanted.
type fetchedPlace struct {
	wanted
	at    place       // of the last request that named it
	due   bool        // it is among those changed
	left  bool        // it is not wanted any more
	marks *watermarks // as the broker told last: it does not tell again
}

// watermarks are the offsets of a source partition.
type watermarks struct{ start, end, stable int64 }

// forget makes the next fetch a whole one.
func (s *fetchSession) forget() { s.id, s.epoch = 0, 0 }

// empty says that nothing is wanted.
func (s *fetchSession) empty() bool { return len(s.of) == 0 }

// set takes note of what is wanted of a copy. joined says that nothing was before.
func (s *fetchSession) set(w wanted) (joined bool) {
	if s.of == nil {
		s.of, s.has = map[*copier]*fetchedPlace{}, map[place]*fetchedPlace{}
	}
	p := s.of[w.c]
	if p != nil && p.topicID != w.topicID {
		s.drop(w.c)
		p = nil
	}
	if joined = p == nil; joined {
		p = &fetchedPlace{}
		s.of[w.c], s.sorted = p, nil
		if w.topicID == (ledger.TopicID{}) {
			s.nameless++
		}
	}
	if joined || p.offset != w.offset || p.leaderEpoch != w.leaderEpoch {
		s.change(p)
	}
	p.wanted = w
	return joined
}

// drop takes note that nothing is wanted of a copy; was says that something was.
func (s *fetchSession) drop(c *copier) (was bool) {
	p := s.of[c]
	if p == nil {
		return false
	}
	delete(s.of, c)
	s.sorted = nil
	if p.topicID == (ledger.TopicID{}) {
		s.nameless--
	}
	p.left = true
	s.change(p)
	return true
}

func (s *fetchSession) change(p *fetchedPlace) {
	if !p.due {
		p.due = true
		s.changed = append(s.changed, p)
	}
}

// update returns what the broker must be told when each partition is to have at
// most share bytes: those that are new to it or are to be fetched from elsewhere, and
// such as are not wanted any more. All are in has then, and nothing else.
func (s *fetchSession) update(share int32) (changed []*fetchedPlace, dropped []place) {
	version := int16(fetchByID)
	if s.nameless > 0 {
		version = fetchByName
	}
	if version != s.version { // a session names its partitions in one way
		s.forget()
		s.version = version
	}
	if s.epoch == 0 || s.share != share {
		for _, p := range s.of {
			s.change(p)
		}
		s.share = share
	}
	for _, p := range s.changed {
		if !p.left {
			s.take(p, s.place(p.wanted))
		}
	}
	for _, p := range s.changed {
		p.due = false
		switch {
		case !p.left:
			changed = append(changed, p)
		case s.has[p.at] == p:
			delete(s.has, p.at)
			if s.epoch != 0 {
				dropped = append(dropped, p.at)
			}
		}
	}
	clear(s.changed)
	s.changed = s.changed[:0]
	if s.epoch == 0 {
		changed = s.whole()
	}
	return changed, dropped
}

// take puts a partition that is wanted where the broker's answers name it. One that
// was there, of a copy that has begun anew since, leaves it what the broker has told.
func (s *fetchSession) take(p *fetchedPlace, at place) {
	if was := s.has[p.at]; was == p && p.at != at {
		delete(s.has, p.at)
	}
	if was := s.has[at]; was != nil && was != p {
		p.marks = was.marks
		if m := p.marks; m != nil {
			p.c.watermarks(m.start, m.end, m.stable, time.Now())
		}
	}
	p.at = at
	s.has[at] = p
}

// retell tells a copy that is in trouble, and has been fetched all along, what the broker
// told of it last: of an idle partition that is well it says nothing more. Such is one of
// which the metadata had no leader for shorter than a fetch takes.
func (s *fetchSession) retell(c *copier, now time.Time) {
	if p := s.of[c]; s.epoch != 0 && s.has[p.at] == p && p.marks != nil {
		c.watermarks(p.marks.start, p.marks.end, p.marks.stable, now)
	}
}

// whole is everything that is wanted: by topic, and each first in turn.
func (s *fetchSession) whole() []*fetchedPlace {
	if s.sorted == nil {
		s.sorted = slices.SortedFunc(maps.Values(s.of), func(a, b *fetchedPlace) int {
			return cmp.Or(strings.Compare(a.c.a.SourceTopic, b.c.a.SourceTopic), cmp.Compare(a.c.a.Partition, b.c.a.Partition))
		})
	}
	if len(s.sorted) == 0 {
		return nil
	}
	s.turn = (s.turn + 1) % len(s.sorted)
	return slices.Concat(s.sorted[s.turn:], s.sorted[:s.turn])
}

func (s *fetchSession) place(w wanted) place {
	tp := w.c.source()
	if s.version >= fetchByID {
		return place{id: w.topicID, partition: tp.Partition}
	}
	return place{topic: tp.Topic, partition: tp.Partition}
}

// at is what was asked for at a place; nil for one that was not.
func (s *fetchSession) at(p place) *fetchedPlace { return s.has[p] }

// answered takes note of the session that a fetch was answered with. It returns
// the answer's error, and says when that is only about the session: the next fetch
// is a whole one then.
func (s *fetchSession) answered(resp *kmsg.FetchResponse) (lost bool, err error) {
	err = kerr.ErrorForCode(resp.ErrorCode)
	switch {
	case errors.Is(err, kerr.FetchSessionIDNotFound), errors.Is(err, kerr.InvalidFetchSessionEpoch), errors.Is(err, kerr.FetchSessionTopicIDError):
		had := s.id != 0
		s.forget()
		return had, err // who asked for a new one cannot have lost it
	case err != nil:
		s.forget()
	case resp.SessionID == 0: // the broker keeps none for us
		s.id, s.epoch = 0, 0
	case s.epoch == math.MaxInt32:
		s.id, s.epoch = resp.SessionID, 1
	default:
		s.id, s.epoch = resp.SessionID, s.epoch+1
	}
	return false, err
}
