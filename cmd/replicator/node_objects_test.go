package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/cluster"
)

// A revision stands for what was seen with it: an answer to a change must not have that
// of somebody else's later one.
func TestAPutIsAnsweredWithWhatWasPut(t *testing.T) {
	const key = "Cluster/us"
	mine, theirs := json.RawMessage(`{"n":"mine"}`), json.RawMessage(`{"n":"theirs"}`)
	for name, c := range map[string]struct {
		now  map[string]cluster.Object
		put  uint64 // the list's revision then
		want uint64
	}{
		"it is there as put":               {map[string]cluster.Object{key: {Revision: 7, Spec: mine}}, 7, 7},
		"it was the same already":          {map[string]cluster.Object{key: {Revision: 4, Spec: mine}}, 7, 4},
		"somebody has changed it since":    {map[string]cluster.Object{key: {Revision: 8, Spec: theirs}}, 7, 7},
		"somebody has deleted it since":    {nil, 7, 7},
		"others have changed others since": {map[string]cluster.Object{key: {Revision: 7, Spec: mine}, "Cluster/eu": {Revision: 9}}, 7, 7},
	} {
		got := asPut(key, cluster.Object{Revision: c.put, Spec: mine}, &cluster.State{Objects: c.now})
		if got.Kind != "Cluster" || got.Name != "us" || got.Revision != c.want || string(got.Object) != string(mine) {
			t.Errorf("%s: got revision %d, %s", name, got.Revision, got.Object)
		}
	}
}

func TestPreconditionsOfObjects(t *testing.T) {
	s := newSolo(t)
	const us = "/api/v1/objects/Cluster/us"
	for method, body := range map[string]string{"PUT": clusterYAML("us", "a:1"), "DELETE": ""} {
		r := s.call("ops", method, us, body, "*")
		if p := r.problem(t); r.status != 412 || p.Conflict == nil || p.Conflict.Object != "Cluster/us" || p.Detail != "Cluster/us is not there" {
			t.Errorf("%s of any that is there, and none is: got %d %s", method, r.status, r.text)
		}
	}
	if n := len(s.fleet.State().Objects); n != 0 {
		t.Fatalf("%d objects were made", n)
	}
	for i, match := range []string{"", "*", `"1", W/"2", %s`, `%s, "999999"`} {
		match = strings.ReplaceAll(match, "%s", s.call("ops", "GET", us, "", "").etag)
		if r := s.call("ops", "PUT", us, clusterYAML("us", fmt.Sprintf("a:%d", i+1)), match); r.status != 200 {
			t.Errorf("PUT with %s: got %d %s", match, r.status, r.text)
		}
	}
	r := s.call("eve", "PUT", us, clusterYAML("us", "b:1"), `"999998", "999999"`)
	if p := r.problem(t); r.status != 412 || p.Conflict == nil || p.Conflict.Expected != 999998 || !strings.Contains(p.Detail, "not 999998 or 999999: ops did put-object") {
		t.Errorf("none of several: got %d %s", r.status, r.text)
	}
	if r := s.call("ops", "POST", "/api/v1/apply", clusterYAML("eu", "a:1"), "*"); r.status != 200 {
		t.Errorf("the list is always there: got %d %s", r.status, r.text)
	}
	if r := s.call("ops", "DELETE", us, "", "*"); r.status != 204 {
		t.Errorf("DELETE: got %d %s", r.status, r.text)
	}
}
