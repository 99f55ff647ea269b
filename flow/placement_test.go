package flow

import "testing"

func TestNodeSelectorMatches(t *testing.T) {
	labels := map[string]string{"disk": "fast", "tier": "a"}
	for _, c := range []struct {
		ask  map[string]string
		want bool
	}{
		{nil, true},
		{map[string]string{"disk": "fast"}, true},
		{map[string]string{"disk": "fast", "tier": "a"}, true},
		{map[string]string{"disk": "fast", "tier": "b"}, false},
		{map[string]string{"disk": ""}, false},
		{map[string]string{"gpu": "yes"}, false},
		{map[string]string{NodeLabel: "r1"}, true},
		{map[string]string{NodeLabel: "r2"}, false},
		{map[string]string{RegionLabel: "eu", RackLabel: "eu-1"}, true},
		{map[string]string{RegionLabel: "us"}, false},
		{map[string]string{RackLabel: "eu-2"}, false},
	} {
		if got := (NodeSelector{c.ask}).Matches("r1", "eu", "eu-1", labels); got != c.want {
			t.Errorf("%v: got %v, want %v", c.ask, got, c.want)
		}
	}
}
