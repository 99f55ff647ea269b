package mirror

import (
	"testing"
	"time"

	"github.com/waybillhq/waybill/flow"
)

// Which changes of declarations start the copies of a flow anew. Another flow is
// never concerned: each is held against its own declarations.
func TestWhatStartsCopiesAnew(t *testing.T) {
	declare := func() Assignment {
		cluster := func(name string) *flow.Cluster {
			return &flow.Cluster{Metadata: flow.Metadata{Name: name}, Spec: flow.ClusterSpec{
				BootstrapServers: []string{"a:1"}, TLS: &flow.TLS{CAFile: "ca.pem"},
				SASL: &flow.SASL{Mechanism: "SCRAM-SHA-256", Username: "u", Password: "${file:password}"},
			}}
		}
		follow := true
		return Assignment{Flow: "f", Source: cluster("us"), Destination: cluster("eu"), Spec: &flow.ReplicationFlow{
			Metadata: flow.Metadata{Name: "f"},
			Spec: flow.FlowSpec{
				Source: "us", Destination: "eu", Groups: &flow.GroupSelector{}, Verify: &flow.FlowVerify{},
				Topics: flow.TopicSelector{Configs: flow.ConfigSync{Sync: &follow}},
			},
		}}
	}
	for _, c := range []struct {
		name   string
		change func(*Assignment)
		anew   bool
	}{
		{"nothing", func(*Assignment) {}, false},
		// Of the flow.
		{"its labels", func(a *Assignment) { a.Spec.Metadata.Labels = map[string]string{"a": "b"} }, false},
		{"topics", func(a *Assignment) { a.Spec.Spec.Topics.Include = []string{"more"} }, false},
		{"paused topics", func(a *Assignment) { a.Spec.Spec.Topics.Paused = []string{"later"} }, false},
		{"settings that follow", func(a *Assignment) { a.Spec.Spec.Topics.Configs.OnDrift = flow.DriftOverwrite }, false},
		{"groups", func(a *Assignment) { a.Spec.Spec.Groups.Interval = flow.Duration(time.Minute) }, false},
		{"verification", func(a *Assignment) { a.Spec.Spec.Verify.BytesPerSecond = 1 << 20 }, false},
		{"MirrorMaker's topics", func(a *Assignment) { a.Spec.Spec.MirrorMaker2 = &flow.MirrorMaker2{} }, false},
		{"a budget", func(a *Assignment) { a.Spec.Spec.Limits.BytesPerSecond = 1 << 20 }, false},
		{"a pin", func(a *Assignment) {
			a.Spec.Spec.Placement = &flow.Placement{Nodes: flow.NodeSelector{MatchLabels: map[string]string{"disk": "fast"}}}
		}, false},
		{"deletion of topics", func(a *Assignment) { a.Spec.Spec.Policies.OnDelete = flow.DeleteCopy }, false},
		{"time between commits", func(a *Assignment) { a.Spec.Spec.Limits.CommitInterval = flow.Duration(time.Second) }, true},
		{"transactions at once", func(a *Assignment) { a.Spec.Spec.Limits.Lanes = 3 }, true},
		{"delivery", func(a *Assignment) { a.Spec.Spec.Delivery = flow.DeliveryAtLeastOnce }, true},
		{"a filter", func(a *Assignment) { a.Spec.Spec.Records = &flow.Records{Filter: "true"} }, true},
		{"gaps", func(a *Assignment) { a.Spec.Spec.Policies.OnGap = flow.GapStop }, true},
		// Of a cluster.
		{"a cluster's labels", func(a *Assignment) { a.Source.Metadata.Labels = map[string]string{"a": "b"} }, false},
		{"its super users", func(a *Assignment) {
			a.Destination.Metadata.Annotations = map[string]string{"waybill/super-users": "User:a"}
		}, false},
		{"its region and rack", func(a *Assignment) { a.Destination.Spec.Region, a.Destination.Spec.Rack = "eu", "1" }, false},
		{"its user", func(a *Assignment) { a.Source.Spec.SASL.Username = "v" }, true},
		{"its password's place", func(a *Assignment) { a.Destination.Spec.SASL.Password = "${file:other}" }, true},
		{"its certificate's place", func(a *Assignment) { a.Source.Spec.TLS.CertFile = "cert.pem" }, true},
		{"its addresses", func(a *Assignment) { a.Source.Spec.BootstrapServers = []string{"b:1"} }, true},
	} {
		was, is := declare(), declare()
		c.change(&is)
		r := &running{flowRun: &flowRun{spec: was.Spec, source: &peer{cluster: was.Source}, destination: &peer{cluster: was.Destination}}}
		if got := !r.sameDeclarations(is); got != c.anew {
			t.Errorf("%s: copies start anew: %v, want %v", c.name, got, c.anew)
		}
	}
}
