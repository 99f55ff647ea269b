package broker

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/vfs"
)

// testBroker is a broker in memory with a plain listener ("plain") and one with
// TLS and SASL ("secure").
type testBroker struct {
	*Broker
	fs   *vfs.Mem
	cfg  Config
	pool *x509.CertPool
	stop func()
}

func testConfig(t testing.TB) (Config, *x509.CertPool) {
	t.Helper()
	cert, key, pool := testCertificate(t)
	cfg := DefaultConfig()
	cfg.Dir = "data"
	cfg.Listeners = []Listener{
		{Name: "plain", Addr: "127.0.0.1:0", Protocol: Plaintext},
		{Name: "secure", Addr: "127.0.0.1:0", Protocol: SASLTLS, TLS: ListenerTLS{CertFile: cert, KeyFile: key}},
	}
	cfg.BootstrapUsers = map[string]string{"alice": "geheim", "bob": "secret", "admin": "root"}
	cfg.SuperUsers = []string{"User:admin"}
	cfg.GroupInitialRebalanceDelay = 0
	cfg.ProvenanceInterval = 20 * time.Millisecond
	return cfg, pool
}

func startBroker(t *testing.T, change func(*Config)) *testBroker {
	t.Helper()
	return startPrepared(t, change, nil)
}

// startPrepared starts a broker that prepare has had its hands on before it runs.
func startPrepared(t *testing.T, change func(*Config), prepare func(*Broker)) *testBroker {
	t.Helper()
	cfg, pool := testConfig(t)
	fs := vfs.NewMem()
	cfg.FS = fs
	if change != nil {
		change(&cfg)
	}
	return runPrepared(t, cfg, fs, pool, prepare)
}

func runBroker(t testing.TB, cfg Config, fs *vfs.Mem, pool *x509.CertPool) *testBroker {
	t.Helper()
	return runPrepared(t, cfg, fs, pool, nil)
}

func runPrepared(t testing.TB, cfg Config, fs *vfs.Mem, pool *x509.CertPool, prepare func(*Broker)) *testBroker {
	t.Helper()
	if cfg.FS = fs; fs == nil {
		cfg.FS = nil // the operating system's
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(b)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	<-b.Ready()
	tb := &testBroker{Broker: b, fs: fs, cfg: cfg, pool: pool}
	stopped := false
	tb.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(tb.stop)
	return tb
}

// restart stops the broker in good order and starts another on its files.
func (b *testBroker) restart(t *testing.T) *testBroker {
	t.Helper()
	b.stop()
	return runBroker(t, b.cfg, b.fs, b.pool)
}

// crash starts another broker on what a power cut leaves of the files; the first
// goes on, on files that nobody sees any more.
func (b *testBroker) crash(t *testing.T, seed uint64) *testBroker {
	t.Helper()
	return runBroker(t, b.cfg, b.fs.Crash(mrand.New(mrand.NewPCG(seed, 1))), b.pool)
}

func (b *testBroker) client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.Addr("plain"))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func (b *testBroker) secureClient(t *testing.T, mechanism sasl.Mechanism, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	return b.client(t, append([]kgo.Opt{
		kgo.SeedBrokers(b.Addr("secure")), kgo.SASL(mechanism),
		kgo.DialTLSConfig(&tls.Config{RootCAs: b.pool}),
	}, opts...)...)
}

func scram256(user, password string) sasl.Mechanism {
	return scram.Auth{User: user, Pass: password}.AsSha256Mechanism()
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// testCertificate makes a certificate for 127.0.0.1 that signs itself.
func testCertificate(t testing.TB) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, b := range map[string][]byte{certFile: certPEM, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, pool
}

// produceN produces records "0", "1", ... to partition 0 and returns the offset of
// the last.
func produceN(t *testing.T, cl *kgo.Client, topic string, from, n int) int64 {
	t.Helper()
	var last int64
	ctx := within(t, 30*time.Second)
	var records []*kgo.Record
	for i := range n {
		records = append(records, &kgo.Record{Topic: topic, Key: []byte("k"), Value: fmt.Appendf(nil, "%d", from+i)})
	}
	results := cl.ProduceSync(ctx, records...)
	if err := results.FirstErr(); err != nil {
		t.Fatalf("produce: %v", err)
	}
	for _, r := range results {
		last = max(last, r.Record.Offset)
	}
	return last
}

// consumeN reads n records of a topic's partition 0 from the start.
func consumeN(t *testing.T, cl *kgo.Client, topic string, n int) []*kgo.Record {
	t.Helper()
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}})
	ctx := within(t, 30*time.Second)
	var out []*kgo.Record
	for len(out) < n {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", len(out), n, err)
		}
		out = append(out, fetches.Records()...)
	}
	return out
}

func checkValues(t *testing.T, records []*kgo.Record, n int) {
	t.Helper()
	if len(records) != n {
		t.Fatalf("%d records, want %d", len(records), n)
	}
	for i, r := range records {
		if string(r.Value) != fmt.Sprint(i) || r.Offset != int64(i) {
			t.Fatalf("record %d is %q at offset %d", i, r.Value, r.Offset)
		}
	}
}

func TestProduceAndConsume(t *testing.T) {
	b := startBroker(t, nil)
	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		t.Run(name, func(t *testing.T) {
			cl := b.client(t, kgo.ProducerBatchCompression(codec), kgo.AllowAutoTopicCreation())
			const n = 500
			produceN(t, cl, "t-"+name, 0, n)
			checkValues(t, consumeN(t, b.client(t), "t-"+name, n), n)
		})
	}
}

func TestSecureListener(t *testing.T) {
	b := startBroker(t, nil)
	for name, c := range map[string]struct {
		mechanism sasl.Mechanism
		ok        bool
	}{
		"scram-256":      {scram256("alice", "geheim"), true},
		"scram-512":      {scram.Auth{User: "alice", Pass: "geheim"}.AsSha512Mechanism(), true},
		"plain":          {plain.Auth{User: "alice", Pass: "geheim"}.AsMechanism(), true},
		"wrong password": {scram256("alice", "secret"), false},
		"unknown user":   {scram256("eve", "geheim"), false},
		"plain, wrong":   {plain.Auth{User: "alice", Pass: "secret"}.AsMechanism(), false},
	} {
		t.Run(name, func(t *testing.T) {
			cl := b.secureClient(t, c.mechanism)
			err := cl.Ping(within(t, 30*time.Second))
			if c.ok && err != nil || !c.ok && !errors.Is(err, kerr.SaslAuthenticationFailed) {
				t.Fatalf("ping: %v", err)
			}
		})
	}
	t.Run("without sasl", func(t *testing.T) {
		cl := b.client(t, kgo.SeedBrokers(b.Addr("secure")), kgo.DialTLSConfig(&tls.Config{RootCAs: b.pool}), kgo.RequestRetries(0))
		if err := cl.Ping(within(t, 3*time.Second)); err == nil {
			t.Fatal("answered without authentication")
		}
	})
}

func TestRestartKeepsEverything(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 0, 100)
	topics, err := kadm.NewClient(cl).ListTopics(within(t, 30*time.Second), "t")
	if err != nil {
		t.Fatal(err)
	}
	id := b.ClusterID()
	b = b.restart(t)
	if b.ClusterID() != id {
		t.Errorf("cluster id %s after a restart, was %s", b.ClusterID(), id)
	}
	cl = b.client(t)
	again, err := kadm.NewClient(cl).ListTopics(within(t, 30*time.Second), "t")
	if err != nil {
		t.Fatal(err)
	}
	if again["t"].ID != topics["t"].ID || again["t"].ID == (kadm.TopicID{}) {
		t.Errorf("topic id %s after a restart, was %s", again["t"].ID, topics["t"].ID)
	}
	produceN(t, cl, "t", 100, 50)
	checkValues(t, consumeN(t, cl, "t", 150), 150)
	if err := b.secureClient(t, scram256("bob", "secret")).Ping(within(t, 30*time.Second)); err != nil {
		t.Errorf("user after a restart: %v", err)
	}
}

func TestPowerCutKeepsWhatWasAcknowledged(t *testing.T) {
	for seed := range uint64(8) {
		b := startBroker(t, nil)
		cl := b.client(t, kgo.AllowAutoTopicCreation(), kgo.ProducerLinger(0))
		const n = 40
		produceN(t, cl, "t", 0, n)
		again := b.crash(t, seed)
		records := consumeN(t, again.client(t), "t", n)
		checkValues(t, records[:n], n)
		// Whatever the crash left, the log goes on.
		produceN(t, again.client(t), "t", n, 1)
		again.stop()
		b.stop()
	}
}

func TestWriteErrorIsNotAcknowledged(t *testing.T) {
	b := startBroker(t, func(c *Config) { c.Provenance = false })
	cl := b.client(t, kgo.AllowAutoTopicCreation(), kgo.RecordRetries(0), kgo.DisableIdempotentWrite())
	produceN(t, cl, "t", 0, 10)
	b.fs.FailNext(vfs.OpSync, ".log", 1, errors.New("the disk is on fire"))
	res := cl.ProduceSync(within(t, 30*time.Second), &kgo.Record{Topic: "t", Value: []byte("lost")})
	if !errors.Is(res.FirstErr(), kerr.KafkaStorageError) {
		t.Fatalf("produce over a failed sync: %v", res.FirstErr())
	}
	res = cl.ProduceSync(within(t, 30*time.Second), &kgo.Record{Topic: "t", Value: []byte("lost")})
	if !errors.Is(res.FirstErr(), kerr.KafkaStorageError) {
		t.Fatalf("produce to an offline log: %v", res.FirstErr())
	}
	checkValues(t, consumeN(t, b.client(t), "t", 10), 10)
}

func TestACLs(t *testing.T) {
	rule := func(s string) acl.Rule {
		r, err := acl.ParseRule(s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	b := startBroker(t, func(c *Config) {
		c.Authorizer = true
		c.BootstrapACLs = []acl.Rule{
			rule("User:alice Allow Write Topic:orders from *"),
			rule("User:alice Allow Create Topic:orders from *"),
			rule("User:bob Allow Read Topic:orders from *"),
		}
	})
	alice := b.secureClient(t, scram256("alice", "geheim"), kgo.AllowAutoTopicCreation())
	bob := b.secureClient(t, scram256("bob", "secret"), kgo.RecordRetries(0), kgo.DisableIdempotentWrite())
	admin := kadm.NewClient(b.secureClient(t, scram256("admin", "root")))
	produceN(t, alice, "orders", 0, 5)
	checkValues(t, consumeN(t, bob, "orders", 5), 5)

	ctx := within(t, 30*time.Second)
	res := bob.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte("x")})
	if !errors.Is(res.FirstErr(), kerr.TopicAuthorizationFailed) {
		t.Errorf("bob writes: %v", res.FirstErr())
	}
	if _, err := kadm.NewClient(bob).CreateTopic(ctx, 1, 1, nil, "orders2"); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("bob creates: %v", err)
	}
	own := kadm.NewACLs().Allow("User:bob").AllowHosts("*").Topics("x").ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpAll)
	if res, err := kadm.NewClient(bob).CreateACLs(ctx, own); err != nil || len(res) != 1 || !errors.Is(res[0].Err, kerr.ClusterAuthorizationFailed) {
		t.Errorf("bob creates a rule: %+v, %v", res, err)
	}
	topics, err := kadm.NewClient(bob).ListTopicsWithInternal(ctx)
	if err != nil || len(topics) != 1 {
		t.Errorf("bob sees %v, %v", topics.Names(), err)
	}
	ask := kmsg.NewPtrMetadataRequest()
	for _, name := range []string{"does-not-exist", transactionsTopic} {
		ask.Topics = append(ask.Topics, kmsg.MetadataRequestTopic{Topic: kmsg.StringPtr(name)})
	}
	answer, err := ask.RequestWith(ctx, bob)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range answer.Topics {
		if d.ErrorCode != kerr.TopicAuthorizationFailed.Code || d.TopicID != [16]byte{} || len(d.Partitions) != 0 {
			t.Errorf("bob asks for %s: %+v", *d.Topic, d)
		}
	}

	deny := kadm.NewACLs().Deny("User:bob").DenyHosts("*").Topics("ord").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpRead)
	if _, err := admin.CreateACLs(ctx, deny); err != nil {
		t.Fatal(err)
	}
	fresh := b.secureClient(t, scram256("bob", "secret"), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"orders": {0: kgo.NewOffset().AtStart()}}))
	if err := fresh.PollFetches(ctx).Err(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("bob reads after the deny: %v", err)
	}
	described, err := admin.DescribeACLs(ctx, kadm.NewACLs().AnyResource().Allow().AllowHosts().Deny().DenyHosts().ResourcePatternType(kadm.ACLPatternAny).Operations())
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, d := range described {
		total = max(total, len(d.Described))
	}
	if total == 0 {
		t.Error("admin sees no rules")
	}
	if _, err := admin.DeleteACLs(ctx, deny); err != nil {
		t.Fatal(err)
	}
	consumeN(t, b.secureClient(t, scram256("bob", "secret")), "orders", 5)
}

func TestScramUsersCanBeChanged(t *testing.T) {
	b := startBroker(t, func(c *Config) { c.Authorizer = true })
	ctx := within(t, 30*time.Second)
	admin := kadm.NewClient(b.secureClient(t, scram256("admin", "root")))
	up := kadm.UpsertSCRAM{User: "carol", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "neu"}
	if res, err := admin.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{up}); err != nil || res.Error() != nil {
		t.Fatal(err, res.Error())
	}
	b = b.restart(t)
	if err := b.secureClient(t, scram256("carol", "neu")).Ping(ctx); err != nil {
		t.Errorf("new user: %v", err)
	}
	admin = kadm.NewClient(b.secureClient(t, scram256("admin", "root")))
	described, err := admin.DescribeUserSCRAMs(ctx, "carol")
	if err != nil || len(described["carol"].CredInfos) != 1 {
		t.Errorf("describe: %+v, %v", described, err)
	}
	if res, err := admin.AlterUserSCRAMs(ctx, []kadm.DeleteSCRAM{{User: "carol", Mechanism: kadm.ScramSha256}}, nil); err != nil || res.Error() != nil {
		t.Fatal(err, res.Error())
	}
	if err := b.secureClient(t, scram256("carol", "neu")).Ping(ctx); !errors.Is(err, kerr.SaslAuthenticationFailed) {
		t.Errorf("deleted user: %v", err)
	}
	if _, err := kadm.NewClient(b.secureClient(t, scram256("bob", "secret"))).AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{up}); err == nil {
		t.Error("bob changed a user")
	}
}

func scram512(user, password string) sasl.Mechanism {
	return scram.Auth{User: user, Pass: password}.AsSha512Mechanism()
}
