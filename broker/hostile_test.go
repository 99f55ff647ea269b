package broker

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// logLines keeps what a broker logs.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logLines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

func (l *logLines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// saslConfig adds a SASL listener without TLS, so that a test can speak bytes.
func saslConfig(lines *logLines) func(*Config) {
	return func(c *Config) {
		c.Listeners = append(c.Listeners, Listener{Name: "sasl", Addr: "127.0.0.1:0", Protocol: SASLPlaintext})
		c.Log = slog.New(slog.NewTextHandler(lines, nil))
	}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// exchange sends bytes and returns one answer's body, after the correlation id.
func exchange(t *testing.T, nc net.Conn, frame []byte) ([]byte, error) {
	t.Helper()
	if _, err := nc.Write(frame); err != nil {
		return nil, err
	}
	return readAnswer(nc)
}

func readAnswer(nc net.Conn) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(nc, size[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(nc, body); err != nil {
		return nil, err
	}
	return body[4:], nil
}

func TestBeforeAuthenticationOnlyThreeRequestsAreAnswered(t *testing.T) {
	lines := &logLines{}
	b := startBroker(t, saslConfig(lines))
	for _, row := range apis() {
		if unauthenticatedFrameLimit(int16(row.key)) > 0 {
			continue
		}
		nc := dial(t, b.Addr("sasl"))
		if body, err := exchange(t, nc, frameOf(newRequest(row.key), row.max)); err == nil {
			t.Errorf("%s answered with %d bytes before authentication", apiName(row.key), len(body))
		}
	}
	// The right key does not help after a failure.
	nc := dial(t, b.Addr("sasl"))
	hello := kmsg.NewPtrSASLHandshakeRequest()
	hello.Mechanism = "SCRAM-SHA-256"
	if _, err := exchange(t, nc, frameOf(hello, 1)); err != nil {
		t.Fatal(err)
	}
	token := kmsg.NewPtrSASLAuthenticateRequest()
	token.SASLAuthBytes = []byte("n,,n=alice,r=abc")
	if _, err := exchange(t, nc, frameOf(token, 1)); err != nil {
		t.Fatal(err)
	}
	token.SASLAuthBytes = []byte("c=biws,r=abc,p=AAAA")
	body, err := exchange(t, nc, frameOf(token, 1))
	if err != nil || int16(binary.BigEndian.Uint16(body)) != kerr.SaslAuthenticationFailed.Code {
		t.Fatalf("wrong proof: %x, %v", body, err)
	}
	if _, err := exchange(t, nc, frameOf(kmsg.NewPtrMetadataRequest(), 4)); err == nil {
		t.Error("metadata after a failed authentication")
	}
}

func TestApiVersionsOfTheFutureIsAnsweredInVersionZero(t *testing.T) {
	b := startBroker(t, saslConfig(&logLines{}))
	for _, listener := range []string{"plain", "sasl"} {
		nc := dial(t, b.Addr(listener))
		frame := frameOf(kmsg.NewPtrApiVersionsRequest(), 3)
		binary.BigEndian.PutUint16(frame[6:], 99)
		body, err := exchange(t, nc, frame)
		if err != nil {
			t.Fatal(err)
		}
		resp := kmsg.NewPtrApiVersionsResponse()
		if err := resp.ReadFrom(body); err != nil || resp.ErrorCode != kerr.UnsupportedVersion.Code || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].ApiKey != int16(kmsg.ApiVersions) {
			t.Fatalf("%s: %+v, %v", listener, resp, err)
		}
		// The connection goes on.
		if _, err := exchange(t, nc, frameOf(kmsg.NewPtrApiVersionsRequest(), 2)); err != nil {
			t.Errorf("%s: second attempt: %v", listener, err)
		}
	}
}

func TestTheOldHandshakeWithBareTokens(t *testing.T) {
	cfg := saslConfig(&logLines{})
	b := startBroker(t, cfg)
	nc := dial(t, b.Addr("sasl"))
	hello := kmsg.NewPtrSASLHandshakeRequest()
	hello.Mechanism = "SCRAM-SHA-256"
	if _, err := exchange(t, nc, frameOf(hello, 0)); err != nil {
		t.Fatal(err)
	}
	session, first, err := scram256("alice", "geheim").Authenticate(context.Background(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	bare := func(token []byte) []byte {
		if _, err := nc.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(token))), token...)); err != nil {
			t.Fatal(err)
		}
		var size [4]byte
		if _, err := io.ReadFull(nc, size[:]); err != nil {
			t.Fatal(err)
		}
		reply := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(nc, reply); err != nil {
			t.Fatal(err)
		}
		return reply
	}
	for token, done := first, false; !done; {
		if done, token, err = session.Challenge(bare(token)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := exchange(t, nc, frameOf(kmsg.NewPtrMetadataRequest(), 4)); err != nil {
		t.Errorf("after authentication: %v", err)
	}
}

func TestMechanismsThatAreNotOffered(t *testing.T) {
	b := startBroker(t, saslConfig(&logLines{}))
	for _, mechanism := range []string{"PLAIN", "GSSAPI", "", "SCRAM-SHA-1"} { // PLAIN needs TLS
		nc := dial(t, b.Addr("sasl"))
		hello := kmsg.NewPtrSASLHandshakeRequest()
		hello.Mechanism = mechanism
		body, err := exchange(t, nc, frameOf(hello, 1))
		if err != nil || int16(binary.BigEndian.Uint16(body)) != kerr.UnsupportedSaslMechanism.Code {
			t.Errorf("%q: %x, %v", mechanism, body, err)
		}
		if _, err := exchange(t, nc, frameOf(hello, 1)); err == nil {
			t.Errorf("%q: a second attempt on one connection", mechanism)
		}
	}
}

func TestMalformedBytesCostTheirConnectionOnly(t *testing.T) {
	lines := &logLines{}
	b := startBroker(t, saslConfig(lines))
	rng := rand.New(rand.NewPCG(1, 2))
	table := apis()
	for i := range 400 {
		row := table[rng.IntN(len(table))]
		version := row.min + int16(rng.IntN(int(row.max-row.min)+1))
		frame := frameOf(newRequest(row.key), version)
		frame = append(frame, make([]byte, rng.IntN(64))...)
		for range 1 + rng.IntN(8) {
			frame[rng.IntN(len(frame))] = byte(rng.Uint32())
		}
		nc := dial(t, b.Addr([]string{"plain", "sasl"}[i%2]))
		if _, err := nc.Write(frame); err != nil {
			continue
		}
		nc.Close()
	}
	produceN(t, b.client(t, kgo.AllowAutoTopicCreation()), "t", 0, 10)
	if n := lines.count("panicked"); n != 0 {
		t.Errorf("%d panics", n)
	}
}

// TestOneLogLinePerMalformedFrame stops the broker as soon as the client sees the
// end, so that the line is written during the stop as often as before it.
func TestOneLogLinePerMalformedFrame(t *testing.T) {
	unsupported := frameOf(kmsg.NewPtrMetadataRequest(), 4)
	binary.BigEndian.PutUint16(unsupported[6:], 99)
	cut := frameOf(kmsg.NewPtrMetadataRequest(), 4)
	cut = cut[:len(cut)-1]
	binary.BigEndian.PutUint32(cut, uint32(len(cut)-4))
	for name, c := range map[string]struct {
		frame []byte
		want  string
	}{
		"unknown api key":     {[]byte{0, 0, 0, 12, 0x7f, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}, "32639"},
		"unsupported version": {unsupported, "Metadata v99 is not supported"},
		"a body cut short":    {cut, "Metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			lines := &logLines{}
			b := startBroker(t, saslConfig(lines))
			nc := dial(t, b.Addr("plain"))
			if _, err := exchange(t, nc, c.frame); err == nil {
				t.Fatal("answered")
			}
			b.stop()
			if n, why := lines.count("connection closed"), lines.count(c.want); n != 1 || why != 1 {
				t.Errorf("%d lines, %d of them say %q", n, why, c.want)
			}
			if n := b.metrics.MalformedRequests.Load(); n != 1 {
				t.Errorf("%d malformed requests counted", n)
			}
		})
	}
}

// TestWhatWasAskedBeforeAMalformedFrameIsAnswered to a client that reads slowly
// and has sent more than the broker reads: closed over that, a socket drops what
// of the answer the client has not taken yet.
func TestWhatWasAskedBeforeAMalformedFrameIsAnswered(t *testing.T) {
	b := startBroker(t, nil)
	big := &kgo.Record{Topic: "t", Value: make([]byte, 900_000)}
	cl := b.client(t, kgo.AllowAutoTopicCreation(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err := cl.ProduceSync(within(t, 30*time.Second), big).FirstErr(); err != nil {
		t.Fatal(err)
	}
	fetch := kmsg.NewPtrFetchRequest()
	fetch.MaxBytes = 1 << 20
	part := kmsg.NewFetchRequestTopicPartition()
	part.PartitionMaxBytes = 1 << 20
	fetch.Topics = []kmsg.FetchRequestTopic{{Topic: "t", Partitions: []kmsg.FetchRequestTopicPartition{part}}}
	unsupported := frameOf(kmsg.NewPtrMetadataRequest(), 4)
	binary.BigEndian.PutUint16(unsupported[6:], 99)
	for name, bad := range map[string][]byte{
		"one that the worker refuses": unsupported,
		"one that the reader refuses": {0xff, 0xff, 0xff, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			nc := dial(t, b.Addr("plain"))
			if err := nc.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
				t.Fatal(err)
			}
			sent := slices.Concat(frameOf(fetch, 11), bad, make([]byte, 100_000))
			answer, err := exchange(t, nc, sent)
			if err != nil || len(answer) < len(big.Value) {
				t.Errorf("%d bytes of an answer: %v", len(answer), err)
			}
			if _, err := nc.Read(make([]byte, 1)); err == nil || isTimeout(err) {
				t.Errorf("the connection stays: %v", err)
			}
		})
	}
}

func TestConnectionsAreCapped(t *testing.T) {
	b := startBroker(t, func(c *Config) { c.Limits.MaxConnections = 3 })
	hello := frameOf(kmsg.NewPtrApiVersionsRequest(), 0)
	var open []net.Conn
	for range 3 {
		nc := dial(t, b.Addr("plain"))
		if _, err := exchange(t, nc, hello); err != nil {
			t.Fatal(err)
		}
		open = append(open, nc)
	}
	if _, err := exchange(t, dial(t, b.Addr("plain")), hello); err == nil {
		t.Error("a fourth connection is answered")
	}
	open[0].Close()
	deadline := time.After(30 * time.Second)
	for tick := time.NewTicker(time.Millisecond); ; {
		if _, err := exchange(t, dial(t, b.Addr("plain")), hello); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("no room after a connection has gone")
		}
	}
}

func TestSlowHandshakesAreCut(t *testing.T) {
	b := startBroker(t, func(c *Config) {
		saslConfig(&logLines{})(c)
		c.Limits.HandshakeTimeout = 50 * time.Millisecond
	})
	for _, listener := range []string{"secure", "sasl"} {
		nc := dial(t, b.Addr(listener))
		if _, err := nc.Write([]byte{0, 0}); err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("%s: a silent connection stays: %v", listener, err)
		}
	}
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error) //nolint:errorlint // what a socket returns is not wrapped
	return ok && ne.Timeout()
}

func TestIdleConnectionsAreClosedButNotParkedOnes(t *testing.T) {
	b := startBroker(t, func(c *Config) { c.Limits.IdleTimeout = 400 * time.Millisecond })
	cl := b.client(t, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 0, 1)
	parked := fetchFrom(t, b, cl, "t", func(q *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) {
		q.MaxWaitMillis, p.FetchOffset = 1200, 1
	})
	if code := parked.ErrorCode; code != 0 {
		t.Errorf("a parked fetch: %v", kerr.ErrorForCode(code))
	}
	nc := dial(t, b.Addr("plain"))
	if _, err := nc.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("an idle connection stays: %v", err)
	}
}
