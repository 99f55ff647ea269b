package runbook

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/flow"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// fresh is an execution that n1 has begun to run.
func fresh(t testing.TB, steps string) Execution {
	t.Helper()
	x, err := New("x1", declared(t, header+steps), "User:alice", "", noon)
	if err != nil {
		t.Fatal(err)
	}
	return after(t, x, takenOver{seen{noon, "node n1"}})
}

func after(t testing.TB, x Execution, events ...Event) Execution {
	t.Helper()
	for _, e := range events {
		next, err := Step(x, e)
		if err != nil {
			t.Fatalf("%T: %v", e, err)
		}
		x = next
	}
	return x
}

func at(d time.Duration) seen            { return seen{noon.Add(d), "node n1"} }
func by(name string) Who                 { return Who{By: name, At: noon.Add(time.Hour)} }
func lag(d time.Duration, n int64) Event { return lagSeen{at(d), n} }

// TestPeopleAreRefused: what does not fit the state changes nothing.
func TestPeopleAreRefused(t *testing.T) {
	gate := after(t, fresh(t, "    - {id: go, gate: {approvals: 2}}\n    - {id: r, report: {}}\n"), begun{at(0)})
	running := after(t, fresh(t, "    - {id: w, wait: {lagRecords: 0}}\n"), begun{at(0)})
	clients := after(t, fresh(t, "    - {id: c, switch: {confirm: true}}\n    - {id: r, report: {}}\n"), begun{at(0)}, flowPaused{at(1)})
	moved := after(t, clients, Confirm{by("User:a"), "c"}, switchDone{at(2)})
	stopped := after(t, running, timedOut{at(time.Hour)})
	aborted := after(t, running, Abort{by("User:a")})
	tests := []struct {
		name string
		x    Execution
		e    Event
		want string
	}{
		{"approve what does not wait", running, Approve{by("User:a"), "w"}, "no step waits for approval"},
		{"approve another step", gate, Approve{by("User:a"), "r"}, `step "r" does not wait for approval; go does`},
		{"approve twice", after(t, gate, Approve{by("User:a"), "go"}), Approve{by("User:a"), "go"}, "another person must"},
		{"approve as nobody", gate, Approve{by(""), "go"}, "nobody is named"},
		{"approve a switch", clients, Approve{by("User:a"), "c"}, "wants to be confirmed"},
		{"confirm a gate", gate, Confirm{by("User:a"), "go"}, "wants to be approved"},
		{"confirm before the flow is paused", fresh(t, "    - {id: c, switch: {confirm: true}}\n"), Confirm{by("User:a"), "c"}, "no step waits"},
		{"approve while paused", after(t, gate, Pause{by("User:a")}), Approve{by("User:a"), "go"}, "the execution is paused"},
		{"pause what is stopped", stopped, Pause{by("User:a")}, "only a running execution"},
		{"pause as nobody", running, Pause{by("")}, "nobody is named"},
		{"resume what runs", running, Resume{by("User:a")}, "is running, not paused"},
		{"retry what runs", running, Retry{by("User:a")}, "is running, not stopped"},
		{"roll back after the switch", moved, Rollback{by("User:a")}, "clients have moved"},
		{"roll back what has ended", aborted, Rollback{by("User:a")}, "is aborted"},
		{"abort twice", aborted, Abort{by("User:a")}, "is aborted already"},
		{"an outcome after the abort", aborted, lag(2, 0), "no step is running"},
		{"an undoing nobody asked for", running, undone{at(1), 0}, "is running"},
		{"the end before the end", running, finished{at(1)}, "is running"},
	}
	for _, tt := range tests {
		got, err := Step(tt.x, tt.e)
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if same, err := equal(got, tt.x); err != nil || !same {
			t.Errorf("%s: the execution changed", tt.name)
		}
	}
}

func TestStepDoesNotChangeWhatItWasGiven(t *testing.T) {
	x := after(t, fresh(t, "    - {id: go, gate: {approvals: 2}}\n"), begun{at(0)})
	before, err := x.Encode()
	if err != nil {
		t.Fatal(err)
	}
	after(t, x, Approve{by("User:a"), "go"})
	after(t, x, Approve{by("User:b"), "go"}, Approve{by("User:c"), "go"})
	after(t, x, Abort{by("User:a")})
	if now, err := x.Encode(); err != nil || string(now) != string(before) {
		t.Errorf("got %s, want %s", now, before)
	}
}

func TestWaitNeedsTheLagToStayLow(t *testing.T) {
	x := after(t, fresh(t, "    - {id: w, wait: {lagRecords: 10, stableFor: 1m}}\n"), begun{at(0)})
	x = after(t, x, lag(1*time.Second, 50), lag(2*time.Second, 9), lag(30*time.Second, 11), lag(40*time.Second, 10))
	x = after(t, x, lag(99*time.Second, 0))
	if x.Current != 0 {
		t.Error("59 s are taken for a minute")
	}
	if done := after(t, x, lag(100*time.Second, 0)); done.Current != 1 {
		t.Error("a minute is not enough")
	}
	// Another node has not watched, so it begins anew.
	x = after(t, x, takenOver{seen{noon.Add(99 * time.Second), "node n2"}}, lag(101*time.Second, 0))
	if x.Current != 0 || x.Node != "n2" {
		t.Error("what nobody watched counts")
	}
}

func TestPauseStopsTheClock(t *testing.T) {
	x := after(t, fresh(t, "    - {id: w, wait: {lagRecords: 10}, timeout: 10m}\n"), begun{at(0)})
	x = after(t, x, Pause{Who{By: "User:a", At: noon.Add(9 * time.Minute)}})
	if got := x.Next(noon.Add(time.Hour)).Do; got != DoNothing {
		t.Errorf("paused: got %q, want nothing", got)
	}
	x = after(t, x, Resume{Who{By: "User:a", At: noon.Add(69 * time.Minute)}})
	if got := x.Next(noon.Add(69*time.Minute + 59*time.Second)).Do; got != DoReadLag {
		t.Errorf("resumed: got %q, want %q", got, DoReadLag)
	}
	if got := x.Next(noon.Add(70 * time.Minute)).Do; got != DoTimeOut {
		t.Errorf("a minute later: got %q, want %q", got, DoTimeOut)
	}
}

// TestWaiting says what a person is told to do.
func TestWaiting(t *testing.T) {
	gate := after(t, fresh(t, "    - {id: go, gate: {approvals: 2}}\n"), begun{at(0)}, Approve{by("User:a"), "go"})
	clients := after(t, fresh(t, "    - {id: c, switch: {confirm: true}}\n    - {id: w, wait: {lagRecords: 0}, onFailure: rollback}\n"), begun{at(0)}, flowPaused{at(1)})
	late := after(t, clients, Confirm{by("User:a"), "c"}, switchDone{at(2)}, begun{at(3)}, timedOut{at(time.Hour)})
	for want, x := range map[string]Execution{
		"approve go: 1 of 2":        gate,
		"confirm c":                 clients,
		"resume, rollback or abort": after(t, gate, Pause{by("User:a")}),
		"retry, rollback or abort":  after(t, gate, timedOut{at(time.Hour)}),
		"retry or abort":            late, // it cannot go back after the switch
		"":                          after(t, gate, Rollback{by("User:a")}),
	} {
		if got := x.Waiting(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAbortSaysWhatIsLeft(t *testing.T) {
	x := after(t, fresh(t, "    - {id: f, fence: {principals: [\"User:app\"]}}\n"), begun{at(0)}, fencePlanned{at(1), []string{"rule"}}, Abort{by("User:a")})
	last := x.History[len(x.History)-1]
	if len(last.Facts) != 1 || last.Facts[0] != (Fact{"left in place by f", "remove the deny rules that the fence added"}) {
		t.Errorf("got %+v", last)
	}
}

func TestStartRefusesASecondRunOfAFlow(t *testing.T) {
	store := &memory{records: map[string]Record{}}
	rb := declared(t, header+"    - {id: r, report: {}}\n")
	for i, want := range []error{nil, ErrBusy, nil} {
		x, err := New(fmt.Sprintf("x%d", i), rb, "User:alice", "", noon)
		if err != nil {
			t.Fatal(err)
		}
		if err := Start(t.Context(), store, x); !errors.Is(err, want) {
			t.Errorf("start %d: got %v, want %v", i, err, want)
		}
		if i == 1 {
			if _, err := Submit(t.Context(), store, "x0", Abort{by("User:alice")}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := Submit(t.Context(), store, "x9", Abort{by("User:alice")}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

func TestNewRefuses(t *testing.T) {
	rb := declared(t, header+"    - {id: r, report: {}}\n")
	if _, err := New("", rb, "User:alice", "", noon); err == nil {
		t.Error("an execution without an id is planned")
	}
	if _, err := New("x", rb, "", "", noon); err == nil {
		t.Error("an execution of nobody is planned")
	}
	if _, err := New("x", &flow.Runbook{}, "User:alice", "", noon); err == nil {
		t.Error("an empty runbook is planned")
	}
}

func TestEvidenceIsBounded(t *testing.T) {
	var entries []Entry
	for i := range 1000 {
		entries = appendEntry(entries, noon, "node n1", fmt.Sprintf("entry %d %s", i, strings.Repeat("x", 10_000)), make([]Fact, 500))
	}
	if len(entries) != maxEntries || len(entries[maxEntries-1].Facts) != maxFacts+1 || len(entries[0].Text) > maxText+len("…") {
		t.Errorf("got %d entries of %d facts", len(entries), len(entries[maxEntries-1].Facts))
	}
	facts := 0
	for _, e := range entries {
		facts += len(e.Facts)
	}
	if most := 2*maxFacts + fewFacts*maxEntries; facts > most {
		t.Errorf("got %d facts, want at most %d", facts, most)
	}
	if got, want := entries[maxEntries/2].Text, "961 entries are left out here"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if !strings.HasPrefix(entries[0].Text, "entry 0 ") || !strings.HasPrefix(entries[maxEntries-1].Text, "entry 999 ") {
		t.Error("the first or the last is lost")
	}
}

func TestReportEscapesWhatPeopleWrite(t *testing.T) {
	x := after(t, fresh(t, "    - {id: go, gate: {approvals: 1}}\n"), begun{at(0)},
		Approve{Who{By: "User:<b>", Reason: "ok |\n# not a heading `x`", At: noon}, "go"})
	got := x.Markdown()
	for _, bad := range []string{"<b>", "\n# not", "`x`"} {
		if strings.Contains(got, bad) {
			t.Errorf("the report has %q:\n%s", bad, got)
		}
	}
}

func TestDigestOfEnds(t *testing.T) {
	a := Ends{{Topic: "t", Partition: 0}: 5, {Topic: "t", Partition: 1}: 7}
	b := Ends{{Topic: "t", Partition: 1}: 7, {Topic: "t", Partition: 0}: 5}
	c := Ends{{Topic: "t", Partition: 1}: 7, {Topic: "t", Partition: 0}: 6}
	if a.Digest() != b.Digest() || a.Digest() == c.Digest() || a.Digest() == (Ends{}).Digest() {
		t.Error("equal digests for different ends, or the other way round")
	}
}

// FuzzDecode: an execution of any bytes that decode may be asked for its next
// effect, shown, and sent every event of a person.
func FuzzDecode(f *testing.F) {
	x := fresh(f, failover[len(header):])
	for _, e := range []Event{begun{at(0)}, checked{at(1), Result{OK: true}}, begun{at(2)}, lag(3, 0), lag(5*time.Second, 0), begun{at(6)}} {
		x = after(f, x, e)
		b, err := x.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"version":1,"state":"running","recheck":true,"steps":[{"state":"running"}]}`))
	f.Add([]byte(`{"version":1,"state":"rollingBack","steps":[{"touched":true,"spec":{}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := Decode(b)
		if err != nil {
			return
		}
		x.Next(noon)
		x.Waiting()
		x.Markdown()
		w := by("User:a")
		for _, e := range []Event{Approve{w, "go"}, Confirm{w, "go"}, Pause{w}, Resume{w}, Retry{w}, Rollback{w}, Abort{w}, takenOver{at(0)}, timedOut{at(0)}} {
			if next, err := Step(x, e); err == nil {
				next.Next(noon)
			}
		}
	})
}
