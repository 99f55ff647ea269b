package mirror

import (
	"errors"
	"math"
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
	has       map[place]*fetchedPlace
	turn      uint64
}

// fetchedPlace is a partition that the broker has been told of.
type fetchedPlace struct {
	wanted
	share int32 // bytes
	turn  uint64
	marks *watermarks // as the broker told last: it does not tell again
}

// watermarks are the offsets of a source partition.
type watermarks struct{ start, end, stable int64 }

// forget makes the next fetch a whole one.
func (s *fetchSession) forget() {
	s.id, s.epoch = 0, 0
	clear(s.has)
}

// update takes what is wanted now, at most share bytes of each partition, and
// returns what the broker must be told: partitions that are new to it or are to be
// fetched from elsewhere, and such as are not wanted any more.
func (s *fetchSession) update(list []wanted, version int16, share int32) (changed []wanted, dropped []place) {
	if version != s.version { // a session names its partitions in one way
		s.forget()
		s.version = version
	}
	if s.has == nil {
		s.has = make(map[place]*fetchedPlace, len(list))
	}
	s.turn++
	for _, w := range list {
		at := s.place(w)
		have := s.has[at]
		if have == nil {
			have = &fetchedPlace{}
			s.has[at] = have
		}
		if s.epoch == 0 || have.turn == 0 || have.offset != w.offset || have.leaderEpoch != w.leaderEpoch || have.share != share {
			changed = append(changed, w)
		}
		if have.marks != nil && have.c != w.c { // the copy has begun anew
			w.c.watermarks(have.marks.start, have.marks.end, have.marks.stable, time.Now())
		}
		*have = fetchedPlace{w, share, s.turn, have.marks}
	}
	if len(s.has) > len(list) {
		for at, have := range s.has {
			if have.turn != s.turn {
				dropped = append(dropped, at)
				delete(s.has, at)
			}
		}
	}
	return changed, dropped
}

func (s *fetchSession) place(w wanted) place {
	tp := w.c.source()
	if s.version >= fetchByID {
		return place{id: w.topicID, partition: tp.Partition}
	}
	return place{topic: tp.Topic, partition: tp.Partition}
}

// note remembers what the broker has told of a place.
func (s *fetchSession) note(at place, m watermarks) {
	if have := s.has[at]; have != nil {
		have.marks = &m
	}
}

// wanted is what was asked for at a place; ok is false for one that was not.
func (s *fetchSession) wanted(at place) (w wanted, ok bool) {
	if have := s.has[at]; have != nil {
		return have.wanted, true
	}
	return wanted{}, false
}

// answered takes note of the session that a fetch was answered with. It returns
// the answer's error, and says when that is only about the session: the next fetch
// is a whole one then.
func (s *fetchSession) answered(resp *kmsg.FetchResponse) (lost bool, err error) {
	err = kerr.ErrorForCode(resp.ErrorCode)
	switch {
	case errors.Is(err, kerr.FetchSessionIDNotFound), errors.Is(err, kerr.InvalidFetchSessionEpoch), errors.Is(err, kerr.FetchSessionTopicIDError):
		s.forget()
		return true, err
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
