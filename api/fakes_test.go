package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybillhq/waybill/doctor"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/lineage/export"
	"github.com/waybillhq/waybill/lineage/search"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/runbook"
	"github.com/waybillhq/waybill/verify"
)

// Tokens of the two users that every test server knows.
const (
	viewerToken = "viewer-token-0123456789"
	adminToken  = "admin-token-0123456789"
)

// fleet is every interface of the package at once: what it is asked it writes
// down, and what it answers is a field.
type fleet struct {
	err   error // of every answer
	calls []string

	objects  []Object
	revision uint64
	applied  []byte
	dryRun   bool
	expected *Precondition
	deleted  string
	caller   Caller
	address  lineage.Address
	deeds    lineage.DeedQuery
	copies   lineage.RangeQuery
	headers  lineage.Headers
	pace     lineage.PaceQuery
	affected lineage.AffectedQuery
	search   search.Query
	stream   lineage.StreamQuery
	digests  search.DigestQuery

	gaps        []lineage.Gap // one a page
	deedPages   int           // with one each
	deedDoubts  []string
	principals  *lineage.PrincipalPage
	found       *search.Page
	copyPages   []*lineage.RangePage
	gapDoubts   []string
	streamNoted int // what the trail had been told when the stream began
	anchors     []lineage.Anchor
	gapsTo      int64
	from        offsets.Where
	positions   []offsets.Where
	move        GroupMove
	to          string
	folded      FoldRequest
	person      Person
	decision    string
	step        string
	execution   *runbook.Execution
	rows        []offsets.Row
	groups      GroupPage
	next        string // page of groups
	node        string
	disk        string
	draining    bool
	ttl         time.Duration
	worker      bool
	force       bool
	request     verify.Request
	verified    verify.Report
	notReady    error

	barriers   int
	noMajority error
	noted      []AuditEntry
	query      AuditQuery
}

func (f *fleet) called(what string) error {
	f.calls = append(f.calls, what)
	return f.err
}

func (f *fleet) List(_ context.Context, kind string) (ObjectList, error) {
	list := ObjectList{Revision: f.revision, Objects: []Object{}}
	for _, o := range f.objects {
		if kind == "" || o.Kind == kind {
			list.Objects = append(list.Objects, o)
		}
	}
	return list, f.called("list " + kind)
}

func (f *fleet) Apply(_ context.Context, yaml []byte, dryRun bool, expect *Precondition) (Applied, error) {
	f.applied, f.dryRun, f.expected = yaml, dryRun, expect
	return Applied{Revision: f.revision + 1, DryRun: dryRun, Changes: []Change{{Kind: "Cluster", Name: "us", Action: "create"}}}, f.called("apply")
}

func (f *fleet) Put(_ context.Context, kind, name string, yaml []byte, expect *Precondition) (Object, error) {
	f.applied, f.expected = yaml, expect
	return Object{Kind: kind, Name: name, Revision: 9, Object: json.RawMessage(`{}`)}, f.called("put")
}

func (f *fleet) Delete(_ context.Context, kind, name string, expect *Precondition) error {
	f.deleted, f.expected = kind+"/"+name, expect
	return f.called("delete")
}

func (f *fleet) Barrier(context.Context) error {
	f.barriers++
	return f.noMajority
}

func (f *fleet) Doctor(_ context.Context, node string) ([]doctor.Report, error) {
	f.node = node
	return []doctor.Report{}, f.called("doctor")
}

func (f *fleet) Bundle(_ context.Context, node string) (Bundle, error) {
	f.node = node
	return Bundle{Name: "waybill-r1.tar.gz", Content: []byte("x")}, f.called("bundle")
}

func (f *fleet) Revision() (uint64, time.Duration) { return 41, 1500 * time.Millisecond }

func (f *fleet) Note(e AuditEntry) { f.noted = append(f.noted, e) }

func (f *fleet) Entries(_ context.Context, q AuditQuery) (AuditPage, error) {
	f.query = q
	return AuditPage{}, f.called("audit")
}

func (f *fleet) Status(context.Context) (Status, error) {
	return Status{Fleet: FleetStatus{Leader: "r1", Nodes: []NodeStatus{}}, Flows: []FlowStatus{}}, f.called("status")
}

func (f *fleet) Drain(_ context.Context, node string, draining, force bool, by Person) error {
	f.node, f.draining, f.force, f.person = node, draining, force, by
	return f.called("drain")
}

func (f *fleet) Rows(_ context.Context, _ string, page GroupPage) ([]offsets.Row, string, error) {
	f.groups = page
	return f.rows, f.next, f.called("rows")
}

func (f *fleet) Move(_ context.Context, _ string, req GroupMove, by Person) ([]offsets.Row, error) {
	f.move, f.person = req, by
	return f.rows, f.called("move")
}

// Translate answers that each position lies at the next offset in eu, as f.result says.
func (f *fleet) Translate(_ context.Context, caller Caller, from []offsets.Where, to string) ([]Translations, error) {
	f.caller, f.from, f.positions, f.to = caller, from[0], from, to
	var all []Translations
	for _, w := range from {
		there := offsets.Where{Cluster: "eu", Topic: "us." + w.Topic, Partition: w.Partition, Offset: w.Offset + 1}
		r := offsets.Result{Offset: there.Offset, Exact: true, Why: offsets.Copied}
		if w.Offset == 0 {
			there.Offset, r = -1, offsets.Result{Offset: -1, Why: offsets.Unknown, Note: "a page, it seems, is missing"}
		}
		all = append(all, Translations{From: w, To: []offsets.Translation{{To: there, Flow: "us-eu", Result: r, Lives: 1}}})
	}
	return all, f.called("translate")
}

func (f *fleet) Waive(_ context.Context, _ string, _ int32, _ int64, by Person) error {
	f.person = by
	return f.called("waive")
}

func (f *fleet) Verification(context.Context, string) (*verify.Report, error) {
	r := f.verified
	return &r, f.called("verification")
}

func (f *fleet) StartVerification(_ context.Context, _ string, req verify.Request, by string) (*verify.Report, error) {
	f.request, f.person.Name = req, by
	return &verify.Report{}, f.called("verify")
}

func (f *fleet) StopVerification(context.Context, string) (*verify.Report, error) {
	return &verify.Report{}, f.called("stop verification")
}

func (f *fleet) Event(_ context.Context, caller Caller, at lineage.Address, headers lineage.Headers) (*lineage.Answer, error) {
	f.caller, f.address, f.headers = caller, at, headers
	return &lineage.Answer{Nodes: []lineage.Node{{Cluster: at.Cluster, Topic: at.Topic}}, Edges: []lineage.Edge{}}, f.called("event")
}

func (f *fleet) Topic(_ context.Context, caller Caller, at lineage.Address, q lineage.PaceQuery) (*lineage.Graph, error) {
	f.caller, f.address, f.pace = caller, at, q
	return &lineage.Graph{}, f.called("topic")
}

func (f *fleet) Gaps(_ context.Context, caller Caller, from lineage.Address, last int64) (*lineage.GapPage, error) {
	f.caller, f.address, f.gapsTo = caller, from, last
	page := &lineage.GapPage{Gaps: []lineage.Gap{}, Unknown: f.gapDoubts}
	if len(f.gaps) > 0 {
		page.Gaps, f.gaps = f.gaps[:1], f.gaps[1:]
	}
	if len(f.gaps) > 0 {
		page.Next = page.Gaps[0].Source + page.Gaps[0].Count
	}
	return page, f.called("gaps")
}

func (f *fleet) Deeds(_ context.Context, caller Caller, q lineage.DeedQuery) (*lineage.DeedPage, error) {
	f.caller, f.deeds = caller, q
	page := &lineage.DeedPage{Deeds: []lineage.Deed{}, Unknown: f.deedDoubts}
	if f.deedPages > 0 {
		f.deedPages--
		page.Deeds = append(page.Deeds, lineage.Deed{Kind: "fetched", Principal: "User:shop", First: int64(f.deedPages)})
		if f.deedPages > 0 {
			page.Next = fmt.Sprint("page", f.deedPages)
		}
	}
	return page, f.called("deeds")
}

func (f *fleet) Group(_ context.Context, caller Caller, _, _ string, _ int, _ string) (*lineage.PrincipalPage, error) {
	f.caller = caller
	return &lineage.PrincipalPage{Topics: []lineage.PrincipalTopic{}}, f.called("group")
}

func (f *fleet) Principal(_ context.Context, caller Caller, _, _ string, _ int, _ string) (*lineage.PrincipalPage, error) {
	f.caller = caller
	page := &lineage.PrincipalPage{Topics: []lineage.PrincipalTopic{}}
	if f.principals != nil {
		page = f.principals
	}
	return page, f.called("principal")
}

func (f *fleet) Search(_ context.Context, caller Caller, q search.Query) (*search.Page, error) {
	f.caller, f.search = caller, q
	page := &search.Page{Events: []search.Event{}, Scanned: []search.Scanned{}}
	if f.found != nil {
		page = f.found
	}
	return page, f.called("search")
}

func (f *fleet) Copies(_ context.Context, caller Caller, q lineage.RangeQuery) (*lineage.RangePage, error) {
	f.caller, f.copies = caller, q
	page := &lineage.RangePage{Rows: []lineage.RangeRow{}}
	if len(f.copyPages) > 0 {
		page, f.copyPages = f.copyPages[0], f.copyPages[1:]
	}
	return page, f.called("copies")
}

func (f *fleet) Affected(_ context.Context, caller Caller, q lineage.AffectedQuery) (*lineage.Affected, error) {
	f.caller, f.affected = caller, q
	return &lineage.Affected{Topics: []lineage.AffectedTopic{}}, f.called("affected")
}

func (f *fleet) Digests(_ context.Context, caller Caller, q search.DigestQuery) ([]search.Digest, int64, error) {
	f.caller, f.digests = caller, q
	return []search.Digest{{Partition: q.Partition, Offset: q.From, Last: q.From, Digest: "00ff"}}, q.From + 1, f.called("digests")
}

func (f *fleet) Stream(_ context.Context, caller Caller, q lineage.StreamQuery) (LineageStream, error) {
	f.caller, f.stream = caller, q
	if err := f.called("stream"); err != nil {
		return nil, err
	}
	return &fakeStream{fleet: f}, nil
}

// fakeStream has one event and an end.
type fakeStream struct {
	fleet *fleet
	told  bool
}

func (s *fakeStream) Next(context.Context, time.Duration) ([]lineage.StreamEvent, string, error) {
	if s.told {
		return nil, "", lineage.ErrEnded
	}
	s.told, s.fleet.streamNoted = true, len(s.fleet.noted)
	return []lineage.StreamEvent{{ID: "one", Kind: "copied", Flow: "us-eu"}}, "one", nil
}

func (s *fakeStream) Close() { s.fleet.calls = append(s.fleet.calls, "close") }

func (f *fleet) OpenLineage(_ context.Context, caller Caller, at lineage.Address) ([]export.RunEvent, error) {
	f.caller, f.address = caller, at
	return []export.RunEvent{{EventType: "RUNNING"}, {EventType: "RUNNING"}}, f.called("openlineage")
}

func (f *fleet) Spans(_ context.Context, caller Caller, at lineage.Address) (*export.Traces, error) {
	f.caller, f.address = caller, at
	return &export.Traces{ResourceSpans: []export.ResourceSpans{}}, f.called("spans")
}

func (f *fleet) Check(_ context.Context, _ string, anchors []lineage.Anchor) (*lineage.CheckReport, error) {
	f.anchors = anchors
	return &lineage.CheckReport{Partitions: []lineage.CheckedPartition{}, Findings: []lineage.Finding{}}, f.called("check")
}

func (f *fleet) Fold(_ context.Context, caller Caller, _ string, req FoldRequest) (*FoldReport, error) {
	f.caller, f.folded = caller, req
	return &FoldReport{Partitions: []FoldedPartition{}}, f.called("fold")
}

func (f *fleet) Plan(context.Context, string) (*runbook.Execution, error) {
	return f.execution, f.called("plan")
}

func (f *fleet) Start(_ context.Context, _ string, by Person) (*runbook.Execution, error) {
	f.person = by
	return f.execution, f.called("start")
}

func (f *fleet) Latest(context.Context, string) (*runbook.Execution, error) {
	return f.execution, f.called("latest")
}

func (f *fleet) Decide(_ context.Context, _, decision, step string, by Person) (*runbook.Execution, error) {
	f.decision, f.step, f.person = decision, step, by
	return f.execution, f.called("decide")
}

// newFleet has one object and one run of a runbook.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	x, err := runbook.New("failover-1", &flow.Runbook{
		Metadata: flow.Metadata{Name: "failover"},
		Spec:     flow.RunbookSpec{Flow: "us-eu", Steps: []flow.Step{{ID: "look", Check: flow.CheckPreflight}}},
	}, "ops", "", time.Unix(1_700_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{
		revision:  7,
		objects:   []Object{{Kind: "Cluster", Name: "us", Revision: 3, Object: json.RawMessage(`{"kind":"Cluster"}`)}},
		execution: &x,
	}
}

// present is the fleet that the one handler of all tests asks: making a handler
// takes longer than all that a test does with it.
type present struct{ *fleet }

var (
	asked   = &present{}
	handler = sync.OnceValue(func() http.Handler {
		return New(Config{
			Users: NewUsers([]User{
				{Name: "vera", Token: viewerToken, Role: Viewer, Principals: map[string]string{"us": "User:vera"}},
				{Name: "ops", Token: adminToken, Role: Admin},
			}),
			State: asked, Audit: asked, Operations: asked,
			Objects: asked, Flows: asked, Fleet: asked, Groups: asked, Lineage: asked, Ledgers: asked, Runbooks: asked, Verifications: asked, Membership: asked,
			Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("# metrics\n")) }),
			Ready:   func() error { return asked.notReady },
		})
	})
)

// serve answers one request; the tests of this package run one after another.
func (f *fleet) serve(w http.ResponseWriter, r *http.Request) {
	asked.fleet = f
	handler().ServeHTTP(w, r)
}

// body is a request body that is read as a stream, as from a network.
func body(s string) *strings.Reader { return strings.NewReader(s) }

func (f *fleet) Members(context.Context) (Members, error) {
	return Members{ID: "f", Nodes: []Member{{Name: "r1", Role: "voter"}}}, f.called("members")
}

func (f *fleet) NewToken(_ context.Context, ttl time.Duration, worker bool) (JoinToken, error) {
	f.ttl, f.worker = ttl, worker
	return JoinToken{ID: "t", Token: "secret"}, f.called("new token")
}

func (f *fleet) Tokens(context.Context) (TokenList, error) {
	return TokenList{Tokens: []JoinToken{{ID: "t"}}}, f.called("tokens")
}

func (f *fleet) DeleteToken(_ context.Context, id string) error {
	f.node = id
	return f.called("delete token")
}

func (f *fleet) RemoveNode(_ context.Context, node, disk string, force bool) error {
	f.node, f.disk, f.force = node, disk, force
	return f.called("remove")
}

func (f *fleet) Transfer(_ context.Context, node string) error {
	f.node = node
	return f.called("transfer")
}

func (f *fleet) Backup(context.Context) ([]byte, error) {
	return []byte(`{"format":"waybill-fleet-backup"}`), f.called("backup")
}
