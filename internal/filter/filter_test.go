package filter

import (
	"errors"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/record"
)

func TestMatch(t *testing.T) {
	order := &record.Record{
		Offset: 7, Timestamp: 1700000000000, Key: []byte("k1"), Value: []byte(`{"amount": 120, "lines": [{"sku": "a"}, {"sku": "b"}], "note": null}`),
		Headers: []record.Header{{Key: "region", Value: []byte("us")}, {Key: "region", Value: []byte("eu")}, {Key: "empty"}},
	}
	tombstone := &record.Record{Key: []byte("k2")}
	text := &record.Record{Value: []byte("not json\xff")}
	for _, c := range []struct {
		expr string
		r    *record.Record
		want string // yes, no, or part of the error
	}{
		{`topic == "orders" && partition == 3 && offset >= 7`, order, "yes"},
		{`timestamp > 1700000000000`, order, "no"},
		{`key startsWith "k" && key != "k2"`, order, "yes"},
		{`key matches "^k[0-9]$"`, order, "yes"},
		{`headers["region"] == "eu"`, order, "yes"},
		{`headers["none"] == ""`, order, "yes"},
		{`"empty" in headers && !("none" in headers)`, order, "yes"},
		{`json.amount > 100`, order, "yes"},
		{`json?.note?.text == nil`, order, "yes"},
		{`any(json.lines, .sku == "b") && len(json.lines) == 2`, order, "yes"},
		{`value contains "amount"`, order, "yes"},
		{`json.note > 3`, order, "no answer"},
		{`json.amount > 100`, text, "is none"},
		{`topic == "orders" || json.amount > 100`, text, "is none"},
		{`valueIsNull || json.amount > 100`, tombstone, "yes"},
		{`json == nil`, tombstone, "yes"},
		{`json.amount > 1`, tombstone, "no answer"},
		{`keyIsNull`, text, "yes"},
		{`json.amount`, order, "no answer"},
	} {
		f, err := Compile(c.expr)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		for range 2 { // nothing is left of the first time
			got := "no"
			yes, err := f.Match("orders", 3, c.r)
			if yes {
				got = "yes"
			}
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("%s of %s: %s, want %s", c.expr, c.r.Value, got, c.want)
			}
		}
	}
}

func TestCompileNamesThePosition(t *testing.T) {
	for _, c := range []struct {
		expr         string
		line, column int
		message      string
	}{
		{`topic = "orders"`, 1, 7, ""},
		{"topic == \"orders\" &&\n  amount > 3", 2, 3, "unknown name amount"},
		{`key + 1 == 2`, 1, 5, "invalid operation"},
		{`topic`, 1, 1, "expected bool"},
		{``, 1, 1, ""},
		{`offset in 1..1000000`, 1, 12, "ranges"},
		{`let x = key + key; x == ""`, 1, 5, "variables"},
		{`key matches value`, 1, 5, "written out"},
		{`any(json.a, any(#, # == 1))`, 1, 13, "loop within a loop"},
		{`len(map(json.a, # + 1)) > 1`, 1, 5, "map is not allowed"},
		{`repeat(key, 1000000) == ""`, 1, 1, ""},
		{`now() > date("2026-01-01")`, 1, 1, ""},
		{`$env["key"] == "x"`, 1, 1, "$env"},
		{`key matches "("`, 1, 5, "missing closing"},
		{`key == nil`, 1, 5, "keyIsNull"},
		{`amount > 3`, 1, 1, "json.amount"},
		{`key > 1`, 1, 5, "compares a string with an int"},
		{`"a" in key`, 1, 5, "contains"},
		{`key[0] == "k"`, 1, 4, "[0:1]"},
		{`key.lower() == "k"`, 1, 10, "lower(…)"},
		{`key.id == "k"`, 1, 5, "json.id"},
		{`topic in {"a": 1}`, 1, 10, "maps are not allowed"},
		{`if keyIsNull { true } else { false }`, 1, 1, "? this : that"},
		{`b"x" == key`, 1, 1, "bytes are not allowed"},
		{`# == 1`, 1, 1, "item of a list"},
		{`any(json.tags, #acc)`, 1, 16, "#acc"},
		{`lower(key, key) == ""`, 1, 1, "1 to 1 arguments"},
		{`lower(offset) == ""`, 1, 1, "wants a string, not an int"},
		{`any(key, true)`, 1, 1, "wants an array, not a string"},
		{`headers == headers`, 1, 9, "one by one"},
		{`json.a ?? 0 + 1 == 2`, 1, 13, "parentheses"},
		{`true; false`, 1, 5, "one expression"},
		{`offset == 9223372036854775808`, 1, 11, "64 bits"},
		{"key == \"é\" &&\n\tkey", 1, 12, "wants a bool"},
		{`(key == "a"`, 1, 11, "unexpected end"},
		{strings.Repeat("x", MaxText+1), 1, 1, "bytes"},
		{`key == "" ` + strings.Repeat(`|| key == "a" `, 500), 1, 1, ""},
	} {
		_, err := Compile(c.expr)
		var at *SyntaxError
		if !errors.As(err, &at) {
			t.Errorf("%.60s: %v, want a SyntaxError", c.expr, err)
			continue
		}
		if !strings.Contains(at.Message, c.message) || strings.Contains(at.Message, "\n") {
			t.Errorf("%.60s: %q, want %q", c.expr, at.Message, c.message)
		}
		if c.message != "" && (at.Line != c.line || at.Column != c.column) {
			t.Errorf("%.60s: %v, want line %d, column %d", c.expr, at, c.line, c.column)
		}
	}
}

// TestCostIsBounded: what would cost more than in proportion to the record is an error
// of the record, and what many use is not.
func TestCostIsBounded(t *testing.T) {
	items := []byte(`{"list": [` + strings.Repeat("1, ", 4_000) + `1], "text": "` + strings.Repeat("x", 12_000) + `"}`)
	joined := `"x" == value` + strings.Repeat(" + value", 400)
	for text, want := range map[string]string{
		`any(json.list, value contains "none")`:            "costs too much",
		`any(json.list, json.list == [#])`:                 "",
		`any(json.list, json.list == json.list && # == 2)`: "costs too much",
		`any(json.list, # in json.list && # == 2)`:         "",
		`any(json.list, 2 in json.list)`:                   "costs too much",
		`any(json.list, lower(json.text) == "")`:           "too much text",
		`any(json.list, [#, #, #] == [2])`:                 "",
		joined:                                             "too much text",
		`lower(value) contains "a" || upper(value) contains "b" || lower(value) contains "c"`: "",
		`count(json.list, # >= 1 && # <= 2 && # != 3) == 4001`:                                "",
	} {
		f, err := Compile(text)
		if err != nil {
			t.Errorf("%.60s: %v", text, err)
			continue
		}
		_, err = f.Match("t", 0, &record.Record{Value: items})
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", text, err, want)
		}
	}
}

// TestErrorsKeepTheRecordToThemselves: they end in logs, and in states that more
// people see than may read the topic.
func TestErrorsKeepTheRecordToThemselves(t *testing.T) {
	r := &record.Record{Key: []byte("secret"), Value: []byte(`{"a": "secret", "b": {"secret": ["secret"]}}`)}
	for _, text := range []string{
		`int(key) == 1`, `float(json.a) == 1`, `json.a > 1`, `json.b > 1`, `json.b.secret[2] == 1`, `json.a + 1 == 2`, `-json.a == 1`, `lower(json.b) == ""`, `json.a`,
		`json.a.x == 1`, `any(json.b, true)`, `key in json.a`, `json.b.secret["x"] == 1`, `json.a && true`,
	} {
		f, err := Compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if _, err = f.Match("t", 0, r); err == nil || strings.Contains(strings.ReplaceAll(err.Error(), ".secret", ""), "secret") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// FuzzFilter: no expression, and no record, makes a panic.
func FuzzFilter(f *testing.F) {
	f.Add(`json.a > 1 && any(json.b, # == "x")`, []byte(`{"a":2,"b":["x"]}`))
	f.Add(`key matches "^a" || headers["h"] == "1"`, []byte(`x`))
	f.Add(`len(value) > 3 ? offset % 2 == 0 : true`, []byte(nil))
	f.Fuzz(func(t *testing.T, text string, value []byte) {
		c, err := Compile(text)
		if err != nil {
			var at *SyntaxError
			if !errors.As(err, &at) || at.Line < 1 || at.Column < 1 {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		_, _ = c.Match("t", 0, &record.Record{Key: value, Value: value, Headers: []record.Header{{Key: "h", Value: value}}})
	})
}

func BenchmarkMatch(b *testing.B) {
	r := &record.Record{Key: []byte("k1"), Value: []byte(`{"amount": 120, "customer": {"name": "x"}}`), Headers: []record.Header{{Key: "region", Value: []byte("eu")}}}
	for _, text := range []string{`topic == "orders" && key startsWith "k"`, `headers["region"] == "eu"`, `json.amount > 100`} {
		b.Run(text, func(b *testing.B) {
			f, err := Compile(text)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if yes, err := f.Match("orders", 0, r); !yes || err != nil {
					b.Fatal(yes, err)
				}
			}
		})
	}
}
