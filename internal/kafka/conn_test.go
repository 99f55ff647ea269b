package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// wire is the broker's side of one connection, driven by the test.
type wire struct {
	t *testing.T
	net.Conn
}

func dialWire(t *testing.T) (*Conn, wire) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		s, err := l.Accept()
		if err != nil {
			close(accepted)
			return
		}
		w := wire{t, s}
		_, corr, _ := w.request()
		resp := kmsg.NewPtrApiVersionsResponse()
		resp.SetVersion(3)
		for key := range int16(30) {
			resp.ApiKeys = append(resp.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: key, MaxVersion: 9})
		}
		for _, key := range []int16{mirrorwire.DescribeKey, mirrorwire.AppendKey} {
			resp.ApiKeys = append(resp.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: key, MaxVersion: 9})
		}
		w.answer(corr, resp, false)
		accepted <- s
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := Dial(ctx, &flow.Cluster{}, l.Addr().String(), "test")
	if err != nil {
		t.Fatal(err)
	}
	s := <-accepted
	t.Cleanup(func() { s.Close(); c.Close() })
	return c, wire{t, s}
}

// request reads one frame and returns its key, correlation id and all of it.
func (w wire) request() (key int16, corr int32, frame []byte) {
	var head [4]byte
	if _, err := io.ReadFull(w, head[:]); err != nil {
		return -1, 0, nil
	}
	frame = make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(w, frame); err != nil {
		return -1, 0, nil
	}
	return int16(binary.BigEndian.Uint16(frame)), int32(binary.BigEndian.Uint32(frame[4:])), frame
}

func (w wire) answer(corr int32, resp kmsg.Response, flexibleHeader bool) {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), uint32(corr))
	if flexibleHeader {
		b = append(b, 1, 7, 2, 0xaa, 0xbb) // one tag, 7, of two bytes
	}
	b = resp.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	if _, err := w.Write(b); err != nil {
		w.t.Error(err)
	}
}

func heartbeat(throttle int32, version int16) *kmsg.HeartbeatResponse {
	r := kmsg.NewPtrHeartbeatResponse()
	r.SetVersion(version)
	r.ThrottleMillis = throttle
	return r
}

func TestAnswersGoToTheirCallsInOrder(t *testing.T) {
	c, w := dialWire(t)
	old, flexible := c.Send(t.Context(), kmsg.NewPtrHeartbeatRequest(), 3), c.Send(t.Context(), kmsg.NewPtrHeartbeatRequest(), 4)
	_, first, _ := w.request()
	_, second, _ := w.request()
	w.answer(first, heartbeat(1, 3), false)
	w.answer(second, heartbeat(2, 4), true)
	for i, k := range []*Call{old, flexible} {
		resp, err := k.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := resp.(*kmsg.HeartbeatResponse).ThrottleMillis, int32(i+1); got != want {
			t.Errorf("call %d got answer %d", want, got)
		}
	}
}

func TestRequestsOnMirrorTopics(t *testing.T) {
	c, w := dialWire(t)
	k := c.Send(t.Context(), &mirrorwire.DescribeRequest{Topics: []mirrorwire.TopicRef{{Topic: "orders"}}}, mirrorwire.MaxVersion)
	key, corr, _ := w.request()
	if key != mirrorwire.DescribeKey {
		t.Fatalf("key %d", key)
	}
	w.answer(corr, &mirrorwire.DescribeResponse{Topics: []mirrorwire.DescribeResponseTopic{{Topic: "orders", State: mirrorwire.Paused}}}, true)
	resp, err := k.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.(*mirrorwire.DescribeResponse).Topics; len(got) != 1 || got[0].Topic != "orders" || got[0].State != mirrorwire.Paused {
		t.Errorf("got %+v", got)
	}
	var wrong *VersionError
	if _, err := c.Request(t.Context(), new(mirrorwire.AlterRequest), mirrorwire.MaxVersion); !errors.As(err, &wrong) || wrong.Error() != "broker does not know MirrorAlter requests" {
		t.Errorf("a broker without mirror topics: %v", err)
	}
}

// TestNoVersionIsSentThatTheCodecHasNot: a broker may be newer than this program, and a
// caller may want its newest.
func TestNoVersionIsSentThatTheCodecHasNot(t *testing.T) {
	c, w := dialWire(t) // it speaks Heartbeat up to 9
	req := kmsg.NewPtrHeartbeatRequest()
	k := c.Send(t.Context(), req, 9)
	_, corr, frame := w.request()
	if sent := int16(binary.BigEndian.Uint16(frame[2:])); sent != req.MaxVersion() {
		t.Errorf("version %d is sent, the codec has up to %d", sent, req.MaxVersion())
	}
	w.answer(corr, heartbeat(1, req.MaxVersion()), true)
	if _, err := k.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAFaultEndsEveryCall(t *testing.T) {
	for name, fault := range map[string]func(wire, int32){
		"cut":               func(w wire, _ int32) { w.Close() },
		"cut in the answer": func(w wire, _ int32) { w.Write([]byte{0, 0, 0, 50, 1}); w.Close() },
		"another request's": func(w wire, corr int32) { w.answer(corr+1, heartbeat(0, 3), false) },
		"too long":          func(w wire, _ int32) { w.Write([]byte{0x7f, 0, 0, 0}) },
		"negative length":   func(w wire, _ int32) { w.Write([]byte{0xff, 0, 0, 0}) },
		"garbage":           func(w wire, corr int32) { w.Write([]byte{0, 0, 0, 5, 0, 0, 0, byte(corr), 9}) },
	} {
		t.Run(name, func(t *testing.T) {
			c, w := dialWire(t)
			calls := []*Call{c.Send(t.Context(), kmsg.NewPtrHeartbeatRequest(), 3), c.Send(t.Context(), kmsg.NewPtrHeartbeatRequest(), 3)}
			_, corr, _ := w.request()
			fault(w, corr)
			for i, k := range calls {
				if _, err := k.Wait(t.Context()); !errors.Is(err, ErrUnanswered) {
					t.Errorf("call %d: %v, want ErrUnanswered", i, err)
				}
			}
			if c.Usable() {
				t.Error("a broken connection calls itself usable")
			}
			if _, err := c.Request(t.Context(), kmsg.NewPtrHeartbeatRequest(), 3); !errors.Is(err, ErrNotSent) || errors.Is(err, ErrUnanswered) {
				t.Errorf("after the fault: %v, want ErrNotSent", err)
			}
		})
	}
}

func TestADeadlineBreaksTheConnection(t *testing.T) {
	c, _ := dialWire(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	k := c.Send(ctx, kmsg.NewPtrHeartbeatRequest(), 3)
	if _, err := k.Wait(t.Context()); !errors.Is(err, ErrUnanswered) {
		t.Fatalf("%v, want ErrUnanswered", err)
	}
}

func TestVersions(t *testing.T) {
	c, _ := dialWire(t)
	var wrong *VersionError
	if _, err := c.Version(99, 3); !errors.As(err, &wrong) || wrong.Max != -1 {
		t.Errorf("unknown request: %v", err)
	}
	if v, err := c.Version(1, 12); v != 9 || err != nil {
		t.Errorf("got version %d, %v, want 9", v, err)
	}
	c.versions[1] = [2]int16{13, 17}
	if _, err := c.Version(1, 12); !errors.As(err, &wrong) {
		t.Errorf("broker is too new: %v", err)
	}
}

func TestProduceOnTheWireIsWhatTheCodecWrites(t *testing.T) {
	c, w := dialWire(t)
	for _, txn := range []string{"", "waybill.a.b.1.c.0"} {
		want := kmsg.NewPtrProduceRequest()
		want.Version, want.Acks, want.TimeoutMillis = produceVersion, -1, 1500
		if txn != "" {
			want.TransactionID = &txn
		}
		p := &Produce{TransactionalID: txn, Timeout: 1500 * time.Millisecond}
		for topic, n := range map[string]int{"orders": 3, "empty": 0} {
			wt, pt := kmsg.NewProduceRequestTopic(), ProduceTopic{Topic: topic}
			wt.Topic = topic
			for i := range int32(n) {
				batch := bytes.Repeat([]byte{byte(i)}, 1000*int(i+1))
				wp := kmsg.NewProduceRequestTopicPartition()
				wp.Partition, wp.Records = i, batch
				wt.Partitions = append(wt.Partitions, wp)
				pt.Partitions = append(pt.Partitions, ProducePartition{i, batch})
			}
			want.Topics, p.Topics = append(want.Topics, wt), append(p.Topics, pt)
		}
		k := c.SendProduce(t.Context(), p)
		_, corr, frame := w.request()
		if expected := c.formatter.AppendRequest(nil, want, corr)[4:]; !bytes.Equal(frame, expected) {
			t.Fatalf("got  %x\nwant %x", frame, expected)
		}
		resp := kmsg.NewPtrProduceResponse()
		resp.SetVersion(produceVersion)
		resp.ThrottleMillis = 9
		w.answer(corr, resp, false)
		answer, err := k.Wait(t.Context())
		if err != nil || answer.(*kmsg.ProduceResponse).ThrottleMillis != 9 {
			t.Fatalf("answer %+v, %v", answer, err)
		}
	}
}

func TestAppendsOnTheWireAreWhatTheCodecWrites(t *testing.T) {
	c, w := dialWire(t)
	for _, sizes := range [][]int{{}, {0}, {1000, 0, 127, 128}, {300_000}} {
		req := &mirrorwire.AppendRequest{TimeoutMillis: 1500, Topics: []mirrorwire.AppendRequestTopic{{Source: "west/orders"}, {Source: "west/empty"}}}
		for i, n := range sizes {
			p := mirrorwire.NewAppendPartition()
			p.Partition, p.Batches = int32(i), bytes.Repeat([]byte{byte(i + 1)}, n)
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, p)
		}
		k := c.Send(t.Context(), req, mirrorwire.MaxVersion)
		key, corr, frame := w.request()
		// Laid out as a plain request, without Splice.
		if want := c.formatter.AppendRequest(nil, struct{ kmsg.Request }{req}, corr)[4:]; key != mirrorwire.AppendKey || !bytes.Equal(frame, want) {
			t.Fatalf("batches of %v: got\n%.200x\nwant\n%.200x", sizes, frame, want)
		}
		w.answer(corr, &mirrorwire.AppendResponse{ThrottleMillis: 9}, true)
		if answer, err := k.Wait(t.Context()); err != nil || answer.(*mirrorwire.AppendResponse).ThrottleMillis != 9 {
			t.Fatalf("answer %+v, %v", answer, err)
		}
	}
}

func responseFor(key, version int16) kmsg.Response {
	resp := kmsg.ResponseForKey(key)
	if key == mirrorwire.DescribeKey {
		resp = new(mirrorwire.DescribeResponse)
	}
	if resp != nil {
		resp.SetVersion(version)
	}
	return resp
}

func FuzzResponse(f *testing.F) {
	for _, key := range []int16{0, 1, 3, 10, 18, 22, 24, 26, mirrorwire.DescribeKey} {
		resp := responseFor(key, 0)
		resp.SetVersion(min(resp.MaxVersion(), 12))
		f.Add(key, resp.GetVersion(), resp.IsFlexible(), resp.AppendTo([]byte{0, 0, 0, 1, 0}))
	}
	f.Fuzz(func(_ *testing.T, key, version int16, flexible bool, data []byte) {
		resp := responseFor(key, version)
		if resp == nil || version < 0 || version > resp.MaxVersion() || len(data) > 1<<16 {
			return
		}
		k := &Call{key: key, empty: resp, corr: 1, flexible: flexible}
		if frame, err := readFrame(bytes.NewReader(data), nil); err == nil {
			_, _ = k.decode(frame)
		}
		k.empty = responseFor(key, version)
		_, _ = k.decode(data)
	})
}
