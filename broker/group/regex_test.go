package group

import (
	"context"
	"errors"
	"fmt"
	"regexp/syntax"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

func TestRegularExpressionsThatAreRefused(t *testing.T) {
	names := map[string]int32{}
	for i := range 1000 {
		names[fmt.Sprintf("%04d", i)+strings.Repeat("a", 200)] = 1
	}
	few, many := newCatalog(map[string]int32{"a": 1}), newCatalog(names)
	slow := strings.Repeat("(?:.?){900}", 4) + ".*"
	for name, c := range map[string]struct {
		regex  string
		topics *catalog
		want   error
	}{
		"malformed":             {"(", few, kerr.InvalidRegularExpression},
		"too often":             {"a{1001}", few, kerr.InvalidRegularExpression},
		"look-ahead":            {"(?=a)", few, kerr.InvalidRegularExpression},
		"long":                  {strings.Repeat("a", maxRegex+1), few, kerr.InvalidRegularExpression},
		"large when compiled":   {"(?:" + strings.Repeat("a", 4000) + "){800}", few, kerr.InvalidRegularExpression},
		"costly, few topics":    {slow, few, nil},
		"costly, many topics":   {slow, many, kerr.InvalidRegularExpression},
		"ordinary, many topics": {".*a", many, nil},
	} {
		matched := 0
		got, err := resolve(t.Context(), c.regex, c.topics, func(string) bool { matched++; return true })
		switch {
		case !errors.Is(err, c.want):
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		case c.want != nil && matched > 0:
			t.Errorf("%s: refused after %d topics were matched", name, matched)
		case c.want == nil && len(got) != len(c.topics.topics):
			t.Errorf("%s: got %d topics", name, len(got))
		}
	}
}

// TestStepsBoundTheCompiledForm holds the estimate against the compiler.
func TestStepsBoundTheCompiledForm(t *testing.T) {
	for _, regex := range []string{
		"", "a", "orders-.*", "a|b|c", "orders|payments|.*users|x+|", "(?:(?:q|rs|tu.){5}v|w*|z){9}", "(a)(b)", "(?i)orders", "[a-z]+", `\d{3}`, "(?:.?){240}b", "a{2,}", "a{0,}", "a{0}", "(a|b){3,7}",
		"(?:a{10}b?){20}", "(?:(a*)+){12}", `^$\b`, "x*?y+?", `\pL`, "()", "(|a)*", "(|a)+", "(|a){0,}", "(|a){3,}", "(?:(|a)+){30}",
	} {
		tree, err := syntax.Parse(regex, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		bound := steps(tree)
		prog, err := syntax.Compile(tree.Simplify())
		if err != nil {
			t.Fatal(err)
		}
		// Each program has one instruction for a failure and one for a match.
		if n := len(prog.Inst) - 2; bound < n || bound > 2*n+3 {
			t.Errorf("%q: %d instructions, and %d steps", regex, n, bound)
		}
	}
}

// matching beats and returns for how many topics that an expression matches it
// asks whether they are visible; at is called at each.
func (r *rig) matching(ctx context.Context, id string, memberEpoch int32, regex string, at func()) (int, error) {
	h := ConsumerHeartbeat{MemberID: id, MemberEpoch: memberEpoch, RebalanceTimeout: -1}
	if regex != "" {
		matches(regex)(&h)
	}
	n := 0
	_, err := r.ConsumerHeartbeat(ctx, "g", h, func(string) bool {
		n++
		at()
		return true
	})
	return n, err
}

func TestAHeartbeatResolvesItsOwnRegularExpression(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for i := range 9 {
			r.topics.set(fmt.Sprint("topic-", i), 1)
		}
		want := func(what string, id string, memberEpoch int32, regex string, want int) {
			t.Helper()
			if got, err := r.matching(t.Context(), id, memberEpoch, regex, func() {}); got != want || err != nil {
				t.Errorf("%s: %d topics matched, %v; want %d", what, got, err, want)
			}
		}
		want("the first", "A", 0, "topic-.*", 9)
		want("another expression", "B", 0, "topic-[12]", 2)
		want("one that is known", "C", 0, "topic-.*", 0)
		want("nothing new", "A", 0, "", 0)
		time.Sleep(2 * regexInterval)
		r.topics.set("topic-9", 1)
		want("a topic more", "B", 0, "", 2)
		want("the other one", "C", 0, "", 10)
		want("for its other member, too", "A", 0, "", 0)
		r.restart()
		time.Sleep(2 * regexInterval)
		want("after a restart", "A", 0, "", 10)
		want("after a restart, known", "C", 0, "", 0)
	})
}

func TestAGroupResolvesOneRegularExpressionAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for _, id := range []string{"A", "B", "C", "D"} {
			if _, err := r.matching(t.Context(), id, 0, "t", func() {}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * regexInterval)
		r.topics.set("u", 1)
		reached, release, done := make(chan struct{}), make(chan struct{}), make(chan int, 1)
		go func() {
			n, _ := r.matching(t.Context(), "A", 0, "", func() { close(reached); <-release })
			done <- n
		}()
		select {
		case <-reached:
		case n := <-done:
			t.Fatalf("A matches %d topics, want 1", n)
		}
		for id, regex := range map[string]string{"B": "", "C": "", "D": "[tu]"} {
			if n, err := r.matching(t.Context(), id, 0, regex, func() {}); n != 0 || err != nil {
				t.Errorf("%s matches %d topics, %v, while A does", id, n, err)
			}
		}
		close(release)
		if n := <-done; n != 1 {
			t.Errorf("A matches %d topics, want 1", n)
		}
		for id, want := range map[string]int{"B": 0, "C": 0, "D": 2} {
			if n, err := r.matching(t.Context(), id, 0, "", func() {}); n != want || err != nil {
				t.Errorf("%s matches %d topics, %v, after A; want %d", id, n, err, want)
			}
		}
	})
}

func TestTheEndOfARequestEndsItsMatching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.topics.set("u", 1)
		ctx, cancel := context.WithCancel(t.Context())
		if n, err := r.matching(ctx, "A", 0, ".*", cancel); n != 1 || !errors.Is(err, context.Canceled) {
			t.Errorf("%d topics matched, %v", n, err)
		}
		// The next one is not kept from it.
		if n, err := r.matching(t.Context(), "A", 0, ".*", func() {}); n != 2 || err != nil {
			t.Errorf("%d topics matched, %v", n, err)
		}
	})
}

func TestARegularExpressionThatBecomesCostlyKeepsItsTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		slow := strings.Repeat("(?:.?){900}", 4) + ".*"
		if n, err := r.matching(t.Context(), "A", 0, slow, func() {}); n != 1 || err != nil {
			t.Fatalf("%d topics matched, %v", n, err)
		}
		for i := range 1000 {
			r.topics.set(fmt.Sprint(strings.Repeat("a", 200), i), 1)
		}
		time.Sleep(2 * regexInterval)
		if n, err := r.matching(t.Context(), "A", 0, "", func() {}); n != 0 || err != nil {
			t.Errorf("a member that has it: %d topics matched, %v", n, err)
		}
		if d, err := r.DescribeConsumer(t.Context(), "g"); err != nil || d.Members[0].Target.size() == 0 {
			t.Errorf("got %+v, %v", d, err)
		}
		if n, err := r.matching(t.Context(), "B", 0, slow+"b", func() {}); n != 0 || !errors.Is(err, kerr.InvalidRegularExpression) {
			t.Errorf("one that comes with it: %d topics matched, %v", n, err)
		}
	})
}
