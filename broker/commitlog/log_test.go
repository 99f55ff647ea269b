package commitlog

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

const testDir = "/data/topic-0"

// small has segments of a few batches, so that histories cross them.
func small() Config {
	cfg := DefaultConfig()
	cfg.SegmentBytes, cfg.IndexInterval, cfg.RetentionAge = 600, 100, -1
	return cfg
}

func open(t *testing.T, fs vfs.FS, cfg Config) *Log {
	t.Helper()
	l, err := Open(fs, testDir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

// from is who makes a batch.
type from struct {
	id    int64
	epoch int16
	seq   int32
	txn   bool
}

var nobody = from{id: -1, epoch: -1, seq: -1}

// batch has n records; the values name the producer and sequence, the timestamps
// are at, at+1 and so on.
func batch(t testing.TB, p from, n int, at int64) record.Batch {
	t.Helper()
	records := make([]record.Record, n)
	for i := range records {
		records[i] = record.Record{Timestamp: at + int64(i), Value: fmt.Appendf(nil, "%d/%d/%d+%d", p.id, p.epoch, p.seq, i)}
	}
	s := record.Stamp{ProducerID: p.id, ProducerEpoch: p.epoch, BaseSequence: p.seq}
	if p.txn {
		s.Attributes = attrTransactional
	}
	b, err := record.Encode(records, s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func add(t *testing.T, l *Log, p from, n int) Appended {
	t.Helper()
	got, err := l.Append(batch(t, p, n, 1000), max(0, l.LatestEpoch()), FromClient)
	must(t, err)
	return got
}

// readAll reads the log from an offset to its end, in steps of maxBytes.
func readAll(t *testing.T, l *Log, at int64, maxBytes int) []byte {
	t.Helper()
	var all []byte
	for at < l.EndOffset() {
		got, err := l.Read(at, maxBytes, l.EndOffset())
		must(t, err)
		if len(got) == 0 {
			t.Fatalf("read at %d of %d: nothing", at, l.EndOffset())
		}
		all = append(all, got...)
		for rest := got; len(rest) > 0; {
			var b record.Batch
			b, rest, err = record.Next(rest)
			must(t, err)
			must(t, b.Check())
			at = b.NextOffset()
		}
	}
	return all
}

func splitAll(t *testing.T, buf []byte) (list []record.Batch) {
	t.Helper()
	for len(buf) > 0 {
		b, rest, err := record.Next(buf)
		must(t, err)
		list, buf = append(list, b), rest
	}
	return list
}

// offsets are the base offsets of batches.
func offsets(t *testing.T, buf []byte) (bases []int64) {
	t.Helper()
	for _, b := range splitAll(t, buf) {
		bases = append(bases, b.BaseOffset())
	}
	return bases
}

func TestWhatIsAppendedIsRead(t *testing.T) {
	for name, fs := range map[string]vfs.FS{"mem": vfs.NewMem(), "os": vfs.OS{}} {
		t.Run(name, func(t *testing.T) {
			dir := testDir
			if name == "os" {
				dir = t.TempDir()
			}
			l, err := Open(fs, dir, small())
			must(t, err)
			var want []byte
			for i := range 40 {
				b := batch(t, nobody, 1+i%3, int64(1000+i))
				got, err := l.Append(b, 3, FromClient)
				must(t, err)
				if got.LastOffset-got.BaseOffset != int64(i%3) {
					t.Fatalf("append %d: %+v", i, got)
				}
				want = append(want, b...)
			}
			must(t, l.WaitDurable(t.Context(), l.EndOffset()))
			for _, maxBytes := range []int{0, 1, 200, 1 << 20} {
				if got := readAll(t, l, 0, maxBytes); !bytes.Equal(got, want) {
					t.Fatalf("read by %d bytes: %d bytes, want %d", maxBytes, len(got), len(want))
				}
			}
			must(t, l.Verify(t.Context()))
			must(t, l.Close())
			if _, err := l.Read(0, 1, 1); !errors.Is(err, ErrClosed) {
				t.Fatalf("read after close: %v, want ErrClosed", err)
			}

			l, err = Open(fs, dir, small())
			must(t, err)
			if got := readAll(t, l, 0, 300); !bytes.Equal(got, want) {
				t.Fatalf("after reopening %d bytes, want %d", len(got), len(want))
			}
			if len(l.view.Load().segments) < 3 {
				t.Fatalf("%d segments, want several", len(l.view.Load().segments))
			}
			must(t, l.Close())
		})
	}
}

// mustBatch is batch outside of a test's goroutine.
func mustBatch(p from, n int) record.Batch {
	records := make([]record.Record, n)
	for i := range records {
		records[i] = record.Record{Timestamp: 1000, Value: fmt.Appendf(nil, "%d/%d+%d", p.id, p.seq, i)}
	}
	s := record.Stamp{ProducerID: p.id, ProducerEpoch: p.epoch, BaseSequence: p.seq}
	if p.txn {
		s.Attributes = attrTransactional
	}
	b, err := record.Encode(records, s)
	if err != nil {
		panic(err)
	}
	return b
}
