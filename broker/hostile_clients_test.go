package broker

import (
	"encoding/binary"
	"flag"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var (
	hostileConns = flag.Int("hostile", 200, "connections of hostile clients; 'make hostile-broker' takes 2000")
	hostileFor   = flag.Duration("hostile-for", 2*time.Second, "how long they go on")
)

// maxHostileGrowth is what hostile clients may make the process grow by: large
// frames within their budget, twice for what the garbage collector has not seen
// yet, and 96 KiB for each connection, of which the stacks of its goroutines, its
// buffers and TLS on the broker's side and the test's are a half.
func maxHostileGrowth(l Limits) int64 { return 2*l.MaxInFlightBytes + int64(*hostileConns)*96<<10 }

// allocated is how many bytes were ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// resident is the process's memory as the system counts it.
func resident(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("this system does not say how much memory a process has")
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// hostile is one way to be a nuisance. It runs on a connection that is new, until
// the connection fails or stop is closed.
type hostile func(nc net.Conn, stop <-chan struct{})

// drip sends the beginning of a frame, a byte at a time.
func drip(nc net.Conn, stop <-chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, c := range frameOf(kmsg.NewPtrMetadataRequest(), 12) {
		if _, err := nc.Write([]byte{c}); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
	hold(nc, stop)
}

// hold says nothing.
func hold(_ net.Conn, stop <-chan struct{}) { <-stop }

// promise sends the length of a great Produce and little of it.
func promise(nc net.Conn, stop <-chan struct{}) {
	frame := frameOf(kmsg.NewPtrProduceRequest(), 9)
	binary.BigEndian.PutUint32(frame, 31<<20)
	_, _ = nc.Write(frame)
	hold(nc, stop)
}

// crawl sends a great Produce so slowly that it never ends.
func crawl(nc net.Conn, stop <-chan struct{}) {
	frame := frameOf(kmsg.NewPtrProduceRequest(), 9)
	binary.BigEndian.PutUint32(frame, 31<<20)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for next := append(frame, make([]byte, 200<<10)...); ; next = make([]byte, 8<<10) {
		if _, err := nc.Write(next); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
}

// amplify sends frames whose decoding would take many times their size, again and
// again.
func amplify(key kmsg.Request, version int16, fill byte) hostile {
	frame := frameOf(key, version)[:frameLengthSize+minFrame+2]
	frame = append(frame, make([]byte, 1<<20-len(frame))...)
	for i := frameLengthSize + minFrame + 2; i < len(frame); i++ {
		frame[i] = fill
	}
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-frameLengthSize))
	return func(nc net.Conn, _ <-chan struct{}) {
		_, _ = nc.Write(frame)
		_, _ = nc.Read(make([]byte, 1)) // closed by the broker
	}
}

// deaf asks for much and reads nothing.
func deaf(nc net.Conn, stop <-chan struct{}) {
	q := kmsg.NewPtrMetadataRequest()
	q.Topics = nil
	for range 100 {
		if _, err := nc.Write(frameOf(q, 4)); err != nil {
			return
		}
	}
	hold(nc, stop)
}

// TestHostileClientsHarmNobody: honest clients go on producing small and large beside
// slow, silent, greedy and deaf ones; memory stays within a bound, and afterwards
// nothing is left of them.
func TestHostileClientsHarmNobody(t *testing.T) {
	lines := &logLines{}
	b := startDiskBroker(t, func(c *Config) { // files in memory would be counted
		saslConfig(lines)(c)
		c.Provenance = false
		c.Limits.MaxRequestBytes, c.Limits.MaxInFlightBytes = 32<<20, 64<<20
	})
	honest := b.client(t, kgo.AllowAutoTopicCreation(), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()))
	produceN(t, honest, "t", 0, 50)
	large := make([]byte, 200_000)
	work := func(until time.Time) (slowest []time.Duration) {
		for time.Now().Before(until) {
			began := time.Now()
			produceN(t, honest, "t", 0, 1)
			if err := honest.ProduceSync(within(t, 30*time.Second), &kgo.Record{Topic: "t", Value: large}).FirstErr(); err != nil {
				t.Fatalf("a record of %d bytes: %v", len(large), err)
			}
			slowest = append(slowest, time.Since(began))
		}
		slices.Sort(slowest)
		return slowest
	}
	quietly := work(time.Now().Add(*hostileFor / 4))
	runtime.GC()
	before, goroutines := resident(t), runtime.NumGoroutine()

	kinds := []hostile{
		drip, hold, promise, crawl, deaf,
		amplify(kmsg.NewPtrMetadataRequest(), 1, 0), amplify(kmsg.NewPtrFetchRequest(), 4, 0), amplify(kmsg.NewPtrCreateTopicsRequest(), 5, 1),
		amplify(kmsg.NewPtrApiVersionsRequest(), 3, 0xff), amplify(kmsg.NewPtrJoinGroupRequest(), 9, 0x7f),
	}
	listeners := []string{"plain", "sasl", "secure"}
	// All together make a hundred connections a second: more would only measure
	// how two processors share the work of both sides.
	pause := time.Duration(*hostileConns) * 10 * time.Millisecond
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range *hostileConns {
		wg.Go(func() {
			for { // who is cut comes again
				nc, err := net.Dial("tcp", b.Addr(listeners[i%len(listeners)]))
				if err != nil {
					return
				}
				cut := time.AfterFunc(*hostileFor, func() { nc.Close() })
				kinds[i%len(kinds)](nc, stop)
				cut.Stop()
				nc.Close()
				select {
				case <-stop:
					return
				case <-time.After(pause):
				}
			}
		})
	}
	var peak int64
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				peak = max(peak, resident(t))
			case <-stop:
				return
			}
		}
	}()
	beside := work(time.Now().Add(*hostileFor))
	close(stop)
	wg.Wait()
	<-watched
	p99 := func(d []time.Duration) time.Duration { return d[len(d)*99/100] }
	t.Logf("%d hostile connections for %v: %d MiB more at the most; produce p99 %v before, %v beside them (%d and %d times)",
		*hostileConns, *hostileFor, (peak-before)>>20, p99(quietly), p99(beside), len(quietly), len(beside))
	if most := maxHostileGrowth(b.cfg.Limits); peak-before > most {
		t.Errorf("grew by %d MiB, want at most %d", (peak-before)>>20, most>>20)
	}
	if lines.count("panicked") != 0 {
		t.Error("a handler panicked")
	}
	deadline := time.Now().Add(20 * time.Second)
	for tick := time.NewTicker(10 * time.Millisecond); runtime.NumGoroutine() > goroutines+20; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines afterwards, %d before", runtime.NumGoroutine(), goroutines)
		}
	}
}
