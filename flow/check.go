package flow

import (
	"fmt"
	"slices"
	"strings"
)

// Check returns what is wrong with a set of objects together, in the order of
// their places: names that are declared twice or not at all, flows from a cluster
// to itself, flows that would copy a topic round and round under ever longer names,
// or twice into one topic, runbooks that ask for what their flow does not do. Each object is
// expected to be valid by itself. Callers give it all objects that will exist:
// those of the files over those that are stored.
//
// Paused flows are left out of the search for cycles and double copies, because
// a failback is declared before it is wanted; whoever resumes a flow checks the
// set with it resumed.
func Check(objects []Object) Problems {
	c := newChecker()
	c.check(objects)
	return c.problems
}

// CheckPart is Check for objects that others may belong to which are not at hand,
// as a file of flows alone. Of a kind that none of them is, every name may exist:
// those are returned as elsewhere, like "Cluster/us", instead of being a fault.
func CheckPart(objects []Object) (faults Problems, elsewhere []string) {
	c := newChecker()
	c.part = true
	c.check(objects)
	slices.Sort(c.elsewhere)
	return c.problems, slices.Compact(c.elsewhere)
}

func newChecker() *checker {
	return &checker{
		clusters: map[string]Object{},
		flows:    map[string]Object{},
		overlaps: map[overlap]bool{},
		circular: map[string]bool{},
	}
}

func (c *checker) check(objects []Object) {
	c.names(objects)
	for _, o := range objects {
		switch {
		case o.Flow != nil:
			c.flowEnds(o)
		case o.Runbook != nil:
			c.runbook(o)
		}
	}
	c.cycles()
	c.doubles()
	c.problems.sort()
}

type checker struct {
	part            bool              // others may exist, see CheckPart
	elsewhere       []string          // keys of such
	clusters, flows map[string]Object // by name
	running         []Object          // flows that copy, between two known clusters
	overlaps        map[overlap]bool
	circular        map[string]bool // flows in a cycle that is reported
	problems        Problems
}

// overlap is a question that is asked often: whether two flows pick a topic in
// common, with something around its name.
type overlap struct {
	f     string
	at    affix
	g     string
	other affix
}

func (c *checker) fault(o Object, path, message, fix string) {
	c.problems = append(c.problems, o.problem(path, message, fix))
}

func (c *checker) names(objects []Object) {
	first := map[string]Object{}
	for _, o := range objects {
		if other, ok := first[o.Key()]; ok {
			fix := "rename or remove one"
			if at := other.Origin(); at != "" {
				fix = "the other is at " + at + "; " + fix
			}
			c.fault(o, "metadata.name", o.Key()+" is declared twice", fix)
			continue
		}
		first[o.Key()] = o
		switch o.Kind {
		case KindCluster:
			c.clusters[o.Name()] = o
		case KindReplicationFlow:
			c.flows[o.Name()] = o
		}
	}
}

// unknown says that no object of that name exists, and which might be meant.
func (c *checker) unknown(o Object, path, kind, name string, known map[string]Object) {
	if c.part && len(known) == 0 {
		c.elsewhere = append(c.elsewhere, kind+"/"+name)
		return
	}
	fix, distance := "declare it", 3
	names := make([]string, 0, len(known))
	for other := range known {
		names = append(names, other)
	}
	slices.Sort(names)
	for _, other := range names {
		if d := editDistance(name, other); d < distance && d < len(other)-1 {
			fix, distance = fmt.Sprintf("did you mean %q?", other), d
		}
	}
	c.fault(o, path, fmt.Sprintf("there is no %s %q", kind, name), fix)
}

func (c *checker) flowEnds(o Object) {
	spec := &o.Flow.Spec
	source, haveSource := c.clusters[spec.Source]
	destination, haveDestination := c.clusters[spec.Destination]
	if !haveSource {
		c.unknown(o, "spec.source", "Cluster", spec.Source, c.clusters)
	}
	if !haveDestination {
		c.unknown(o, "spec.destination", "Cluster", spec.Destination, c.clusters)
	}
	if !haveSource || !haveDestination {
		return
	}
	if why := sameCluster(source.Cluster, destination.Cluster); why != "" {
		c.fault(o, "spec.destination", fmt.Sprintf("%q is the same cluster as the source: %s", spec.Destination, why), "name another Cluster")
		return
	}
	if !spec.Paused {
		c.running = append(c.running, o)
	}
}

func sameCluster(a, b *Cluster) string {
	if a.Metadata.Name == b.Metadata.Name {
		return "it has its name"
	}
	if a.Spec.ClusterID != "" && b.Spec.ClusterID != "" {
		if a.Spec.ClusterID == b.Spec.ClusterID {
			return "both have the clusterId " + a.Spec.ClusterID
		}
		return ""
	}
	for _, server := range a.Spec.BootstrapServers {
		if slices.Contains(b.Spec.BootstrapServers, server) {
			return "both have the bootstrap server " + server
		}
	}
	return ""
}

func (c *checker) runbook(o Object) {
	f, ok := c.flows[o.Runbook.Spec.Flow]
	if !ok {
		c.unknown(o, "spec.flow", "ReplicationFlow", o.Runbook.Spec.Flow, c.flows)
		return
	}
	for i, s := range o.Runbook.Spec.Steps {
		path := fmt.Sprintf("spec.steps[%d]", i)
		if f.Flow.Spec.Groups == nil && (s.Apply == ApplyGroupOffsets || s.Check == CheckGroups) {
			c.fault(o, path, fmt.Sprintf("%s has no groups to move", f.Key()), "add spec.groups to the flow, or remove the step")
		}
	}
}

// route is a chain of flows, each from the destination of the one before.
type route []Object

// maxRoute bounds the length of a route: longer chains than six copies of a topic
// have not been seen.
const maxRoute = 6

func (r route) last() Object { return r[len(r)-1] }

// affix is what the route puts around a topic's name.
func (r route) affix() (a affix) {
	for _, f := range r {
		a = a.within(f.Flow.Spec.Topics.Rename.affix())
	}
	return a
}

// conditions are what a topic's name must meet to go the whole route.
func (r route) conditions() []condition {
	var out []condition
	for i, f := range r {
		out = append(out, condition{r[:i].affix(), f.Flow.Spec.Topics.Selector})
	}
	return out
}

func (r route) String() string {
	names := []string{r[0].Flow.Spec.Source}
	for _, f := range r {
		names = append(names, f.Flow.Spec.Destination)
	}
	return strings.Join(names, " -> ")
}

// common reports whether two flows on the way of a topic pick a name in common,
// the one with at around it and the other with other.
func (c *checker) common(f Object, at affix, g Object, other affix) bool {
	key := overlap{f.Name(), at, g.Name(), other}
	ok, known := c.overlaps[key]
	if !known {
		_, ok = commonName([]condition{{at, f.Flow.Spec.Topics.Selector}, {other, g.Flow.Spec.Topics.Selector}})
		c.overlaps[key] = ok
	}
	return ok
}

// passes reports whether a topic may go the whole route and then by next: no flow
// on the way excludes it for another, and next copies what was not born at its source.
func (c *checker) passes(r route, next Object) bool {
	if r.last().Flow.Spec.Destination != next.Flow.Spec.Source || next.Flow.Spec.Origin == OriginLocal {
		return false
	}
	for i, f := range r {
		if !c.common(f, r[:i].affix(), next, r.affix()) {
			return false
		}
	}
	return true
}

// routes calls each for every route of up to maxRoute flows that begins with r and
// visits no cluster twice, except that it may end where it began; shorter ones
// first for each beginning.
func (c *checker) routes(r route, each func(route)) {
	each(r)
	if len(r) == maxRoute || r.last().Flow.Spec.Destination == r[0].Flow.Spec.Source {
		return
	}
	for _, next := range c.running {
		if !r.visits(next.Flow.Spec.Destination) && c.passes(r, next) {
			c.routes(append(slices.Clip(r), next), each)
		}
	}
}

// visits reports whether a cluster lies on the way, the beginning apart.
func (r route) visits(cluster string) bool {
	return slices.ContainsFunc(r, func(f Object) bool { return f.Flow.Spec.Destination == cluster })
}

// cycles finds topics that come back to where they were born under a name that is
// copied again, and so without end. Each flow is reported in one cycle only, the
// shortest. What comes back under its own name is not copied into the topic where it
// has been: that ends by itself.
func (c *checker) cycles() {
	for _, r := range c.roundTrips() {
		if r.affix() == (affix{}) || r[0].Flow.Spec.Origin == OriginLocal || slices.ContainsFunc(r, func(f Object) bool { return c.circular[f.Name()] }) {
			continue
		}
		name, ok := commonName(append(r.conditions(), condition{r.affix(), r[0].Flow.Spec.Topics.Selector}))
		if !ok {
			continue
		}
		var others []string
		for _, f := range r {
			c.circular[f.Name()] = true
			if f.Name() != r[0].Name() {
				others = append(others, f.Key())
			}
		}
		c.fault(r[0], "spec.topics",
			fmt.Sprintf("topics like %q would go round under ever longer names: %s, with %s", name, r, strings.Join(others, ", ")),
			"let each flow pick other topics, rename none of them, or let one copy only what was born at its source (origin: "+OriginLocal+")")
	}
}

// roundTrips are the routes that end where they began, shorter ones first.
func (c *checker) roundTrips() []route {
	var found []route
	for _, f := range c.running {
		c.routes(route{f}, func(r route) {
			if r.last().Flow.Spec.Destination == f.Flow.Spec.Source {
				found = append(found, r)
			}
		})
	}
	slices.SortStableFunc(found, func(a, b route) int { return len(a) - len(b) })
	return found
}

// doubles finds topics that reach one destination topic on two ways from where
// they were born: neither way knows of the other, so both would bring every record.
// Flows that are reported as a cycle are left out: they must change first.
func (c *checker) doubles() {
	ways := map[[2]string][]route{} // by beginning and end
	c.running = slices.DeleteFunc(c.running, func(f Object) bool { return c.circular[f.Name()] })
	for _, f := range c.running {
		c.routes(route{f}, func(r route) {
			ends := [2]string{r[0].Flow.Spec.Source, r.last().Flow.Spec.Destination}
			if ends[0] != ends[1] {
				ways[ends] = append(ways[ends], r)
			}
		})
	}
	reported := map[[2]string]bool{}
	for _, f := range c.running { // in a stable order
		for _, g := range c.running {
			ends := [2]string{f.Flow.Spec.Source, g.Flow.Spec.Destination}
			between := ways[ends]
			delete(ways, ends)
			for i, a := range between {
				for _, b := range between[:i] {
					c.double(b, a, reported)
				}
			}
		}
	}
}

func (c *checker) double(a, b route, reported map[[2]string]bool) {
	pair := [2]string{a.last().Name(), b.last().Name()}
	if a[0].Name() == b[0].Name() || pair[0] == pair[1] || reported[pair] || a.affix() != b.affix() {
		return
	}
	for i, f := range a {
		for j, g := range b {
			if !c.common(f, a[:i].affix(), g, b[:j].affix()) {
				return
			}
		}
	}
	name, ok := commonName(append(a.conditions(), b.conditions()...))
	if !ok {
		return
	}
	fix := "let the flows pick different topics"
	for _, r := range []route{b, a} {
		if len(r) > 1 {
			fix += fmt.Sprintf(", or let %s copy only what was born in %s (origin: %s)", r.last().Key(), r.last().Flow.Spec.Source, OriginLocal)
			break
		}
	}
	reported[pair], reported[[2]string{pair[1], pair[0]}] = true, true
	c.fault(b.last(), "spec.topics",
		fmt.Sprintf("topics like %q would be copied twice into %s: %s, and %s with %s", name, b.last().Flow.Spec.Destination, b, a, a.last().Key()),
		fix)
}
