package flow

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// ChangeKind is what happens to a value.
type ChangeKind byte

// The kinds of change, as they are printed.
const (
	Added   ChangeKind = '+'
	Changed ChangeKind = '~'
	Removed ChangeKind = '-'
)

// Change is one difference between two versions of an object.
type Change struct {
	Kind ChangeKind
	Path string // "spec.groups.interval"; "" for the object itself
	From string // "" if Added
	To   string // "" if Removed
}

// String is one line: "~ spec.start: earliest -> latest".
func (c Change) String() string {
	value := c.From + c.To
	if c.Kind == Changed {
		value = c.From + " -> " + c.To
	}
	if c.Path == "" {
		return fmt.Sprintf("%c %s", c.Kind, value)
	}
	return fmt.Sprintf("%c %s: %s", c.Kind, c.Path, value)
}

// Diff says what changes when have becomes want, in the order of the object's
// keys; a nil object is one that does not exist. Lists of patterns, servers and
// principals are compared as sets of items, steps by their id.
func Diff(have, want *Object) []Change {
	var out []Change
	switch {
	case have == nil && want == nil:
		return nil
	case have == nil:
		out = append(out, Change{Kind: Added, To: want.Key()})
	case want == nil:
		return []Change{{Kind: Removed, From: have.Key()}}
	}
	was, is := flatten(have), flatten(want)
	old := map[string]string{}
	for _, v := range was {
		old[v.path] = v.text
	}
	current := map[string]bool{}
	for _, v := range is {
		current[v.path] = true
		from, existed := old[v.path]
		switch {
		case !existed:
			out = append(out, Change{Kind: Added, Path: v.shown, To: v.text})
		case from != v.text:
			out = append(out, Change{Kind: Changed, Path: v.shown, From: from, To: v.text})
		}
	}
	for _, v := range was {
		if !current[v.path] {
			out = append(out, Change{Kind: Removed, Path: v.shown, From: v.text})
		}
	}
	return out
}

// leaf is one value of an object. Items of lists have the value in their path, so
// that inserting one does not change all behind it.
type leaf struct{ path, shown, text string }

func flatten(o *Object) []leaf {
	if o == nil || o.body() == nil {
		return nil
	}
	var out []leaf
	walk(reflect.ValueOf(o.body()).Elem(), "", &out)
	return out
}

func walk(v reflect.Value, path string, out *[]leaf) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			if e := v.Elem(); e.Kind() == reflect.Struct && e.IsZero() {
				*out = append(*out, leaf{path, path, "{}"})
			}
			walk(v.Elem(), path, out)
		}
	case reflect.Struct:
		for _, f := range fieldsOf(v) {
			if f.required || !f.value.IsZero() {
				walk(f.value, join(path, f.key), out)
			}
		}
	case reflect.Map:
		m := v.Interface().(map[string]string)
		for _, key := range slices.Sorted(maps.Keys(m)) {
			at := join(path, key)
			*out = append(*out, leaf{at, at, scalarText(m[key])})
		}
	case reflect.Slice:
		walkList(v, path, out)
	default:
		*out = append(*out, leaf{path, path, scalarText(v.Interface())})
	}
}

func walkList(v reflect.Value, path string, out *[]leaf) {
	order := make([]string, 0, v.Len())
	for i := range v.Len() {
		if step, ok := v.Index(i).Interface().(Step); ok {
			walk(v.Index(i), fmt.Sprintf("%s[%s]", path, step.ID), out)
			order = append(order, step.ID)
			continue
		}
		if v.Index(i).Kind() == reflect.Struct { // rules, which go by their place
			walk(v.Index(i), fmt.Sprintf("%s[%d]", path, i), out)
			continue
		}
		text := scalarText(v.Index(i).Interface())
		*out = append(*out, leaf{path + "[" + text + "]", path, text})
	}
	if len(order) > 1 { // the order of steps is their meaning
		*out = append(*out, leaf{path + " order", path, strings.Join(order, ", ")})
	}
}

// scalarText quotes a text where it would be misread.
func scalarText(v any) string {
	s := fmt.Sprint(v)
	if _, ok := v.(string); ok && (s == "" || strings.ContainsAny(s, " ,:\"") || strconv.Quote(s) != `"`+s+`"`) {
		return strconv.Quote(s)
	}
	return s
}
