package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/raftnode"
	"github.com/waybillhq/waybill/mirror"
)

// However many lanes a fleet had, a command that takes some of them up fits into the
// log, and only the last says that it is.
func TestRecalls(t *testing.T) {
	for _, n := range []int{0, 1, lanesAtOnce, lanesAtOnce + 1, 10_000} {
		var found []mirror.FoundLane
		for i := range n {
			f := mirror.FoundLane{Node: strings.Repeat("n", 63), Incarnation: 1<<64 - 1}
			f.ClusterID = strings.Repeat("c", 100)
			f.TransactionalID = fmt.Sprintf("waybill.%s.%s.%d.%s.%d", strings.Repeat("f", 32), f.Node, f.Incarnation, f.ClusterID, i)
			f.ProducerID = 1<<63 - 1
			found = append(found, f)
		}
		seen := 0
		all := recalls("c", found)
		for i, c := range all {
			b, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > raftnode.MaxCommand*3/4 {
				t.Errorf("%d lanes: a command of %d bytes", n, len(b))
			}
			if c.Done != (i == len(all)-1) || c.ClusterID != "c" {
				t.Errorf("%d lanes: command %d of %d is for %s, the last: %v", n, i, len(all), c.ClusterID, c.Done)
			}
			for _, l := range c.Lanes {
				if f := found[seen]; l.ID != f.TransactionalID || l.ClusterID != f.ClusterID || l.ProducerID != f.ProducerID || l.Node != f.Node || l.Incarnation != f.Incarnation {
					t.Fatalf("lane %d became %+v", seen, l)
				}
				seen++
			}
		}
		if seen != n {
			t.Errorf("%d lanes of %d", seen, n)
		}
	}
}
