package filter

import (
	"encoding/json"
	"testing"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"

	"github.com/waybillhq/waybill/internal/record"
)

// exprEvent is a record as expr's own evaluator is to see it.
type exprEvent struct {
	Topic       string            `expr:"topic"`
	Partition   int               `expr:"partition"`
	Offset      int64             `expr:"offset"`
	Timestamp   int64             `expr:"timestamp"`
	Key         string            `expr:"key"`
	Value       string            `expr:"value"`
	KeyIsNull   bool              `expr:"keyIsNull"`
	ValueIsNull bool              `expr:"valueIsNull"`
	Headers     map[string]string `expr:"headers"`
	JSON        any               `expr:"json"`
}

// byExpr compiles an expression with expr itself, whose optimizer changes what some
// mean: nil is in [""] by it.
func byExpr(text string) (*vm.Program, error) {
	return expr.Compile(text, expr.Env(exprEvent{}), expr.AsBool(), expr.MaxNodes(maxNodes), expr.Optimize(false))
}

// askExpr is what expr says of a record.
func askExpr(program *vm.Program, f *Filter, topic string, partition int32, r *record.Record) (bool, error) {
	env := exprEvent{
		Topic: topic, Partition: int(partition), Offset: r.Offset, Timestamp: r.Timestamp, Key: string(r.Key), Value: string(r.Value),
		KeyIsNull: r.Key == nil, ValueIsNull: r.Value == nil, Headers: map[string]string{},
	}
	for _, h := range r.Headers {
		env.Headers[h.Key] = string(h.Value)
	}
	if f.usesJSON && r.Value != nil {
		if err := json.Unmarshal(r.Value, &env.JSON); err != nil {
			return false, err
		}
	}
	out, err := expr.Run(program, env)
	if err != nil {
		return false, err
	}
	return out.(bool), nil
}

var likeExpr = []string{
	`topic == "orders"`, `topic != 'orders'`, "topic == `orders`", `partition + 1 == 4`, `partition / 2 == 1.5`, `7 / 2 > 3`, `2 ** 3 ** 2 == 512`, `2 ^ 3 == 8.0`,
	`-2 ** 2 == 4`, `-offset < 0`, `+offset == 7`, `offset % 2 == 1`, `not (offset == 7)`, `!keyIsNull and not valueIsNull`, `keyIsNull || valueIsNull or offset == 7`,
	`1 < offset < 10`, `10 > offset >= 7 > 1`, `offset == 7.0`, `1 + 2 * 3 == 7`, `(1 + 2) * 3 == 9`, `0x1F == 31`, `0b101 == 5`, `0o17 == 15`, `1_000 == 1000`, `1e3 == 1000`, `.5 == 0.5`,
	`key in ["k1", "k2"]`, `key not in ["k1"]`, `not (key in [])`, `offset in [1, 7.0]`, `json.amount in [120]`, `"a" in json.tags`, `"amount" in json`, `"x" in json.none`, `json.amount not in [1, "a"]`,
	`key matches "^k[0-9]$"`, `key not matches "x"`, `json.note matches "x"`, `json.note contains "x"`, `value contains "amount"`, `value not contains "none"`, `key startsWith "k"`, `key endsWith "1"`, `key not startsWith "k"`,
	`headers["region"] == "eu"`, `headers.region == "eu"`, `headers["none"] == ""`, `"empty" in headers`, `headers?.region == "eu"`, `headers[key] == ""`, `headers["region"] in ["eu", "us"]`,
	`json.customer.name == "Ann"`, `json.customer?.name == "Ann"`, `json["customer"]["name"] == "Ann"`, `json.customer.none == nil`, `json.note?.text.more == nil`, `json?.note?.text == nil`, `json.none?.["x"] == nil`, `json.note.text == nil`, `json.amount.x == 1`,
	`(json.none ?? 0) == 0`, `(json.amount ?? 0) > 100`, `json.none ?? json.note ?? true`, `json.note > 3`, `json.amount > "a"`, `json.amount == "120"`, `json.tags == ["a", "b"]`, `json.customer == json.customer`, `json.tags[0] == "a"`, `json.tags[-1] == "b"`, `json.tags[2] == "b"`,
	`json.tags[0:1] == ["a"]`, `json.tags[:] == json.tags`, `key[0:1] == "k"`, `key[-1:] == "1"`, `key[5:9] == ""`, `key[:1] + "x" == "kx"`, `value[2:1] == ""`, `json.amount[0] == 1`, `json.tags["a"] == 1`,
	`any(json.lines, .sku == "b")`, `all(json.lines, #.sku in ["a", "b"])`, `none(json.lines, {.sku == "c"})`, `one(json.lines, .sku == "a")`, `count(json.lines, .sku != "a") == 1`, `count(json.flags) == 2`, `count(json.tags) == 2`, `any([], true)`, `all([], false)`, `none([], true)`, `one([1, 2], # > 0)`,
	`any(json.amount, true)`, `any(json.tags, #)`, `json.tags | any(# == "b")`, `json.flags | count() == 2`, `any([1, 2, 3], # == offset - 4)`, `all(json.lines, .n?.m == nil)`,
	`len(key) == 2`, `len("äö") == 2`, `len(json.tags) == 2`, `len(json.customer) == 1`, `len(headers) == 2`, `len(json.note) == 0`, `lower("ABC") == "abc"`, `upper(key) == "K1"`, `key | upper() == "K1"`, `trim("  a ") == "a"`, `trim("xax", "x") == "a"`, `trimPrefix(key, "k") == "1"`, `trimPrefix(" a") == "a"`, `trimSuffix("ab", "b") == "a"`,
	`indexOf(key, "1") == 1`, `lastIndexOf("aXbX", "X") == 3`, `indexOf(key, "z") == -1`, `int("12") == 12`, `int(json.amount) == 120`, `int("x") == 1`, `int(7.9) == 7`, `float("1.5") == 1.5`, `float(partition) == 3.0`, `string(partition) == "3"`, `string(json.amount) == "120"`, `string(true) == "true"`, `string(1.5e30) == "1.5e+30"`, `string(0.00001) == "1e-05"`, `string(nil) == "<nil>"`, `string(json.big) == "1e+21"`,
	`type(key) == "string"`, `type(json.amount) == "float"`, `type(json.tags) == "array"`, `type(json.note) == "nil"`, `type(json) == "map"`, `type(offset) == "int"`, `type(true) == "bool"`, `abs(-3) == 3`, `abs(-1.5) == 1.5`, `abs(json.amount) == 120`, `abs(json.note) == 1`,
	`offset > 3 ? key == "k1" : false`, `keyIsNull ? false : json.amount > 100`, `keyIsNull ?: true`, `(offset > 3 ? 1 : "x") == 1`, `json.amount ? true : false`, `json.note`, `json.none`, `json.amount`, `json.note && true`, `json.none in ["", "a"]`, `any(json.tags, #index == 1)`, `true || json.note`, `not json.note`,
	`key == "k1" /* of the first */ && true // always`, `key + string(offset) == "k17"`, `json.amount + 1 == 121`, `json.customer.name + "!" == "Ann!"`, `json.amount + "x" == ""`, `json.note + 1 == 1`, `key < "k2"`, `"\u0041\x42\n" == "AB\n"`, `"it" == 'it'`,
	`json.amount % 2 == 0`, `offset % 0 == 1`, `offset - 7 == 0`, `offset * 2.5 == 17.5`, `json.matches == 1`, `json.in == 2`, `topic in {"orders": 1}`, `let x = 1; x == 1`, `filter(json.tags, true) == []`,
}

func likeExprRecords() []*record.Record {
	return []*record.Record{
		{
			Offset: 7, Timestamp: 1700000000000, Key: []byte("k1"),
			Value:   []byte(`{"amount": 120, "big": 1e21, "lines": [{"sku": "a"}, {"sku": "b"}], "note": null, "tags": ["a", "b"], "flags": [true, false, true], "customer": {"name": "Ann"}, "matches": 1, "in": 2}`),
			Headers: []record.Header{{Key: "region", Value: []byte("us")}, {Key: "region", Value: []byte("eu")}, {Key: "empty"}},
		},
		{Key: []byte("k2")},
		{Value: []byte(`[1, "a", {"b": [true]}]`)},
		{Value: []byte("not json\xff")},
	}
}

// same compares what both say of a record; whatever expr cannot answer is not compared.
func same(t *testing.T, text string, ours *Filter, theirs *vm.Program, r *record.Record) {
	want, wantErr := askExpr(theirs, ours, "orders", 3, r)
	got, gotErr := ours.Match("orders", 3, r)
	if (gotErr == nil) != (wantErr == nil) || gotErr == nil && got != want {
		t.Errorf("%s of %q: %v %v, expr says %v %v", text, r.Value, got, gotErr, want, wantErr)
	}
}

// TestLikeExpr: an expression means here what it means to expr.
func TestLikeExpr(t *testing.T) {
	refused := 0
	for _, text := range likeExpr {
		ours, err := Compile(text)
		if err != nil {
			t.Logf("refused: %v: %v", text, err)
			refused++
			continue
		}
		theirs, err := byExpr(text)
		if err != nil {
			t.Errorf("%s is refused by expr: %v", text, err)
			continue
		}
		for _, r := range likeExprRecords() {
			same(t, text, ours, theirs, r)
		}
	}
	if refused != 4 { // #index, a map, a variable, filter
		t.Errorf("%d expressions are refused", refused)
	}
}

// FuzzLikeExpr: whatever is accepted means what it means to expr, unless expr has no
// answer.
func FuzzLikeExpr(f *testing.F) {
	for _, text := range likeExpr {
		f.Add(text)
	}
	records := likeExprRecords()
	f.Fuzz(func(t *testing.T, text string) {
		ours, err := Compile(text)
		if err != nil {
			return
		}
		theirs, err := byExpr(text)
		if err != nil {
			return
		}
		for _, r := range records {
			want, wantErr := askExpr(theirs, ours, "orders", 3, r)
			got, gotErr := ours.Match("orders", 3, r)
			if gotErr == nil && wantErr == nil && got != want {
				t.Errorf("%s of %q: %v, expr says %v", text, r.Value, got, want)
			}
		}
	})
}
