package fold

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// deedKey is what productions, accesses and progress have in common that become one: the
// client or group, the place and the day, in UTC.
type deedKey struct {
	client     ledger.Client
	topic      ledger.TopicID
	partition  int32
	day        int64
	kind       ledger.AccessKind // 0: production, or progress
	progress   int               // 0: none, else one more than its kind
	group      string
	producerID int64
}

func (k deedKey) compare(o deedKey) int {
	return cmp.Or(
		slices.Compare(k.topic[:], o.topic[:]), cmp.Compare(k.partition, o.partition), cmp.Compare(k.day, o.day), cmp.Compare(k.kind, o.kind),
		strings.Compare(k.client.Principal, o.client.Principal), strings.Compare(k.client.ClientID, o.client.ClientID),
		strings.Compare(k.client.Software, o.client.Software), strings.Compare(k.client.Address, o.client.Address),
		strings.Compare(k.group, o.group), cmp.Compare(k.producerID, o.producerID), cmp.Compare(k.progress, o.progress))
}

// deed is what a client did at a place on a day.
type deed struct {
	topic       string
	records     int64
	next        int64 // of progress
	first, last time.Time
	parts       []ledger.Stretch // in order and apart up to sorted, behind it as they came
	sorted      int
}

// maxParts is how many stretches one entry has.
const maxParts = 1000

func day(t time.Time) int64 { return t.Unix() / int64(24*time.Hour/time.Second) }

func (f *Folder) produced(e *ledger.Production) {
	k := deedKey{client: e.Client, topic: e.TopicID, partition: e.Partition, day: day(e.At), producerID: e.ProducerID}
	f.deed(k).add(&e.Place, e.Records, e.FirstAt, e.At)
}

func (f *Folder) accessed(e *ledger.Access) {
	k := deedKey{client: e.Client, topic: e.TopicID, partition: e.Partition, day: day(e.At), kind: e.Kind, group: e.Group}
	f.deed(k).add(&e.Place, 0, e.FirstAt, e.At)
}

func (f *Folder) progressed(e *ledger.Progress) {
	d := f.deed(deedKey{topic: e.TopicID, partition: e.Partition, day: day(e.At), group: e.Group, progress: 1 + int(e.Kind)})
	if !e.At.Before(d.last) {
		d.next = e.Next
	}
	d.add(&e.Place, 0, e.FirstAt, e.At)
}

func (f *Folder) deed(k deedKey) *deed {
	d := f.deeds[k]
	if d == nil {
		d = &deed{}
		f.deeds[k] = d
	}
	return d
}

func (d *deed) add(at *ledger.Place, records int64, first, last time.Time) {
	d.topic = at.Topic
	d.records += records
	if d.first.IsZero() || first.Before(d.first) {
		d.first = first
	}
	if last.After(d.last) {
		d.last = last
	}
	if len(at.Parts) == 0 {
		d.parts = append(d.parts, ledger.Stretch{First: at.First, Last: at.Last})
	}
	d.parts = append(d.parts, at.Parts...)
	if len(d.parts) > 2*d.sorted+maxParts {
		d.sort()
	}
}

// sort puts stretches in order and makes those one that touch each other.
func (d *deed) sort() {
	slices.SortFunc(d.parts, func(a, b ledger.Stretch) int { return cmp.Compare(a.First, b.First) })
	apart := d.parts[:0]
	for _, s := range d.parts {
		if n := len(apart); n > 0 && s.First <= apart[n-1].Last+1 {
			apart[n-1].Last = max(apart[n-1].Last, s.Last)
		} else {
			apart = append(apart, s)
		}
	}
	d.parts, d.sorted = apart, len(apart)
}

// entries are one for each so many stretches. The first has the count of records, which
// nobody can part.
func (d *deed) entries(k deedKey) iter.Seq[ledger.Entry] {
	return func(yield func(ledger.Entry) bool) {
		d.sort()
		records := d.records
		for some := range slices.Chunk(d.parts, maxParts) {
			at := ledger.Place{TopicID: k.topic, Topic: d.topic, Partition: k.partition, First: some[0].First, Last: some[len(some)-1].Last}
			if len(some) > 1 {
				at.Parts = slices.Clone(some)
			}
			var e ledger.Entry = &ledger.Access{Place: at, Client: k.client, Kind: k.kind, Group: k.group, FirstAt: d.first, At: d.last}
			switch {
			case k.progress > 0:
				e = &ledger.Progress{Place: at, Kind: ledger.ProgressKind(k.progress - 1), Group: k.group, Next: d.next, FirstAt: d.first, At: d.last}
			case k.kind == 0:
				e = &ledger.Production{Place: at, Client: k.client, Records: records, ProducerID: k.producerID, FirstAt: d.first, At: d.last}
				records = 0
			}
			if !yield(e) {
				return
			}
		}
	}
}
