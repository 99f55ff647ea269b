package mask

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"unicode/utf8"
)

func rule(t testing.TB, path, how string) *Rule {
	t.Helper()
	r := &Rule{}
	if path != "" {
		p, err := ParsePath(path)
		if err != nil {
			t.Fatal(err)
		}
		r.Path = p
	}
	switch how {
	case "hash":
		r.Key = []byte("secret")
	case "remove":
	default:
		r.Replace = &how
	}
	return r
}

func TestApply(t *testing.T) {
	for _, c := range []struct{ path, how, text, want string }{
		{"a", "x", `{"a":1,"b":2}`, `{"a":"x","b":2}`},
		{"a", "x", ` { "b" : 1.000 , "a" : {"a": [1, 2]} } `, ` { "b" : 1.000 , "a" : "x" } `},
		{"a", `q"`, `{"a":null}`, `{"a":"q\""}`},
		{"a.b", "x", `{"b":1,"a":{"b":2,"c":{"b":3}}}`, `{"b":1,"a":{"b":"x","c":{"b":3}}}`},
		{"a.b", "x", `{"a":[{"b":1},[{"b":2}],3,{"c":4}]}`, `{"a":[{"b":"x"},[{"b":"x"}],3,{"c":4}]}`},
		{"a", "x", `[{"a":1},{"a":2}]`, `[{"a":"x"},{"a":"x"}]`},
		{"*.b", "x", `{"k":{"b":1},"l":{"b":2}}`, `{"k":{"b":"x"},"l":{"b":"x"}}`},
		{`\*`, "x", `{"*":1,"b":2}`, `{"*":"x","b":2}`},
		{`a\.b`, "x", `{"a.b":1,"a":{"b":2}}`, `{"a.b":"x","a":{"b":2}}`},
		{"a", "x", `{"\u0061":1,"a":2,"A":3}`, `{"\u0061":"x","a":"x","A":3}`},
		{"a", "x", `{"b":1}`, `{"b":1}`},
		{"a.b", "x", `{"a":"b"}`, `{"a":"b"}`},
		{"a", "x", `"a"`, `"a"`},
		{"a", "x", `{}`, `{}`},
		{"a", "remove", `{"a":1}`, `{}`},
		{"a", "remove", `{"a":1,"b":2}`, `{"b":2}`},
		{"a", "remove", `{"b":2,"a":1}`, `{"b":2}`},
		{"a", "remove", `{"b":2, "a":1, "c":3}`, `{"b":2, "c":3}`},
		{"a", "remove", `{ "a":1 , "a":2 , "c":3 }`, `{"c":3 }`},
		{"a", "remove", `{"b":0,"a":1,"a":2}`, `{"b":0}`},
		{"a", "remove", `{"a":{"x":"}"},"c":{"a":1}}`, `{"c":{"a":1}}`},
		{"c.a", "remove", `{"a":{"x":"}\""},"c":{"a":1},"d":[]}`, `{"a":{"x":"}\""},"c":{},"d":[]}`},
		{"*", "remove", `{"a":1,"b":[2]}`, `{}`},
		{"", "x", "anything", "x"},
		{"", "x", "", "x"},
	} {
		got, err := rule(t, c.path, c.how).Apply([]byte(c.text))
		if err != nil || string(got) != c.want {
			t.Errorf("%s %s of %s: %s, %v, want %s", c.how, c.path, c.text, got, err, c.want)
		}
	}
}

func TestHash(t *testing.T) {
	r := rule(t, "a", "hash")
	hash := func(text string) string {
		t.Helper()
		b, err := r.Apply([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var v struct{ A string }
		if err := json.Unmarshal(b, &v); err != nil || len(v.A) != 64 {
			t.Fatalf("%s: %v", b, err)
		}
		return v.A
	}
	// As printf x | openssl dgst -sha256 -hmac secret has it.
	if got, want := hash(`{"a":"x"}`), "117eca332f7e13ccb8e4574e4f33daa212a9231353670c2b8b4797df0bb77afa"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if hash(`{"a":"x"}`) != hash(`{"a":"\u0078"}`) {
		t.Error("equal texts have other hashes")
	}
	if hash(`{"a":"x"}`) == hash(`{"a":"y"}`) || hash(`{"a":1}`) == hash(`{"a":2}`) {
		t.Error("other values have equal hashes")
	}
	whole, err := rule(t, "", "hash").Apply([]byte("x"))
	if err != nil || string(whole) != hash(`{"a":"x"}`) {
		t.Errorf("%s, %v: a whole text has another hash than the field that says the same", whole, err)
	}
}

func TestWhatCannotBeMasked(t *testing.T) {
	for _, text := range []string{"", "x", `{"a":1`, `{"a":1}{"a":2}`, `{a:1}`, "\xef\xbb\xbf{}", `{"a":NaN}`, "{\"a\":\"\n\"}"} {
		if got, err := rule(t, "a", "x").Apply([]byte(text)); !errors.Is(err, ErrNotJSON) || got != nil {
			t.Errorf("%q: %q, %v, want ErrNotJSON", text, got, err)
		}
	}
	for _, how := range []string{"x", "hash", "remove"} {
		for _, path := range []string{"", "a"} {
			if got, err := rule(t, path, how).Apply(nil); got != nil || err != nil {
				t.Errorf("null: %q, %v", got, err)
			}
		}
	}
	if got, err := rule(t, "", "remove").Apply([]byte("x")); got != nil || err != nil {
		t.Errorf("removed: %q, %v, want null", got, err)
	}
}

func TestParsePath(t *testing.T) {
	for text, want := range map[string]Path{
		"a": {"a"}, "a.b c": {"a", "b c"}, `a\.b.c`: {"a.b", "c"}, `*`: {"*"}, `\*`: {`\*`}, `a\\b`: {`a\b`}, `a*`: {"a*"}, `a\*`: {"a*"},
		"": nil, ".": nil, "a.": nil, "a..b": nil, `a\b`: nil, `a\`: nil,
	} {
		got, err := ParsePath(text)
		if !reflect.DeepEqual(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
}

// model is what the rule makes of a decoded value.
func model(v any, path Path, r *Rule) any {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			switch {
			case !path.matches([]byte(name)):
			case len(path) > 1:
				v[name] = model(member, path[1:], r)
			case r.removes():
				delete(v, name)
			default:
				v[name] = *r.Replace
			}
		}
	case []any:
		for i := range v {
			v[i] = model(v[i], path, r)
		}
	}
	return v
}

// FuzzApply compares the masked text with a masked value.
func FuzzApply(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":[{"a":2},{"c":{"a":3}}],"\u0061":4}`), "a", false)
	f.Add([]byte(` { "b" : {"a" : 1 , "c": "}\"," } , "a":[ ] } `), "b.a", true)
	f.Add([]byte(`[[{"x":{"y":{"z":null}}}],-1.5e3,true]`), "*.y", true)
	f.Fuzz(func(t *testing.T, text []byte, where string, remove bool) {
		path, err := ParsePath(where)
		if err != nil || !utf8.Valid(text) { // what is not UTF-8 has no one name
			return
		}
		x := "x"
		r := &Rule{Path: path, Replace: &x}
		if remove {
			r.Replace = nil
		}
		before := string(text)
		got, err := r.Apply(text)
		if string(text) != before {
			t.Fatal("the text was changed in place")
		}
		if err != nil {
			if json.Valid(text) && text != nil {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if text == nil {
			return
		}
		var have, want any
		if err := json.Unmarshal(text, &want); err != nil {
			return // valid, and too large a number for a float
		}
		want = model(want, path, r)
		if err := json.Unmarshal(got, &have); err != nil {
			t.Fatalf("%q became %q: %v", text, got, err)
		}
		if !reflect.DeepEqual(have, want) {
			t.Fatalf("%q became %q", text, got)
		}
	})
}
