package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/offsets"
)

// unreadLedger is a ledger that cannot be read to its end.
type unreadLedger struct{}

func (unreadLedger) CatchUp(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
func (unreadLedger) Exists() bool { return true }

// TestTranslationsNeedNoOtherCluster: flows lead from us to eu, where ten records of orders
// have been copied, and to ap, which does not answer or whose ledger cannot be read.
func TestTranslationsNeedNoOtherCluster(t *testing.T) {
	eu := startBroker(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(eu), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, nil, "orders"); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	state := declaredState(t, "us-eu us eu", "us-ap us ap", "eu-us eu us")
	down := errors.New("connection refused")
	position := func(cluster string) []offsets.Where {
		return []offsets.Where{{Cluster: cluster, Topic: "orders", Partition: 0, Offset: 4}}
	}
	for _, c := range []struct {
		name     string
		silent   string // this cluster does not answer
		unread   string // the ledger of this one cannot be read
		from, to string
		err      string // contained
		why      offsets.Why
		offset   int64
	}{
		{"all is well", "", "", "us", "eu", "", offsets.Copied, 4},
		{"another cluster is down", "ap", "ap", "us", "eu", "", offsets.Copied, 4},
		{"another cluster is down, of all", "ap", "ap", "us", "", "", offsets.Copied, 4},
		{"another ledger cannot be read", "", "ap", "us", "eu", "", offsets.Copied, 4},
		{"another ledger cannot be read, of all", "", "ap", "us", "", "cluster ap: ", "", 0},
		{"the other side's ledger cannot be read", "", "eu", "us", "eu", "cluster eu: ", "", 0},
		{"records that came back may be missing", "", "us", "us", "eu", "cluster us: ", "", 0},
		{"the cluster itself is down", "us", "", "us", "eu", "whether you may describe its topics is not known: connection refused", "", 0},
		{"where it leads is down", "eu", "", "us", "eu", "whether you may describe its topics is not known: connection refused", "", 0},
		{"no such cluster", "", "", "mars", "eu", "no cluster mars is declared", "", 0},
		{"no such other side", "", "", "us", "nowhere", "no cluster nowhere is declared", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDirectory("test", slog.New(slog.DiscardHandler))
			defer d.reconcile(nil)
			d.reconcile([]*flow.Cluster{declaredCluster("us", "127.0.0.1:1"), declaredCluster("eu", eu), declaredCluster("ap", "127.0.0.1:1")})
			ms := offsets.NewMaps()
			for name, e := range d.entries {
				e.id, e.asked, e.open, e.aclsAt = "id-"+name, true, true, time.Now().Add(time.Hour)
				if name == c.silent {
					e.open, e.aclsErr = false, down
				}
				if name == c.unread {
					ms.Attach(e.id, unreadLedger{})
				} else {
					ms.Attach(e.id, readLedger{})
				}
			}
			id := ledger.CopyID{Source: ledger.End{Cluster: "id-us", TopicID: ledger.TopicID{1}}, Destination: ledger.End{Cluster: "id-eu", TopicID: ledger.TopicID{2}}}
			ms.Apply(tail.Position{Cluster: "id-eu"}, &ledger.Page{Entries: []ledger.Entry{
				&ledger.Begin{Copy: id, Epoch: 1, Flow: "us-eu", Lane: "l", SourceCluster: "us", SourceTopic: "orders", DestinationCluster: "eu", DestinationTopic: "orders"},
				&ledger.Hop{Copy: id.Key(), Epoch: 1, Next: 10, Runs: []ledger.Run{{Count: 10, Path: ledger.Raw}}},
			}})
			g := &groups{fleet: declaring{state: state}, directory: d, maps: ms, log: slog.New(slog.DiscardHandler)}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if strings.HasPrefix(c.err, "cluster") {
				time.AfterFunc(200*time.Millisecond, cancel) // it is waited for
			}
			caller := api.Caller{Principals: map[string]string{"us": "User:a", "eu": "User:a", "ap": "User:a"}}
			got, err := g.Translate(ctx, caller, position(c.from), c.to)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %+v %v, want %q", got, err, c.err)
				}
				if p, ok := errors.AsType[*api.Error](err); strings.HasPrefix(c.err, "no cluster") && (!ok || p.Status != http.StatusNotFound || p.Hint == "") {
					t.Errorf("got %+v", err)
				}
				return
			}
			if err != nil || len(got) != 1 || len(got[0].To) != 1 || got[0].To[0].Result.Why != c.why || got[0].To[0].To.Offset != c.offset {
				t.Errorf("got %+v %v", got, err)
			}
		})
	}
}

// TestPositionsWithoutAnAnswerSayWhy, each for itself: of orders there is a copy in eu. User a
// may describe orders and nosuch in us, and everything in eu; user b nothing in eu.
func TestPositionsWithoutAnAnswerSayWhy(t *testing.T) {
	eu := startBroker(t)
	d := newDirectory("test", slog.New(slog.DiscardHandler))
	defer d.reconcile(nil)
	d.reconcile([]*flow.Cluster{declaredCluster("us", eu), declaredCluster("eu", eu), declaredCluster("ap", eu)})
	ms := offsets.NewMaps()
	describe := func(principal, topic string) acl.Rule {
		return acl.Rule{Principal: principal, Host: "*", Operation: acl.Describe, Permission: acl.Allow, ResourceType: acl.Topic, PatternType: acl.Literal, ResourceName: topic}
	}
	for name, e := range d.entries {
		e.id, e.asked, e.aclsAt = "id-"+name, true, time.Now().Add(time.Hour)
		rules := []acl.Rule{describe("User:a", "orders"), describe("User:b", "orders"), describe("User:a", "nosuch")}
		if name == "eu" {
			rules = []acl.Rule{describe("User:a", "orders")}
		}
		e.acls = acl.NewSet(rules, nil)
		ms.Attach(e.id, readLedger{})
	}
	id := ledger.CopyID{Source: ledger.End{Cluster: "id-us", TopicID: ledger.TopicID{1}}, Destination: ledger.End{Cluster: "id-eu", TopicID: ledger.TopicID{2}}}
	ms.Apply(tail.Position{Cluster: "id-eu"}, &ledger.Page{Entries: []ledger.Entry{
		&ledger.Begin{Copy: id, Epoch: 1, Flow: "us-eu", Lane: "l", SourceCluster: "us", SourceTopic: "orders", DestinationCluster: "eu", DestinationTopic: "orders"},
	}})
	g := &groups{fleet: declaring{state: declaredState(t, "us-eu us eu", "us-ap us ap")}, directory: d, maps: ms, log: slog.New(slog.DiscardHandler)}
	from := []offsets.Where{{Cluster: "us", Topic: "nosuch"}, {Cluster: "us", Topic: "hidden"}, {Cluster: "us", Topic: "orders"}, {Cluster: "us", Topic: "orders", Partition: 7}}
	const none = "no ledger mentions partition"
	for _, c := range []struct {
		user, to string
		want     []string
	}{
		{"User:a", "", []string{none + " 0 of topic nosuch in us", "there is no topic hidden in us", "", none + " 7 of topic orders"}},
		{"User:a", "ap", []string{none, "there is no topic hidden", "is copied, but there is no copy in ap", none}},
		{"User:b", "ap", []string{"there is no topic nosuch", "there is no topic hidden", none, none}}, // and not that there is one in eu
	} {
		got, err := g.Translate(t.Context(), api.Caller{Principals: map[string]string{"us": c.user, "eu": c.user, "ap": c.user}}, from, c.to)
		if err != nil || len(got) != len(from) {
			t.Fatalf("%s, %s: got %+v, %v", c.user, c.to, got, err)
		}
		for i, want := range c.want {
			if a := got[i]; !strings.Contains(a.Note, want) || (want == "") != (a.Note == "") || (want == "") != (len(a.To) > 0) {
				t.Errorf("%s, %s: %+v, want %q", c.user, c.to, a, want)
			}
		}
	}
	_, err := g.Translate(t.Context(), api.Caller{Principals: map[string]string{"us": "User:a"}}, from[1:2], "")
	if p, ok := errors.AsType[*api.Error](err); !ok || p.Status != http.StatusNotFound {
		t.Errorf("nothing may be seen: got %v", err)
	}
}

// TestATranslationEnds: a ledger that cannot be read is not waited for without end.
func TestATranslationEnds(t *testing.T) {
	state := declaredState(t, "us-eu us eu")
	synctest.Test(t, func(t *testing.T) {
		d := newDirectory("test", slog.New(slog.DiscardHandler))
		ms := offsets.NewMaps()
		for _, name := range []string{"us", "eu"} {
			d.entries[name] = &clusterEntry{declared: declaredCluster(name, "127.0.0.1:1"), client: new(kgo.Client), id: name, open: true, aclsAt: time.Now().Add(time.Hour)}
			ms.Attach(name, unreadLedger{})
		}
		g := &groups{fleet: declaring{state: state}, directory: d, maps: ms, log: slog.New(slog.DiscardHandler)}
		caller := api.Caller{Principals: map[string]string{"us": "User:a", "eu": "User:a"}}
		began := time.Now()
		_, err := g.Translate(t.Context(), caller, []offsets.Where{{Cluster: "us", Topic: "orders"}}, "")
		if fault, ok := errors.AsType[*api.Error](err); !ok || fault.Status != http.StatusServiceUnavailable || time.Since(began) != translatePatience {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
	})
}

// TestAQuestionThatIsGivenUpIsNoAnswer: who goes away while ACLs are read has nobody else be
// told that they cannot be.
func TestAQuestionThatIsGivenUpIsNoAnswer(t *testing.T) {
	us := startBroker(t)
	d := newDirectory("test", slog.New(slog.DiscardHandler))
	defer d.reconcile(nil)
	d.reconcile([]*flow.Cluster{declaredCluster("us", us)})
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := d.judges(gone, "us"); !errors.Is(err, context.Canceled) {
		t.Errorf("who has gone: got %v", err)
	}
	if err := d.judges(t.Context(), "us"); err != nil {
		t.Errorf("who has not: got %v", err)
	}
}

// declaredState is of a fleet that has declared flows, each as "NAME SOURCE DESTINATION".
func declaredState(t *testing.T, flows ...string) *cluster.State {
	t.Helper()
	var all []flow.Object
	for _, text := range flows {
		f := strings.Fields(text)
		all = append(all, flow.Object{Kind: flow.KindReplicationFlow, Flow: &flow.ReplicationFlow{
			Metadata: flow.Metadata{Name: f[0]}, Spec: flow.FlowSpec{Source: f[1], Destination: f[2], Topics: flow.TopicSelector{Selector: flow.Selector{Include: []string{"*"}}}},
		}})
	}
	apply, err := cluster.NewApplyObjects(all, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	state := &cluster.State{Objects: map[string]cluster.Object{}}
	for _, put := range apply.Put {
		state.Objects[put.Key] = cluster.Object{Revision: 1, Spec: put.Spec}
	}
	return state
}
