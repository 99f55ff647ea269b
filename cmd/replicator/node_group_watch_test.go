package main

import (
	"testing"

	"github.com/waybillhq/waybill/flow"
)

// TestFirstWatcher: of the flows that look at a group one tells of it.
func TestFirstWatcher(t *testing.T) {
	declare := func(name string, paused bool, topics, groups []string) *flow.ReplicationFlow {
		f := &flow.ReplicationFlow{}
		f.Metadata.Name, f.Spec.Paused = name, paused
		f.Spec.Topics.Include = topics
		if groups != nil {
			f.Spec.Groups = &flow.GroupSelector{Selector: flow.Selector{Include: groups}}
		}
		return f
	}
	flows := []*flow.ReplicationFlow{
		declare("d", false, []string{"*"}, []string{"*"}),
		declare("c", false, []string{"orders"}, []string{"billing"}),
		declare("b", false, []string{"*"}, nil),
		declare("a", true, []string{"*"}, []string{"*"}),
	}
	for _, c := range []struct{ group, topic, want string }{
		{"billing", "orders", "c"}, {"billing", "payments", "d"}, {"mailer", "orders", "d"},
	} {
		if got := firstGroupWatcher(groupWatchersOf(flows), c.group, c.topic); got != c.want {
			t.Errorf("%s of %s: flow %q, want %q", c.group, c.topic, got, c.want)
		}
	}
	if got := firstGroupWatcher(groupWatchersOf(flows[2:]), "billing", "orders"); got != "" {
		t.Errorf("flow %q tells of groups that it does not sync, or while it is paused", got)
	}
}
