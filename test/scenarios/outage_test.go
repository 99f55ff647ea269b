//go:build unix

package scenarios

import (
	"crypto/rand"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/waybillhq/waybill/api"
)

// A cluster that cannot be reached when the flow is declared is waited for; one
// that is killed under load comes back with all that it acknowledged.
func TestDestinationThatIsNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, nil)
	w.us.createTopic("orders", 3)
	w.us.produce("orders", 3, 100)
	w.eu.process.kill()
	w.declare("orders")
	gone := func(s *api.Status) error {
		c, err := clusterOf(s, "eu")
		if err != nil {
			return err
		}
		return trouble("cluster eu", c.State, c.Reason, c.ToDo, []string{"unreachable"}, []string{w.eu.address, "refused"}, []string{"start the brokers", "bootstrapServers"})
	}
	w.nodes[0].awaitStatus(recovery, "eu is not there", func(s *api.Status) error {
		f, err := flowOf(s)
		if err != nil {
			return err
		}
		if err := trouble("flow", f.State, f.Reason, f.ToDo, []string{"waiting"}, []string{"cluster eu", "refused"}, []string{"start the brokers"}); err != nil {
			return err
		}
		return gone(s)
	})
	w.eu.start()
	w.running(3)
	w.exact("orders", 300)

	load := w.us.startLoad("orders", 3)
	w.copied("orders", 1500)
	w.eu.process.kill()
	w.nodes[0].awaitStatus(recovery, "eu is gone under load", func(s *api.Status) error {
		f, err := flowOf(s)
		if err != nil {
			return err
		}
		if err := trouble("flow", f.State, f.Reason, f.ToDo, []string{"waiting"}, nil, nil); err != nil {
			return err
		}
		return gone(s)
	})
	w.eu.start()
	w.keepsUp(3)
	n := 300 + load.end(t)
	w.running(3)
	w.exact("orders", n)
	w.nobodyDied()
}

// What is not the Kafka protocol, or only half of it, ends the connection that it
// came on and nothing else.
func TestMalformedFrames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, destinationSecurity())
	w.us.createTopic("orders", 2)
	w.declare("orders")
	load := w.us.startLoad("orders", 2)
	w.copied("orders", 200)

	noise := make([]byte, 4096)
	rand.Read(noise)
	sized := func(n uint32, body ...byte) []byte { return append(binary.BigEndian.AppendUint32(nil, n), body...) }
	// A Metadata request header, and then a count of topics that no frame holds.
	amplified := append(sized(18), 0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0)
	attacks := [][]byte{
		noise,
		sized(1 << 31),                         // negative
		sized(1<<31 - 1),                       // two gigabytes
		sized(100<<20, 0, 0, 0, 0),             // as large as a Produce may be, from somebody unknown
		sized(0),                               // nothing in it
		sized(4, 0, 3),                         // half a header
		sized(1000, noise[:500]...),            // half a frame
		sized(8, 0x7f, 0xff, 0, 0, 0, 0, 0, 1), // no such request
		sized(8, 0, 3, 0x7f, 0xff, 0, 0, 0, 1), // no such version
		amplified,
		[]byte("GET / HTTP/1.1\r\nHost: example\r\n\r\n"),
	}
	for _, b := range []*broker{w.us, w.eu} {
		for round := range 3 {
			for i, bytes := range attacks {
				conn, err := net.DialTimeout("tcp", b.address, 5*time.Second)
				if err != nil {
					t.Fatalf("%s takes no connection any more: %v", b.name, err)
				}
				conn.SetDeadline(time.Now().Add(5 * time.Second))
				conn.Write(bytes)
				switch {
				case round == 0: // gone before an answer
				case i%2 == 0: // half open
					conn.(*net.TCPConn).CloseWrite()
					conn.Read(make([]byte, 100))
				default: // left lying around
					defer conn.Close()
					continue
				}
				conn.Close()
			}
		}
	}
	w.keepsUp(2)
	n := load.end(t)
	w.running(2)
	w.exact("orders", n)
	w.nobodyDied()
}
