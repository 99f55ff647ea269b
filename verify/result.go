package verify

import (
	"maps"
	"slices"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Kind is a kind of difference.
type Kind string

// The kinds of differences.
const (
	// Different: both sides have a record, and they are not the same.
	Different Kind = "different"
	// Missing: the destination lacks a record that the source has.
	Missing Kind = "missing"
	// Phantom: the destination has a record that the source does not have.
	Phantom Kind = "phantom"
	// Lost: the ledger says a record was copied that neither side has.
	Lost Kind = "lost"
	// Readable: the source has a record where the ledger declares a gap.
	Readable Kind = "readable"
	// Unaccounted: the ledger says nothing about source offsets.
	Unaccounted Kind = "unaccounted"
	// Damaged: a batch is not what its own checksum says.
	Damaged Kind = "damaged"
	// Ledger: both sides are equal, and neither is what the ledger says was copied.
	Ledger Kind = "ledger"
)

// Difference is one stretch of records that are not as they should be.
type Difference struct {
	Kind             Kind   `json:"kind" enum:"different,missing,phantom,lost,readable,unaccounted,damaged,ledger"`
	SourceTopic      string `json:"sourceTopic"`
	DestinationTopic string `json:"destinationTopic"`
	Partition        int32  `json:"partition"`
	Source           int64  `json:"source" doc:"Offset at the source; -1 if there is none"`
	Destination      int64  `json:"destination" doc:"Offset at the destination; -1 if there is none"`
	Count            int64  `json:"count" doc:"Records, or offsets, from there on"`
	What             string `json:"what" doc:"What differs"`
	// Changed is what is not as the ledger's digest says.
	Changed string `json:"changed,omitempty" enum:"source,destination,both,ledger" doc:"What is not as it was when it was copied, by the ledger's digest; empty if that cannot be told"`
}

// Values of [Difference].Changed.
const (
	ChangedSource      = "source"
	ChangedDestination = "destination"
	ChangedBoth        = "both"
	ChangedLedger      = "ledger"
)

// Why a record is not comparable.
const (
	ExpiredAtSource        = "expired at the source"
	ExpiredAtDestination   = "expired at the destination"
	CompactedAtSource      = "compacted at the source"
	CompactedAtDestination = "compacted at the destination"
	CompactedOnBothSides   = "compacted on both sides"
	GoneAtSource           = "the topic is gone from the source"
	TooLargeToDecode       = "decompresses to more than the limit"
	AlteredByTheFlow       = "altered by the flow, held against the ledger's digest alone"
)

// Why the reason of a gap is not checked.
const (
	DeletedAtSource    = "the source has deleted what lay there"
	TooLargeToJudge    = "its batch decompresses to more than the limit"
	FilterUnknown      = "the ledger does not have the filter by which it was left out, or one that this version does not take"
	QuarantineUnknown  = "the ledger does not say where in quarantine it is"
	QuarantineGone     = "the quarantine topic does not have it any more, or may not be read"
	WayUnknown         = "the ledger of the source's cluster does not know all of the way that it came"
	BroughtWithoutHop  = "a replicator or a mirror has brought it to the source, and no hop says from where"
	NoSourceLedger     = "the source's cluster has no ledger that tells where it is from"
	SourceLedgerUnread = "the ledger of the source's cluster, which tells where it is from, cannot be read"
)

// Unchecked are offsets in gaps whose reason is not checked.
type Unchecked struct {
	Why     string `json:"why"`
	Count   int64  `json:"count"`
	Ledger  string `json:"ledger,omitempty" doc:"The ledger that would have to be asked, as cluster/topic"`
	Problem string `json:"problem,omitempty" doc:"Why that cannot be read"`
	Fix     string `json:"fix,omitempty"`
}

// Tally is what a comparison has counted.
type Tally struct {
	Records       int64            `json:"records" doc:"Read on both sides and compared"`
	Bytes         int64            `json:"bytes" doc:"Of the source's batches with these records"`
	Gaps          map[string]int64 `json:"gaps,omitempty" doc:"Source offsets without a copy, by reason"`
	GapsUnchecked int64            `json:"gapsUnchecked,omitempty" doc:"Offsets of those whose reason is not checked"`
	Unchecked     []Unchecked      `json:"unchecked,omitempty" doc:"Those, by why"`
	NotComparable map[string]int64 `json:"notComparable,omitempty" doc:"Records that were copied and that one side does not have any more, by reason"`
	Foreign       int64            `json:"foreign,omitempty" doc:"Records of others among those of the copy at the destination"`
	TakenBack     int64            `json:"takenBack,omitempty" doc:"Copies of records that the source has lost since, as the ledger says"`
	OwnTimes      int64            `json:"ownTimes,omitempty" doc:"Compared records whose timestamps the destination has set itself"`
	Runs          int64            `json:"runs,omitempty" doc:"Runs of the ledger that were compared"`
	RunsConfirmed int64            `json:"runsConfirmed,omitempty" doc:"Those whose digest is that of both sides"`
	Different     int64            `json:"differences" doc:"Records, or offsets, that are not as they should be"`
	First         []Difference     `json:"first,omitempty" doc:"The first of them"`
}

func (t *Tally) gap(r ledger.Reason, n int64) {
	if t.Gaps == nil {
		t.Gaps = map[string]int64{}
	}
	t.Gaps[r.String()] += n
}

// unchecked counts n offsets of gaps that are not checked. What is said of a problem is
// the last that was found.
func (t *Tally) unchecked(why Unchecked, n int64) {
	if n <= 0 {
		return
	}
	t.GapsUnchecked += n
	for i := range t.Unchecked {
		if u := &t.Unchecked[i]; u.Why == why.Why && u.Ledger == why.Ledger {
			why.Count = u.Count + n
			t.Unchecked = slices.Clone(t.Unchecked) // what was saved before shares it
			t.Unchecked[i] = why
			return
		}
	}
	why.Count = n
	t.Unchecked = append(t.Unchecked[:len(t.Unchecked):len(t.Unchecked)], why)
}

func (t *Tally) notComparable(why string, n int64) {
	if t.NotComparable == nil {
		t.NotComparable = map[string]int64{}
	}
	t.NotComparable[why] += n
}

// add counts u too. At most most differences are kept in words.
func (t *Tally) add(u *Tally, most int) {
	t.Records += u.Records
	t.Bytes += u.Bytes
	t.Gaps = sum(t.Gaps, u.Gaps)
	for _, why := range u.Unchecked {
		t.unchecked(why, why.Count)
	}
	t.NotComparable = sum(t.NotComparable, u.NotComparable)
	t.Foreign += u.Foreign
	t.TakenBack += u.TakenBack
	t.OwnTimes += u.OwnTimes
	t.Runs += u.Runs
	t.RunsConfirmed += u.RunsConfirmed
	t.Different += u.Different
	if room := most - len(t.First); room > 0 {
		t.First = append(t.First[:len(t.First):len(t.First)], u.First[:min(room, len(u.First))]...)
	}
}

// sum adds b to a copy of a: what was saved before shares a.
func sum(a, b map[string]int64) map[string]int64 {
	if len(b) == 0 {
		return a
	}
	out := maps.Clone(a)
	if out == nil {
		out = map[string]int64{}
	}
	for k, n := range b {
		out[k] += n
	}
	return out
}
