package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/verify"
)

// found is a verification with everything that one can find.
func found() verify.Report {
	r := verify.Report{
		ID: "20260301-120000.000", Flow: "us-eu", State: verify.Done, Started: at, Ended: at.Add(time.Minute),
		Partitions: []verify.Progress{
			{
				Copy: "k0", SourceTopic: "orders", DestinationTopic: "us.orders", From: 0, Next: 15_000, Until: 15_000, Done: true,
				Tally: verify.Tally{
					Records: 14_000, Bytes: 3_000_000, Gaps: map[string]int64{"control": 40, "expired": 900}, GapsUnchecked: 40,
					Unchecked: []verify.Unchecked{
						{Why: verify.DeletedAtSource, Count: 39},
						{Why: verify.SourceLedgerUnread, Count: 1, Ledger: "us/__waybill.ledger", Problem: "no right", Fix: "give it"},
					},
					NotComparable: map[string]int64{verify.ExpiredAtSource: 60}, Foreign: 3, OwnTimes: 7, Runs: 41, RunsConfirmed: 39, Different: 4,
					First: []verify.Difference{
						{Kind: verify.Different, SourceTopic: "orders", DestinationTopic: "us.orders", Source: 1041, Destination: 1050, Count: 1, What: "value: null at the source, empty at the destination", Changed: verify.ChangedDestination},
						{Kind: verify.Phantom, SourceTopic: "orders", DestinationTopic: "us.orders", Source: -1, Destination: 1055, Count: 1, What: "a replicator (producer id 7) wrote it and no hop says so"},
						{Kind: verify.Readable, SourceTopic: "orders", DestinationTopic: "us.orders", Source: 2000, Destination: -1, Count: 2, What: "the ledger says it is compacted, and it can be read"},
					},
				},
			},
			{Copy: "k1", SourceTopic: "orders", DestinationTopic: "us.orders", Partition: 1, From: 5, Next: 10, Until: 20, Done: true, Problem: "source: it is gone"},
		},
	}
	r.Sum(r.Partitions, at)
	return r
}

func TestAVerificationForPeople(t *testing.T) {
	r := found()
	fleetThat(t, r)
	got := replicator(t, "", "verify", "us-eu", "--watch")
	golden(t, "verify.txt", got.stdout)
	if got.code != exitNotMet || !strings.Contains(got.stderr, "flow us-eu: 4 differences") {
		t.Errorf("got code %d, %q", got.code, got.stderr)
	}
	got = replicator(t, "", "verify", "us-eu", "-o", "json", "--partitions")
	var back verify.Report
	if err := json.Unmarshal([]byte(got.stdout), &back); err != nil || back.Different != 4 || got.code != exitNotMet || !strings.Contains(got.stderr, "started 20260301-120000.000") {
		t.Errorf("got %d %s %s", got.code, got.stdout, got.stderr)
	}
	if got = replicator(t, "", "verify", "us-eu", "--rate", "fast"); got.code != exitInvalid || !strings.Contains(got.stderr, `--rate: "fast" is not a size`) {
		t.Errorf("got %d %s", got.code, got.stderr)
	}
	if got = replicator(t, "", "verify", "us-eu", "--watch", "--rate", "1MiB"); got.code != exitInvalid {
		t.Errorf("got %d %s", got.code, got.stderr)
	}
	fleetThat(t, verify.Report{Flow: "us-eu", State: verify.Done, Verdict: verify.EqualWhereComparable})
	if got = replicator(t, "", "verify", "us-eu"); got.code != exitOK {
		t.Errorf("got %d %s", got.code, got.stderr)
	}
	fleetThat(t, verify.Report{Flow: "us-eu", State: verify.Stopped, Verdict: verify.Incomplete})
	if got = replicator(t, "", "verify", "us-eu"); got.code != exitNotMet {
		t.Errorf("got %d %s", got.code, got.stderr)
	}
}

func TestProgressInALine(t *testing.T) {
	r := verify.Report{State: verify.Running, Copies: 8, CopiesDone: 3, Offsets: 200_000, Compared: 50_000, ETASeconds: 89.6, Tally: verify.Tally{Records: 49_000}}
	if got, want := progressLine(&r), "25.0 %, 3 of 8 partitions, 49,000 records, 0 differences, 1m30s left"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.ETASeconds, r.Problem = -1, "cluster us has not answered yet"
	if got, want := progressLine(&r), "25.0 %, 3 of 8 partitions, 49,000 records, 0 differences, ? left, waits: cluster us has not answered yet"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWhatAVerificationSaysToARunbook(t *testing.T) {
	r := found()
	got := judgeRecords(&r)
	want := "4 records differ, the first is different orders/0@1041, us.orders/0@1050: value: null at the source, empty at the destination (changed: destination); orders/1 was not compared to its end: source: it is gone"
	if got.OK || got.Summary != want {
		t.Errorf("got %+v, want %s", got, want)
	}
	facts := map[string]string{}
	for _, f := range got.Facts {
		facts[f.Name] = f.Value
	}
	for name, want := range map[string]string{"records compared": "14000", "gap: expired": "900", "not comparable: expired at the source": "60", "difference": "readable orders/0@2000: the ledger says it is compacted, and it can be read"} {
		if facts[name] != want {
			t.Errorf("%s: got %q, want %q", name, facts[name], want)
		}
	}
	well := verify.Report{State: verify.Done, Partitions: []verify.Progress{{Copy: "k", Until: 10, Next: 10, Done: true, Tally: verify.Tally{Records: 10}}}}
	well.Sum(well.Partitions, at)
	if got := judgeRecords(&well); !got.OK || got.Summary != "10 records are equal on both sides" {
		t.Errorf("got %+v", got)
	}
	if !covers(&well, map[string]int64{"k": 10}) || covers(&well, map[string]int64{"k": 11}) || covers(&well, map[string]int64{"other": 1}) {
		t.Error("what it covers is judged wrongly")
	}
}

func TestRequestsForAVerification(t *testing.T) {
	for _, from := range []string{"", "start", "verified", "2026-11-24T08:00:00Z"} {
		if err := checkRequest(verify.Request{From: from, Topics: []string{"a*", "/b.+/"}, BytesPerSecond: 1 << 20}); err != nil {
			t.Errorf("%q: %v", from, err)
		}
	}
	err := checkRequest(verify.Request{From: "yesterday", Topics: []string{"ok", "a|b"}, BytesPerSecond: 10})
	var bad *api.Error
	if !errors.As(err, &bad) || bad.Status != 422 || len(bad.Errors) != 3 || bad.Errors[0].Location != "query.topic[1]" {
		t.Errorf("got %+v", err)
	}
}

func TestWhenTheDeclarationWantsAVerification(t *testing.T) {
	plain, wants := &flow.ReplicationFlow{}, &flow.ReplicationFlow{Spec: flow.FlowSpec{Verify: &flow.FlowVerify{Interval: flow.Duration(time.Hour)}}}
	ended := &cluster.Verification{Started: at, Ended: at.Add(3 * time.Hour)}
	for _, c := range []struct {
		name string
		flow *flow.ReplicationFlow
		last *cluster.Verification
		at   time.Time
		ok   bool
	}{
		{"not declared", plain, ended, time.Time{}, false},
		{"the first", wants, nil, time.Time{}, true},
		{"one runs", wants, &cluster.Verification{Started: at}, time.Time{}, false},
		{"the last took longer than the interval", wants, ended, at.Add(time.Hour), true},
	} {
		if got, ok := due(c.flow, c.last); ok != c.ok || !got.Equal(c.at) {
			t.Errorf("%s: got %v %v", c.name, got, ok)
		}
	}
}

// TestCopiesToVerify picks what patterns ask for and what has a counterpart, and goes
// on only with progress of this verification.
func TestCopiesToVerify(t *testing.T) {
	id := ledger.TopicID{1}.String()
	work := &cluster.Flow{Topics: map[string]*cluster.Topic{
		"orders":   {TopicSpec: cluster.TopicSpec{Source: "orders", Destination: "us.orders", SourceID: id, DestinationID: id, Partitions: 2, Offsets: "preserve"}},
		"payments": {TopicSpec: cluster.TopicSpec{Source: "payments", Destination: "us.payments", SourceID: id, DestinationID: id, Partitions: 1, Offsets: "translate"}},
		"new":      {TopicSpec: cluster.TopicSpec{Source: "new", SourceID: id, Partitions: 1}},
	}}
	e := &ends{sourceID: "us-id", destinationID: "eu-id"}
	all := e.copies(work, nil)
	if len(all) != 3 || !all[0].Preserve || all[1].ID.Destination != (ledger.End{Cluster: "eu-id", TopicID: ledger.TopicID{1}, Partition: 1}) || all[2].Preserve {
		t.Errorf("got %+v", all)
	}
	if got := e.copies(work, []string{"pay*"}); len(got) != 1 || got[0].SourceTopic != "payments" {
		t.Errorf("got %+v", got)
	}
	if got := e.copies(nil, nil); got != nil {
		t.Errorf("got %+v", got)
	}
	key := all[1].ID.Key().String()
	copies, progress := match(all, []verify.Progress{{Run: "now", Copy: key, Next: 5}, {Run: "before", Copy: all[0].ID.Key().String()}, {Run: "now", Copy: "another life"}}, "now")
	if len(copies) != 1 || copies[0].ID != all[1].ID || progress[0].Next != 5 {
		t.Errorf("got %+v %+v", copies, progress)
	}
}

// TestAStoredVerification is read back as a report: without what an earlier one has
// left behind, and with what it found.
func TestAStoredVerification(t *testing.T) {
	pieces := func(v any) json.RawMessage {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	v := &cluster.Verification{
		ID: "now", By: "ann", Started: at, Begun: true, Request: pieces(verify.Request{From: "verified"}),
		Copies: map[string]json.RawMessage{
			"b": pieces(verify.Progress{Run: "now", Copy: "b", SourceTopic: "t", Partition: 1, Next: 10, Until: 10, Done: true, Tally: verify.Tally{Records: 10}}),
			"a": pieces(verify.Progress{Run: "now", Copy: "a", SourceTopic: "t", Next: 10, Until: 30, Tally: verify.Tally{Records: 9}}),
			"z": pieces(verify.Progress{Run: "before", Copy: "z", Next: 99, Until: 99, Tally: verify.Tally{Different: 5}}),
		},
		Found: pieces(verify.Report{ID: "before", Verdict: verify.Differs}),
	}
	s := &cluster.State{Flows: map[string]*cluster.Flow{"us-eu": {Verification: v}, "none": {}}}
	r, err := verificationOf(s, "us-eu", at.Add(10*time.Second))
	if err != nil || r.State != verify.Running || r.Verdict != verify.Open || r.Records != 19 || r.Copies != 2 || r.Partitions[0].Copy != "a" || r.ETASeconds != 10 || r.Previous.ID != "before" || r.Request.From != "verified" {
		t.Errorf("got %+v, %v", r, err)
	}
	v.Ended, v.Stopped = at.Add(time.Minute), true
	if r, err = verificationOf(s, "us-eu", at); err != nil || r.State != verify.Stopped || r.Verdict != verify.Incomplete || r.ETASeconds != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, name := range []string{"none", "nowhere"} {
		if r, err := verificationOf(s, name, at); r != nil || err != nil {
			t.Errorf("%s: got %+v, %v", name, r, err)
		}
	}
}
