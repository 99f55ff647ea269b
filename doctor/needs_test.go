package doctor

import (
	"fmt"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/flow"
)

// What a flow needs beyond its topics, by what it declares.
func TestNeedsOfWhatAFlowDeclares(t *testing.T) {
	groups := &flow.GroupSelector{Selector: flow.Selector{Include: []string{"billing"}}}
	const back, forFolds = "[Read] on [billing], sometimes", "[Delete] on [__waybill.ledger], a remark"
	const notes = "[Describe] on [__waybill.share.billing], a remark"
	for name, c := range map[string]struct {
		spec                flow.FlowSpec
		source, destination []string
		notSource           []string
	}{
		"no groups": {notSource: []string{back, "[Write] on [__waybill.ledger], a remark", notes, forFolds}, destination: []string{forFolds}},
		"groups": {
			spec:        flow.FlowSpec{Groups: groups},
			source:      []string{"[Describe] on [billing]", back, "[Write] on [__waybill.ledger], a remark", notes},
			destination: []string{"[Read Describe] on [__waybill.share.billing], a remark"},
		},
		"MirrorMaker 2": {
			spec:        flow.FlowSpec{MirrorMaker2: &flow.MirrorMaker2{}},
			source:      []string{"[Write Describe] on [heartbeats mm2-offset-syncs.eu.internal]", "[Read] on [heartbeats]"},
			destination: []string{"[Write Describe] on [heartbeats us.heartbeats us.checkpoints.internal]"},
		},
		"MirrorMaker 2 by its aliases, syncs at the destination": {
			spec:        flow.FlowSpec{MirrorMaker2: &flow.MirrorMaker2{SourceAlias: "a", DestinationAlias: "b", OffsetSyncs: flow.OffsetSyncsDestination}},
			source:      []string{"[Write Describe] on [heartbeats]"},
			destination: []string{"[Write Describe] on [heartbeats a.heartbeats a.checkpoints.internal mm2-offset-syncs.a.internal]"},
		},
	} {
		c.spec.Source, c.spec.Destination = "us", "eu"
		f := &flow.ReplicationFlow{Spec: c.spec}
		source, destination := told(sourceNeeds(f, nil)), told(destinationNeeds(f, nil, false))
		for _, want := range c.source {
			if !slices.Contains(source, want) {
				t.Errorf("%s: the source lacks %q: %q", name, want, source)
			}
		}
		for _, want := range c.destination {
			if !slices.Contains(destination, want) {
				t.Errorf("%s: the destination lacks %q: %q", name, want, destination)
			}
		}
		for _, no := range c.notSource {
			if slices.Contains(source, no) {
				t.Errorf("%s: the source has %q", name, no)
			}
		}
	}
}

// A runbook needs rights of its own only if it fences.
func TestNeedsOfARunbook(t *testing.T) {
	r := &flow.Runbook{Spec: flow.RunbookSpec{Steps: []flow.Step{{ID: "look", Check: flow.CheckPreflight}, {ID: "tell", Report: &flow.ReportStep{}}}}}
	if got := told(runbookNeeds(r)); len(got) > 0 {
		t.Errorf("without a fence: %q", got)
	}
	r.Spec.Steps = slices.Insert(r.Spec.Steps, 1, flow.Step{ID: "fence", Fence: &flow.FenceStep{}})
	if got, want := told(runbookNeeds(r)), []string{"[Describe Alter] on [kafka-cluster]"}; !slices.Equal(got, want) {
		t.Errorf("with one: %q, not %q", got, want)
	}
}

func told(needs []need) (lines []string) {
	for _, n := range needs {
		line := fmt.Sprintf("%v on %v", n.operations, n.names)
		if n.sometimes {
			line += ", sometimes"
		}
		if n.remark {
			line += ", a remark"
		}
		lines = append(lines, line)
	}
	return lines
}
