package api

import (
	"net/http"
	"testing"
	"time"

	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/lineage/search"
)

// TestExportInParts: an answer goes over pages up to its limit, and says where the next
// one goes on.
func TestExportInParts(t *testing.T) {
	const path = "/api/v1/lineage/export/us/orders/3?limit=2&format="
	f := newFleet(t)
	f.deedPages = 3
	resp := ask(t, f, http.MethodGet, path+"ndjson&from=7", viewerToken)
	want := `{"cluster":"us","topic":"orders","partition":0,"first":2,"last":0,"offsets":0,"kind":"fetched","redacted":false,"principal":"User:shop","clientId":"","software":"","address":"","group":"","firstAt":"0001-01-01T00:00:00Z","at":"0001-01-01T00:00:00Z","why":"","basis":""}
{"cluster":"us","topic":"orders","partition":0,"first":1,"last":0,"offsets":0,"kind":"fetched","redacted":false,"principal":"User:shop","clientId":"","software":"","address":"","group":"","firstAt":"0001-01-01T00:00:00Z","at":"0001-01-01T00:00:00Z","why":"","basis":""}
`
	if resp.text != want || resp.Header.Get("Waybill-Next") != "page1" || f.deeds.At.Offset != 7 || f.deeds.Limit != 1 {
		t.Errorf("got %q %v after %+v", resp.text, resp.Header, f.deeds)
	}
	resp = ask(t, f, http.MethodGet, path+"csv&cursor=page1", viewerToken)
	if resp.Header.Get("Waybill-Next") != "" || f.deeds.Cursor != "page1" {
		t.Errorf("the last part: got %v after %+v", resp.Header, f.deeds)
	}

	f = newFleet(t)
	f.gaps = []lineage.Gap{{Flow: "us-eu", Cluster: "eu", Topic: "orders", Source: 5, Count: 3, Reason: "aborted"}, {Source: 10, Count: 1, Reason: "control"}, {Source: 20, Count: 1, Reason: "unknown", Why: "a page is damaged"}}
	f.gapDoubts = []string{"a ledger is damaged"}
	resp = ask(t, f, http.MethodGet, path+"csv&what=gaps", viewerToken)
	want = `cluster,topic,partition,first,last,reason,why,flow,destinationCluster,destinationTopic
us,orders,3,5,7,aborted,,us-eu,eu,orders
us,orders,3,10,10,control,,,,
us,orders,3,0,10,unknown,a ledger is damaged,,,
`
	if resp.text != want || resp.Header.Get("Waybill-Next") != "11" {
		t.Errorf("got %q %v", resp.text, resp.Header)
	}
	resp = ask(t, f, http.MethodGet, path+"csv&what=gaps&cursor=11", viewerToken)
	want = `cluster,topic,partition,first,last,reason,why,flow,destinationCluster,destinationTopic
us,orders,3,20,20,unknown,a page is damaged,,,
us,orders,3,11,-1,unknown,a ledger is damaged,,,
`
	if resp.text != want || resp.Header.Get("Waybill-Next") != "" || f.address.Offset != 11 {
		t.Errorf("the last part: got %q %v from %+v", resp.text, resp.Header, f.address)
	}
}

// TestExportOfCopies: each run, each gap and each copy that may not be seen has a row, and
// so has what is not known; what two pages do not know for one reason has one.
func TestExportOfCopies(t *testing.T) {
	side := func(cluster string, first, last int64) lineage.Stretch {
		return lineage.Stretch{Cluster: cluster, Topic: "orders", TopicID: "AAA", Partition: 3, First: first, Last: last}
	}
	at := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	f := newFleet(t)
	f.copyPages = []*lineage.RangePage{
		{
			Rows: []lineage.RangeRow{
				{Source: side("us", 7, 9), Destination: side("eu", 20, 22), Hops: 1, Records: 3, Flow: "us-eu", Fleet: "prod", ReplicaNode: "r1", Epoch: 5, Path: "raw", FirstAt: &at, At: &at},
				{Source: side("us", 10, 10), Destination: side("eu", -1, -1), Hops: 1, Gaps: map[string]int64{"pending": 1}, Why: "copied up to offset 10"},
			},
			First: 7, Last: 10, Next: "page1", Unknown: []string{"a page is damaged"},
		},
		{
			Rows:  []lineage.RangeRow{{Source: lineage.Stretch{Redacted: true, First: -1, Last: -1}, Destination: side("us", 11, 12), Hops: 1}},
			First: 11, Last: 12, Next: "page2", Unknown: []string{"a page is damaged"}, Truncated: "after 32 hops",
		},
	}
	resp := ask(t, f, http.MethodGet, "/api/v1/lineage/export/us/orders/3?what=copies&direction=down&from=7&to=19&limit=4&topicId=AAA", viewerToken)
	want := `kind,sourceCluster,sourceTopic,sourceTopicId,sourcePartition,sourceFirst,sourceLast,destinationCluster,destinationTopic,destinationTopicId,destinationPartition,destinationFirst,destinationLast,hops,records,reason,why,flow,fleet,node,epoch,path,firstAt,at
copied,us,orders,AAA,3,7,9,eu,orders,AAA,3,20,22,1,3,,,us-eu,prod,r1,5,raw,2026-11-24T08:00:00Z,2026-11-24T08:00:00Z
gap,us,orders,AAA,3,10,10,eu,orders,AAA,3,-1,-1,1,0,pending,copied up to offset 10,,,,0,,,
unknown,us,orders,,3,7,12,,,,0,-1,-1,0,0,,a page is damaged,,,,0,,,
redacted,,,,0,-1,-1,us,orders,AAA,3,11,12,1,0,,,,,,0,,,
truncated,us,orders,,3,11,12,,,,0,-1,-1,0,0,,after 32 hops,,,,0,,,
`
	if resp.text != want || resp.Header.Get("Waybill-Next") != "page2" {
		t.Errorf("got %v\n%s", resp.Header, resp.text)
	}
	asked := lineage.RangeQuery{At: lineage.Address{Cluster: "us", Topic: "orders", Partition: 3, Offset: 7, TopicID: "AAA"}, Last: 19, Way: lineage.Downstream, Exact: true, Limit: 1, Cursor: "page1"}
	if f.copies != asked {
		t.Errorf("asked for %+v, want %+v", f.copies, asked)
	}
}

// TestExportsOfListsSayWhatTheyDoNotKnow: a list that is not known is no empty table.
func TestExportsOfListsSayWhatTheyDoNotKnow(t *testing.T) {
	at := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	f := newFleet(t)
	f.deedDoubts = []string{"the cluster records neither"}
	f.principals = &lineage.PrincipalPage{
		Topics: []lineage.PrincipalTopic{
			{Topic: "orders", TopicID: "AAA", Client: lineage.Client{Kind: "fetched", Principal: "User:shop", ClientID: "=web", Group: "g", Offsets: 7, FirstAt: at, At: at}},
			{Redacted: true, Client: lineage.Client{Kind: "produced", Principal: "User:shop"}},
		},
		Next: "page1", Unknown: []string{"a page is damaged"},
	}
	f.found = &search.Page{
		Events:  []search.Event{{Cluster: "us", Topic: "orders", Partition: 3, Offset: 9, Time: at}},
		Scanned: []search.Scanned{{Partition: 3, From: 5, To: 20, Records: 14, Bytes: 800}},
		Next:    "page2", Unknown: []string{"partition 4 has no leader"},
	}
	for _, c := range []struct{ path, next, want string }{
		{"export/us/orders/3?from=7", "", `cluster,topic,partition,first,last,offsets,kind,redacted,principal,clientId,software,address,group,firstAt,at,why,basis
us,orders,3,7,-1,0,unknown,false,,,,,,,,the cluster records neither,
`},
		{"principals/us/User:shop/export?limit=2", "page1", `cluster,principal,topic,topicId,earlierLife,kind,redacted,clientId,software,address,group,offsets,firstAt,at,why
us,User:shop,orders,AAA,false,fetched,false,'=web,,,g,7,2026-11-24T08:00:00Z,2026-11-24T08:00:00Z,
us,User:shop,,,false,produced,true,,,,,0,,,
us,User:shop,,,false,unknown,false,,,,,0,,,a page is damaged
`},
		{"search/us/orders/export?key=a", "page2", `kind,cluster,topic,partition,first,last,time,records,bytes,why
event,us,orders,3,9,9,2026-11-24T08:00:00Z,1,0,
scanned,us,orders,3,5,19,,14,800,
unknown,us,orders,-1,-1,-1,,0,0,partition 4 has no leader
`},
	} {
		resp := ask(t, f, http.MethodGet, "/api/v1/lineage/"+c.path, viewerToken)
		if resp.text != c.want || resp.Header.Get("Waybill-Next") != c.next {
			t.Errorf("%s: got %v\n%s", c.path, resp.Header, resp.text)
		}
	}
}

// TestExportsTakeWhatTheyUse: what a table does not look at is refused.
func TestExportsTakeWhatTheyUse(t *testing.T) {
	for query, status := range map[string]int{
		"what=copies&principal=User:shop":  http.StatusUnprocessableEntity,
		"what=gaps&principal=User:shop":    http.StatusUnprocessableEntity,
		"what=gaps&direction=up":           http.StatusUnprocessableEntity,
		"direction=both":                   http.StatusUnprocessableEntity,
		"what=copies&direction=sideways":   http.StatusUnprocessableEntity,
		"what=produced&principal=User:us":  http.StatusOK,
		"what=copies&direction=up&limit=9": http.StatusOK,
	} {
		if resp := ask(t, newFleet(t), http.MethodGet, "/api/v1/lineage/export/us/orders/3?"+query, viewerToken); resp.StatusCode != status {
			t.Errorf("%s: got %d %s, want %d", query, resp.StatusCode, resp.text, status)
		}
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
