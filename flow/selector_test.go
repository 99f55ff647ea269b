package flow_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/flow"
)

// KAFKA-13397: a name that ends in .internal is a name like others.
func TestSelectorMatch(t *testing.T) {
	tests := []struct {
		include, exclude string // separated by spaces
		picks, leaves    string
	}{
		{"orders", "", "orders", "orders2 xorders Orders"},
		{"*", "", "a orders orders.internal heartbeats .x _x a__b", "__consumer_offsets __waybill.ledger"},
		{"orders*", "", "orders orders-eu", "order xorders"},
		{"*.eu", "", ".eu a.eu a.b.eu", "eu a.eux"},
		{"a*b*c", "", "abc axbxc abbcc abcbc", "ab acb abcx"},
		{"?", "", "a b", "ab"},
		{"a?c*", "", "abc abcd", "ac a"},
		{"orders.v1", "", "orders.v1", "ordersxv1"},
		{"*", "*.tmp audit", "orders audit2", "a.tmp audit"},
		{"/pay.+/", "", "payments paying", "pay xpayments"},
		{"/^pay(roll|ments)$/", "", "payroll payments", "payments2 pay"},
		{"/a|b/", "", "a b", "ab xa bx"},
		{"/.*/", "/.*-(dev|test)/", "orders", "orders-dev __x"},
		{"/(?i)orders/", "", "Orders ORDERS", "orders2"},
		{"/__.*/", "", "", "__consumer_offsets"},
		{"a b", "", "a b", "c"},
	}
	for _, tt := range tests {
		s := flow.Selector{Include: strings.Fields(tt.include), Exclude: strings.Fields(tt.exclude)}
		for _, name := range strings.Fields(tt.picks) {
			if !s.Match(name) {
				t.Errorf("%s without %s does not pick %s", tt.include, tt.exclude, name)
			}
		}
		for _, name := range strings.Fields(tt.leaves) {
			if s.Match(name) {
				t.Errorf("%s without %s picks %s", tt.include, tt.exclude, name)
			}
		}
	}
}

func TestSelectorThatDoesNotCompilePicksNothing(t *testing.T) {
	for _, bad := range []string{"", "/(/", "/a)|(b/", "/a", "a|b", ".*", "a{1}", strings.Repeat("a", 2000)} {
		if (flow.Selector{Include: []string{bad}}).Match("a") || (flow.Selector{Include: []string{"*"}, Exclude: []string{bad}}).Match("a") {
			t.Errorf("%q picks a", bad)
		}
		if _, err := (flow.Selector{Include: []string{bad}}).Matcher(); err == nil {
			t.Errorf("%q compiles", bad)
		}
	}
}

// FuzzGlob checks the glob matcher against the regular expression of the same
// meaning.
func FuzzGlob(f *testing.F) {
	f.Add("a*b?c", "axbyc")
	f.Add("**a", "aaa")
	f.Fuzz(func(t *testing.T, glob, name string) {
		if len(glob) > 40 || len(name) > 60 || !isASCII(glob+name) || strings.HasPrefix(name, "__") {
			return
		}
		m, err := flow.Selector{Include: []string{glob}}.Matcher()
		if err != nil || strings.HasPrefix(glob, "/") {
			return
		}
		expr := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(glob))
		want := regexp.MustCompile(`(?s)\A` + expr + `\z`).MatchString(name)
		if got := m.Match(name); got != want {
			t.Errorf("%q on %q: got %v, want %v", glob, name, got, want)
		}
	})
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

func TestNaming(t *testing.T) {
	var same flow.Naming
	if got := same.Destination("orders"); got != "orders" {
		t.Errorf("got %s, want orders", got)
	}
	dc1 := flow.Naming{Prefix: "dc1."}
	if got := dc1.Destination("orders"); got != "dc1.orders" {
		t.Errorf("got %s, want dc1.orders", got)
	}
	if got, ok := dc1.Source("dc1.orders"); !ok || got != "orders" {
		t.Errorf("got %s, %v, want orders", got, ok)
	}
	for _, other := range []string{"orders", "dc1.", "dc2.orders"} {
		if got, ok := dc1.Source(other); ok {
			t.Errorf("%s is taken for the copy of %s", other, got)
		}
	}
}

func TestNamingByTemplate(t *testing.T) {
	n := flow.Naming{Template: "dr.${topic}.copy"}
	if got := n.Destination("orders"); got != "dr.orders.copy" {
		t.Errorf("got %s, want dr.orders.copy", got)
	}
	if got, ok := n.Source("dr.orders.copy"); !ok || got != "orders" {
		t.Errorf("got %s, %v, want orders", got, ok)
	}
	for _, other := range []string{"dr.orders", "orders.copy", "dr..copy", "dr.copy"} {
		if got, ok := n.Source(other); ok {
			t.Errorf("%s is taken for the copy of %s", other, got)
		}
	}
}

func TestNamingsThatAreRefused(t *testing.T) {
	for naming, want := range map[flow.Naming]string{
		{Template: "dr"}:                      "has not one place for the name",
		{Template: "${topic}${topic}"}:        "has not one place for the name",
		{Template: "a b ${topic}"}:            "cannot be part of a topic's name",
		{Template: "_${topic}"}:               "would make internal topics",
		{Prefix: "a", Template: "b.${topic}"}: "stands beside a prefix",
		{Prefix: "a/"}:                        "cannot be part of a topic's name",
		{Template: "${topic}"}:                "",
	} {
		f := &flow.ReplicationFlow{Metadata: flow.Metadata{Name: "f"}, Spec: flow.FlowSpec{Source: "a", Destination: "b", Topics: flow.TopicSelector{
			Selector: flow.Selector{Include: []string{"*"}}, Rename: naming,
		}}}
		err := flow.Object{Kind: flow.KindReplicationFlow, Flow: f}.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", naming, err, want)
		}
	}
}

func TestDuration(t *testing.T) {
	tests := []struct {
		in   string
		want time.Duration
		text string
	}{
		{"30s", 30 * time.Second, "30s"},
		{"90s", 90 * time.Second, "1m30s"},
		{"60m", time.Hour, "1h"},
		{"1h30m", 90 * time.Minute, "1h30m"},
		{"1h0m10s", time.Hour + 10*time.Second, "1h0m10s"},
		{"10m", 10 * time.Minute, "10m"},
		{"500ms", 500 * time.Millisecond, "500ms"},
		{"0", 0, "0s"},
	}
	for _, tt := range tests {
		got, err := flow.ParseDuration(tt.in)
		if err != nil || got.Std() != tt.want || got.String() != tt.text {
			t.Errorf("%s: got %s, %v, want %s", tt.in, got, err, tt.text)
		}
	}
	for _, bad := range []string{"", "10", "ten", "-1s", "1d", "1_0s"} {
		if got, err := flow.ParseDuration(bad); err == nil {
			t.Errorf("%q is read as %s", bad, got)
		}
	}
}

func TestSecret(t *testing.T) {
	for _, good := range []string{"${env:A_B}", "${file:/run/secrets/x y}", "${file:ca.pem}"} {
		if got, err := flow.ParseSecret(good); err != nil || string(got) != good {
			t.Errorf("%s: got %s, %v", good, got, err)
		}
	}
	for _, bad := range []string{"", "hunter2", "$hunter2", "${hunter2}", "${env:}", "${env:9A}", "${file:}", "${vault:hunter2}", "x${env:A}", "${env:A}\n", "${env:A}${env:B}"} {
		_, err := flow.ParseSecret(bad)
		if err != flow.ErrLiteralSecret { //nolint:errorlint // the very value, so that no text is added
			t.Errorf("%q: got %v, want ErrLiteralSecret", bad, err)
		}
	}
}
