package ledger

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Progress says how the committed offset of a group went on in a partition. A replicator
// writes it that looks at the group again and again, in the ledger of a cluster that does
// not record accesses itself. A commit shows a position and not a reading: Kind is what
// follows from it.
type Progress struct {
	// Place is what the position passed over, of a Found and a Gone the position itself.
	Place
	Kind  ProgressKind
	Group string
	// Next is the position afterwards.
	Next int64
	// FirstAt is when it was seen last where it was before, At when it was seen at Next.
	FirstAt, At time.Time
}

// ProgressKind is what is known of how a position went on.
type ProgressKind uint8

// The kinds of progress. Advanced is the last, so that what is put in order by kind ends
// where the position was.
const (
	Found    ProgressKind = 1 // it was seen for the first time: what came before is not known
	Leapt    ProgressKind = 2 // it went forward and no reading is known: nobody watched, or no member was there
	Reset    ProgressKind = 3 // it went back
	Gone     ProgressKind = 4 // it is there no more: deleted or expired
	Advanced ProgressKind = 5 // it went forward while it was watched and the group had members
)

var progressNames = [...]string{"", "found", "leapt", "reset", "gone", "committed"}

func (k ProgressKind) String() string {
	if int(k) < len(progressNames) && k != 0 {
		return progressNames[k]
	}
	return fmt.Sprintf("progress(%d)", uint8(k))
}

func (*Progress) kind() kind { return kindProgress }

func (e *Progress) append(b []byte) []byte {
	b = appendStrings(append(e.Place.append(b), byte(e.Kind)), e.Group)
	b = binary.AppendVarint(b, e.Next)
	return e.Place.appendParts(appendTime(appendTime(b, e.FirstAt), e.At))
}

func (e *Progress) read(r *reader) {
	e.Place.read(r)
	e.Kind = ProgressKind(r.byte())
	r.strings(&e.Group)
	e.Next = r.offset()
	e.FirstAt = r.time()
	e.At = r.time()
	e.Place.readParts(r)
}
