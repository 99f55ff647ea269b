package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/raftnode"
	"github.com/waybillhq/waybill/internal/vfs"
	"github.com/waybillhq/waybill/test/address"
)

const noon = 1_800_000_000

// estate is a bundled broker with TLS and users, and who may do what there.
type estate struct {
	dir  string
	addr string
	ca   *raftnode.CA
}

func newEstate(t *testing.T, validFor time.Duration, rules ...string) *estate {
	t.Helper()
	e := &estate{dir: t.TempDir()}
	var err error
	if e.ca, err = raftnode.GenerateCA("kafka", time.Hour*24*3650); err != nil {
		t.Fatal(err)
	}
	cert, key, err := e.ca.Issue("localhost", validFor, "localhost", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"ca.pem": e.ca.CertPEM, "cert.pem": cert, "key.pem": key, "secret": []byte("geheim-geheim\n")} {
		if err := os.WriteFile(filepath.Join(e.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.FS = "data", vfs.NewMem()
	cfg.BootstrapUsers = map[string]string{"admin": "geheim-geheim", "waybill": "geheim-geheim"}
	cfg.SuperUsers, cfg.Authorizer = []string{"User:admin"}, true
	for _, r := range rules {
		rule, err := acl.ParseRule(r)
		if err != nil {
			t.Fatal(err)
		}
		cfg.BootstrapACLs = append(cfg.BootstrapACLs, rule)
	}
	cfg.Listeners = []broker.Listener{{Name: "sasl", Addr: "127.0.0.1:0", Protocol: broker.SASLTLS, TLS: broker.ListenerTLS{CertFile: filepath.Join(e.dir, "cert.pem"), KeyFile: filepath.Join(e.dir, "key.pem")}}}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-b.Ready()
	e.addr = b.Addr("sasl")
	cl, err := kafka.NewClient(e.cluster("x", "admin"), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, topic := range []string{"orders", "payments"} {
		if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func (e *estate) cluster(name, user string) *flow.Cluster {
	return &flow.Cluster{Metadata: flow.Metadata{Name: name}, Spec: flow.ClusterSpec{
		BootstrapServers: []string{e.addr},
		TLS:              &flow.TLS{CAFile: filepath.Join(e.dir, "ca.pem")},
		SASL:             &flow.SASL{Mechanism: "SCRAM-SHA-256", Username: user, Password: flow.Secret("${file:" + filepath.Join(e.dir, "secret") + "}")},
	}}
}

func object(c *flow.Cluster) flow.Object { return flow.Object{Kind: flow.KindCluster, Cluster: c} }

func copying(topics ...string) flow.Object {
	return flow.Object{Kind: flow.KindReplicationFlow, Flow: &flow.ReplicationFlow{
		Metadata: flow.Metadata{Name: "us-eu"},
		Spec:     flow.FlowSpec{Source: "us", Destination: "eu", Topics: flow.TopicSelector{Selector: flow.Selector{Include: topics}}},
	}}
}

// said are the findings of a check, one a line.
func said(all []Finding, checks ...string) string {
	var lines []string
	for _, f := range all {
		for _, c := range checks {
			if f.Check == c {
				lines = append(lines, fmt.Sprintf("%s %s: %s", f.Level, f.Where, f.Found))
			}
		}
	}
	return strings.Join(lines, "\n")
}

// everybodyKnows checks what every finding must have.
func everybodyKnows(t *testing.T, all []Finding) {
	t.Helper()
	for _, f := range all {
		if f.Check == "" || f.Where == "" || f.Found == "" || f.Level == "" {
			t.Errorf("a finding does not say what and where: %+v", f)
		}
		if (f.Level == Error || f.Level == Warning) && f.ToDo == "" {
			t.Errorf("nothing is said to do about it: %+v", f)
		}
		if strings.Contains(fmt.Sprint(f), "geheim") {
			t.Errorf("a secret is shown: %+v", f)
		}
	}
}

func wants(t *testing.T, got string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(got, want) {
			t.Errorf("it is not said: %s\nin\n%s", want, got)
		}
	}
}

func TestAClusterThatIsAsItShouldBe(t *testing.T) {
	e := newEstate(t, 365*24*time.Hour)
	all := Clusters(t.Context(), []flow.Object{object(e.cluster("us", "admin")), object(e.cluster("eu", "admin")), copying("orders")}, time.Now())
	everybodyKnows(t, all)
	for _, f := range all {
		if f.Level == Error || f.Level == Warning {
			t.Errorf("%+v", f)
		}
	}
	wants(t, said(all, Reach), "bootstrap server "+e.addr, "broker 1 (advertises "+e.addr+")")
	wants(t, said(all, TLS), "localhost: ", " days left")
	wants(t, said(all, SASL), "uses SCRAM-SHA-256; the listener offers ", "SCRAM-SHA-512")
	wants(t, said(all, Versions), "is a bundled broker")
	wants(t, said(all, Identity), "cluster.id is ")
	wants(t, said(all, Rights), "flow us-eu, source us: topics: User:admin holds Read, Describe, DescribeConfigs on orders (the cluster says so itself)", "transactional ids",
		"ok flow us-eu, destination eu: the ledger, for lineage fold --delete: User:admin holds Delete on __waybill.ledger (")
	wants(t, said(all, Clock), "does not tell")
}

func TestRightsThatAreMissing(t *testing.T) {
	e := newEstate(t, 365*24*time.Hour,
		"User:waybill Allow Read Topic:orders", "User:waybill Allow DescribeConfigs Topic:orders",
		"User:waybill Allow Read Topic:payments", "User:waybill Allow Describe Cluster:kafka-cluster",
		"User:waybill Allow Write TransactionalId:waybill.*", "User:waybill Allow Read Topic:__waybill.ledger")
	all := Clusters(t.Context(), []flow.Object{object(e.cluster("us", "waybill")), object(e.cluster("eu", "waybill")), copying("*")}, time.Now())
	everybodyKnows(t, all)
	got := said(all, Rights)
	wants(t, got,
		"error flow us-eu, source us: topics: User:waybill lacks DescribeConfigs on payments (the cluster says so itself)",
		"ok flow us-eu, source us: the ledger: User:waybill holds Read on __waybill.ledger (the cluster says so itself)",
		"error flow us-eu, destination eu: copies: User:waybill lacks Write on orders, Write, DescribeConfigs on payments",
		"warning flow us-eu, destination eu: copies, when partitions or settings follow the source's: User:waybill lacks Alter, AlterConfigs on orders, Alter, AlterConfigs on payments",
		"error flow us-eu, destination eu: the ledger: User:waybill lacks Write on __waybill.ledger",
		"ok flow us-eu, destination eu: the ledger, for lineage fold --delete: User:waybill lacks Delete on __waybill.ledger (the cluster says so itself), which nothing else needs",
		"ok flow us-eu, destination eu: transactional ids: User:waybill holds Write, Describe on waybill.* (by its ACLs)",
	)
}

func fencing(name, of string) flow.Object {
	return flow.Object{Kind: flow.KindRunbook, Runbook: &flow.Runbook{
		Metadata: flow.Metadata{Name: name},
		Spec:     flow.RunbookSpec{Flow: of, Steps: []flow.Step{{ID: "fence", Fence: &flow.FenceStep{Principals: []string{"User:*"}}}}},
	}}
}

// A fence is rules of the source's, whoever may write to the topics.
func TestRightsForFences(t *testing.T) {
	const reads = "User:waybill Allow Read Topic:*"
	for name, c := range map[string]struct {
		rules []string
		user  string
		want  string
	}{
		"may look only":            {[]string{reads, "User:waybill Allow Describe Cluster:kafka-cluster"}, "waybill", "error runbook failover, source us: the fence: User:waybill lacks Alter on kafka-cluster (the cluster says so itself)"},
		"may alter topics only":    {[]string{reads, "User:waybill Allow Alter Topic:*", "User:waybill Allow Describe Cluster:kafka-cluster"}, "waybill", "lacks Alter on kafka-cluster"},
		"neither looks nor alters": {[]string{reads}, "waybill", "error runbook failover, source us: the fence: User:waybill lacks Describe, Alter on kafka-cluster (the cluster says so itself)"},
		"may alter":                {[]string{reads, "User:waybill Allow Alter Cluster:kafka-cluster"}, "waybill", "ok runbook failover, source us: the fence: User:waybill holds Describe, Alter on kafka-cluster (the cluster says so itself)"},
		"a super user":             {nil, "admin", "ok runbook failover, source us: the fence: User:admin holds Describe, Alter on kafka-cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEstate(t, 365*24*time.Hour, c.rules...)
			all := Clusters(t.Context(), []flow.Object{object(e.cluster("us", c.user)), object(e.cluster("eu", "admin")), copying("orders"), fencing("failover", "us-eu")}, time.Now())
			everybodyKnows(t, all)
			wants(t, said(all, Rights), c.want)
		})
	}
}

// What a runbook's file leaves out is not known, and a cluster without an authorizer
// would take no rule.
func TestFencesThatCannotBe(t *testing.T) {
	e := newEstate(t, 365*24*time.Hour)
	all := Clusters(t.Context(), []flow.Object{object(e.cluster("eu", "admin")), copying("orders"), fencing("a", "us-eu"), fencing("b", "elsewhere")}, time.Now())
	everybodyKnows(t, all)
	wants(t, said(all, Rights), "unknown runbook a: cluster us, where it fences,", "unknown runbook b: flow elsewhere is not among")

	open := func(string) (held, string) {
		return held{known: true, allowed: func(acl.Operation) bool { return true }}, byNobody
	}
	for _, n := range runbookNeeds(fencing("a", "us-eu").Runbook) {
		f := judgeNeed("runbook a, source us", "User:ANONYMOUS", n, open, true)
		everybodyKnows(t, []Finding{f})
		wants(t, said([]Finding{f}, Rights), "error runbook a, source us: the fence: the cluster has no authorizer")
	}
}

// Copies that are still to be made need Create, which only the ACLs tell.
func TestRightsOnTopicsThatAreNotThere(t *testing.T) {
	e := newEstate(t, 365*24*time.Hour, "User:waybill Allow Read Topic:orders", "User:waybill Allow Describe Cluster:kafka-cluster", "User:waybill Allow All Topic:a.*", "User:waybill Allow Write Topic:b.*")
	for prefix, want := range map[string]string{
		"a.": "ok flow us-eu, destination eu: copies: User:waybill holds Read, Write, Describe, DescribeConfigs on a.orders (by its ACLs)",
		"b.": "error flow us-eu, destination eu: copies: User:waybill lacks Read, DescribeConfigs, Create on b.orders (by its ACLs)",
	} {
		f := copying("orders")
		f.Flow.Spec.Topics.Rename.Prefix = prefix
		all := Clusters(t.Context(), []flow.Object{object(e.cluster("us", "waybill")), object(e.cluster("eu", "waybill")), f}, time.Now())
		everybodyKnows(t, all)
		wants(t, said(all, Rights), want)
	}
}

// Without Describe on the cluster its ACLs are not to be read: what it does not say
// itself is not known, and never taken for granted.
func TestWhatIsNotKnownIsNotHeld(t *testing.T) {
	e := newEstate(t, 365*24*time.Hour, "User:waybill Allow Read Topic:orders", "User:waybill Allow DescribeConfigs Topic:orders")
	all := Clusters(t.Context(), []flow.Object{object(e.cluster("us", "waybill")), object(e.cluster("eu", "waybill")), copying("orders")}, time.Now())
	everybodyKnows(t, all)
	wants(t, said(all, Rights), "ok flow us-eu, source us: topics", "unknown flow us-eu, destination eu: transactional ids")
}

func TestClustersThatAreNotAsTheyShouldBe(t *testing.T) {
	e := newEstate(t, 12*24*time.Hour)
	gone := address.Reserve(t) // nobody listens
	other, err := raftnode.GenerateCA("another", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(foreign, other.CertPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*flow.ClusterSpec)
		now    time.Time
		check  string
		want   string
	}{
		{"a certificate that ends soon", func(*flow.ClusterSpec) {}, time.Now(), TLS, "warning cluster us, bootstrap server"},
		{"one that ends this week", func(*flow.ClusterSpec) {}, time.Now().Add(6 * 24 * time.Hour), TLS, "error cluster us, bootstrap server"},
		{"nobody listens", func(s *flow.ClusterSpec) { s.BootstrapServers = []string{gone} }, time.Now(), Reach, "connection refused"},
		{"one of two does not answer", func(s *flow.ClusterSpec) { s.BootstrapServers = append(s.BootstrapServers, gone) }, time.Now(), Reach, "error cluster us, bootstrap server " + gone},
		{"no such name", func(s *flow.ClusterSpec) { s.BootstrapServers = []string{"nowhere.invalid:9092"} }, time.Now(), DNS, "error cluster us, bootstrap server nowhere.invalid:9092"},
		{"another authority", func(s *flow.ClusterSpec) { s.TLS.CAFile = foreign }, time.Now(), TLS, "localhost: x509: "},
		{"another name", func(s *flow.ClusterSpec) { s.TLS.ServerName = "kafka.example" }, time.Now(), TLS, "not kafka.example"},
		{"no CA file", func(s *flow.ClusterSpec) { s.TLS.CAFile = "/nowhere/ca.pem" }, time.Now(), TLS, "/nowhere/ca.pem"},
		{"no secret", func(s *flow.ClusterSpec) { s.SASL.Password = "${file:/nowhere/secret}" }, time.Now(), Secrets, "error cluster us: secret ${file:/nowhere/secret}"},
		{"a wrong password", func(s *flow.ClusterSpec) { s.SASL.Username = "somebody" }, time.Now(), SASL, "error cluster us, bootstrap server"},
		{"no TLS", func(s *flow.ClusterSpec) { s.TLS = nil }, time.Now(), Reach, "error cluster us, bootstrap server"},
		{"another cluster", func(s *flow.ClusterSpec) { s.ClusterID = "5L6g3nShT-eMCtK--X86sw" }, time.Now(), Identity, "the declaration says 5L6g3nShT-eMCtK--X86sw"},
	} {
		t.Run(c.name, func(t *testing.T) {
			us := e.cluster("us", "admin")
			c.change(&us.Spec)
			all := Clusters(t.Context(), []flow.Object{object(us)}, c.now)
			everybodyKnows(t, all)
			wants(t, said(all, c.check), c.want)
		})
	}
}

func TestWhatVersionsMean(t *testing.T) {
	old := versions{0: 3, 1: 4, 3: 5} // Produce, Fetch and Metadata of 1.0, without transactions
	got := said(judgeVersions("cluster old", old, "v1.0"), Versions)
	wants(t, got, "speaks as Kafka v1.0; takes copies with offsets: translate", "no transactions: as a destination it takes only delivery: at-least-once", "no topic ids", "no leader epochs", "no zstd")
	if strings.Contains(got, "bundled") {
		t.Error("it is taken for a bundled broker")
	}
}

func TestTheMachine(t *testing.T) {
	dir := t.TempDir()
	all := Folder(dir)
	if len(all) != 2 || all[0].Check != Disk || !strings.Contains(all[1].Found, "median of 16") {
		t.Errorf("%+v", all)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	ms := time.Millisecond
	for _, c := range []struct {
		f    Finding
		want Level
	}{
		{spaceFinding("d", 100<<30, 200<<30, nil), OK},
		{spaceFinding("d", 4<<30, 200<<30, nil), Warning},
		{spaceFinding("d", 100<<20, 200<<30, nil), Error},
		{spaceFinding("d", 0, 0, os.ErrNotExist), Error},
		{spaceFinding("d", 0, 0, errors.ErrUnsupported), Unknown},
		{flushFinding("d", []time.Duration{ms, 2 * ms, 3 * ms}, nil), OK},
		{flushFinding("d", []time.Duration{ms, 2 * ms, 300 * ms}, nil), Warning},
		{flushFinding("d", []time.Duration{ms, 30 * ms, 31 * ms}, nil), Warning},
		{flushFinding("d", []time.Duration{ms, 130 * ms, 131 * ms}, nil), Error},
		{flushFinding("d", nil, os.ErrPermission), Error},
		{ClockOf("n", time.Unix(noon, 0), time.Unix(noon, 2e8), time.Unix(noon, 1e8)), OK},
		{ClockOf("n", time.Unix(noon, 0), time.Unix(noon, 2e8), time.Unix(noon+2, 0)), Warning},
		{ClockOf("n", time.Unix(noon, 0), time.Unix(noon, 2e8), time.Unix(noon-60, 0)), Error},
		{ClockOf("n", time.Unix(noon, 0), time.Unix(noon+10, 0), time.Unix(noon+10, 0)), OK}, // a slow answer says little
		{Host(t.Context(), "n", "127.0.0.1:1"), OK},
		{Host(t.Context(), "n", "nowhere.invalid:1"), Error},
		{Host(t.Context(), "n", "nonsense"), Error},
	} {
		if c.f.Level != c.want {
			t.Errorf("got %+v, want %s", c.f, c.want)
		}
		everybodyKnows(t, []Finding{c.f})
	}
}

func TestCertificateFiles(t *testing.T) {
	e := newEstate(t, 90*24*time.Hour)
	cert, key := filepath.Join(e.dir, "cert.pem"), filepath.Join(e.dir, "key.pem")
	otherKey := filepath.Join(e.dir, "other.pem")
	_, k, err := e.ca.Issue("x", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(otherKey, k, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cert, key, name string
		after           time.Duration
		want            Level
	}{
		{cert, key, "localhost", 0, OK},
		{cert, key, "", 80 * 24 * time.Hour, Warning},
		{cert, key, "", 85 * 24 * time.Hour, Error},
		{cert, key, "", 100 * 24 * time.Hour, Error},
		{cert, key, "", -30 * 24 * time.Hour, Error}, // not yet valid
		{cert, key, "elsewhere", 0, Error},
		{cert, otherKey, "", 0, Error},
		{filepath.Join(e.dir, "secret"), "", "", 0, Error},
		{"/nowhere", "", "", 0, Error},
	} {
		all := CertificateFile("node r1", c.cert, c.key, c.name, time.Now().Add(c.after))
		everybodyKnows(t, all)
		if got := (Report{Findings: all}).Worst(); got != c.want {
			t.Errorf("%+v: got %s %+v", c, got, all)
		}
	}
	if all := CertificateFile("node r1", "", "", "", time.Now()); len(all) > 0 {
		t.Errorf("no file: %+v", all)
	}
}

func TestTheWorstComesFirst(t *testing.T) {
	r := Report{Findings: []Finding{{Level: OK, Where: "a"}, {Level: Warning, Where: "b"}, {Level: Error, Where: "c"}, {Level: Unknown, Where: "d"}, {Level: Error, Where: "e"}}}
	if r.Worst() != Error {
		t.Errorf("worst is %s", r.Worst())
	}
	r.Sort()
	var order string
	for _, f := range r.Findings {
		order += f.Where
	}
	if order != "cebda" {
		t.Errorf("order %s", order)
	}
}
