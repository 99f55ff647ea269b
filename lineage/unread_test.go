package lineage

import (
	"slices"
	"testing"
)

// TestUnread: an answer does not take what was not read for what is not there, and leaves
// alone what is certain.
func TestUnread(t *testing.T) {
	x, f := open(t, Config{})
	chain(f)
	ask := func(at Address, u Unread) *Answer {
		t.Helper()
		a, err := x.Event(t.Context(), alice, at)
		if err != nil {
			t.Fatal(err)
		}
		u.Event(a)
		return a
	}
	u := Unread{"b": "b is away", "d": "d is away"}
	all := []string{"whether there is more to be said: b is away", "whether there is more to be said: d is away"}
	a := ask(orders("a", 70), u)
	expect(t, a, nil, "a/orders/0/70 origin, produced by shop, not to d: unknown", "b/orders/0/1070, not to c: pending", "a/orders/0/70 -> b/orders/0/1070 a-to-b n1")
	if got := a.Nodes[0].NotCopied[0].Why; got != "it was said to be pending, but d is away" || !slices.Equal(a.Nodes[0].Unknown, all) {
		t.Errorf("got %q, %q", got, a.Nodes[0].Unknown)
	}
	a = ask(orders("a", 12), u) // that it is filtered was read
	expect(t, a, nil, "a/orders/0/12 origin, produced by shop, fetched by alice, not to d: filtered", "b/orders/0/1012", "c/orders/0/17, committed by billing billing, fetched by alice",
		"a/orders/0/12 -> b/orders/0/1012 a-to-b n1", "b/orders/0/1012 -> c/orders/0/17 b-to-c n1")
	a = ask(orders("b", 7), u)
	expect(t, a, nil, "b/orders/0/7, not to c: not-asked")
	if !slices.Contains(a.Nodes[0].Unknown, "whether it was produced here or came by a copy: b is away") {
		t.Errorf("got %q", a.Nodes[0].Unknown)
	}
	a = ask(orders("a", 3), Unread{"a": "a is away"}) // who copies is not told of as a producer
	if !a.Nodes[0].Origin {
		t.Errorf("got %+v", a.Nodes[0])
	}
	same := Unread{"b": "one is away", "c": "one is away"}
	if got := same.Says(); len(got) != 1 || len(same.Of("c")) != 1 || same.Of("a") != nil || Unread(nil).Says() != nil {
		t.Errorf("got %q", got)
	}
}
