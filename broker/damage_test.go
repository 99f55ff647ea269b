package broker

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/waybillhq/waybill/broker/guard"
	"github.com/waybillhq/waybill/internal/vfs"
)

var (
	damagedFrames = flag.Int("frames", 6_000, "how many damaged requests TestDamagedFrames makes")
	damageSeed    = flag.Uint64("seed", 1, "what they follow from")
)

// framesPerBroker is how many frames one broker gets: what they create must not
// pile up.
const framesPerBroker = 20_000

// TestDamagedFrames takes requests that real clients sent, of every API and version
// ([recordedFrames]), damages them a little and gives them to whole brokers: none may
// panic. It differs from [FuzzHandle] in that many inputs are nearly right and so get
// far: at least three of ten must decode. Run long by 'make damage'.
func TestDamagedFrames(t *testing.T) {
	recorded := recordedFrames(t)
	seeds := slices.Concat(recorded, constructedFrames())
	workers := min(runtime.GOMAXPROCS(0), max(1, *damagedFrames/framesPerBroker))
	each := *damagedFrames / workers
	var (
		group   sync.WaitGroup
		decoded = make([]int, workers)
	)
	for w := range workers {
		group.Go(func() {
			d := damager{seeds: seeds, rng: rand.New(rand.NewPCG(*damageSeed, uint64(w)))}
			for left := each; left > 0; left -= framesPerBroker {
				decoded[w] += d.run(t, min(left, framesPerBroker))
			}
		})
	}
	group.Wait()
	all, share := each*workers, 0
	for _, n := range decoded {
		share += n
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	t.Logf("%d damaged requests, %d %% of them decoded, from %d recorded and %d constructed ones; %d MiB of memory", all, share*100/all, len(recorded), len(seeds)-len(recorded), mem.Sys>>20)
	if share*10 < all*3 {
		t.Errorf("%d of %d decoded, want three of ten: the damage is too great to test what comes behind the decoder", share, all)
	}
}

// damager makes damaged frames of good ones.
type damager struct {
	seeds [][]byte
	rng   *rand.Rand
}

// run gives n damaged frames to a new broker and returns how many of them decoded.
func (d *damager) run(t *testing.T, n int) (decoded int) {
	b := fedBroker(t)
	defer b.stop(t)
	for range n {
		raw := d.next()
		ok, err := b.feed(raw)
		if guard.Is(err) {
			t.Errorf("a handler panicked over %x", raw)
			return decoded
		}
		if ok {
			decoded++
		}
	}
	return decoded
}

// next is a frame with up to a few faults; one in ten has none.
func (d *damager) next() []byte {
	raw := bytes.Clone(d.seeds[d.rng.IntN(len(d.seeds))])
	for d.rng.IntN(10) > 0 {
		raw = d.damage(raw)
		if d.rng.IntN(3) > 0 {
			break
		}
	}
	return raw
}

var extremes = []uint64{0, 1, 2, 0x7f, 0x80, 0xff, math.MaxInt16, math.MaxUint16, math.MaxInt32, math.MaxUint32, math.MaxInt64, math.MaxUint64}

// damage makes one fault. Key and version stay mostly: a frame of an unknown kind
// is refused before anything can go wrong.
func (d *damager) damage(raw []byte) []byte {
	if len(raw) <= minFrame {
		return append(raw, 0)
	}
	at := minFrame + d.rng.IntN(len(raw)-minFrame)
	if d.rng.IntN(50) == 0 {
		at = d.rng.IntN(minFrame)
	}
	part := func() []byte { return raw[at:min(len(raw), at+1+d.rng.IntN(16))] }
	switch d.rng.IntN(8) {
	case 0:
		raw[at] ^= 1 << d.rng.IntN(8)
	case 1:
		raw[at] = byte(d.rng.Uint32())
	case 2, 3: // a number becomes an extreme one
		var number [8]byte
		size := 1 << d.rng.IntN(4)
		binary.BigEndian.PutUint64(number[:], extremes[d.rng.IntN(len(extremes))])
		copy(raw[at:], number[8-size:])
	case 4: // bytes are missing
		raw = slices.Delete(raw, at, at+len(part()))
	case 5: // bytes are there twice
		raw = slices.Insert(raw, at, bytes.Clone(part())...)
	case 6: // it is cut off
		raw = raw[:at]
	case 7: // the rest is that of another request
		other := d.seeds[d.rng.IntN(len(d.seeds))]
		if at < len(other) {
			raw = append(raw[:at], other[at:]...)
		}
	}
	return raw
}

// fed is a broker that gets frames without a connection.
type fed struct {
	*Broker
	gone context.Context // nothing may wait for a client that has left
	end  context.CancelFunc
	done chan error
}

func fedBroker(t testing.TB) *fed {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Dir, cfg.FS = "data", vfs.NewMem()
	cfg.Listeners[0].Addr = "127.0.0.1:0"
	cfg.OffsetsPartitions, cfg.TransactionsPartitions = 1, 1
	cfg.Authorizer, cfg.SuperUsers = true, []string{"User:fuzz"}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &fed{Broker: b, end: cancel, done: make(chan error, 1)}
	gone, leave := context.WithCancel(ctx)
	leave()
	f.gone = gone
	go func() { f.done <- b.Run(ctx) }()
	return f
}

func (f *fed) stop(t testing.TB) {
	f.end()
	select {
	case err := <-f.done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the broker does not stop")
	}
}

// feed handles one frame of an authenticated client. decoded says that the frame
// was a request at all; err is what ends the connection.
func (f *fed) feed(raw []byte) (decoded bool, err error) {
	if len(raw) < minFrame {
		return false, errFrame
	}
	h := frameHeader(raw)
	client := Client{Principal: "User:fuzz", Host: "127.0.0.1", Listener: f.cfg.Listeners[0].Name}
	c := &conn{b: f.Broker, log: slog.New(slog.DiscardHandler), client: client}
	_, p, err := c.handle(f.gone, h, f.table[h.key], raw)
	if err != nil {
		return guard.Is(err), err
	}
	resp, err := p(f.gone)
	if err == nil && resp != nil {
		appendResponse(nil, h.correlation, resp)
	}
	if a, ok := resp.(*fetchAnswer); ok {
		a.release()
	}
	return true, err
}
