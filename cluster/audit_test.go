package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func by(user string, touched ...Touched) Author {
	return Author{User: user, Role: "admin", Address: "10.0.0.9", Node: "a", Time: noon, Operation: "apply", Objects: touched}
}

func putCluster(name, spec string, expect uint64) *ApplyObjects {
	c := &ApplyObjects{Put: []PutObject{{Key: "Cluster/" + name, Spec: json.RawMessage(spec)}}}
	if expect != 0 {
		c.Expect = &expect
	}
	return c
}

func TestAChangeAndItsRecordAreOneStep(t *testing.T) {
	s := newScript(t)
	s.must(putCluster("nobody", `{"x":0}`, 0)) // index 1, asked for by no one
	s.must(&Audited{by("ops", Touched{Key: "Cluster/us", Action: "create", Diff: []string{"+ x: 1"}}), putCluster("us", `{"x":1}`, 1)})
	s.must(&Audited{by("eve", Touched{Key: "Cluster/us", Action: "update"}), putCluster("us", `{"x":2}`, 2)})
	s.refused(&Audited{by("late", Touched{Key: "Cluster/us"}), putCluster("us", `{"x":3}`, 2)}, ErrConflict)
	s.must(&Audited{by("ops", Touched{Key: "Cluster/us", Action: "delete"}), &ApplyObjects{Delete: []string{"Cluster/us"}}})

	type row struct {
		Seq, Revision, Before, After uint64
		User                         string
	}
	var got []row
	for _, r := range s.state.Trail {
		got = append(got, row{r.Seq, r.Revision, r.Objects[0].Before, r.Objects[0].After, r.User})
	}
	want := []row{{1, 2, 0, 2, "ops"}, {2, 3, 2, 3, "eve"}, {3, 5, 3, 0, "ops"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if o := s.state.Objects["Cluster/nobody"]; o.Changed != nil {
		t.Errorf("what nobody asked for was changed by %v", o.Changed)
	}
	if by := s.state.ObjectsChanged; by == nil || by.User != "ops" || !by.Time.Equal(noon) {
		t.Errorf("the objects were changed by %v", by)
	}
}

// Every object of an apply says who changed it, also those that the record does
// not tell apart.
func TestEveryObjectIsStamped(t *testing.T) {
	s := newScript(t)
	apply := new(ApplyObjects)
	a := by("ops")
	for i := range 3 * maxTouched {
		key := fmt.Sprintf("Cluster/c%d", i)
		apply.Put = append(apply.Put, PutObject{Key: key, Spec: json.RawMessage(`{}`)})
		a.Objects = append(a.Objects, Touched{Key: key, Action: "create"})
	}
	s.must(&Audited{a.bounded(), apply})
	for key, o := range s.state.Objects {
		if o.Changed == nil || o.Changed.User != "ops" {
			t.Fatalf("%s was changed by %v", key, o.Changed)
		}
	}
	if r := s.state.Trail[0]; len(r.Objects) != maxTouched || r.More != 2*maxTouched {
		t.Errorf("%d objects and %d more", len(r.Objects), r.More)
	}
}

func TestTheTrailIsBoundedAndChained(t *testing.T) {
	s := newScript(t)
	s.node("a")
	for i := range maxTrail + 10 {
		s.must(&Audited{by("ops"), &DrainMember{Name: "a", Draining: i%2 == 0}})
	}
	trail := s.state.Trail
	if len(trail) != maxTrail || trail[0].Seq != 11 {
		t.Fatalf("%d records from %d on", len(trail), trail[0].Seq)
	}
	for i := 1; i < len(trail); i++ {
		if !trail[i].Follows(&trail[i-1]) {
			t.Fatalf("record %d does not follow the one before", trail[i].Seq)
		}
	}
	altered := slices.Clone(trail)
	altered[5].User = "nobody"
	if altered[5].Follows(&altered[4]) {
		t.Error("an altered record passes")
	}
	if trail[7].Follows(&trail[5]) {
		t.Error("a record that was taken out does not show")
	}
	for _, c := range []struct {
		after, first uint64
		n            int
		whole        bool
	}{{266, 0, 0, true}, {265, 266, 1, true}, {10, 11, maxTrail, true}, {9, 11, maxTrail, false}, {0, 11, maxTrail, false}} {
		got, whole := s.state.TrailAfter(c.after)
		if len(got) != c.n || whole != c.whole || c.n > 0 && got[0].Seq != c.first {
			t.Errorf("after %d: %d records, whole %v", c.after, len(got), whole)
		}
	}
	// A snapshot brings it all back.
	b, err := s.state.encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := decodeState(b)
	if err != nil || !back.Trail[1].Follows(&back.Trail[0]) {
		t.Errorf("after a snapshot: %v", err)
	}
}

func TestAnAuthorIsBounded(t *testing.T) {
	long := strings.Repeat("<\x00é", 200)
	a := Author{User: long, Role: long, Address: long, Node: long, Operation: long, Target: long, Reason: long, Time: noon}
	for range 100 {
		a.Objects = append(a.Objects, Touched{Key: long, Action: long, Diff: slices.Repeat([]string{long}, 10)})
	}
	got := a.bounded()
	if n := jsonSize(got); n > maxAuthored {
		t.Errorf("%d bytes", n)
	}
	if len(got.Objects) == 0 || len(got.Objects)+got.More != 100 {
		t.Errorf("%d objects and %d more", len(got.Objects), got.More)
	}
	s := newScript(t)
	s.must(&Audited{got, putCluster("us", `{}`, 0)})
	s.refused(&Audited{a, putCluster("us", `{"x":1}`, 0)}, ErrInvalid) // who does not bound it does no harm

	short := by("ops", Touched{Key: "Cluster/us", Action: "create", Diff: []string{"+ a"}})
	if got := short.bounded(); !reflect.DeepEqual(got, short) {
		t.Errorf("a short one becomes %+v", got)
	}
}

// An inner command that this version does not know must halt a node, as it would
// by itself, and nesting must not deepen a stack.
func TestAuditedIsAsStrictAsItsCommand(t *testing.T) {
	for _, inner := range []string{
		`{"v":1,"kind":"from.the.future","data":{}}`,
		`{"v":2,"kind":"member.drain","data":{"name":"a","draining":true}}`,
		`{"v":1,"kind":"member.drain","data":{"name":"a","draining":true,"gently":true}}`,
		`{"v":1,"kind":"audited","data":{"author":{"user":"x","operation":"y","time":"2026-01-01T00:00:00Z"},"command":{"v":1,"kind":"fleet.init","data":{"fleetId":"x"}}}}`,
		`null`,
	} {
		b := []byte(`{"v":1,"kind":"audited","data":{"author":{"user":"x","operation":"y","time":"2026-01-01T00:00:00Z"},"command":` + inner + `}}`)
		if c, err := decodeCommand(b); err == nil {
			t.Errorf("%s is taken for %+v", inner, c)
		}
	}
}

type userKey struct{}

// Whatever is proposed in the course of somebody's call is recorded, by whichever
// method, and what the node does by itself is not.
func TestProposalsCarryTheirAuthor(t *testing.T) {
	n := &Node{cfg: Config{Author: func(ctx context.Context) *Author {
		if user, ok := ctx.Value(userKey{}).(string); ok {
			return &Author{User: user, Time: time.Unix(0, 0)}
		}
		return nil
	}}}
	drain := &DrainMember{Name: "a"}
	if got := n.audited(t.Context(), drain); got != Command(drain) {
		t.Errorf("got %+v", got)
	}
	got, ok := n.audited(context.WithValue(t.Context(), userKey{}, "ops"), drain).(*Audited)
	if !ok || got.Command != Command(drain) || got.Author.User != "ops" || got.kind() != "audited" || !got.repeatable() {
		t.Errorf("got %+v", got)
	}
	if got.Command = (&ApplyObjects{Expect: new(uint64)}); got.repeatable() {
		t.Error("what must not be repeated is repeated when it has an author")
	}
}
