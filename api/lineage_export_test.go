package api

import (
	"net/http"
	"testing"

	"github.com/waybillhq/waybill/lineage"
)

// TestExportInParts: an answer goes over pages up to its limit, and says where the next
// one goes on.
func TestExportInParts(t *testing.T) {
	const path = "/api/v1/lineage/export/us/orders/3?limit=2&format="
	f := newFleet(t)
	f.deedPages = 3
	resp := ask(t, f, http.MethodGet, path+"ndjson&from=7", viewerToken)
	want := `{"cluster":"us","topic":"orders","partition":0,"first":2,"last":0,"offsets":0,"kind":"fetched","redacted":false,"principal":"User:shop","clientId":"","software":"","address":"","group":"","firstAt":"0001-01-01T00:00:00Z","at":"0001-01-01T00:00:00Z"}
{"cluster":"us","topic":"orders","partition":0,"first":1,"last":0,"offsets":0,"kind":"fetched","redacted":false,"principal":"User:shop","clientId":"","software":"","address":"","group":"","firstAt":"0001-01-01T00:00:00Z","at":"0001-01-01T00:00:00Z"}
`
	if resp.text != want || resp.Header.Get("Waybill-Next") != "page1" || f.deeds.At.Offset != 7 || f.deeds.Limit != 1 {
		t.Errorf("got %q %v after %+v", resp.text, resp.Header, f.deeds)
	}
	resp = ask(t, f, http.MethodGet, path+"csv&cursor=page1", viewerToken)
	if resp.Header.Get("Waybill-Next") != "" || f.deeds.Cursor != "page1" {
		t.Errorf("the last part: got %v after %+v", resp.Header, f.deeds)
	}

	f = newFleet(t)
	f.gaps = []lineage.Gap{{Flow: "us-eu", Cluster: "eu", Topic: "orders", Source: 5, Count: 3, Reason: "aborted"}, {Source: 10, Count: 1, Reason: "control"}, {Source: 20, Count: 1, Reason: "control"}}
	resp = ask(t, f, http.MethodGet, path+"csv&what=gaps", viewerToken)
	want = "cluster,topic,partition,first,last,reason,flow,destinationCluster,destinationTopic\nus,orders,3,5,7,aborted,us-eu,eu,orders\nus,orders,3,10,10,control,,,\n"
	if resp.text != want || resp.Header.Get("Waybill-Next") != "11" {
		t.Errorf("got %q %v", resp.text, resp.Header)
	}
	resp = ask(t, f, http.MethodGet, path+"csv&what=gaps&cursor=11", viewerToken)
	if resp.Header.Get("Waybill-Next") != "" || f.address.Offset != 11 {
		t.Errorf("the last part: got %v from %+v", resp.Header, f.address)
	}
}

func TestDigestsOfARange(t *testing.T) {
	f := newFleet(t)
	resp := ask(t, f, http.MethodPost, "/api/v1/lineage/digests/us/orders/3?from=7&to=9&limit=1", viewerToken)
	want := "partition,offset,last,time,digest,unknown\n3,7,7,,00ff,\n"
	if resp.text != want || resp.Header.Get("Waybill-Next") != "8" {
		t.Errorf("got %q %v", resp.text, resp.Header)
	}
	if q := f.digests; q.Cluster != "us" || q.Topic != "orders" || q.Partition != 3 || q.From != 7 || q.To != 9 || q.Limit != 1 || len(q.Key) == 0 {
		t.Errorf("asked for %+v", q)
	}
	if len(f.noted) != 1 || f.noted[0].Operation != "digest-records" {
		t.Errorf("noted %+v", f.noted)
	}
}
