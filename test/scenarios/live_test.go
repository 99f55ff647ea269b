//go:build unix

package scenarios

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
)

// live is a fleet of three flows, each with a topic of one partition: the one that is
// changed, another between the same brokers by other names, and a witness.
type live struct {
	w      *world
	us, eu *flow.Cluster
	flow   *flow.ReplicationFlow
	others []flow.Object
	// witness starts anew with every change: a node that has done so has seen it.
	witness *flow.ReplicationFlow
	// copied is how many records each flow's copy has copied since it started.
	copied map[string]int64
}

// The flows of live, by their topics.
var liveTopics = map[string]string{flowName: "orders", "other": "payments", "witness": "beats"}

func newLive(t *testing.T) *live {
	t.Helper()
	l := &live{w: newWorld(t, 1, sourceSecurity(), nil), copied: map[string]int64{"witness": 0}}
	for _, topic := range []string{"orders", "payments", "beats", "more"} {
		l.w.us.createTopic(topic, 1)
	}
	named := func(b *broker, name string) *flow.Cluster {
		c := b.declaration(userAdmin)
		c.Metadata.Name = name
		return c
	}
	between := func(name, source, destination string) *flow.ReplicationFlow {
		return &flow.ReplicationFlow{Metadata: flow.Metadata{Name: name}, Spec: flow.FlowSpec{
			Source: source, Destination: destination, Topics: flow.TopicSelector{Selector: flow.Selector{Include: []string{liveTopics[name]}}},
		}}
	}
	l.us, l.eu = named(l.w.us, "us"), named(l.w.eu, "eu")
	l.flow, l.witness = between(flowName, "us", "eu"), between("witness", "us-2", "eu-2")
	l.others = []flow.Object{
		{Kind: flow.KindCluster, Cluster: named(l.w.us, "us-2")},
		{Kind: flow.KindCluster, Cluster: named(l.w.eu, "eu-2")},
		{Kind: flow.KindReplicationFlow, Flow: between("other", "us-2", "eu-2")},
	}
	return l
}

// declare applies everything as it is now, in one step.
func (l *live) declare(t *testing.T) {
	t.Helper()
	text, err := flow.MarshalYAML(append(slices.Clone(l.others),
		flow.Object{Kind: flow.KindCluster, Cluster: l.us}, flow.Object{Kind: flow.KindCluster, Cluster: l.eu},
		flow.Object{Kind: flow.KindReplicationFlow, Flow: l.flow}, flow.Object{Kind: flow.KindReplicationFlow, Flow: l.witness})...)
	must(t, err)
	l.w.nodes[0].apply(string(text))
}

// copies hands the state of each flow's copy to check, until all are as it wants.
func (l *live) copies(what string, check func(name string, c api.CopyStatus) error) {
	l.w.nodes[0].awaitStatus(recovery, what, func(s *api.Status) error {
		seen := 0
		for _, f := range s.Flows {
			for _, topic := range f.Topics {
				if topic.SourceTopic != liveTopics[f.Name] || len(topic.Partitions) != 1 {
					continue
				}
				seen++
				if err := check(f.Name, topic.Partitions[0]); err != nil {
					return fmt.Errorf("%s: %w", f.Name, err)
				}
			}
		}
		if seen != len(liveTopics) {
			return fmt.Errorf("%d of %d flows copy", seen, len(liveTopics))
		}
		return nil
	})
}

// changed declares what there is now together with a change of the witness, and checks
// whose copies have started anew since the change before.
func (l *live) changed(t *testing.T, what string, anew map[string]bool) {
	t.Helper()
	l.witness.Spec.Limits.Lanes = 5 - max(l.witness.Spec.Limits.Lanes, 2) // 3 and 2 in turn
	l.declare(t)
	l.copies(what+": the witness starts anew", func(name string, c api.CopyStatus) error {
		if name == "witness" && (c.State != "running" || c.Records != 0) {
			return fmt.Errorf("it is %s and has copied %d records", c.State, c.Records)
		}
		return nil
	})
	for name, topic := range liveTopics {
		l.w.us.produce(topic, 1, 1)
		if l.copied[name]++; name == "witness" || anew[name] {
			l.copied[name] = 1
		}
	}
	l.copies(what+": copies start anew that are concerned, and no others", func(name string, c api.CopyStatus) error {
		if c.State != "running" || c.LagRecords != 0 || c.Records != l.copied[name] {
			return fmt.Errorf("it is %s, has copied %d records since it started and lacks %d, want %d and 0", c.State, c.Records, c.LagRecords, l.copied[name])
		}
		return nil
	})
}

// Flows, credentials, certificates and budgets change while copies run: only those that
// are concerned start anew. Each change goes the whole way, from the API through the
// fleet's state to the node's copies. The table is that of docs/flows.md.
func TestOnlyCopiesThatAreConcernedStartAnew(t *testing.T) {
	t.Parallel()
	l := newLive(t)
	mine := map[string]bool{flowName: true}
	l.declare(t)
	l.copies("all copies run", func(_ string, c api.CopyStatus) error {
		if c.State != "running" {
			return fmt.Errorf("it is %s: %s", c.State, c.Reason)
		}
		return nil
	})
	for name, topic := range liveTopics {
		l.w.us.produce(topic, 1, 1)
		l.copied[name] = 1
	}
	l.copies("all is copied", func(name string, c api.CopyStatus) error {
		if c.Records != l.copied[name] {
			return fmt.Errorf("%d records are copied", c.Records)
		}
		return nil
	})
	spec := &l.flow.Spec
	for _, c := range []struct {
		name   string
		change func()
		anew   map[string]bool
	}{
		{"nothing", func() {}, nil},
		{"a flow's labels and annotations", func() {
			l.flow.Metadata.Labels, l.flow.Metadata.Annotations = map[string]string{"team": "a"}, map[string]string{"ticket": "1"}
		}, nil},
		{"topics: one more", func() { spec.Topics.Include = []string{"orders", "more"} }, nil},
		{"topics: one is paused", func() { spec.Topics.Paused = []string{"more"} }, nil},
		{"topics: one is left out", func() { spec.Topics.Exclude = []string{"more"} }, nil},
		{"topics: how they are made", func() { spec.Topics.Create.Configs = map[string]string{"retention.ms": "86400000"} }, nil},
		{"topics: settings that follow", func() { spec.Topics.Configs.OnDrift = flow.DriftOverwrite }, nil},
		{"groups", func() { spec.Groups = &flow.GroupSelector{Selector: flow.Selector{Include: []string{"billing"}}} }, nil},
		{"groups: none again", func() { spec.Groups = nil }, nil},
		{"mirrorMaker2", func() { spec.MirrorMaker2 = &flow.MirrorMaker2{OffsetSyncs: flow.OffsetSyncsNone} }, nil},
		{"verify", func() { spec.Verify = &flow.FlowVerify{BytesPerSecond: 1 << 20} }, nil},
		{"limits: a budget", func() { spec.Limits.BytesPerSecond = 1 << 20 }, nil},
		{"placement: a pin that its node satisfies", func() {
			spec.Placement = &flow.Placement{Nodes: flow.NodeSelector{MatchLabels: map[string]string{"node": "r1"}}}
		}, nil},
		{"policies about topics that go", func() {
			spec.Policies.OnDelete, spec.Policies.OnRecreate = flow.DeleteCopy, flow.RecreateNewGeneration
		}, nil},
		{"limits: the time between commits", func() { spec.Limits.CommitInterval = flow.Duration(50 * time.Millisecond) }, mine},
		{"limits: lanes", func() { spec.Limits.Lanes = 3 }, mine},
		{"policies: gaps", func() { spec.Policies.OnGap = flow.GapStop }, mine},
		{"policies: truncation", func() { spec.Policies.OnTruncate = flow.TruncateRetract }, mine},
		{"policies: refusal", func() { spec.Policies.OnRefusal = flow.RefusalStop }, mine},
		{"policies: loss", func() { spec.Policies.OnLoss = flow.LossStop }, mine},
		{"start", func() { spec.Start = flow.StartLatest }, mine},
		{"records", func() { spec.Records = &flow.Records{Headers: true} }, mine},
		{"delivery", func() { spec.Delivery = flow.DeliveryAtLeastOnce }, mine},
		{"a cluster's labels, region and rack", func() {
			l.eu.Metadata.Labels, l.eu.Spec.Region, l.eu.Spec.Rack = map[string]string{"tier": "1"}, "eu", "a"
		}, nil},
		{"a cluster's super users", func() { l.us.Metadata.Annotations = map[string]string{"waybill/super-users": "User:admin"} }, nil},
		{"credentials: a cluster's user", func() { l.us.Spec.SASL = l.w.us.declaration(userReplicator).Spec.SASL }, mine},
		{"credentials: what is in the password's file stays, its place changes", func() {
			moved := l.w.us.file("moved.password")
			b, err := os.ReadFile(l.w.us.file(userReplicator + ".password"))
			must(t, err)
			must(t, os.WriteFile(moved, b, 0o600))
			l.us.Spec.SASL.Password = flow.Secret("${file:" + moved + "}")
		}, mine},
		{"certificates: a file is written anew", func() { must(t, os.WriteFile(l.w.us.file("ca.pem"), l.w.us.ca.CertPEM, 0o600)) }, nil},
		{"certificates: another file", func() {
			must(t, os.WriteFile(l.w.us.file("moved.pem"), l.w.us.ca.CertPEM, 0o600))
			l.us.Spec.TLS.CAFile = l.w.us.file("moved.pem")
		}, mine},
		{"a runbook", func() {
			l.others = append(l.others, flow.Object{Kind: flow.KindRunbook, Runbook: &flow.Runbook{
				Metadata: flow.Metadata{Name: "drill"}, Spec: flow.RunbookSpec{Flow: flowName, Steps: []flow.Step{{ID: "report", Report: &flow.ReportStep{}}}},
			}})
		}, nil},
		{"another cluster", func() {
			c := l.w.eu.declaration(userAdmin)
			c.Metadata.Name = "ap"
			l.others = append(l.others, flow.Object{Kind: flow.KindCluster, Cluster: c})
		}, nil},
	} {
		c.change()
		l.changed(t, c.name, c.anew)
	}
	l.w.nobodyDied()
}
