package mirror

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// Whether a copy preserves offsets is decided when its destination topic is made, and
// written down where nobody forgets it: a mirror topic names its source
// (mirror.source). What the flow says later only shows where it cannot be.

// fidelity is what a flow wants of offsets, and what it can have.
type fidelity struct {
	want    string // as the flow says
	cluster string // cluster.id of the source
	offers  bool   // the destination makes mirror topics
}

// choose decides about a topic whose counterpart is as found, if it exists. It blocks
// the copy where the flow's word cannot be had.
func (f *fidelity) choose(p *topicPlan, counterpart found, exists bool) {
	if f.want == "" {
		return
	}
	p.Offsets = flow.OffsetsTranslate
	if f.want == flow.OffsetsTranslate {
		return
	}
	mirror := mirrorSource(ledger.End{Cluster: f.cluster, TopicID: p.SourceID})
	switch {
	case exists && counterpart.mirrorErr != nil:
		f.refuse(p, fmt.Sprintf("whether the destination topic is a mirror is not known: %v", counterpart.mirrorErr), "allow DESCRIBE_CONFIGS on the destination topic")
	case exists && counterpart.mirror == mirror, !exists && f.offers:
		p.Offsets = flow.OffsetsPreserve
	case f.want != flow.OffsetsPreserve:
	case exists && counterpart.mirror != "":
		f.refuse(p, fmt.Sprintf("the destination topic is a mirror of %s, and not of %s", counterpart.mirror, mirror), "delete it, or give the flow another name for its copy")
	case exists:
		f.refuse(p, "the destination topic is an ordinary topic, and the flow preserves offsets", "delete it, or set offsets: translate or auto")
	default:
		f.refuse(p, "the destination has no mirror topics, and the flow preserves offsets", "set offsets: translate or auto, or use a bundled broker as destination")
	}
}

func (f *fidelity) refuse(p *topicPlan, problem, fix string) {
	if p.State != Running { // something else comes first
		return
	}
	p.create, p.grow = false, 0
	p.State, p.Blocked, p.Problem, p.Fix = Failed, true, problem, fix
}

// mirrorsAgain is how old an answer gets: a topic becomes a mirror without another id
// only when a person restores it.
const mirrorsAgain = 30 * time.Second

// mirrorFacts are what a discoverer remembers of destination topics.
type mirrorFacts struct {
	of    map[ledger.TopicID]string // mirror.source, "" of an ordinary topic
	asked time.Time
}

// findMirrors adds to the destination's topics of what they are mirrors, as far as the
// flow might copy to them.
func (d *Discoverer) findMirrors(ctx context.Context, source, destination map[string]found, known map[string]Topic) error {
	f := &d.planner.fidelity
	if f.cluster = d.from; f.want == flow.OffsetsTranslate || f.want == "" {
		return nil
	}
	if now := time.Now(); d.mirrors.of == nil || now.Sub(d.mirrors.asked) > mirrorsAgain {
		offers, err := offersMirrors(ctx, d)
		if err != nil {
			return err
		}
		f.offers = offers
		d.mirrors = mirrorFacts{of: map[ledger.TopicID]string{}, asked: now}
	}
	if !f.offers {
		return nil // nothing there is a mirror
	}
	var names []string
	add := func(name string) {
		if t, ok := destination[name]; ok {
			if _, asked := d.mirrors.of[t.id]; !asked {
				names = append(names, name)
			}
		}
	}
	for topic := range source {
		if d.planner.pick.Match(topic) {
			add(d.planner.name.Destination(topic))
			add(known[topic].Destination)
		}
	}
	slices.Sort(names)
	for chunk := range slices.Chunk(slices.Compact(names), maxDescribed) {
		described, err := describeTopics(ctx, d.destination, chunk, []string{keyMirrorSource})
		if err != nil {
			return fmt.Errorf("cluster %s: %w", d.Destination.Metadata.Name, err)
		}
		for _, name := range chunk {
			t := destination[name]
			if t.mirrorErr = described[name].err; t.mirrorErr == nil {
				d.mirrors.of[t.id] = described[name].values[keyMirrorSource].text
			}
			destination[name] = t
		}
	}
	for name, t := range destination {
		t.mirror = d.mirrors.of[t.id]
		destination[name] = t
	}
	return nil
}

// offersMirrors says whether the destination makes mirror topics.
func offersMirrors(ctx context.Context, d *Discoverer) (bool, error) {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = kafka.Software, "1"
	resp, err := req.RequestWith(ctx, d.destination)
	if err != nil {
		return false, fmt.Errorf("cluster %s: ask for its versions: %w", d.Destination.Metadata.Name, err)
	}
	return slices.ContainsFunc(resp.ApiKeys, func(k kmsg.ApiVersionsResponseApiKey) bool { return k.ApiKey == mirrorwire.AppendKey }), nil
}
