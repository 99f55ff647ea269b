package flow_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybillhq/waybill/flow"
)

func clusters(names ...string) string {
	var b strings.Builder
	for i, name := range names {
		fmt.Fprintf(&b, "apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: %s}\nspec: {bootstrapServers: [\"127.0.0.1:%d\"]}\n---\n", name, 9001+i)
	}
	return b.String()
}

// flows writes one flow a line: "a>b topics", with a name "a-b", or "x: a>b topics".
// Topics are a flow mapping without braces.
func flows(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		name, rest, named := strings.Cut(line, ": ")
		if !named || strings.Contains(name, ">") {
			name, rest = "", line
		}
		ends, topics, _ := strings.Cut(rest, " ")
		source, destination, _ := strings.Cut(ends, ">")
		if name == "" {
			name = source + "-" + destination
		}
		topics, more, _ := strings.Cut(topics, " ;")
		fmt.Fprintf(&b, "apiVersion: waybill/v1\nkind: ReplicationFlow\nmetadata: {name: %s}\nspec: {source: %s, destination: %s, topics: {%s}%s}\n---\n",
			name, source, destination, topics, more)
	}
	return b.String()
}

// KAFKA-13397: A -> B -> A went round for ever.
func TestCheck(t *testing.T) {
	abc := clusters("a", "b", "c")
	tests := []struct {
		name string
		text string
		want []string // parts of the problems, in order
	}{
		{"one way", abc + flows(`a>b include: ["*"]`), nil},
		{"a declared name twice", clusters("a", "b", "a"), []string{"Cluster/a is declared twice; the other is at test.yaml:1"}},
		{"an unknown source", clusters("dc-one", "b") + flows(`dc-on>b include: [x]`), []string{`there is no Cluster "dc-on"; did you mean "dc-one"?`}},
		{"an unknown destination", clusters("a") + flows(`a>elsewhere include: [x]`), []string{`spec.destination: there is no Cluster "elsewhere"; declare it`}},
		{
			"two names of one cluster",
			clusters("a") + strings.Replace(clusters("b"), "9002", "9001", 1) + flows(`a>b include: [x]`),
			[]string{`"b" is the same cluster as the source: both have the bootstrap server 127.0.0.1:9001`},
		},
		{"there and back", abc + flows(`a>b include: ["*"]`, `b>a include: ["*"]`), nil},
		{"twice by different patterns", abc + flows(`one: a>b include: ["pay*"]`, `two: a>b include: ["*.eu"]`), []string{`topics like "pay.eu" would be copied twice`}},
		{"twice by expressions", abc + flows(`one: a>b include: ['/pay-\d+/']`, `two: a>b include: ["/.*[5-9]/"], exclude: ["/.*[5-8]/"]`), []string{`topics like "pay-9" would be copied twice`}},
		{"twice with word boundaries", abc + flows(`one: a>b include: ['/.*\beu\b.*/']`, `two: a>b include: ["?*eu?*"]`), []string{`".eu." would be copied twice`}},
		{"there and back, disjoint", abc + flows(`a>b include: ["a.*"]`, `b>a include: ["b.*"]`), nil},
		{"there and back, excluded", abc + flows(`a>b include: ["*"], exclude: ["b.*"]`, `b>a include: ["b.*"]`), nil},
		{"there and back, the way back is paused", abc + flows(`a>b include: ["*"]`, `b>a include: ["*"] ;, paused: true`), nil},
		{"internal topics do not count", abc + flows(`a>b include: ["/_.*/"]`, `b>a include: ["/_(_.*)?/"], exclude: ["_"]`), nil},
		{"both renamed, without end", abc + flows(`a>b include: ["*"], rename: {prefix: a.}`, `b>a include: ["*"], rename: {prefix: b.}`), []string{"would go round"}},
		{"both renamed, and excluded", abc + flows(`a>b include: ["*"], exclude: ["b.*"], rename: {prefix: a.}`, `b>a include: ["*"], exclude: ["a.*"], rename: {prefix: b.}`), nil},
		{"both renamed, literals", abc + flows(`a>b include: [orders], rename: {prefix: a.}`, `b>a include: [orders], rename: {prefix: b.}`), nil},
		{"three in a ring", abc + flows(`a>b include: ["*"]`, `b>c include: ["x*"]`, `c>a include: ["*y"]`), nil},
		{"three in a ring that renames", abc + flows(`a>b include: ["*"]`, `b>c include: ["x*"], rename: {template: "${topic}-y"}`, `c>a include: ["*y"]`), []string{`topics like "x" would go round under ever longer names: a -> b -> c -> a, with ReplicationFlow/b-c, ReplicationFlow/c-a`}},
		{"a ring that renames, and ends", abc + flows(`a>b include: ["*"]`, `b>c include: ["x*"], rename: {template: "${topic}-y"}`, `c>a include: ["*y"] ;, origin: local`), nil},
		{"a ring both ways", abc + flows(`a>b include: ["*"]`, `b>c include: ["*"]`, `c>a include: ["*"]`, `b>a include: ["*"]`, `c>b include: ["*"]`, `a>c include: ["*"]`), []string{
			"copied twice into a: b -> a, and b -> c -> a with ReplicationFlow/c-a; let the flows pick different topics, or let ReplicationFlow/c-a copy only what was born in c (origin: local)",
			"copied twice into b: a -> c -> b, and a -> b with", "copied twice into c: a -> c, and a -> b -> c with",
		}},
		{"a mesh", abc + flows(`a>b include: ["*"] ;, origin: local`, `b>c include: ["*"] ;, origin: local`, `c>a include: ["*"] ;, origin: local`, `b>a include: ["*"] ;, origin: local`, `c>b include: ["*"] ;, origin: local`, `a>c include: ["*"] ;, origin: local`), nil},
		{"active-active, and both into a third", abc + flows(`a>b include: ["*"]`, `b>a include: ["*"]`, `a>c include: ["*"]`, `b>c include: ["*"]`), []string{"into c: a -> c, and a -> b -> c with"}},
		{"the same, each its own", abc + flows(`a>b include: ["*"]`, `b>a include: ["*"]`, `a>c include: ["*"] ;, origin: local`, `b>c include: ["*"] ;, origin: local`), nil},
		{"active-active, and one into a third", abc + flows(`a>b include: ["*"]`, `b>a include: ["*"]`, `b>c include: ["*"]`), nil},
		{"a diamond of which one side is local", abc + flows(`a>b include: ["*"]`, `b>c include: ["*"] ;, origin: local`, `a>c include: ["*"]`), nil},
		{"a chain", abc + flows(`a>b include: ["*"]`, `b>c include: ["*"]`), nil},
		{"twice between two clusters", abc + flows(`one: a>b include: ["x*"]`, `two: a>b include: ["*y"]`), []string{`topics like "xy" would be copied twice into b: a -> b, and a -> b with ReplicationFlow/one`}},
		{"twice, under two names", abc + flows(`one: a>b include: ["x*"]`, `two: a>b include: ["*y"], rename: {prefix: z.}`), nil},
		{"twice, one with something behind", abc + flows(`one: a>b include: ["x*"]`, `two: a>b include: ["*y"], rename: {template: "${topic}.z"}`), nil},
		{"there and back under a name that the way back picks", abc + flows(`one: a>b include: ["*"], rename: {template: "${topic}-copy"}`, `two: b>a include: ["*-copy"]`), []string{`topics like "a" would go round`}},
		{"there and back under a name that the way back excludes", abc + flows(`one: a>b include: ["*"], rename: {template: "${topic}-copy"}`, `two: b>a include: ["*"], exclude: ["*-copy"]`), nil},
		{"a diamond", abc + flows(`a>b include: ["*"]`, `b>c include: ["x*"]`, `a>c include: ["*y"]`), []string{`topics like "xy" would be copied twice into c`}},
		{"a diamond under other names", abc + flows(`a>b include: ["*"], rename: {prefix: a.}`, `b>c include: ["*"]`, `a>c include: ["*"]`), nil},
		{"two sources into one", abc + flows(`a>c include: ["*"]`, `b>c include: ["*"]`), nil},
		{"a runbook without its flow", abc + flows(`orders: a>b include: [x]`) + runbook("order", "{id: r, report: {}}"), []string{`there is no ReplicationFlow "order"; did you mean "orders"?`}},
		{"a runbook that moves no groups", abc + flows(`orders: a>b include: [x]`) + runbook("orders", "{id: r, apply: groupOffsets}"), []string{`spec.steps[0]: ReplicationFlow/orders has no groups to move`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := flow.Check(parse(t, tt.text))
			if len(got) != len(tt.want) {
				t.Fatalf("got %d problems, want %d:\n%v", len(got), len(tt.want), got)
			}
			for i, want := range tt.want {
				if !strings.Contains(got[i].String(), want) || got[i].Line == 0 {
					t.Errorf("got %s, want %s", got[i], want)
				}
			}
		})
	}
}

func runbook(of, steps string) string {
	return "apiVersion: waybill/v1\nkind: Runbook\nmetadata: {name: move}\nspec: {flow: " + of + ", steps: [" + steps + "]}\n"
}

// TestCheckOfAMeshIsQuick: every region owns a prefix and sends it to all others.
func TestCheckOfAMeshIsQuick(t *testing.T) {
	var names, lines, renaming []string
	for i := range 7 {
		names = append(names, fmt.Sprintf("r%d", i))
	}
	for _, from := range names {
		for _, to := range names {
			if from == to {
				continue
			}
			lines = append(lines, fmt.Sprintf(`%s>%s include: ["%s.*"]`, from, to, from))
			if from < "r5" && to < "r5" {
				renaming = append(renaming, fmt.Sprintf(`%s>%s include: ["*"], exclude: ["z*"], rename: {prefix: %s.}`, from, to, from))
			}
		}
	}
	objects := parse(t, clusters(names...)+flows(lines...))
	if got := flow.Check(objects); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	local := parse(t, clusters(names...)+strings.NewReplacer("r0.*", "*", "r1.*", "*", "r2.*", "*", "}}\n---", "}, origin: local}\n---").Replace(flows(lines...)))
	if got := flow.Check(local); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	same := parse(t, clusters(names...)+strings.NewReplacer("r0.*", "*", "r1.*", "*", "r2.*", "*").Replace(flows(lines...)))
	if got := flow.Check(same); len(got) == 0 {
		t.Error("a mesh over the same names has no problem")
	}
	if got := flow.Check(parse(t, clusters(names...)+flows(renaming...))); len(got) == 0 {
		t.Error("a mesh that renames without end has no problem")
	}
}

// TestCheckGivesUp: an expression with thousands of states ends soon, with or
// without an answer.
func TestCheckGivesUp(t *testing.T) {
	heavy := `include: ["/(.{1,30}x){1,30}[abc]{500}/"]`
	objects := parse(t, clusters("a", "b")+flows("a>b "+heavy, "b>a "+heavy))
	before := processor(t) // of a busy machine the clock says nothing
	flow.Check(objects)
	if took := processor(t) - before; took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

// processor is how much processor time this process has taken.
func processor(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestDiff(t *testing.T) {
	base := clusters("a", "b") + flows(`orders: a>b include: [x, "y z*"], exclude: [q] ;, groups: {include: ["*"]}`)
	base = strings.Replace(base, "y z*", "yz*", 1)
	have := parse(t, base)[2]
	want := parse(t, strings.NewReplacer(`"yz*"`, `w, "yz*"`, ", exclude: [q]", "", `{include: ["*"]}`, `{include: ["*"], interval: 5s}`, "source: a", "source: c").Replace(base))[2]

	lines := func(changes []flow.Change) string {
		var out []string
		for _, c := range changes {
			out = append(out, c.String())
		}
		return strings.Join(out, "\n")
	}
	const changed = `~ spec.source: a -> c
+ spec.topics.include: w
~ spec.groups.interval: 1s -> 5s
- spec.topics.exclude: q`
	if got := lines(flow.Diff(&have, &want)); got != changed {
		t.Errorf("got\n%s\nwant\n%s", got, changed)
	}
	const added = `+ ReplicationFlow/orders
+ metadata.name: orders
+ spec.source: a
+ spec.destination: b
+ spec.topics.include: x
+ spec.topics.include: yz*
+ spec.topics.exclude: q
+ spec.topics.configs.sync: true
+ spec.topics.configs.onDrift: report
+ spec.groups.include: *
+ spec.groups.interval: 1s
+ spec.offsets: translate
+ spec.start: earliest
+ spec.delivery: exactly-once
+ spec.origin: any
+ spec.policies.onDelete: keep
+ spec.policies.deleteAfter: 24h
+ spec.policies.onRecreate: stop
+ spec.policies.onGap: continue
+ spec.policies.onTruncate: stop
+ spec.policies.onLoss: recopy
+ spec.policies.onRefusal: wait
+ spec.policies.refusalAfter: 10m`
	if got := lines(flow.Diff(nil, &have)); got != added {
		t.Errorf("got\n%s\nwant\n%s", got, added)
	}
	if got, want := lines(flow.Diff(&have, nil)), "- ReplicationFlow/orders"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := flow.Diff(&have, &have); got != nil {
		t.Errorf("got %v, want nothing", got)
	}

	steps := func(s string) flow.Object { return parse(t, runbook("orders", s))[0] }
	before := steps("{id: a, check: preflight}, {id: b, switch: {}}")
	after := steps("{id: a, check: preflight, timeout: 1m}, {id: go, gate: {approvals: 2}}, {id: b, switch: {confirm: true}}")
	const stepsChanged = `~ spec.steps[a].timeout: 10m -> 1m
+ spec.steps[go].id: go
+ spec.steps[go].gate.approvals: 2
+ spec.steps[go].timeout: 72h
+ spec.steps[go].onFailure: stop
+ spec.steps[b].switch.confirm: true
~ spec.steps: a, b -> a, go, b
- spec.steps[b].switch: {}`
	if got := lines(flow.Diff(&before, &after)); got != stepsChanged {
		t.Errorf("got\n%s\nwant\n%s", got, stepsChanged)
	}
}

func TestNotes(t *testing.T) {
	abc := clusters("a", "b", "c")
	const once = ": each record comes once to each cluster, and is not copied back to where it has been"
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"one way":       {flows(`a>b include: ["*"]`), nil},
		"active-active": {flows(`a>b include: ["x*"]`, `b>a include: ["*y"]`), []string{`topics like "xy" are copied in a circle, a -> b -> a` + once}},
		"a ring":        {flows(`a>b include: ["*"]`, `b>c include: ["*"]`, `c>a include: ["*"]`), []string{`topics like "a" are copied in a circle, a -> b -> c -> a` + once}},
		"disjoint":      {flows(`a>b include: ["x*"]`, `b>a include: ["y*"]`), nil},
		"local":         {flows(`a>b include: ["*"] ;, origin: local`, `b>a include: ["*"] ;, origin: local`), nil},
		"back under another name": {
			flows(`a>b include: [x]`, `b>a include: [x], rename: {prefix: b.}`),
			[]string{`topics like "x" of a come back to it as "b.x", by a -> b -> a: that is another topic, so they are copied there; let ReplicationFlow/b-a have origin: local if they should not be`},
		},
		"twice under two names": {
			flows(`one: a>b include: ["x*"]`, `two: a>b include: ["*y"], rename: {prefix: z.}`),
			[]string{`topics like "xy" are carried twice from a to b: as "xy" by ReplicationFlow/one, and as "z.xy" by ReplicationFlow/two`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := flow.Notes(parse(t, abc+tt.text)); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}
