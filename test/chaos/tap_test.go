//go:build chaos && unix

package chaos

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// largestFrame is more than any request or answer that a fleet asks for.
const largestFrame = 128 << 20

// tap reads the frames of the Kafka protocol that pass a proxy. It knows for
// each client (by client.id, which names the node) which requests were sent in
// full and are not answered, and can have one thing done to what passes.
//
// It hands a request to the broker once it is whole, also if who sent it is dead
// meanwhile: what is under way at a kill arrives.
type tap struct {
	mu    sync.Mutex
	rules []*rule
	held  map[string]chan struct{} // by client: closed when its requests pass again
	lines map[*line]bool           // connections
}

// rule is done once: to the first request with one of the keys, after skip
// others.
type rule struct {
	keys []int16
	skip int
	when moment
	do   func(client string) // first, if there is something to do
	done chan string
}

// moment is one in the life of a request.
type moment int

const (
	sent     moment = iota // whole, on its way to the broker
	arrived                // handed to the broker
	answered               // by the broker, whose answer is lost then, with the connection
)

// calls counts requests.
type calls struct{ writes, others int }

// writeKeys are those of the requests that write records: a produce request, or an append to
// a mirror topic.
var writeKeys = []int16{int16(kmsg.Produce), mirrorwire.AppendKey}

func newTap() *tap {
	return &tap{held: map[string]chan struct{}{}, lines: map[*line]bool{}}
}

// onRequest does something at a moment of a request as described, which waits
// for it, and tells the client on the channel.
func (t *tap) onRequest(when moment, skip int, do func(client string), keys ...int16) <-chan string {
	return t.add(&rule{keys: keys, skip: skip, when: when, do: do, done: make(chan string, 1)})
}

// loseAnswer drops the answer to a request as described, once the broker has
// given it, and cuts the connection.
func (t *tap) loseAnswer(skip int, keys ...int16) <-chan string {
	return t.add(&rule{keys: keys, skip: skip, when: answered, done: make(chan string, 1)})
}

func (t *tap) add(r *rule) <-chan string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rules = append(t.rules, r)
	return r.done
}

// forget drops what was asked for and has not happened.
func (t *tap) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rules = nil
}

// met says whether a rule is about this moment of a request. It does what the
// rule says and takes it away then.
func (t *tap) met(client string, key int16, when moment) bool {
	r := t.take(client, key, when)
	if r == nil {
		return false
	}
	if r.do != nil {
		r.do(client)
	}
	r.done <- client
	return true
}

func (t *tap) take(client string, key int16, when moment) *rule {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, r := range t.rules {
		if r.when != when || !among(key, r.keys) {
			continue
		}
		if r.skip > 0 {
			r.skip--
			continue
		}
		t.rules = append(t.rules[:i:i], t.rules[i+1:]...)
		return r
	}
	return nil
}

func among(key int16, keys []int16) bool {
	for _, k := range keys {
		if k == key {
			return true
		}
	}
	return false
}

// holdRequests keeps the requests of a client from the broker until the returned
// function is called: they come late then, all of them.
func (t *tap) holdRequests(client string) (release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	gate := make(chan struct{})
	t.held[client] = gate
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.held[client] == gate {
			delete(t.held, client)
			close(gate)
		}
	}
}

// unanswered counts what a client has sent in full and has no answer to when do
// is done. No connection of it is given up in between.
func (t *tap) unanswered(client string, do func()) (c calls) {
	t.mu.Lock()
	defer t.mu.Unlock()
	do()
	for l := range t.lines {
		l.mu.Lock()
		for _, key := range l.asked {
			switch {
			case l.client != client:
			case among(key, writeKeys):
				c.writes++
			default:
				c.others++
			}
		}
		l.mu.Unlock()
	}
	return c
}

// line is one connection.
type line struct {
	tap *tap

	mu     sync.Mutex
	client string
	asked  []int16 // keys of what was sent in full and is not answered, oldest first
}

func (t *tap) connect() *line {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &line{tap: t}
	t.lines[l] = true
	return l
}

// requests hands frames to the broker. When the client is gone the broker is
// told once it has all of them.
func (l *line) requests(server, client net.Conn) {
	defer l.leave(server)
	var frame []byte
	for {
		var err error
		if frame, err = readFrame(client, frame); err != nil {
			return
		}
		key, id := header(frame)
		l.mu.Lock()
		l.client, l.asked = id, append(l.asked, key)
		l.mu.Unlock()
		l.tap.mu.Lock()
		gate := l.tap.held[id]
		l.tap.mu.Unlock()
		if gate != nil {
			<-gate
		}
		l.tap.met(id, key, sent)
		if _, err := server.Write(frame); err != nil {
			return
		}
		l.tap.met(id, key, arrived)
	}
}

// answers hands frames to the client, while there is one.
func (l *line) answers(client, server net.Conn, gate func()) {
	defer server.Close()
	defer client.Close()
	var frame []byte
	for {
		var err error
		if frame, err = readFrame(server, frame); err != nil {
			return
		}
		gate()
		l.mu.Lock()
		if len(l.asked) == 0 {
			l.mu.Unlock()
			return // nobody has asked
		}
		id, key := l.client, l.asked[0]
		l.mu.Unlock()
		if l.tap.met(id, key, answered) {
			return // before asked is less: it is unanswered for its client
		}
		_, _ = client.Write(frame) // if it is gone the rest is read for the broker's sake
		l.mu.Lock()
		l.asked = l.asked[1:]
		l.mu.Unlock()
	}
}

// leave is for when the client is gone. It lets the broker finish what it has:
// a close would take back what the broker has not read yet.
func (l *line) leave(server net.Conn) {
	l.tap.mu.Lock()
	delete(l.tap.lines, l)
	l.tap.mu.Unlock()
	if tcp, ok := server.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		_ = tcp.SetReadDeadline(time.Now().Add(5 * time.Second))
		return
	}
	_ = server.Close()
}

// readFrame reads a length and as many bytes, into buf if there is room.
func readFrame(from io.Reader, buf []byte) ([]byte, error) {
	if cap(buf) < 4 {
		buf = make([]byte, 64<<10)
	}
	buf = buf[:4]
	if _, err := io.ReadFull(from, buf); err != nil {
		return buf, err
	}
	size := binary.BigEndian.Uint32(buf)
	if size > largestFrame {
		return buf, errors.New("no frame of the Kafka protocol")
	}
	if need := int(size) + 4; cap(buf) < need {
		buf = append(make([]byte, 0, need), buf...)
	}
	buf = buf[:4+size]
	_, err := io.ReadFull(from, buf[4:])
	return buf, err
}

// header takes the API key and the client.id from a request's frame.
func header(frame []byte) (key int16, client string) {
	if len(frame) < 14 {
		return -1, "?"
	}
	key = int16(binary.BigEndian.Uint16(frame[4:]))
	size := int(int16(binary.BigEndian.Uint16(frame[12:])))
	if size <= 0 || len(frame) < 14+size {
		return key, "?"
	}
	return key, string(frame[14 : 14+size])
}
