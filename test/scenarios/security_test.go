//go:build unix

package scenarios

import (
	"slices"
	"strings"
)

// What the replicator needs on either side, as docs/fleet.md has it.
var (
	sourceRights = []string{
		"Read Topic:orders", "DescribeConfigs Topic:orders", "Read Topic:__waybill.ledger", "Describe Group:*", "Describe Cluster:kafka-cluster",
	}
	destinationRights = []string{
		"Create Topic:orders", "Read Topic:orders", "Write Topic:orders", "Alter Topic:orders", "DescribeConfigs Topic:orders",
		"Read Topic:__waybill.ledger", "Write Topic:__waybill.ledger", "Create Topic:__waybill.ledger", "DescribeConfigs Topic:__waybill.ledger",
		"Read Group:*", "Describe Cluster:kafka-cluster", "Write TransactionalId:waybill.*", "Describe TransactionalId:waybill.*",
	}
)

// sourceSecurity and destinationSecurity are clusters with TLS, SCRAM and the
// rights that are needed, but for some.
func sourceSecurity(without ...string) *security {
	return &security{acls: rules(sourceRights, without)}
}

func destinationSecurity(without ...string) *security {
	return &security{acls: rules(destinationRights, without)}
}

func rules(all, without []string) []string {
	var out []string
	for _, right := range all {
		if !slices.Contains(without, right) {
			op, resource, _ := strings.Cut(right, " ")
			out = append(out, "User:"+userReplicator+" Allow "+op+" "+resource+" from *")
		}
	}
	return out
}
