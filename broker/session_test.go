package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/waybillhq/waybill/broker/auth"
	"github.com/waybillhq/waybill/internal/record"
)

// askOver sends a request and reads its answer into the request's response.
func askOver[S kmsg.Response](t *testing.T, nc net.Conn, req kmsg.Request, version int16, resp S) (S, error) {
	t.Helper()
	body, err := exchange(t, nc, frameOf(req, version))
	if err != nil {
		return resp, err
	}
	resp.SetVersion(version)
	if resp.IsFlexible() {
		body = body[1:]
	}
	return resp, resp.ReadFrom(body)
}

// login takes a connection through SASL as a client does, the first time or again.
func login(t *testing.T, nc net.Conn, m sasl.Mechanism) (*kmsg.SASLAuthenticateResponse, error) {
	t.Helper()
	hello := kmsg.NewPtrSASLHandshakeRequest()
	hello.Mechanism = m.Name()
	shaken, err := askOver(t, nc, hello, 1, kmsg.NewPtrSASLHandshakeResponse())
	if err != nil {
		return nil, err
	}
	if err := kerr.ErrorForCode(shaken.ErrorCode); err != nil {
		return nil, err
	}
	session, token, err := m.Authenticate(context.Background(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	for {
		step := kmsg.NewPtrSASLAuthenticateRequest()
		step.SASLAuthBytes = token
		resp, err := askOver(t, nc, step, 2, kmsg.NewPtrSASLAuthenticateResponse())
		if err != nil {
			return nil, err
		}
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return resp, err
		}
		done, next, err := session.Challenge(resp.SASLAuthBytes)
		if done || err != nil {
			return resp, err
		}
		token = next
	}
}

func works(t *testing.T, nc net.Conn) error {
	t.Helper()
	_, err := askOver(t, nc, kmsg.NewPtrMetadataRequest(), 4, kmsg.NewPtrMetadataResponse())
	return err
}

func sessionConfig(lines *logLines) func(*Config) {
	return func(c *Config) {
		saslConfig(lines)(c)
		c.Listeners[2].MaxReauth = time.Second
	}
}

func TestExpiredSessionsAreCutAtTheNextRequest(t *testing.T) {
	b := startBroker(t, sessionConfig(&logLines{}))
	nc := dial(t, b.Addr("sasl"))
	began := time.Now()
	resp, err := login(t, nc, scram256("alice", "geheim"))
	if err != nil || resp.SessionLifetimeMillis <= 0 || resp.SessionLifetimeMillis > 1000 {
		t.Fatalf("%+v, %v: want a lifetime of a second", resp, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for err = nil; err == nil; <-tick.C {
		err = works(t, nc)
	}
	if took := time.Since(began); !errors.Is(err, io.EOF) || took < 900*time.Millisecond {
		t.Errorf("after %v: %v, want the connection closed after a second", took, err)
	}
	if n := b.metrics.SessionsEnded.Load(); n != 1 {
		t.Errorf("%d sessions ended", n)
	}
}

func TestExpiredSessionsMayReauthenticate(t *testing.T) {
	b := startBroker(t, sessionConfig(&logLines{}))
	nc := dial(t, b.Addr("sasl"))
	if _, err := login(t, nc, scram256("alice", "geheim")); err != nil {
		t.Fatal(err)
	}
	expired := time.NewTimer(1100 * time.Millisecond)
	<-expired.C
	if _, err := login(t, nc, scram256("alice", "geheim")); err != nil {
		t.Fatalf("re-authentication of an expired session: %v", err)
	}
	if err := works(t, nc); err != nil {
		t.Errorf("after it: %v", err)
	}
}

func TestClientsThatReauthenticateWorkOn(t *testing.T) {
	b := startBroker(t, sessionConfig(&logLines{}))
	cl := b.client(t, kgo.SeedBrokers(b.Addr("sasl")), kgo.SASL(scram256("alice", "geheim")), kgo.AllowAutoTopicCreation(), kgo.RecordRetries(5))
	until := time.Now().Add(2500 * time.Millisecond)
	n := 0
	for time.Now().Before(until) { // over several sessions
		produceN(t, cl, "t", n, 10)
		n += 10
	}
	checkValues(t, consumeN(t, b.client(t), "t", n), n)
}

func TestReauthenticationThatIsRefused(t *testing.T) {
	hello := func(m string) *kmsg.SASLHandshakeRequest {
		q := kmsg.NewPtrSASLHandshakeRequest()
		q.Mechanism = m
		return q
	}
	for name, c := range map[string]struct {
		// again is what the client does; whatever it is, it has failed when the
		// connection is gone, or the error says so.
		again func(t *testing.T, nc net.Conn) error
		want  error
		open  bool // afterwards
	}{
		"another user": {func(t *testing.T, nc net.Conn) error { _, err := login(t, nc, scram256("bob", "secret")); return err }, kerr.SaslAuthenticationFailed, false},
		"another mechanism": {func(t *testing.T, nc net.Conn) error {
			_, err := login(t, nc, plain.Auth{User: "alice", Pass: "geheim"}.AsMechanism())
			return err
		}, kerr.SaslAuthenticationFailed, false},
		"wrong password": {func(t *testing.T, nc net.Conn) error { _, err := login(t, nc, scram256("alice", "wrong")); return err }, kerr.SaslAuthenticationFailed, false},
		"a mechanism that is not offered": {func(t *testing.T, nc net.Conn) error {
			resp, err := askOver(t, nc, hello("GSSAPI"), 1, kmsg.NewPtrSASLHandshakeResponse())
			return errors.Join(err, kerr.ErrorForCode(resp.ErrorCode))
		}, kerr.UnsupportedSaslMechanism, false},
		"bare tokens": {func(t *testing.T, nc net.Conn) error {
			resp, err := askOver(t, nc, hello("SCRAM-SHA-256"), 0, kmsg.NewPtrSASLHandshakeResponse())
			return errors.Join(err, kerr.ErrorForCode(resp.ErrorCode))
		}, kerr.IllegalSaslState, true},
		"a token without a handshake": {func(t *testing.T, nc net.Conn) error {
			resp, err := askOver(t, nc, kmsg.NewPtrSASLAuthenticateRequest(), 2, kmsg.NewPtrSASLAuthenticateResponse())
			return errors.Join(err, kerr.ErrorForCode(resp.ErrorCode))
		}, kerr.IllegalSaslState, true},
		"twice in a while": {func(t *testing.T, nc net.Conn) error {
			if _, err := login(t, nc, scram256("alice", "geheim")); err != nil {
				t.Fatal(err)
			}
			_, err := login(t, nc, scram256("alice", "geheim"))
			return err
		}, kerr.IllegalSaslState, true},
		"another request in the middle": {func(t *testing.T, nc net.Conn) error {
			if _, err := askOver(t, nc, hello("SCRAM-SHA-256"), 1, kmsg.NewPtrSASLHandshakeResponse()); err != nil {
				t.Fatal(err)
			}
			return works(t, nc)
		}, io.EOF, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := startPrepared(t, func(c *Config) {
				saslConfig(&logLines{})(c)
				c.Listeners[2].Mechanisms = []auth.Mechanism{auth.ScramSHA256, auth.Plain}
			}, func(b *Broker) { b.reauthEvery = time.Hour })
			nc := dial(t, b.Addr("sasl"))
			if _, err := login(t, nc, scram256("alice", "geheim")); err != nil {
				t.Fatal(err)
			}
			if err := c.again(t, nc); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if err := works(t, nc); (err == nil) != c.open {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// TestReauthenticationBehindPipelinedRequests: what was sent before the handshake
// is answered before it (KAFKA-9854).
func TestReauthenticationBehindPipelinedRequests(t *testing.T) {
	b := startBroker(t, saslConfig(&logLines{}))
	produceN(t, b.client(t, kgo.AllowAutoTopicCreation()), "t", 0, 1)
	nc := dial(t, b.Addr("sasl"))
	if _, err := login(t, nc, scram256("alice", "geheim")); err != nil {
		t.Fatal(err)
	}
	fetch := kmsg.NewPtrFetchRequest()
	fetch.MaxWaitMillis, fetch.MinBytes, fetch.MaxBytes = 200, 1, 1<<20
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic = "t"
	part := kmsg.NewFetchRequestTopicPartition()
	part.FetchOffset, part.PartitionMaxBytes = 1, 1<<20
	topic.Partitions = append(topic.Partitions, part)
	fetch.Topics = append(fetch.Topics, topic)
	hello := kmsg.NewPtrSASLHandshakeRequest()
	hello.Mechanism = "SCRAM-SHA-256"
	if _, err := nc.Write(append(frameOf(fetch, 11), frameOf(hello, 1)...)); err != nil {
		t.Fatal(err)
	}
	if body, err := readAnswer(nc); err != nil || fetch.ResponseKind().(*kmsg.FetchResponse).ReadFrom(body) != nil {
		t.Fatalf("the parked fetch: %v", err)
	}
	body, err := readAnswer(nc)
	if err != nil || int16(binary.BigEndian.Uint16(body)) != 0 {
		t.Fatalf("the handshake behind it: %x, %v", body, err)
	}
}

func TestSessionsOfDeletedAndChangedUsers(t *testing.T) {
	for name, c := range map[string]struct {
		cutChanged bool
		change     func(ctx context.Context, admin *kadm.Client) (kadm.AlteredUserSCRAMs, error)
		open       bool
	}{
		"deleted": {false, func(ctx context.Context, admin *kadm.Client) (kadm.AlteredUserSCRAMs, error) {
			return admin.AlterUserSCRAMs(ctx, []kadm.DeleteSCRAM{{User: "alice", Mechanism: kadm.ScramSha256}}, nil)
		}, false},
		"changed, kept": {false, func(ctx context.Context, admin *kadm.Client) (kadm.AlteredUserSCRAMs, error) {
			return admin.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "alice", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "neu"}})
		}, true},
		"changed, cut": {true, func(ctx context.Context, admin *kadm.Client) (kadm.AlteredUserSCRAMs, error) {
			return admin.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "alice", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "neu"}})
		}, false},
		"another one deleted": {true, func(ctx context.Context, admin *kadm.Client) (kadm.AlteredUserSCRAMs, error) {
			return admin.AlterUserSCRAMs(ctx, []kadm.DeleteSCRAM{{User: "bob", Mechanism: kadm.ScramSha256}}, nil)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t, func(cfg *Config) {
				saslConfig(&logLines{})(cfg)
				cfg.CutChangedUsers = c.cutChanged
			})
			nc := dial(t, b.Addr("sasl"))
			if _, err := login(t, nc, scram256("alice", "geheim")); err != nil {
				t.Fatal(err)
			}
			res, err := c.change(within(t, 30*time.Second), kadm.NewClient(b.client(t)))
			if err != nil || res.Error() != nil {
				t.Fatal(err, res.Error())
			}
			if err := works(t, nc); (err == nil) != c.open {
				t.Errorf("the open connection: %v", err)
			}
		})
	}
}

// TestAStopAnswersWhatItHasAppended: of requests that a client has sent one after
// the other, a stop answers as many as it has carried out.
func TestAStopAnswersWhatItHasAppended(t *testing.T) {
	lines := &logLines{}
	b := startBroker(t, func(c *Config) { saslConfig(lines)(c); c.Limits.DrainTimeout = 30 * time.Second })
	produceN(t, b.client(t, kgo.AllowAutoTopicCreation()), "t", 0, 1)
	batch := testBatch(t, record.NoProducer(record.None), record.Record{Value: []byte("x")})
	produce := kmsg.NewPtrProduceRequest()
	produce.Acks, produce.TimeoutMillis = -1, 10_000
	produce.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", Partitions: []kmsg.ProduceRequestTopicPartition{{Records: batch}}}}

	const sent = 200
	var frames []byte
	for range sent {
		frames = append(frames, frameOf(produce, 7)...)
	}
	nc, idle := dial(t, b.Addr("plain")), dial(t, b.Addr("plain"))
	if err := works(t, idle); err != nil {
		t.Fatal(err)
	}
	if _, err := exchange(t, nc, frames); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	b.stop()
	if took := time.Since(began); took > b.cfg.Limits.DrainTimeout {
		t.Errorf("stopped after %v", took)
	}
	answered := 1
	for {
		body, err := readAnswer(nc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %d answers: %v, want the end", answered, err) // a reset, which loses answers
		}
		resp := kmsg.NewPtrProduceResponse()
		resp.SetVersion(7)
		if err := resp.ReadFrom(body); err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Fatalf("answer %d: %+v, %v", answered, resp, err)
		}
		answered++
	}
	if n := lines.count("connection closed"); n != 0 {
		t.Errorf("%d connections ended with an error", n)
	}
	b = b.restart(t)
	ends, err := kadm.NewClient(b.client(t)).ListEndOffsets(within(t, 30*time.Second), "t")
	if err != nil {
		t.Fatal(err)
	}
	if end, _ := ends.Lookup("t", 0); end.Offset != int64(1+answered) {
		t.Errorf("%d of %d answered, %d appended", answered, sent, end.Offset-1)
	}
}
