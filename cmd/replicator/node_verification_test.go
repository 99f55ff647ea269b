package main

import (
	"encoding/json"
	"testing"

	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/verify"
)

// extent is a ledger that knows of every copy how far it has come.
type extent struct {
	verify.Entries
	start, next int64
}

func (e extent) Extent(ledger.CopyKey) (start, next int64, doubt string, ok bool) {
	return e.start, e.next, "", true
}

// TestAComparisonGoesOnAtBothSides: from the fleet's state, also one that does not
// say up to where the destination was compared.
func TestAComparisonGoesOnAtBothSides(t *testing.T) {
	c := verify.Copy{SourceTopic: "orders", DestinationTopic: "us.orders", ID: ledger.CopyID{
		Source:      ledger.End{Cluster: "us", TopicID: ledger.TopicID{1}, Partition: 3},
		Destination: ledger.End{Cluster: "eu", TopicID: ledger.TopicID{2}, Partition: 3},
	}}
	key := c.ID.Key().String()
	ofTime := map[flow.TopicPartition]int64{{Topic: "orders", Partition: 3}: 17}
	for name, at := range map[string]struct {
		from, stored      string
		starts            map[flow.TopicPartition]int64
		next, destination int64
	}{
		"verified":                      {flow.VerifyFromVerified, `{"run":"a","copy":"` + key + `","next":15,"until":15,"destination":26,"done":true}`, nil, 15, 26},
		"verified, destination unknown": {flow.VerifyFromVerified, `{"run":"a","copy":"` + key + `","next":15,"until":15,"done":true}`, nil, 15, -1},
		"a time":                        {"2026-11-24T08:00:00Z", `{"run":"a","copy":"` + key + `","next":15,"until":15,"destination":26,"done":true}`, ofTime, 17, -1},
	} {
		before, err := storedProgress(&cluster.Verification{Copies: map[string]json.RawMessage{key: json.RawMessage(at.stored)}})
		if err != nil {
			t.Fatal(err)
		}
		all := beginnings("b", at.from, []verify.Copy{c}, before, at.starts, extent{start: 10, next: 20})
		if len(all) != 1 || all[0].Run != "b" || all[0].Next != at.next || all[0].Destination != at.destination || all[0].Until != 20 {
			t.Errorf("from %s: got %+v", name, all)
		}
	}
	all := beginnings("b", flow.VerifyFromVerified, []verify.Copy{c}, nil, nil, extent{start: 10, next: 20})
	if len(all) != 1 || all[0].Next != 10 || all[0].Destination != -1 {
		t.Errorf("never verified: got %+v", all)
	}
}
