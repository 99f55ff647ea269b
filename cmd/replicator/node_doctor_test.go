package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/doctor"
)

// A fleet in which somebody takes over gives no warning for the number of its nodes: of four
// one stands by, and workers never vote.
func TestTheDoctorJudgesHowManyNodesThereAre(t *testing.T) {
	for n, want := range map[int]string{1: "join two more", 2: "join a third", 3: "", 4: "", 5: "", 6: "", 9: ""} {
		s := &cluster.State{Members: map[string]cluster.Member{}}
		for i := range n {
			s.Members[fmt.Sprint("r", i)] = cluster.Member{}
		}
		all := memberFindings(s, cluster.FleetStatus{})
		f := all[len(all)-1]
		if (f.Level == doctor.OK) != (want == "") || f.ToDo != want || !strings.Contains(f.Found, "node") {
			t.Errorf("%d nodes: %+v", n, f)
		}
	}
}
