package verify

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// ruled is a copy of which the first three records, "one" to "three" at 10 to 12, were
// not copied for a reason.
func ruled(t *testing.T, reason ledger.Reason) (source, dest *log, e *entries) {
	source, dest, e = pair(t, record.Zstd)
	dest.batches = dest.batches[2:]
	left := hop(10, 15, e.hops[1].Runs, ledger.Gap{Source: 10, Count: 3, Reason: reason})
	left.Epoch = 4
	e.hops = []*ledger.Hop{left}
	return source, dest, e
}

// TestWhatWasLeftOutIsLookedInto has the ledger leave out records with reasons that hold,
// that do not, and that nothing tells of any more.
func TestWhatWasLeftOutIsLookedInto(t *testing.T) {
	through := func(l ledger.Life) map[int64]ledger.Origin {
		return map[int64]ledger.Origin{10: {Route: ledger.Route{l}, Next: 12}, 11: {Route: ledger.Route{l}, Next: 12}, 12: {Route: ledger.Route{l}, Next: 13}}
	}
	there, elsewhere := theCopy.ID.Destination.Life(), ledger.Life{Cluster: "asia", TopicID: ledger.TopicID{9}}
	untraced := map[int64]ledger.Origin{10: {Route: ledger.Route{elsewhere}, Next: 13, Untraced: true}}
	rules := func(text string) map[uint64]string { return map[uint64]string{3: `{"filter":"true"}`, 4: text} }
	for name, c := range map[string]struct {
		reason    ledger.Reason
		say       func(source *log, e *entries)
		wrong     []int64 // source offsets that are missing
		unchecked int64
	}{
		"a filter":                    {ledger.Filtered, func(_ *log, e *entries) { e.rules = rules(`{"filter":"value == \"four\""}`) }, nil, 0},
		"a filter that lets one pass": {ledger.Filtered, func(_ *log, e *entries) { e.rules = rules(`{"filter":"value == \"two\""}`) }, []int64{11}, 0},
		"a filter that lets another partition pass": {ledger.Filtered, func(_ *log, e *entries) { e.rules = rules(`{"filter":"topic == \"orders\" && partition == 2"}`) }, nil, 0},
		"a filter without an answer":                {ledger.Filtered, func(_ *log, e *entries) { e.rules = rules(`{"filter":"json.a == 1"}`) }, []int64{10, 11, 12}, 0},
		"a filter that is not known":                {ledger.Filtered, func(_ *log, e *entries) { e.rules = map[uint64]string{3: `{"filter":"true"}`} }, nil, 3},
		"a filter of another version":               {ledger.Filtered, func(_ *log, e *entries) { e.rules = rules(`{"filter":"later(value)"}`) }, nil, 3},

		"copies":                       {ledger.NotLocal, func(_ *log, e *entries) { e.origins = through(elsewhere) }, nil, 0},
		"records that were born there": {ledger.NotLocal, func(*log, *entries) {}, []int64{10, 11, 12}, 0},
		"one that was born there":      {ledger.NotLocal, func(_ *log, e *entries) { e.origins = through(elsewhere); delete(e.origins, 12) }, []int64{12}, 0},
		"of a mirror topic":            {ledger.NotLocal, func(s *log, _ *entries) { s.mirror = true }, nil, 3},
		"of a replicator":              {ledger.NotLocal, func(_ *log, e *entries) { e.writers = []int64{7} }, nil, 3},
		"no ledger":                    {ledger.NotLocal, func(_ *log, e *entries) { e.silent = true }, nil, 3},
		"what came back":               {ledger.Returned, func(_ *log, e *entries) { e.origins = through(there) }, nil, 0},
		"what came from elsewhere":     {ledger.Returned, func(_ *log, e *entries) { e.origins = through(elsewhere) }, []int64{10, 11, 12}, 0},
		"what came by an unknown way":  {ledger.Returned, func(_ *log, e *entries) { e.origins = untraced }, nil, 3},
		"written twice":                {ledger.Doubled, func(_ *log, e *entries) { e.strays = []int64{10, 11, 12} }, nil, 0},
		"written once": {ledger.Doubled, func(_ *log, e *entries) {
			e.strays, e.origins = []int64{10, 11}, map[int64]ledger.Origin{12: {Next: 13}}
		}, []int64{12}, 0},
		"what its owner did not ask of": {ledger.NotAsked, func(*log, *entries) {}, nil, 0},
	} {
		source, dest, e := ruled(t, c.reason)
		c.say(source, e)
		got := compare(t, theCopy, source, dest, e)
		var wrong []int64
		var unchecked int64
		for _, d := range got.First {
			if d.Kind != Missing || d.Destination != -1 {
				t.Errorf("%s: found %+v", name, d)
			}
			for i := range d.Count {
				wrong = append(wrong, d.Source+i)
			}
		}
		for _, u := range got.Unchecked {
			unchecked += u.Count
			if u.Why == "" || (u.Why == NoSourceLedger) != (name == "no ledger") || (u.Ledger == "") == (name == "no ledger") {
				t.Errorf("%s: not checked: %+v", name, u)
			}
		}
		if fmt.Sprint(wrong) != fmt.Sprint(c.wrong) || unchecked != c.unchecked || got.Different != int64(len(c.wrong)) || got.GapsUnchecked != c.unchecked || got.Records != 2 || got.Problem != "" {
			t.Errorf("%s: missing %v, want %v, of %+v", name, wrong, c.wrong, got)
		}
	}
}

// A ledger of the source's cluster that would have to be asked and cannot be read is named,
// with what to do about it; it is waited for once, not by each gap.
func TestALedgerThatCannotBeReadIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, dest, e := ruled(t, ledger.NotLocal)
		first := *e.hops[0]
		first.Next, first.Runs, first.Gaps = 12, nil, []ledger.Gap{{Source: 10, Count: 2, Reason: ledger.NotLocal}}
		rest := *e.hops[0]
		rest.From, rest.Gaps = 12, []ledger.Gap{{Source: 12, Count: 1, Reason: ledger.NotLocal}}
		e.hops = []*ledger.Hop{&first, &rest}
		e.denied = kerr.TopicAuthorizationFailed
		r := NewRun(Config{Source: source, Destination: dest, SourceName: "america", Entries: e, Save: saved(nil)})
		all, err := r.Do(t.Context(), []Copy{theCopy}, []Progress{Begin("run", theCopy, 0, e)})
		if err != nil {
			t.Fatal(err)
		}
		got := all[0]
		if len(got.Unchecked) != 1 || got.GapsUnchecked != 3 || !got.Done || got.Problem != "" || new(Report).summed(got) != EqualWhereComparable {
			t.Fatalf("got %+v", got)
		}
		u := got.Unchecked[0]
		if u.Why != SourceLedgerUnread || u.Count != 3 || u.Ledger != "america/__waybill.ledger" ||
			!strings.Contains(u.Problem, "TOPIC_AUTHORIZATION_FAILED") || !strings.Contains(u.Fix, "allow Read and Describe on the topic") {
			t.Errorf("not checked: %+v", u)
		}
		if e.readings != 1 {
			t.Errorf("the ledger was asked %d times", e.readings)
		}

		e.denied = nil
		time.Sleep(ledgerAgain)
		all, err = r.Do(t.Context(), []Copy{theCopy}, []Progress{Begin("again", theCopy, 0, e)})
		if err != nil {
			t.Fatal(err)
		}
		if got := all[0]; e.readings < 2 || got.GapsUnchecked != 0 || got.Different != 3 {
			t.Errorf("a ledger that can be read by now, after %d readings: %+v", e.readings, got)
		}
	})
}

func TestUncheckedIsCountedByWhy(t *testing.T) {
	var saved, sum Tally
	sum.unchecked(Unchecked{Why: FilterUnknown}, 2)
	saved = sum
	sum.unchecked(Unchecked{Why: FilterUnknown}, 3)
	sum.unchecked(Unchecked{Why: SourceLedgerUnread, Ledger: "us/l", Problem: "no answer"}, 1)
	sum.add(&Tally{Unchecked: []Unchecked{{Why: SourceLedgerUnread, Count: 4, Ledger: "us/l", Problem: "denied"}}}, 0)
	sum.unchecked(Unchecked{Why: DeletedAtSource}, 0)
	want := []Unchecked{{Why: FilterUnknown, Count: 5}, {Why: SourceLedgerUnread, Count: 5, Ledger: "us/l", Problem: "denied"}}
	if !slices.Equal(sum.Unchecked, want) || sum.GapsUnchecked != 10 || saved.Unchecked[0].Count != 2 {
		t.Errorf("got %+v, and before %+v", sum, saved)
	}
}

// putAside is a record as it goes to the quarantine topic.
func putAside(r record.Record, offset int64, content string) record.Record {
	own := r.Headers
	for _, h := range [][2]string{
		{record.HeaderSourceCluster, "us"},
		{record.HeaderSourceTopic, "orders"},
		{record.HeaderSourcePartition, "3"},
		{record.HeaderSourceOffset, strconv.FormatInt(offset, 10)},
		{record.HeaderSourceTimestamp, strconv.FormatInt(r.Timestamp, 10)},
		{record.HeaderQuarantineReason, "no"},
		{record.HeaderQuarantineContent, content},
	} {
		own = append(own, record.Header{Key: h[0], Value: []byte(h[1])})
	}
	r.Headers, r.Timestamp = own, 5
	return r
}

// TestWhatIsInQuarantineIsLookedUp has the ledger say that three records were put aside.
func TestWhatIsInQuarantineIsLookedUp(t *testing.T) {
	type found struct {
		kind   Kind
		source int64
		count  int64
	}
	for name, c := range map[string]struct {
		change    func(aside []record.Record, source, quarantine *log, e *entries) []record.Record
		want      *found
		unchecked int64
	}{
		"all is there": {func(a []record.Record, _, _ *log, _ *entries) []record.Record { return a }, nil, 0},
		"one is not":   {func(a []record.Record, _, _ *log, _ *entries) []record.Record { return a[:2] }, &found{Missing, 12, 1}, 0},
		"one is another's": {func(a []record.Record, _, _ *log, _ *entries) []record.Record {
			a[1].Headers[5].Value = []byte("4") // partition
			return a
		}, &found{Missing, 11, 1}, 0},
		"one was changed": {func(a []record.Record, _, _ *log, _ *entries) []record.Record {
			a[1].Value = []byte("twO")
			return a
		}, &found{Different, 11, 1}, 0},
		"one has another time": {func(a []record.Record, _, _ *log, _ *entries) []record.Record {
			a[0].Headers[7].Value = []byte("1")
			return a
		}, &found{Different, 10, 1}, 0},
		"nothing tells where": {func(a []record.Record, _, _ *log, e *entries) []record.Record { e.aside = nil; return a }, nil, 3},
		"it is gone from there": {func(a []record.Record, _, q *log, _ *entries) []record.Record {
			q.start = 51
			return a
		}, nil, 3},
		"a batch": {func(_ []record.Record, s, _ *log, _ *entries) []record.Record {
			s.batches[0][60] ^= 1 // its checksum is wrong now
			return []record.Record{putAside(record.Record{Value: s.batches[0]}, 10, record.ContentBatch)}
		}, nil, 0},
		"another batch": {func(_ []record.Record, s, _ *log, _ *entries) []record.Record {
			whole := clone(s.batches[0])
			s.batches[0][60] ^= 1
			return []record.Record{putAside(record.Record{Value: whole}, 10, record.ContentBatch)}
		}, &found{Different, 10, 3}, 0},
		"a batch that is not there": {func(a []record.Record, s, _ *log, _ *entries) []record.Record {
			s.batches[0][60] ^= 1
			return nil
		}, &found{Damaged, 10, 3}, 0},
	} {
		source, dest, e := ruled(t, ledger.Quarantined)
		quarantine := &log{start: 40}
		dest.aside = quarantine
		e.aside = []*ledger.Quarantine{{From: 10, Next: 13, Topic: "aside", Offset: 50, Records: 3}}
		var put []record.Record
		for i, r := range recs("one", "two", "three") {
			put = append(put, putAside(r, 10+int64(i), record.ContentRecord))
		}
		put = c.change(put, source, quarantine, e)
		quarantine.batches = []record.Batch{batch(t, 40, record.None, recs("others")...)}
		if len(put) > 0 {
			quarantine.batches = append(quarantine.batches, batch(t, 50, record.LZ4, put...))
		}
		quarantine.batches = append(quarantine.batches, batch(t, 53, record.None, recs("later")...))
		got := compare(t, theCopy, source, dest, e)
		var have *found
		if len(got.First) > 0 {
			have = &found{got.First[0].Kind, got.First[0].Source, got.First[0].Count}
		}
		same := have == nil && c.want == nil || have != nil && c.want != nil && *have == *c.want
		if !same || len(got.First) > 1 || got.GapsUnchecked != c.unchecked || got.Records != 2 || got.Problem != "" {
			t.Errorf("%s: want %+v, got %+v", name, c.want, got)
		}
	}
}

// TestMirrorsHaveTheSameBatches is about batches that no reader gets records of.
func TestMirrorsHaveTheSameBatches(t *testing.T) {
	for name, c := range map[string]struct {
		change func(source, dest *log)
		want   string
	}{
		"the same":           {func(*log, *log) {}, ""},
		"no marker":          {func(_, d *log) { d.batches = d.batches[:2] }, "missing 15: the mirror topic lacks the control batch"},
		"one marker more":    {func(s, d *log) { s.batches, s.stable = s.batches[:2], 16 }, "phantom 15: the mirror topic has a control batch that the source has not"},
		"another marker":     {func(_, d *log) { d.batches[2] = marker(t, 15, 7, false) }, "different 15: the control batch is not the same bytes"},
		"another producer":   {func(_, d *log) { d.batches[1] = moved(d.batches[1], 13) }, "different 13: the batch is not the same bytes"},
		"another epoch":      {func(_, d *log) { d.batches[0].SetLeaderEpoch(9) }, "different 10: leader epoch of the batch: -1 at the source, 9 at the destination"},
		"what was compacted": {func(s, d *log) { s.compacts = true; d.batches[0].SetLeaderEpoch(9) }, ""},
		"what is gone":       {func(s, d *log) { d.start, d.batches = 13, d.batches[1:] }, ""},
	} {
		source, dest, e := identical(t, record.LZ4)
		c.change(source, dest)
		preserved := theCopy
		preserved.Preserve = true
		got := compare(t, preserved, source, dest, e)
		found := ""
		if len(got.First) > 0 {
			found = fmt.Sprintf("%s %d: %s", got.First[0].Kind, got.First[0].Source, got.First[0].What)
		}
		if found != c.want || len(got.First) > 1 || got.Problem != "" {
			t.Errorf("%s: found %q, want %q, of %+v", name, found, c.want, got)
		}
	}
}
