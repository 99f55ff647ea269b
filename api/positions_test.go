package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/offsets"
)

func post(t *testing.T, f *fleet, path, contentType, text string) answer {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(text))
	r.Header.Set("Authorization", "Bearer "+viewerToken)
	r.Header.Set("Content-Type", contentType)
	return do(t, f, r)
}

func TestPositionsInBulk(t *testing.T) {
	const csvAnswer = `cluster,topic,partition,offset,to_cluster,to_topic,to_partition,to_offset,exact,reread,skipped,why,note
us,orders,3,1041,eu,us.orders,3,1042,true,0,0,copied,
us,orders,4,0,eu,us.orders,4,-1,false,0,0,unknown,"a page, it seems, is missing"
`
	want := []offsets.Where{{Cluster: "us", Topic: "orders", Partition: 3, Offset: 1041}, {Cluster: "us", Topic: "orders", Partition: 4}}
	const body = "orders,3,1041\norders,4,0\n"
	for name, c := range map[string]struct{ query, body, answer string }{
		"csv":            {"?to=eu&format=csv", body, csvAnswer},
		"with a heading": {"?to=eu&format=csv", "topic,partition,offset\n" + body, csvAnswer},
		"with spaces":    {"?to=eu&format=csv", "Topic, partition, offset\r\norders, 3, 1041\r\norders, 4, 0", csvAnswer},
		"kafka's file":   {"?to=eu&format=kafka", body, "us.orders,3,1042\n"},
	} {
		f := newFleet(t)
		a := post(t, f, "/api/v1/offsets/us"+c.query, "text/csv", c.body)
		if a.StatusCode != http.StatusOK || a.text != c.answer || !slices.Equal(f.positions, want) || f.to != "eu" {
			t.Errorf("%s: got %d %q for %+v", name, a.StatusCode, a.text, f.positions)
		}
	}
	f := newFleet(t)
	a := ask(t, f, http.MethodGet, "/api/v1/offsets/us?position=orders%2F3%2F1041&position=orders%2F4%2F0&to=eu", viewerToken)
	if a.StatusCode != http.StatusOK || !slices.Equal(f.positions, want) || !strings.Contains(a.text, `"offset":1042`) {
		t.Errorf("a query: got %d %s for %+v", a.StatusCode, a.text, f.positions)
	}
	if a = ask(t, f, http.MethodGet, "/api/v1/offsets/us/orders/3/1041?format=kafka", viewerToken); a.text != "us.orders,3,1042\n" {
		t.Errorf("one: got %d %q", a.StatusCode, a.text)
	}
}

func TestPositionsThatCannotBeRead(t *testing.T) {
	many := strings.Repeat("orders,3,1\n", maxBodyPositions)
	for name, c := range map[string]struct {
		body   string
		status int
		detail string
	}{
		"nothing":                {"", 400, "body is required"},
		"only a heading":         {"topic,partition,offset\n", 422, "no position"},
		"too few fields":         {"orders,3\n", 422, "each line is topic,partition,offset"},
		"too many fields":        {"orders,3,4,5\n", 422, "each line is topic,partition,offset"},
		"a heading in the midst": {"orders,3,4\ntopic,partition,offset\n", 422, "line 2"},
		"a negative offset":      {"orders,3,-1\n", 422, `offset \"-1\"`},
		"a huge partition":       {"orders,3000000000,1\n", 422, `partition \"3000000000\"`},
		"no topic":               {",3,1\n", 422, "the topic's name is empty"},
		"an open quote":          {"\"orders,3,1\n", 422, "each line is topic,partition,offset"},
		"as many as may be":      {many, 200, ""},
		"one too many":           {many + "orders,3,1\n", 413, "more than 10000"},
		"too large":              {strings.Repeat(" ", MaxBody+1), 413, ""},
	} {
		f := newFleet(t)
		a := post(t, f, "/api/v1/offsets/us", "text/csv", c.body)
		a.checkProblem(t)
		if a.StatusCode != c.status || !strings.Contains(a.text, c.detail) || c.status >= 400 && len(f.calls) > 0 {
			t.Errorf("%s: got %d %.300s after %v, want %d and %q", name, a.StatusCode, a.text, f.calls, c.status, c.detail)
		}
	}
	f := newFleet(t)
	query := "?" + strings.Repeat("position=o/1/1&", maxQueryPositions+1)
	if a := ask(t, f, http.MethodGet, "/api/v1/offsets/us"+query, viewerToken); a.StatusCode != 422 || len(f.calls) > 0 {
		t.Errorf("a query of too many: got %d %.200s", a.StatusCode, a.text)
	}
}

func FuzzReadPositions(f *testing.F) {
	f.Add([]byte("topic,partition,offset\norders,3,1041\n"))
	f.Add([]byte("\"a\nb\",2147483647,9223372036854775807"))
	f.Fuzz(func(t *testing.T, body []byte) {
		from, err := readPositions("us", body)
		if err == nil && len(from) == 0 {
			t.Error("no positions, and no error")
		}
		for _, w := range from {
			if w.Topic == "" || w.Partition < 0 || w.Offset < 0 || w.Cluster != "us" {
				t.Errorf("got %+v", w)
			}
		}
	})
}

func TestGroupsAreMoved(t *testing.T) {
	f := newFleet(t)
	f.rows = []offsets.Row{{Group: "a", Action: offsets.Write, Written: true, Result: offsets.Result{Exact: true}}}
	a := ask(t, f, http.MethodPost, "/api/v1/flows/us-eu/groups/move?group=a&group=b%26c&inexact=true&reason=CHG%201", adminToken)
	if got, want := fmt.Sprint(f.move, f.person), fmt.Sprint(GroupMove{Groups: []string{"a", "b&c"}, Inexact: true}, Person{"ops", "CHG 1"}); got != want || !strings.Contains(a.text, `"verdict":"ready"`) {
		t.Errorf("move: got %s, want %s: %s", got, want, a.text)
	}
	ask(t, f, http.MethodPost, "/api/v1/flows/us-eu/groups/return?all=true&dropMetadata=true&dryRun=true", adminToken)
	if got, want := fmt.Sprint(f.move), fmt.Sprint(GroupMove{Return: true, DropMetadata: true, DryRun: true}); got != want {
		t.Errorf("return: got %s, want %s", got, want)
	}
}

// TestAMoveSaysWhichGroups: all of them are not what is meant where a name is missing.
func TestAMoveSaysWhichGroups(t *testing.T) {
	for _, verb := range []string{"move", "return"} {
		for query, status := range map[string]int{
			"": 422, "?dryRun=true": 422, "?all=false": 422, "?all=true&group=a": 422, "?all=true": 200, "?group=a": 200,
		} {
			f := newFleet(t)
			a := ask(t, f, http.MethodPost, "/api/v1/flows/us-eu/groups/"+verb+query, adminToken)
			if a.StatusCode != status || status != 200 && (len(f.calls) > 0 || !strings.Contains(a.text, `"hint"`)) {
				t.Errorf("%s%s: got %d %s after %v", verb, query, a.StatusCode, a.text, f.calls)
			}
		}
	}
}

// TestAPositionWithoutAnAnswerHasALine, with the reason, among others.
func TestAPositionWithoutAnAnswerHasALine(t *testing.T) {
	all := []Translations{{From: offsets.Where{Cluster: "us", Topic: "nosuch", Partition: 3, Offset: 4}, To: []offsets.Translation{}, Note: "no ledger mentions it"}}
	for format, want := range map[string]string{"csv": "us,nosuch,3,4,,,-1,-1,false,0,0,no-copy,no ledger mentions it\n", "kafka": ""} {
		out, err := encode(format, all, nil)
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := out.Body.([]byte); !ok || !strings.HasSuffix(string(text), want) || format == "kafka" && len(text) > 0 {
			t.Errorf("%s: got %q", format, out.Body)
		}
	}
}
