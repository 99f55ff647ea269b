package broker

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/record"
)

// What brokers and their clients were attacked with before. Those of tokens,
// passwords and certificates are in package auth and in certificates_test.go, of
// decoding in shape_test.go, of many connections in hostile_clients_test.go.

func withRules(t *testing.T, lines ...string) func(*Config) {
	t.Helper()
	var rules []acl.Rule
	for _, line := range lines {
		r, err := acl.ParseRule(line)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r)
	}
	return func(c *Config) {
		saslConfig(&logLines{})(c)
		c.Authorizer, c.BootstrapACLs = true, rules
	}
}

// TestAClientIsNoReplica: a Fetch with a replica id, which would read past what is
// committed, takes ClusterAction (CVE-2018-1288).
func TestAClientIsNoReplica(t *testing.T) {
	b := startBroker(t, withRules(t, "User:alice Allow All Topic:*", "User:alice Allow All Group:*"))
	nc := dial(t, b.Addr("sasl"))
	if _, err := login(t, nc, scram256("alice", "geheim")); err != nil {
		t.Fatal(err)
	}
	for version := int16(4); version <= 16; version++ {
		fetch := kmsg.NewPtrFetchRequest()
		fetch.ReplicaID, fetch.ReplicaState.ID = 1, 1
		resp, err := askOver(t, nc, fetch, version, kmsg.NewPtrFetchResponse())
		if err != nil {
			t.Fatalf("v%d: %v", version, err)
		}
		if version >= 7 && resp.ErrorCode != kerr.ClusterAuthorizationFailed.Code || len(resp.Topics) != 0 {
			t.Errorf("v%d: %+v", version, resp)
		}
	}
}

// TestTheRightToATransactionalIDIsNotSkipped by leaving it out of the request and
// writing a transactional batch all the same (CVE-2018-17196).
func TestTheRightToATransactionalIDIsNotSkipped(t *testing.T) {
	b := startBroker(t, withRules(t, "User:alice Allow Write Topic:t", "User:alice Allow Create Topic:t"))
	alice := b.client(t, kgo.SeedBrokers(b.Addr("sasl")), kgo.SASL(scram256("alice", "geheim")), kgo.AllowAutoTopicCreation())
	last := produceN(t, alice, "t", 0, 1)
	nc := dial(t, b.Addr("sasl"))
	if _, err := login(t, nc, scram256("alice", "geheim")); err != nil {
		t.Fatal(err)
	}
	stamp := record.NoProducer(record.None)
	stamp.ProducerID, stamp.ProducerEpoch, stamp.BaseSequence = 1, 0, 0
	stamp.Attributes = stamp.Attributes.WithTransactional(true)
	produce := kmsg.NewPtrProduceRequest()
	produce.Acks, produce.TimeoutMillis = -1, 10_000
	part := kmsg.ProduceRequestTopicPartition{Records: testBatch(t, stamp, record.Record{Value: []byte("x")})}
	produce.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", Partitions: []kmsg.ProduceRequestTopicPartition{part}}}
	for _, id := range []*string{nil, kmsg.StringPtr("payments")} {
		produce.TransactionID = id
		resp, err := askOver(t, nc, produce, 11, kmsg.NewPtrProduceResponse())
		if err != nil {
			t.Fatal(err)
		}
		if code := resp.Topics[0].Partitions[0].ErrorCode; code != kerr.TransactionalIDAuthorizationFailed.Code {
			t.Errorf("with id %v: %v", id, kerr.ErrorForCode(code))
		}
	}
	if next := produceN(t, alice, "t", 1, 1); next != last+1 {
		t.Errorf("offset %d follows %d: something was written", next, last)
	}
}

// TestRemovingOneRuleLeavesTheOthers, denials first of all, now and after a
// restart (CVE-2024-27309). The model of all rules is in package acl.
func TestRemovingOneRuleLeavesTheOthers(t *testing.T) {
	b := startBroker(t, withRules(t, "User:alice Allow Read Topic:t", "User:alice Allow Write Topic:t", "User:bob Deny Read Topic:t", "User:* Allow Read Topic:t"))
	admin := kadm.NewClient(b.secureClient(t, scram256("admin", "root")))
	one := kadm.NewACLs().Allow("User:alice").AllowHosts("*").Topics("t").ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpWrite)
	res, err := admin.DeleteACLs(within(t, 30*time.Second), one)
	if err != nil || len(res) != 1 || len(res[0].Deleted) != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, again := range []bool{false, true} {
		if again {
			b = b.restart(t)
		}
		for _, c := range []struct {
			who  string
			op   acl.Operation
			want bool
		}{{"User:alice", acl.Write, false}, {"User:alice", acl.Read, true}, {"User:bob", acl.Read, false}, {"User:eve", acl.Read, true}} {
			if got := b.authorizer().Allowed(c.who, "10.0.0.1", c.op, acl.Topic, "t"); got != c.want {
				t.Errorf("restarted %v: %s %s: got %v", again, c.who, c.op, got)
			}
		}
	}
}

// TestTelemetryIsNotOffered, whose compressed metrics anybody could send
// (CVE-2026-111073).
func TestTelemetryIsNotOffered(t *testing.T) {
	table, err := wholeTable()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []kmsg.Key{kmsg.GetTelemetrySubscriptions, kmsg.PushTelemetry} {
		if table[int16(key)] != nil {
			t.Errorf("%s is offered: bound what it decompresses to, and say here how", key.Name())
		}
	}
}

// TestBombsOfSnappy: a few bytes that claim gigabytes (CVE-2023-34455) are refused
// before anything is allocated for them.
func TestBombsOfSnappy(t *testing.T) {
	claim := binary.AppendUvarint(nil, 1<<31)
	xerial := append([]byte("\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"), 0x7f, 0xff, 0xff, 0xff)
	for name, payload := range map[string][]byte{"raw": append(claim, 0, 0, 0), "framed": append(xerial, 0, 0), "framed, negative": append(xerial[:16:16], 0xff, 0xff, 0xff, 0xff)} {
		batch := testBatch(t, record.NoProducer(record.Snappy), record.Record{Value: []byte("x")})[:record.HeaderSize]
		batch = append(batch, payload...)
		binary.BigEndian.PutUint32(batch[8:], uint32(len(batch)-12))
		broker := &Broker{decompress: make(chan struct{}, 1)}
		before := allocated()
		if _, _, err := broker.checkProduced(testTopic(nil), &kmsg.ProduceRequest{Version: 9}, recrc(batch)); err == nil {
			t.Errorf("%s: taken", name)
		}
		if spent := allocated() - before; spent > 1<<20 {
			t.Errorf("%s: %d bytes allocated for %d", name, spent, len(payload))
		}
	}
}

// TestSecretsAreNotLogged, of logins that work and of those that do not
// (CVE-2019-12399, KAFKA-14623).
func TestSecretsAreNotLogged(t *testing.T) {
	lines := &logLines{}
	b := startBroker(t, func(c *Config) {
		c.Log = slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	for _, password := range []string{"geheim", "geheim-but-wrong"} {
		_ = b.secureClient(t, plain.Auth{User: "alice", Pass: password}.AsMechanism()).Ping(within(t, 30*time.Second))
	}
	b.stop()
	if lines.count("alice") == 0 || lines.count("geheim") != 0 {
		t.Errorf("alice is named %d times, her password %d times", lines.count("alice"), lines.count("geheim"))
	}
}

// TestNoOrderOfRequestsAuthenticates: every order of up to three requests before
// one for metadata, none of which proves anything.
func TestNoOrderOfRequestsAuthenticates(t *testing.T) {
	b := startBroker(t, saslConfig(&logLines{}))
	hello := kmsg.NewPtrSASLHandshakeRequest()
	hello.Mechanism = "SCRAM-SHA-256"
	first, garbage := kmsg.NewPtrSASLAuthenticateRequest(), kmsg.NewPtrSASLAuthenticateRequest()
	first.SASLAuthBytes, garbage.SASLAuthBytes = []byte("n,,n=alice,r=abcdef"), []byte("c=biws,r=abcdef,p=AAAA")
	frames := [][]byte{
		frameOf(kmsg.NewPtrApiVersionsRequest(), 3), frameOf(hello, 1), frameOf(first, 2), frameOf(garbage, 2), frameOf(hello, 0),
	}
	metadata := frameOf(kmsg.NewPtrMetadataRequest(), 4)
	var wg sync.WaitGroup
	room := make(chan struct{}, 32)
	for order := range len(frames) * len(frames) * len(frames) {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			nc := dial(t, b.Addr("sasl"))
			for _, i := range []int{order % 5, order / 5 % 5, order / 25} {
				if _, err := exchange(t, nc, frames[i]); err != nil {
					return
				}
			}
			if _, err := exchange(t, nc, metadata); err == nil {
				t.Errorf("order %d: metadata without authentication", order)
			}
		})
	}
	wg.Wait()
}

// TestGuessersAreLockedOut of their own host, and told nothing.
func TestGuessersAreLockedOut(t *testing.T) {
	lines := &logLines{}
	b := startBroker(t, func(c *Config) {
		saslConfig(lines)(c)
		c.Listeners[2].Mechanisms = c.Listeners[2].mechanisms()[:1] // SCRAM-SHA-512
	})
	var refusals atomic.Int64
	refused := func(password string) bool {
		resp, err := login(t, dial(t, b.Addr("sasl")), scram512("alice", password))
		if err == nil {
			return false
		}
		refusals.Add(1)
		switch {
		case !errors.Is(err, kerr.SaslAuthenticationFailed):
			t.Errorf("got %v", err)
		case *resp.ErrorMessage != "authentication failed":
			t.Errorf("told %q", *resp.ErrorMessage)
		}
		return true
	}
	deadline := time.Now().Add(20 * time.Second)
	refused("wrong")
	for tick := time.NewTicker(time.Millisecond); lines.count("wrong proof") == 0; <-tick.C { // else another may be the first in the log
		if time.Now().After(deadline) {
			t.Fatalf("the log does not have the first guess:\n%s", lines.text())
		}
	}
	// So many are wrong soon that none is looked at, not even the right one. Two are
	// forgiven each second, so a slow test tries again.
	for looked := true; looked; looked = !refused("geheim") {
		if time.Now().After(deadline) {
			t.Fatalf("after %d wrong guesses the right one is looked at", refusals.Load())
		}
		var wg sync.WaitGroup
		for range 59 {
			wg.Go(func() { refused("wrong") })
		}
		wg.Wait()
	}
	b.stop()
	// The log has the first, and lines for all others, with what the last was about.
	logged := 1
	for _, found := range regexp.MustCompile(` count=(\d+) `).FindAllStringSubmatch(lines.text(), -1) {
		n, _ := strconv.Atoi(found[1])
		logged += n
	}
	if int64(logged) != refusals.Load() || lines.count("too many failed attempts") == 0 {
		t.Errorf("the log does not have %d refusals, and why:\n%s", refusals.Load(), lines.text())
	}
}
