package acl_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/acl"
)

func TestParseRule(t *testing.T) {
	tests := []struct {
		in   string
		want acl.Rule
		text string // if it is not in
	}{
		{
			"User:alice Allow Read Topic:orders* from *",
			acl.Rule{acl.Topic, "orders", acl.Prefixed, "User:alice", "*", acl.Read, acl.Allow},
			"",
		},
		{
			"User:* deny ALL topic:* ",
			acl.Rule{acl.Topic, "*", acl.Literal, "User:*", "*", acl.All, acl.Deny},
			"User:* Deny All Topic:* from *",
		},
		{
			`"User:CN=a b,OU=\"x\"" Allow describe_configs GROUP:g from ::1`,
			acl.Rule{acl.Group, "g", acl.Literal, `User:CN=a b,OU="x"`, "::1", acl.DescribeConfigs, acl.Allow},
			`"User:CN=a b,OU=\"x\"" Allow DescribeConfigs Group:g from ::1`,
		},
		{
			`User:a Allow Write TransactionalId:a\*b\\* from 10.0.0.1`,
			acl.Rule{acl.TransactionalID, `a*b\`, acl.Prefixed, "User:a", "10.0.0.1", acl.Write, acl.Allow},
			"",
		},
		{
			"User:a Allow ClusterAction Cluster:kafka-cluster from *",
			acl.Rule{acl.Cluster, "kafka-cluster", acl.Literal, "User:a", "*", acl.ClusterAction, acl.Allow},
			"",
		},
		{
			`User:a Allow Read "Group:my group\x00*" from *`,
			acl.Rule{acl.Group, "my group\x00", acl.Prefixed, "User:a", "*", acl.Read, acl.Allow},
			"",
		},
	}
	for _, tt := range tests {
		got, err := acl.ParseRule(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParseRule(%s): got %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
		text := tt.text
		if text == "" {
			text = tt.in
		}
		if got.String() != text {
			t.Errorf("String: got %s, want %s", got, text)
		}
	}
}

func TestParseRuleRefuses(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", "want <principal>"},
		{"User:a Allow Read Topic:t by *", "want <principal>"},
		{"alice Allow Read Topic:t", "not of the form User:name"},
		{"User:a Permit Read Topic:t", `"Permit" is not a known permission`},
		{"User:a Any Read Topic:t", "permission Any cannot be in a rule"},
		{"User:a Allow Consume Topic:t", `"Consume" is not a known operation`},
		{"User:a Allow Any Topic:t", "operation Any cannot be in a rule"},
		{"User:a Allow Read Queue:t", `"Queue" is not a known resource type`},
		{"User:a Allow Read Any:t", "resource type Any cannot be in a rule"},
		{"User:a Allow Read topic", "not of the form Topic:name"},
		{"User:a Allow Read Topic:", "the resource name is empty"},
		{"User:a Allow Read Topic:a*b", `a star stands at the end only; write \* for a star in the name`},
		{`User:a Allow Read Topic:a\b`, "a backslash escapes"},
		{"User:a Allow Alter Cluster:prod", `the only name of a cluster is "kafka-cluster"`},
		{"User:a Allow Write Group:g", "operation Write is never asked of a Group: it has Read, Delete"},
		{"User:a Deny Read Topic:t from db1.example.com", "hosts are not looked up"},
		{`"User:a Allow Read Topic:t`, "a double quote is not closed"},
		{`"User:a"x Allow Read Topic:t`, "a space must follow"},
	}
	for _, tt := range tests {
		_, err := acl.ParseRule(tt.in)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, acl.ErrInvalid) {
			t.Errorf("ParseRule(%s): got %v, want %q", tt.in, err, tt.want)
		}
	}
}

func TestValidateListsEveryFault(t *testing.T) {
	err := acl.Rule{}.Validate()
	if err == nil {
		t.Fatal("the zero rule is valid")
	}
	for _, want := range []string{"resource type", "pattern type", "name is empty", "principal", "host is empty", "operation", "permission"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want also %q", err, want)
		}
	}
}

func TestRuleJSON(t *testing.T) {
	r := rules(t, "User:a Allow Write TransactionalId:a*")[0]
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"resourceType":"TransactionalId","resourceName":"a","patternType":"Prefixed","principal":"User:a","host":"*","operation":"Write","permission":"Allow"}`
	if got := string(b); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var back acl.Rule
	if err := json.Unmarshal(b, &back); err != nil || back != r {
		t.Errorf("got %+v, %v, want %+v", back, err, r)
	}
	if err := json.Unmarshal([]byte(`{"operation":"Fly"}`), &back); err == nil {
		t.Error("an unknown operation is read")
	}
}

func TestFilter(t *testing.T) {
	all := rules(t,
		"User:alice Allow Read Topic:orders",
		"User:alice Allow Read Topic:ord*",
		"User:bob Deny Write Topic:*",
		"User:alice Allow Read Group:orders from 10.0.0.1",
	)
	str := func(s string) *string { return &s }
	with := func(change func(*acl.Filter)) acl.Filter {
		f := acl.AnyRule()
		change(&f)
		return f
	}
	tests := []struct {
		name string
		f    acl.Filter
		want string // indexes in all
	}{
		{"any", acl.AnyRule(), "0123"},
		{"type", with(func(f *acl.Filter) { f.ResourceType = acl.Group }), "3"},
		{"any pattern compares by equality", with(func(f *acl.Filter) { f.ResourceName = str("orders") }), "03"},
		{"literal", with(func(f *acl.Filter) { f.PatternType = acl.Literal; f.ResourceName = str("orders") }), "03"},
		{"prefixed", with(func(f *acl.Filter) { f.PatternType = acl.Prefixed; f.ResourceName = str("ord") }), "1"},
		{"prefixed is not a match", with(func(f *acl.Filter) { f.PatternType = acl.Prefixed; f.ResourceName = str("orders") }), ""},
		{"every prefixed", with(func(f *acl.Filter) { f.PatternType = acl.Prefixed }), "1"},
		{"match", with(func(f *acl.Filter) { f.PatternType = acl.Match; f.ResourceName = str("orders") }), "0123"},
		{"match of another name", with(func(f *acl.Filter) { f.PatternType = acl.Match; f.ResourceName = str("order") }), "12"},
		{"match without a name", with(func(f *acl.Filter) { f.PatternType = acl.Match }), "0123"},
		{"principal", with(func(f *acl.Filter) { f.Principal = str("User:bob") }), "2"},
		{"host", with(func(f *acl.Filter) { f.Host = str("*") }), "012"},
		{"operation", with(func(f *acl.Filter) { f.Operation = acl.Write }), "2"},
		{"permission", with(func(f *acl.Filter) { f.Permission = acl.Deny }), "2"},
	}
	for _, tt := range tests {
		if err := tt.f.Validate(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		got := ""
		for i, r := range all {
			if tt.f.Matches(r) {
				got += string(rune('0' + i))
			}
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		if n := len(acl.NewSet(all, nil).Matching(tt.f)); n != len(tt.want) {
			t.Errorf("%s: Matching: got %d, want %d", tt.name, n, len(tt.want))
		}
	}
	for _, bad := range []acl.Filter{{}, with(func(f *acl.Filter) { f.Operation = 16 }), with(func(f *acl.Filter) { f.PatternType = -1 })} {
		if err := bad.Validate(); !errors.Is(err, acl.ErrInvalid) {
			t.Errorf("%+v: got %v, want ErrInvalid", bad, err)
		}
	}
}

func FuzzParseRule(f *testing.F) {
	f.Add("User:alice Allow Read Topic:orders* from *")
	f.Add(`"User:CN=a b" Deny All Group:\*x\\* from ::1`)
	f.Fuzz(func(t *testing.T, s string) {
		r, err := acl.ParseRule(s)
		if err != nil {
			return
		}
		if again, err := acl.ParseRule(r.String()); err != nil || again != r {
			t.Fatalf("%q: %+v prints as %q, which reads as %+v, %v", s, r, r, again, err)
		}
	})
}
