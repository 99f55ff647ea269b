package mirror

import (
	"fmt"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// writeHops sends what the mirrors have to the ledger, one page of each of its
// partitions at a time and not more often than hopInterval.
func (a *appender) writeHops(timer *time.Timer) {
	if a.writing > 0 {
		return
	}
	var due []*stretch
	for _, s := range a.stretches {
		if len(s.acked) > 0 {
			due = append(due, s)
		}
	}
	if len(due) == 0 {
		return
	}
	now := time.Now()
	if wait := hopInterval - now.Sub(a.hopsAt); wait > 0 && a.bytes < unhopped {
		timer.Reset(wait)
		return
	}
	a.hopsAt = now
	pages := map[int32]*hopPages{}
	for _, s := range due {
		id, key := s.c.copyIDs()
		at, err := a.journal.place(id)
		if err != nil {
			a.fail(s, fmt.Errorf("%w: %w", errLedger, err))
			a.forget(s)
			continue
		}
		last := s.acked[len(s.acked)-1].leaderEpoch
		proto := ledger.Hop{Copy: key, Epoch: s.c.a.Epoch, At: s.c.hopTime(now.UTC()), DestinationLeaderEpoch: last}
		if pages[at] == nil {
			pages[at] = &hopPages{}
		}
		if s.stalled != "" {
			pages[at].add(stallEvent(&a.Config, &s.c.a, id, ledger.CopyStalled, s.stalled, proto.At), s)
			s.stalled, s.telling = "", true
		}
		for _, h := range hopsOf(proto, s.acked) {
			pages[at].add(h, s)
		}
		s.acked, s.unwritten, s.inPages = nil, 0, s.unwritten
	}
	for at, p := range pages {
		for i, entries := range p.pages {
			of := p.of[i]
			for _, s := range of {
				s.writing++
			}
			a.writing++
			if err := a.reach(beforeHop); err != nil {
				a.pageDone(pageWritten{of, err})
				continue
			}
			a.journal.send(at, entries, func(err error) { a.pageDone(pageWritten{of, err}) })
		}
	}
}

// pageDone is called by the journal.
func (a *appender) pageDone(w pageWritten) {
	a.pagesMu.Lock()
	a.pages = append(a.pages, w)
	a.pagesMu.Unlock()
	a.poke()
}

func (a *appender) notePages() {
	a.pagesMu.Lock()
	pages := a.pages
	a.pages = nil
	a.pagesMu.Unlock()
	for _, w := range pages {
		a.note(w)
	}
}

// note takes note of what became of a page. After one that is not in the ledger
// nothing more of its copies is told: hops would have a hole.
func (a *appender) note(w pageWritten) {
	a.writing--
	for _, s := range w.of {
		s.writing--
		if w.err != nil {
			s.untold = true
			a.fail(s, w.err)
		}
		if s.writing == 0 {
			a.bytes -= s.inPages
			s.inPages = 0
			if s.telling && !s.untold {
				s.telling = false
				s.c.stallTold()
			}
		}
		if s.writing == 0 && s.untold {
			a.forget(s)
		}
	}
}

// forget drops what is not in the ledger: what the mirror has and the ledger does
// not know is found when the copy starts again.
func (a *appender) forget(s *stretch) {
	a.bytes -= s.unwritten
	s.unwritten, s.acked = 0, nil
}

// hopPages are entries of several copies as pages, and of whom each page tells.
type hopPages struct {
	pages [][]ledger.Entry
	of    [][]*stretch
	size  int
}

func (p *hopPages) add(e ledger.Entry, s *stretch) {
	n := estimate(e)
	if len(p.pages) == 0 || p.size+n > pageBytes {
		p.pages, p.of, p.size = append(p.pages, nil), append(p.of, nil), 0
	}
	p.size += n
	last := len(p.pages) - 1
	p.pages[last] = append(p.pages[last], e)
	if of := p.of[last]; len(of) == 0 || of[len(of)-1] != s {
		p.of[last] = append(of, s)
	}
}
