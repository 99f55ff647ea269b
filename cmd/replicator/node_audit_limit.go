package main

import (
	"time"

	"github.com/waybillhq/waybill/api"
)

// Refusals are kept as they come up to a burst, then at a rate: whoever tries
// tokens all night must not push what others did out of the trail. What is not
// kept is counted, and the next entry of its kind says how many there were.
const (
	noteBurst   = 20
	notePerSec  = 1.0
	allBurst    = 500
	allPerSec   = 20.0
	limiterMost = 4096 // kinds that are told apart
)

// noteKind is what makes entries alike.
type noteKind struct {
	user, address, operation string
	status                   int
}

// limiter decides which entries are kept. Its zero value is ready.
type limiter struct {
	kinds map[noteKind]*allowance
	all   allowance
}

// allowance is a token bucket.
type allowance struct {
	tokens     float64
	at         time.Time
	suppressed int
}

func (a *allowance) take(now time.Time, burst, perSecond float64) bool {
	if a.at.IsZero() {
		a.tokens = burst
	} else {
		a.tokens = min(burst, a.tokens+now.Sub(a.at).Seconds()*perSecond)
	}
	a.at = now
	if a.tokens < 1 {
		return false
	}
	a.tokens--
	return true
}

func kindOfNote(e api.AuditEntry) noteKind {
	return noteKind{e.User, e.Address, e.Operation, e.Status}
}

// admit says whether an entry is kept, and how many like it were not since the
// last that was. What somebody who is known has done is always kept.
func (l *limiter) admit(e api.AuditEntry, now time.Time) (suppressed int, keep bool) {
	if e.User != "" && e.Status < 400 {
		return 0, true
	}
	if l.kinds == nil || len(l.kinds) >= limiterMost {
		l.kinds = map[noteKind]*allowance{} // at worst each of them has its burst again, within that of all
	}
	k := kindOfNote(e)
	a := l.kinds[k]
	if a == nil {
		a = new(allowance)
		l.kinds[k] = a
	}
	if !a.take(now, noteBurst, notePerSec) || !l.all.take(now, allBurst, allPerSec) {
		a.suppressed++
		return 0, false
	}
	suppressed, a.suppressed = a.suppressed, 0
	return suppressed, true
}

// putBack counts an entry that was admitted and could not be kept.
func (l *limiter) putBack(e api.AuditEntry) {
	if a := l.kinds[kindOfNote(e)]; a != nil {
		a.suppressed += 1 + e.Suppressed
	}
}
