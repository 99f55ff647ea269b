package main

import (
	"encoding/json"
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
