package mirror

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// liar stands between everybody and a broker. It shows to a test what the mirror asks
// and is answered, as it passes. The test may answer in the broker's place, or change
// what it has said.
type liar struct {
	// ask sees each request. If it returns an answer the broker is not asked. say sees
	// each answer of the broker and may change it. Either may be nil. A connection
	// has a goroutine for each.
	ask func(kmsg.Request) kmsg.Response
	say func(kmsg.Request, kmsg.Response)

	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string
	conns  map[net.Conn]bool
}

func newLiar(t testing.TB, ask func(kmsg.Request) kmsg.Response, say func(kmsg.Request, kmsg.Response)) *liar {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &liar{ask: ask, say: say, listener: l, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *liar) address() string { return p.listener.Addr().String() }

func (p *liar) standBefore(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

func (p *liar) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *liar) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *liar) serve(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, client)
		delete(p.conns, server)
		p.mu.Unlock()
	}()
	// In the order of the requests: what the liar answers waits its turn.
	turns := make(chan turn, 1000)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(turns)
		p.requests(client, server, turns)
		if tcp, ok := server.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	})
	wg.Go(func() {
		defer client.Close()
		defer server.Close()
		p.answers(client, server, turns)
		for range turns {
			continue // the other half must not wait for this one
		}
	})
	wg.Wait()
}

// turn is a request in its place.
type turn struct {
	req    kmsg.Request // nil: it is not looked at
	corr   uint32
	answer kmsg.Response // of the liar; nil: the broker's is to come
}

func (p *liar) requests(client, server net.Conn, turns chan<- turn) {
	for {
		frame, err := frameFrom(client)
		if err != nil {
			return
		}
		t := turn{req: requestIn(frame), corr: binary.BigEndian.Uint32(frame[8:])}
		if t.req != nil && p.ask != nil {
			t.answer = p.ask(t.req)
		}
		turns <- t
		if t.answer != nil {
			continue
		}
		if _, err := server.Write(frame); err != nil {
			return
		}
	}
}

func (p *liar) answers(client, server net.Conn, turns <-chan turn) {
	for t := range turns {
		frame := []byte(nil)
		if t.answer == nil {
			var err error
			if frame, err = frameFrom(server); err != nil {
				return
			}
			if t.req != nil {
				if resp := t.req.ResponseKind(); resp.ReadFrom(answerBody(resp, frame)) == nil {
					p.divert(resp)
					if p.say != nil {
						p.say(t.req, resp)
					}
					t.answer = resp
				}
			}
		}
		if t.answer != nil {
			t.answer.SetVersion(t.req.GetVersion())
			frame = binary.BigEndian.AppendUint32(make([]byte, 4), t.corr)
			if hasTags(t.answer) {
				frame = append(frame, 0)
			}
			frame = t.answer.AppendTo(frame)
			binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
		}
		if _, err := client.Write(frame); err != nil {
			return
		}
	}
}

// divert makes the liar's address that of the broker it stands in front of.
func (p *liar) divert(resp kmsg.Response) {
	at := p.listener.Addr().(*net.TCPAddr)
	host, port := at.IP.String(), int32(at.Port)
	switch resp := resp.(type) {
	case *kmsg.MetadataResponse:
		for i := range resp.Brokers {
			resp.Brokers[i].Host, resp.Brokers[i].Port = host, port
		}
	case *kmsg.FindCoordinatorResponse:
		resp.Host, resp.Port = host, port
		for i := range resp.Coordinators {
			resp.Coordinators[i].Host, resp.Coordinators[i].Port = host, port
		}
	}
}

// hasTags says that the header of an answer ends with tags: those of flexible
// versions, but for ApiVersions.
func hasTags(r kmsg.Response) bool { return r.IsFlexible() && r.Key() != int16(kmsg.ApiVersions) }

func answerBody(resp kmsg.Response, frame []byte) []byte {
	if hasTags(resp) {
		return frame[9:]
	}
	return frame[8:]
}

// frameFrom reads a frame, with its length.
func frameFrom(from io.Reader) ([]byte, error) {
	frame := make([]byte, 4)
	if _, err := io.ReadFull(from, frame); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(frame)
	if size < 4 || size > 128<<20 {
		return nil, errors.New("no frame of the Kafka protocol")
	}
	frame = append(frame, make([]byte, size)...)
	_, err := io.ReadFull(from, frame[4:])
	return frame, err
}

// requestIn is the request of a frame, nil if it is not the mirror's, cannot be read, or
// is of the handshake.
func requestIn(frame []byte) kmsg.Request {
	r := kbin.Reader{Src: frame[4:]}
	key, version := r.Int16(), r.Int16()
	r.Int32()
	client := r.NullableString()
	req := kmsg.RequestForKey(key)
	if req == nil || key == int16(kmsg.ApiVersions) || client == nil || *client != DefaultConfig().ClientID {
		return nil
	}
	req.SetVersion(version)
	if req.IsFlexible() {
		kmsg.SkipTags(&r)
	}
	if req.ReadFrom(r.Src) != nil {
		return nil
	}
	return req
}
