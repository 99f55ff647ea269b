package flow_test

import (
	"errors"
	"fmt"
	"strings"

	"github.com/waybillhq/waybill/flow"
)

// Every fault is reported at once, with its place and what to write instead.
func ExampleParse() {
	_, err := flow.Parse("flows.yaml", strings.NewReader(`
apiVersion: waybill/v1
kind: ReplicationFlow
metadata: {name: orders}
spec:
  source: dc1
  target: dc2
  topics: {include: [0123, "orders|payments"]}
  start: newest
`))
	var problems flow.Problems
	if errors.As(err, &problems) {
		for _, p := range problems {
			fmt.Println(p)
		}
	}
	// Output:
	// flows.yaml:6:3: spec.destination: is missing
	// flows.yaml:7:3: spec.target: unknown key; did you mean "destination"?
	// flows.yaml:8:28: spec.topics.include[1]: '|' means nothing in the glob "orders|payments", which has * and ? only; write a regular expression between slashes
	// flows.yaml:9:10: spec.start: "newest" is not known here; write one of earliest, latest, {timestamp: 2026-01-02T03:04:05Z}, {committed: GROUP}
}
