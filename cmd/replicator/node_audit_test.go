package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/cmd/replicator/journal"
)

// solo is a fleet of one with the API of its objects and its audit trail.
type solo struct {
	t      *testing.T
	dir    string
	fleet  *cluster.Node
	audits *audits
	server *httptest.Server
}

func newSolo(t *testing.T) *solo {
	t.Helper()
	s := &solo{t: t, dir: t.TempDir()}
	log := slog.New(slog.DiscardHandler)
	conf := cluster.DefaultConfig()
	conf.Name, conf.Logger, conf.Author = "r1", log, authorOn("r1")
	var err error
	if s.fleet, err = cluster.Open(conf); err != nil {
		t.Fatal(err)
	}
	if s.audits, err = openAudits(s.dir, "r1", s.fleet, log); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.fleet.Run(ctx) })
	running.Go(func() { _ = s.audits.run(ctx) })
	s.server = httptest.NewServer(api.New(api.Config{
		Users: api.NewUsers([]api.User{
			{Name: "ops", Token: "ops-token-0123456789", Role: api.Admin},
			{Name: "eve", Token: "eve-token-0123456789", Role: api.Admin},
			{Name: "vera", Token: "vera-token-0123456789", Role: api.Viewer},
		}),
		State: freshness{s.fleet, time.Now()}, Audit: s.audits, Objects: &objects{s.fleet, nil}, Membership: &membership{s.fleet},
	}))
	t.Cleanup(func() {
		s.server.Close()
		stop()
		running.Wait()
		s.audits.close()
	})
	for deadline := time.Now().Add(20 * time.Second); s.fleet.Leader() == ""; pause(t.Context(), time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a fleet of one node has no leader")
		}
	}
	return s
}

type reply struct {
	status int
	etag   string
	text   string
}

func (r reply) problem(t *testing.T) api.Error {
	t.Helper()
	var p api.Error
	if err := json.Unmarshal([]byte(r.text), &p); err != nil {
		t.Fatalf("%s: %v", r.text, err)
	}
	return p
}

// call makes a request as a user, at a revision if one is given.
func (s *solo) call(user, method, path, yaml, ifMatch string) reply {
	s.t.Helper()
	r, err := http.NewRequest(method, s.server.URL+path, strings.NewReader(yaml))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+user+"-token-0123456789")
	if ifMatch != "" {
		r.Header.Set("If-Match", ifMatch)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header.Get("ETag"), string(b)}
}

// trail waits until there are n entries.
func (s *solo) trail(query string, n int) api.AuditPage {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		var page api.AuditPage
		r := s.call("ops", "GET", "/api/v1/audit?"+query, "", "")
		if err := json.Unmarshal([]byte(r.text), &page); err != nil {
			s.t.Fatalf("%s: %v", r.text, err)
		}
		if len(page.Entries) >= n || time.Now().After(deadline) {
			return page
		}
		pause(s.t.Context(), 10*time.Millisecond)
	}
}

func clusterYAML(name, server string) string {
	return fmt.Sprintf("apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: %s}\nspec: {bootstrapServers: [%q]}\n", name, server)
}

func TestTwoOperatorsCannotOverwriteEachOther(t *testing.T) {
	s := newSolo(t)
	const us = "/api/v1/objects/Cluster/us"
	if r := s.call("ops", "PUT", us, clusterYAML("us", "a:1"), ""); r.status != 200 {
		t.Fatalf("got %d: %s", r.status, r.text)
	}
	seen := s.call("ops", "GET", us, "", "").etag

	// All of them have read the same revision; one wins.
	var mu sync.Mutex
	var racing sync.WaitGroup
	var won []string
	var lost []reply
	for i := range 8 {
		racing.Go(func() {
			user := []string{"ops", "eve"}[i%2]
			r := s.call(user, "PUT", us, clusterYAML("us", fmt.Sprintf("b:%d", i+1)), seen)
			mu.Lock()
			defer mu.Unlock()
			if r.status == 200 {
				won = append(won, user)
			} else {
				lost = append(lost, r)
			}
		})
	}
	racing.Wait()
	if len(won) != 1 || len(lost) != 7 {
		t.Fatalf("%d won, %d lost", len(won), len(lost))
	}
	for _, r := range lost {
		p := r.problem(t)
		c := p.Conflict
		if r.status != 412 || c == nil || c.Object != "Cluster/us" || fmt.Sprintf("%q", decimal(c.Expected)) != seen || c.Changed == nil || c.Changed.User != won[0] || c.Changed.Operation != "put-object" {
			t.Errorf("got %d %s, want that %s was faster", r.status, r.text, won[0])
		}
		if !strings.Contains(p.Detail, won[0]+" did put-object at ") {
			t.Errorf("detail %q", p.Detail)
		}
	}

	// Other objects do not get into the way, nor who expects nothing.
	for i := range 8 {
		racing.Go(func() {
			if r := s.call("ops", "POST", "/api/v1/apply", clusterYAML(fmt.Sprintf("c%d", i), "a:1"), ""); r.status != 200 {
				t.Errorf("got %d: %s", r.status, r.text)
			}
		})
	}
	racing.Wait()
	now := s.call("ops", "GET", us, "", "").etag
	if r := s.call("eve", "DELETE", us, "", seen); r.status != 412 {
		t.Errorf("deleted at an old revision: %d", r.status)
	}
	if r := s.call("eve", "DELETE", us, "", now); r.status != 204 {
		t.Errorf("got %d: %s", r.status, r.text)
	}
	r := s.call("ops", "PUT", us, clusterYAML("us", "a:1"), now)
	if p := r.problem(t); r.status != 412 || p.Conflict.Revision != 0 || p.Conflict.Changed == nil || p.Conflict.Changed.User != "eve" {
		t.Errorf("got %d %s, want that eve has deleted it", r.status, r.text)
	}
	list := s.call("ops", "GET", "/api/v1/objects", "", "").etag
	s.call("eve", "POST", "/api/v1/apply", clusterYAML("d", "a:1"), "")
	r = s.call("ops", "POST", "/api/v1/apply", clusterYAML("e", "a:1"), list)
	if p := r.problem(t); r.status != 412 || p.Conflict.Object != "" || p.Conflict.Changed == nil || p.Conflict.Changed.User != "eve" {
		t.Errorf("got %d %s, want that eve has changed the list", r.status, r.text)
	}
}

func TestApplyIsOneStep(t *testing.T) {
	s := newSolo(t)
	flow := "---\napiVersion: waybill/v1\nkind: ReplicationFlow\nmetadata: {name: f}\nspec: {source: us, destination: eu, topics: {include: [orders]}}\n"
	both := clusterYAML("us", "a:1") + "---\n" + clusterYAML("eu", "b:1")
	if r := s.call("ops", "POST", "/api/v1/apply", clusterYAML("us", "a:1")+flow, ""); r.status != 422 {
		t.Errorf("a flow into a cluster that is not there: %d %s", r.status, r.text)
	}
	if n := len(s.fleet.State().Objects); n != 0 {
		t.Fatalf("%d objects of an apply that was refused", n)
	}
	if r := s.call("ops", "POST", "/api/v1/apply", both+flow, ""); r.status != 200 {
		t.Fatalf("got %d: %s", r.status, r.text)
	}
	state := s.fleet.State()
	for key, o := range state.Objects {
		if o.Revision != state.ObjectsRevision || o.Changed == nil || o.Changed.User != "ops" {
			t.Errorf("%s is of revision %d by %v, all of them are of %d", key, o.Revision, o.Changed, state.ObjectsRevision)
		}
	}
	if len(state.Objects) != 3 || len(state.Trail) != 1 || len(state.Trail[0].Objects) != 3 {
		t.Errorf("%d objects in %d steps", len(state.Objects), len(state.Trail))
	}
}

func TestTheAuditTrail(t *testing.T) {
	s := newSolo(t)
	s.call("ops", "POST", "/api/v1/apply", clusterYAML("us", "a:1"), "")
	s.call("eve", "POST", "/api/v1/apply", clusterYAML("us", "a:2"), "")
	s.call("vera", "POST", "/api/v1/apply", clusterYAML("us", "a:3"), "")
	s.call("nobody", "GET", "/api/v1/objects", "", "")
	s.call("eve", "POST", "/api/v1/apply", "kind: Cluster", "")
	s.call("eve", "PUT", "/api/v1/objects/Cluster/us", clusterYAML("us", "a:4"), `"1"`)
	s.call("ops", "DELETE", "/api/v1/objects/Cluster/us", "", "")

	page := s.trail("since=2020-01-01T00:00:00Z", 7)
	var got []string
	for _, e := range page.Entries {
		if e.Operation == "list-audit" {
			continue // this test's own
		}
		got = append(got, fmt.Sprintf("%s %s %s %s %d %s", e.Source, e.User, e.Operation, e.Target, e.Status, objectsOf(e)))
		if e.Node != "r1" || e.Address != "127.0.0.1" || e.Time.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	slices.Sort(got)
	want := []string{
		"fleet eve apply  200 update Cluster/us [+ spec.bootstrapServers: \"a:2\" - spec.bootstrapServers: \"a:1\"]",
		"fleet ops apply  200 create Cluster/us",
		"fleet ops delete-object objects/Cluster/us 200 delete Cluster/us []",
		"node  list-objects  401 ",
		"node eve apply  422 ",
		"node eve put-object objects/Cluster/us 412 ",
		"node vera apply  403 ",
	}
	for i := range want {
		if i >= len(got) || !strings.HasPrefix(got[i], want[i]) {
			t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}

	// One page after another gives the same, whatever the size of a page.
	for _, limit := range []int{1, 2, 3} {
		var paged []string
		cursor := ""
		for range 50 {
			p := s.trail(fmt.Sprintf("limit=%d&cursor=%s", limit, cursor), 0)
			for _, e := range p.Entries {
				if e.Operation != "list-audit" {
					paged = append(paged, fmt.Sprintf("%s %s %s %s %d %s", e.Source, e.User, e.Operation, e.Target, e.Status, objectsOf(e)))
				}
			}
			if cursor = p.Next; cursor == "" || len(paged) == len(want) {
				break
			}
		}
		if slices.Sort(paged); !slices.Equal(paged, got) {
			t.Errorf("pages of %d:\n%s", limit, strings.Join(paged, "\n"))
		}
	}
	for query, n := range map[string]int{
		"user=vera": 1, "object=Cluster/us&operation=delete-object": 1, "source=fleet": 3, "until=2020-01-01T00:00:00Z": 0, "object=Cluster/us": 4,
	} {
		if p := s.trail(query, n); len(p.Entries) != n {
			t.Errorf("%s: %d entries, want %d", query, len(p.Entries), n)
		}
	}
	if r := s.call("ops", "GET", "/api/v1/audit?cursor=nonsense", "", ""); r.status != 400 {
		t.Errorf("a cursor of somebody else: %d %s", r.status, r.text)
	}
	all, err := os.ReadFile(firstFile(t, filepath.Join(s.dir, auditNode)))
	if err != nil || bytes.Contains(all, []byte("token-0123")) {
		t.Errorf("a token is in the trail, or it cannot be read: %v", err)
	}
}

// A removal that raft refuses is one entry, which says why, and none of what was tried.
func TestARefusedRemovalIsOneEntry(t *testing.T) {
	s := newSolo(t)
	for _, state := range s.fleet.Watch(t.Context()) {
		if _, known := state.Members["r1"]; known {
			break
		}
	}
	if r := s.call("ops", "DELETE", "/api/v1/fleet/nodes/r1", "", ""); r.status != 409 {
		t.Errorf("the last node: %d %s", r.status, r.text)
	}
	page := s.trail("operation=remove-node", 1)
	if len(page.Entries) != 1 {
		t.Fatalf("the trail has %+v", page.Entries)
	}
	if e := page.Entries[0]; e.Source != auditNode || e.Status != 409 || e.Target != "fleet/nodes/r1" || !strings.Contains(e.Problem, "it is the last member") {
		t.Errorf("the entry is %+v", e)
	}
	if state := s.fleet.State(); len(state.Trail) > 0 || state.Members["r1"].Draining {
		t.Errorf("done: %+v; drained: %v", state.Trail, state.Members["r1"].Draining)
	}
}

func objectsOf(e api.AuditEntry) string {
	var all []string
	for _, o := range e.Objects {
		all = append(all, fmt.Sprintf("%s %s %v", o.Action, o.Key, o.Diff))
	}
	return strings.Join(all, ", ")
}

func firstFile(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no file in %s: %v", dir, err)
	}
	return files[0]
}

// A file that somebody has changed says so, also if he has computed its sums anew.
func TestDamageOfTheTrailIsTold(t *testing.T) {
	s := newSolo(t)
	for i := range 3 {
		s.call("ops", "POST", "/api/v1/apply", clusterYAML("us", fmt.Sprintf("a:%d", i+1)), "")
	}
	s.trail("source=fleet", 3)
	file := firstFile(t, filepath.Join(s.dir, auditFleet))
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(b, []byte(`"user":"ops"`), []byte(`"user":"eve"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := s.trail("", 3); len(p.Damage) == 0 || p.Damage[0].Node != "r1" || p.Damage[0].Line != 2 {
		t.Errorf("damage: %+v", p.Damage)
	}

	// Forged with the right sums.
	forged := t.TempDir()
	j, err := journal.Open(journal.Config{Dir: forged, SegmentBytes: auditSegment, MaxBytes: auditFleetMost})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.fleet.State().Trail {
		r.User = "eve"
		v, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Append(journal.Entry{Seq: r.Seq, Value: v}); err != nil {
			t.Fatal(err)
		}
	}
	other := &audits{name: "r1", fleet: s.fleet, log: s.audits.log, changes: j}
	got, err := other.changeEntries(api.AuditQuery{Limit: 10}, 0)
	if err != nil || len(got.Damage) < 2 {
		t.Errorf("damage: %+v, %v", got.Damage, err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRefusalsAreLimited(t *testing.T) {
	var l limiter
	now := time.Unix(1_700_000_000, 0)
	e := api.AuditEntry{Address: "10.0.0.1", Operation: "status", Status: 401}
	kept := 0
	for range 1000 {
		if _, keep := l.admit(e, now); keep {
			kept++
		}
	}
	if kept != noteBurst {
		t.Errorf("%d kept of a burst", kept)
	}
	if n, keep := l.admit(e, now.Add(2*time.Second)); !keep || n != 1000-noteBurst {
		t.Errorf("%d like it, kept %v", n, keep)
	}
	if _, keep := l.admit(api.AuditEntry{User: "ops", Operation: "apply", Status: 403}, now); !keep {
		t.Error("what another did is pushed out")
	}
	kept = 0
	for i := range 2 * limiterMost { // from everywhere
		if _, keep := l.admit(api.AuditEntry{Address: fmt.Sprint(i), Status: 401}, now); keep {
			kept++
		}
	}
	if kept > allBurst || len(l.kinds) > limiterMost {
		t.Errorf("%d kept, %d kinds", kept, len(l.kinds))
	}
	for range 1000 {
		if _, keep := l.admit(api.AuditEntry{User: "vera", Operation: "event-lineage", Status: 200}, now); !keep {
			t.Fatal("what somebody has looked at is not kept")
		}
	}
}

func TestMissedChangesMustBeChained(t *testing.T) {
	s := newSolo(t)
	for i := range 6 {
		s.call("ops", "POST", "/api/v1/apply", clusterYAML("us", fmt.Sprintf("a:%d", i+1)), "")
	}
	all := s.fleet.State().Trail
	for _, c := range []struct {
		what    string
		last    *cluster.Record
		records []cluster.Record
		want    int
	}{
		{"all of them", nil, all[:5], 5},
		{"from where this node was", &all[1], all[2:5], 3},
		{"the record before them is another", &all[2], all[2:5], 2},
		{"the first is not the fleet's first", nil, all[1:5], 3},
		{"they do not reach to the rest", nil, all[:3], 0},
		{"the last was altered", nil, altered(all, 4), 0},
		{"one was altered", nil, altered(all, 2), 2},
		{"none", nil, nil, 0},
	} {
		if got := chainedTo(c.last, c.records, all[5]); len(got) != c.want {
			t.Errorf("%s: %d are taken, want %d", c.what, len(got), c.want)
		}
	}
}

func altered(all []cluster.Record, i int) []cluster.Record {
	forged := slices.Clone(all[:5])
	forged[i].User = "eve"
	return forged
}

// TestChangesComeInPages has a node asked for the records 4 to 9.
func TestChangesComeInPages(t *testing.T) {
	page := func(from, to uint64) (p []cluster.Record) {
		for seq := from; seq <= to; seq++ {
			p = append(p, cluster.Record{Seq: seq})
		}
		return p
	}
	broken := errors.New("no answer")
	for name, c := range map[string]struct {
		answer func(after uint64) ([]cluster.Record, error)
		want   int
		fails  string
	}{
		"one page":                      {func(after uint64) ([]cluster.Record, error) { return page(after+1, 20), nil }, 6, ""},
		"small pages":                   {func(after uint64) ([]cluster.Record, error) { return page(after+1, after+2), nil }, 6, ""},
		"it has less":                   {func(after uint64) ([]cluster.Record, error) { return page(after+1, min(after+2, 7)), nil }, 4, ""},
		"one that always says the same": {func(uint64) ([]cluster.Record, error) { return page(4, 6), nil }, 6, "its answer ends at 6"},
		"one that fails later": {func(after uint64) ([]cluster.Record, error) {
			if after > 5 {
				return nil, broken
			}
			return page(after+1, 6), nil
		}, 3, "no answer"},
	} {
		got, err := changesFrom(3, 10, c.answer)
		if len(got) != c.want || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%s: got %d records, %v; want %d, %q", name, len(got), err, c.want, c.fails)
		}
	}
	if got, err := changesFrom(9, 10, func(uint64) ([]cluster.Record, error) { panic("nothing is missing") }); len(got) > 0 || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

// The first change of a fleet, in which nothing has been declared, is as careful as any.
func TestTwoOperatorsCannotBothMakeTheFirstObject(t *testing.T) {
	s := newSolo(t)
	var racing sync.WaitGroup
	var won, lost atomic.Int32
	for i := range 8 {
		racing.Go(func() {
			switch r := s.call("ops", "PUT", "/api/v1/objects/Cluster/us", clusterYAML("us", fmt.Sprintf("a:%d", i+1)), `"0"`); r.status {
			case 200:
				won.Add(1)
			case 412:
				lost.Add(1)
			default:
				t.Errorf("got %d: %s", r.status, r.text)
			}
		})
	}
	racing.Wait()
	if won.Load() != 1 || lost.Load() != 7 {
		t.Errorf("%d won, %d lost", won.Load(), lost.Load())
	}
}

// Of very many objects a few are changed in one step; more than a step carries is refused as
// what it is, and changes nothing.
func TestAnApplyCarriesWhatChanges(t *testing.T) {
	s := newSolo(t)
	const clusters, part = 3000, 500
	var parts []string
	for i := 0; i < clusters; i += part {
		var yaml []string
		for j := range part {
			yaml = append(yaml, clusterYAML(fmt.Sprintf("c%04d", i+j), strings.Repeat("a", 150)+".example:9092"))
		}
		parts = append(parts, strings.Join(yaml, "---\n"))
	}
	all := strings.Join(parts, "---\n")
	r := s.call("ops", "POST", "/api/v1/apply", all, "")
	if p := r.problem(t); r.status != 413 || !strings.Contains(p.Detail, "bytes, at most") || !strings.Contains(p.Hint, "several parts") {
		t.Fatalf("all at once: got %d %s", r.status, r.text)
	}
	for _, yaml := range parts {
		if r := s.call("ops", "POST", "/api/v1/apply", yaml, ""); r.status != 200 {
			t.Fatalf("got %d: %s", r.status, r.text)
		}
	}
	if r := s.call("ops", "POST", "/api/v1/apply", strings.Replace(all, "aaa.example", "aab.example", 1), ""); r.status != 200 || strings.Count(r.text, `"update"`) != 1 {
		t.Errorf("one of them is changed: got %d %.300s", r.status, r.text)
	}
}
