// Command openlineage prints OpenLineage events as lineage/export makes them of graphs
// of many shapes, one a line, for openlineage.sh to hold against the official client.
package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/lineage/export"
)

func main() {
	enc := json.NewEncoder(os.Stdout)
	for _, g := range graphs() {
		for _, server := range []func(string) string{nowhere, loopback} {
			for _, e := range export.OpenLineage(g, server) {
				if err := enc.Encode(e); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
			}
		}
	}
}

func nowhere(string) string  { return "" }
func loopback(string) string { return "[::1]:9092" }

// graphs have a copying for each way in which one can differ from another: names at
// the limits of Kafka's, no fleet, several destinations and sources, what is redacted
// or has not begun, counts at both ends, times of any precision and zone.
func graphs() []*lineage.Graph {
	at := time.Date(2026, 2, 28, 23, 59, 59, 0, time.UTC)
	var all []*lineage.Graph
	for _, name := range []string{"orders", "a", "_.-", fmt.Sprintf("%0249d", 7)} {
		for _, fleet := range []string{"", "prod"} {
			for _, when := range []time.Time{at, at.Add(time.Nanosecond), at.Add(123 * time.Millisecond), at.In(time.FixedZone("", -9*3600-1800)), time.UnixMilli(1)} {
				for _, records := range []int64{0, 1, math.MaxInt64} {
					all = append(all, &lineage.Graph{
						Topics: []lineage.TopicNode{topic("us", name), topic("eu", name), topic("ap", "us."+name), {Redacted: true}},
						Copies: []lineage.TopicCopy{
							{From: 0, To: 1, Flow: "f", Fleet: fleet, Partitions: []lineage.PartitionCopy{{Records: records, Bytes: records, LastAt: when}}},
							{From: 1, To: 2, Flow: "g.h", Fleet: fleet, Partitions: []lineage.PartitionCopy{{}, {Records: records, LastAt: when}}},
							{From: 0, To: 2, Flow: "not-begun", Fleet: fleet, Partitions: []lineage.PartitionCopy{{}}},
							{From: 2, To: 3},
						},
					})
				}
			}
		}
	}
	return all
}

func topic(cluster, name string) lineage.TopicNode {
	return lineage.TopicNode{Cluster: cluster, ClusterID: "63kvvtfGQCmCJCely6x4Rg", Topic: name, TopicID: "OuDOQLFaTLqnrLU4-IW35w"}
}
