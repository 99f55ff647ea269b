package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// startBroker runs 'replicator broker' until the test ends and returns the
// address of its listener.
func startBroker(t *testing.T) string {
	t.Helper()
	addr, stop := startBrokerIn(t, filepath.Join(t.TempDir(), "data"))
	t.Cleanup(stop)
	return addr
}

// startBrokerIn runs it on a folder until stop is called; more are lines of its file.
func startBrokerIn(t *testing.T, data string, more ...string) (addr string, stop func()) {
	t.Helper()
	dir := t.TempDir()
	file, conf := filepath.Join(dir, "addresses"), filepath.Join(dir, "broker.yaml")
	text := "groupInitialRebalanceDelay: 0s\nlisteners: [{name: client, address: \"127.0.0.1:0\", protocol: PLAINTEXT}]\n" + strings.Join(more, "\n")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// Not by its standard input: a process that takes too long to stop then exits,
	// and with it all tests.
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan outcome, 1)
	go func() {
		ended <- replicatorUntil(ctx, strings.NewReader(""), "broker", "--config", conf, "--dir", data, "--address-file", file)
	}()
	stop = func() {
		cancel()
		if got := <-ended; got.code != exitOK {
			t.Errorf("the broker ended with %+v", got)
		}
	}
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.After(time.Minute); ; {
		if b, err := os.ReadFile(file); err == nil {
			name, addr, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
			if name != "client" {
				t.Fatalf("got listener %q", b)
			}
			return addr, stop
		}
		select {
		case <-ticker.C:
		case got := <-ended:
			t.Fatalf("the broker did not start: %+v", got)
		case <-deadline:
			t.Fatal("the broker is not ready after a minute")
		}
	}
}

// lines decodes what 'consume' printed.
func lines(t *testing.T, text string) (all []consumed) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	for {
		var c consumed
		if err := dec.Decode(&c); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		all = append(all, c)
	}
}

func TestWhatABrokerSaysIsSaidOnce(t *testing.T) {
	for message, want := range map[string]string{
		"":                  "create topic t: " + kerr.TopicAuthorizationFailed.Error(),
		"no rule allows it": "create topic t: " + kerr.TopicAuthorizationFailed.Error() + " (no rule allows it)",
		kerr.TopicAuthorizationFailed.Description: "create topic t: " + kerr.TopicAuthorizationFailed.Error(),
	} {
		if got := notCreated("t", kerr.TopicAuthorizationFailed, message).Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAClusterByHand(t *testing.T) {
	addr := startBroker(t)
	at := func(stdin string, args ...string) outcome {
		t.Helper()
		return replicator(t, stdin, append(args, "-b", addr)...)
	}

	at("", "topic", "list", "-o", "jsonl").want(t, exitOK, "", "")
	if got := at("", "topic", "create", "t", "-p", "2", "--config", "retention.ms=-1"); got.code != exitOK || !strings.HasPrefix(got.stdout, "created t, 2 partitions, id ") {
		t.Fatalf("create: got %+v", got)
	} else if _, id, _ := strings.Cut(strings.TrimSpace(got.stdout), ", id "); !strings.Contains(at("", "topic", "list").stdout, id) {
		t.Errorf("create says the id %s, list another one", id)
	}
	if got := at("", "topic", "create", "t"); got.code != exitFailed || !strings.Contains(got.stderr, "create topic t: TOPIC_ALREADY_EXISTS") {
		t.Errorf("create again: got %+v", got)
	}
	at("k1:v1\nk1:NULL\nNULL:v:3\n\n\xff:\xfe\n", "produce", "t", "--key-separator", ":", "--null", "NULL").want(t, exitOK, "", "5 records acknowledged\n")

	t.Run("consume", func(t *testing.T) { consumeEverything(t, at) })
	t.Run("group", func(t *testing.T) { consumeAsGroup(t, at) })
	t.Run("headers", func(t *testing.T) { consumeHeaders(t, addr, at) })
	t.Run("transactions", func(t *testing.T) { consumeTransactions(t, addr, at) })

	var rows []topicRow
	if got := at("", "topic", "list", "-o", "json"); json.Unmarshal([]byte(got.stdout), &rows) != nil || len(rows) != 3 || rows[2].Name != "t" || rows[2].Partitions != 2 || rows[2].Records != 5 {
		t.Errorf("list: got %+v", got)
	}
	if got := at("", "topic", "list", "--internal"); !strings.Contains(got.stdout, "__waybill.ledger") {
		t.Errorf("list --internal: got %+v", got)
	}
	var d topicDescription
	if got := at("", "topic", "describe", "t", "-o", "json"); json.Unmarshal([]byte(got.stdout), &d) != nil || d.ID != rows[2].ID || len(d.Partitions) != 2 || d.Partitions[0].End+d.Partitions[1].End != 5 || d.Mirror != nil {
		t.Errorf("describe: got %+v", got)
	}
	at("", "topic", "delete", "t", "--yes").want(t, exitOK, "deleted t\n", "")
	for _, verb := range [][]string{{"topic", "describe", "t"}, {"topic", "promote", "t"}, {"topic", "delete", "t", "--yes"}, {"consume", "t"}, {"produce", "t"}} {
		if got := at("", verb...); got.code != exitFailed || !strings.Contains(got.stderr, "topic t: UNKNOWN_TOPIC_OR_PARTITION") || !strings.Contains(got.stderr, "see 'replicator topic list'") {
			t.Errorf("%v of a topic that is gone: got %+v", verb, got)
		}
	}
}

type onCluster func(stdin string, args ...string) outcome

func consumeEverything(t *testing.T, at onCluster) {
	got := at("", "consume", "t", "-n", "5")
	if got.code != exitOK || got.stderr != "5 records\n" {
		t.Fatalf("got %+v", got)
	}
	seen := map[string]bool{}
	for _, c := range lines(t, got.stdout) {
		show := func(text *string, raw []byte) string {
			if text != nil {
				return strconv.Quote(*text)
			}
			if raw != nil {
				return "bytes " + strconv.Quote(string(raw))
			}
			return "null"
		}
		if c.Topic != "t" || c.Time.IsZero() {
			t.Errorf("got %+v", c)
		}
		seen[show(c.Key, c.KeyBytes)+" "+show(c.Value, c.ValueBytes)] = true
	}
	for _, want := range []string{`"k1" "v1"`, `"k1" null`, `null "v:3"`, `null ""`, `bytes "\xff" bytes "\xfe"`} {
		if !seen[want] {
			t.Errorf("%s is missing in %v", want, seen)
		}
	}
	values := at("", "consume", "t", "-n", "5", "-o", "value").stdout
	if n := strings.Count(values, "\n"); n != 5 || !strings.Contains(values, "v1\n") || !strings.Contains(values, "\xfe\n") {
		t.Errorf("values: got %q", values)
	}
	// Nothing more comes, so it ends by itself.
	if got := at("", "consume", "t", "--wait", "50ms"); got.code != exitOK || got.stderr != "5 records\n" {
		t.Errorf("to the end: got %+v", got)
	}
}

func consumeAsGroup(t *testing.T, at onCluster) {
	first := at("", "consume", "t", "-g", "readers", "-n", "2")
	rest := at("", "consume", "t", "-g", "readers", "-n", "3")
	if first.stderr != "2 records\n" || rest.stderr != "3 records\n" {
		t.Fatalf("got %+v and %+v", first, rest)
	}
	type place struct {
		partition int32
		offset    int64
	}
	seen := map[place]bool{}
	for _, c := range lines(t, first.stdout+rest.stdout) {
		seen[place{c.Partition, c.Offset}] = true
	}
	if len(seen) != 5 {
		t.Errorf("the group printed %d different records, want each of 5 once", len(seen))
	}
}

func consumeHeaders(t *testing.T, addr string, at onCluster) {
	at("", "topic", "create", "headed")
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("headed"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	r := &kgo.Record{Value: []byte("<&>"), Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "a", Value: nil}, {Key: "b", Value: []byte{0xff}}}}
	if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	got := at("", "consume", "headed", "-n", "1")
	if want := `"value":"<&>","headers":[{"key":"a","value":"1"},{"key":"a","value":null},{"key":"b","value":null,"valueBase64":"/w=="}]}` + "\n"; !strings.HasSuffix(got.stdout, want) {
		t.Errorf("got %+v, want ...%s", got, want)
	}
}

func consumeTransactions(t *testing.T, addr string, at onCluster) {
	at("", "topic", "create", "aborted")
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("aborted"), kgo.TransactionalID("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, commit := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), kgo.StringRecord("committed "+strconv.FormatBool(bool(commit)))).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(t.Context(), commit); err != nil {
			t.Fatal(err)
		}
	}
	at("", "consume", "aborted", "-n", "1", "-o", "value").want(t, exitOK, "committed true\n", "1 record\n")
	at("", "consume", "aborted", "-n", "2", "-o", "value", "--uncommitted").want(t, exitOK, "committed false\ncommitted true\n", "2 records\n")
}

func TestProducingStopsAtAFault(t *testing.T) {
	addr := startBroker(t)
	replicator(t, "", "topic", "create", "t", "-b", addr, "--config", "max.message.bytes=1000")
	got := replicator(t, "short\n"+strings.Repeat("x", longestLine+1)+"\nnever read\n", "produce", "t", "-b", addr)
	got.want(t, exitFailed, "", "1 record acknowledged\nreplicator: line 2 has more than 1048576 bytes\n")
	random := make([]byte, 2000) // does not compress
	for i := range random {
		random[i] = byte('0' + rand.N(64))
	}
	got = replicator(t, string(random)+"\n", "produce", "t", "-b", addr)
	if got.code != exitFailed || !strings.HasPrefix(got.stderr, "0 records acknowledged\nreplicator: produce line 1: MESSAGE_TOO_LARGE") {
		t.Errorf("too large for the topic: got %+v", got)
	}
}

func TestConsumingWithoutEndUntilInterrupted(t *testing.T) {
	addr := startBroker(t)
	replicator(t, "", "topic", "create", "t", "-b", addr)
	replicator(t, "one\n", "produce", "t", "-b", addr)
	ctx, cancel := context.WithCancel(t.Context())
	out := &watched{want: "one\n", then: cancel}
	var errs bytes.Buffer
	if code := run(ctx, []string{"consume", "t", "-b", addr, "--wait", "0", "-g", "g", "-o", "value"}, nil, out, &errs); code != exitOK || errs.String() != "1 record\n" {
		t.Errorf("got %d %s", code, &errs)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	committed, err := kadm.NewClient(cl).FetchOffsets(t.Context(), "g")
	if o, ok := committed.Lookup("t", 0); err != nil || !ok || o.At != 1 {
		t.Errorf("committed: got %+v %v: what was printed must not be printed again", o, err)
	}
}

// watched calls then once it was written what it waits for.
type watched struct {
	bytes.Buffer
	want string
	then func()
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if strings.Contains(w.String(), w.want) {
		w.then()
	}
	return n, err
}

func TestClustersThatCannotBeReached(t *testing.T) {
	for _, verb := range []string{"topic list", "topic create t", "topic describe t", "topic pause t", "topic delete t --yes", "consume t", "produce t"} {
		got := replicator(t, "x\n", append(strings.Fields(verb), "-b", "127.0.0.1:1")...)
		if got.code != exitUnreachable || !strings.Contains(got.stderr, "connection refused") || !strings.Contains(got.stderr, "is a broker listening there") {
			t.Errorf("%s: got %+v", verb, got)
		}
	}
}

func TestWhichCluster(t *testing.T) {
	write(t, map[string]string{
		"two.yaml":    "apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: a}\nspec: {bootstrapServers: [\"127.0.0.1:1\"]}\n---\napiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: b}\nspec: {bootstrapServers: [\"127.0.0.1:1\"]}\n",
		"none.yaml":   "apiVersion: waybill/v1\nkind: Runbook\nmetadata: {name: r}\nspec: {flow: f, steps: [{id: look, check: preflight}]}\n",
		"secret.yaml": "apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: a}\nspec: {bootstrapServers: [\"127.0.0.1:1\"], tls: {caFile: none.pem}}\n",
		"password":    "secret",
	})
	for _, c := range []struct{ args, want string }{
		{"", "say which cluster: --bootstrap HOST:PORT, or -f FILE with a Cluster in it"},
		{"-f two.yaml", "two.yaml declares 2 clusters: choose one with --cluster"},
		{"-f two.yaml --cluster c", `two.yaml declares no Cluster "c"`},
		{"-f none.yaml", "none.yaml declares no Cluster"},
		{"-f gone.yaml", "read declarations: stat gone.yaml: no such file or directory"},
		{"-f -", "-f -: standard input holds no declarations here, write the name of a file"},
		{"-f two.yaml -b 127.0.0.1:1", "--bootstrap describes the cluster: leave out -f and --cluster"},
		{"-f two.yaml --user x", "--user, --password-file, --mechanism and --ca-file go with --bootstrap: the file says these of its clusters"},
		{"-b 127.0.0.1:1 --user x", "--user and --password-file go together"},
		{"-b 127.0.0.1:1 --mechanism PLAIN", "--mechanism goes with --user"},
		{"-b 127.0.0.1:1 --user x --password-file gone", "--password-file: secret ${file:" + here(t) + "/gone}: open " + here(t) + "/gone: no such file or directory"},
		{"-b 127.0.0.1:1 --user x --password-file password --mechanism SCRAM", `Cluster/command-line: spec.sasl.mechanism: "SCRAM" is not known here; write one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512`},
		{"-b 127.0.0.1:1 --ca-file gone.pem", "tls caFile: open gone.pem: no such file or directory"},
		{"-f secret.yaml", "tls caFile: open none.pem: no such file or directory"},
		{"-b kafka", `Cluster/command-line: spec.bootstrapServers[0]: "kafka" is not an address with a port; write host:port, like kafka-0.example.com:9093`},
	} {
		replicator(t, "", append([]string{"topic", "list"}, strings.Fields(c.args)...)...).want(t, exitInvalid, "", "replicator: "+c.want+"\n")
	}
	if got := replicator(t, "", "topic", "list", "-f", "two.yaml", "--cluster", "b"); got.code != exitUnreachable {
		t.Errorf("a cluster of the file: got %+v", got)
	}
}

func here(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLinesAreRecords(t *testing.T) {
	for _, c := range []struct {
		form       lineForm
		line       string
		key, value []byte
	}{
		{lineForm{}, "a:b", nil, []byte("a:b")},
		{lineForm{}, "", nil, []byte{}},
		{lineForm{separator: ":"}, "a:b:c", []byte("a"), []byte("b:c")},
		{lineForm{separator: ":"}, "ab", nil, []byte("ab")},
		{lineForm{separator: ":"}, ":", []byte{}, []byte{}},
		{lineForm{separator: "::", null: "~"}, "a::~", []byte("a"), nil},
		{lineForm{separator: ":", null: "~"}, "~:~", nil, nil},
		{lineForm{null: "~"}, "~~", nil, []byte("~~")},
	} {
		r := c.form.record([]byte(c.line))
		if !bytes.Equal(r.Key, c.key) || (r.Key == nil) != (c.key == nil) || !bytes.Equal(r.Value, c.value) || (r.Value == nil) != (c.value == nil) {
			t.Errorf("%+v %q: got %#v %#v", c.form, c.line, r.Key, r.Value)
		}
	}
}
