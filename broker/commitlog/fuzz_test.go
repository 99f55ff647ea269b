package commitlog

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

func FuzzDecodeCheckpoint(f *testing.F) {
	buf, err := checkpoint{
		Start: 3, Active: 20, ActiveSince: 5, Epochs: epochs{{1, 0}}, Drop: []int64{0}, Cut: &cut{7, 9},
		Sealed: []sealed{{Base: 3, Next: 20, Size: 100, Offsets: 8, AbortedCRC: 1}},
	}.encode()
	must(f, err)
	f.Add(buf)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCheckpoint(data)
		if err != nil {
			return
		}
		again, err := c.encode()
		must(t, err)
		if _, err := decodeCheckpoint(again); err != nil {
			t.Fatalf("our own encoding: %v", err)
		}
	})
}

func FuzzDecodeProducers(f *testing.F) {
	s := newProducers(10)
	s.add(mustBatch(from{1, 2, 3, true}, 2), 5)
	s.mark(Marker{4, 1, false, 2}, 7, 6)
	f.Add(s.encode(9))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, offset, err := decodeProducers(data, 10)
		if err != nil {
			return
		}
		again, at, err := decodeProducers(s.encode(offset), 10)
		if err != nil || at != offset || len(again.byID) != len(s.byID) {
			t.Fatalf("our own encoding: %v", err)
		}
	})
}

func FuzzDecodeAborted(f *testing.F) {
	f.Add(appendAborted(nil, abortedTxn{1, 2, 3, 4}))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := decodeAborted(data)
		if err != nil {
			return
		}
		var again []byte
		for _, a := range list {
			again = appendAborted(again, a)
		}
		if !bytes.Equal(again, data) {
			t.Fatalf("%x became %x", data, again)
		}
	})
}

func FuzzDecodePoint(f *testing.F) {
	f.Add(encodePoint(3, durablePoint{5, 70}))
	f.Fuzz(func(t *testing.T, data []byte) {
		seq, p, ok := decodePoint(data)
		if ok && !bytes.Equal(encodePoint(seq, p), data[:recoveryLen]) {
			t.Fatalf("%x became %d %+v", data, seq, p)
		}
	})
}

func FuzzDecodeMarker(f *testing.F) {
	b, err := encodeMarker(Marker{1, 2, true, 3}, 4)
	must(f, err)
	f.Add([]byte(b))
	f.Fuzz(func(_ *testing.T, data []byte) {
		if b, _, err := record.Next(data); err == nil {
			_, _ = decodeMarker(b)
		}
	})
}

// FuzzRecover opens a log whose active segment holds anything: what it serves
// must be batches that pass their own checks, and recovering twice is the same.
func FuzzRecover(f *testing.F) {
	var good []byte
	for i := range int64(3) {
		b := mustBatch(from{1, 0, int32(i), i > 0}, 1)
		b.SetBaseOffset(i)
		good = append(good, b...)
	}
	marker, err := encodeMarker(Marker{1, 0, false, 0}, 1)
	must(f, err)
	marker.SetBaseOffset(3)
	f.Add(append(good, marker...), []byte{0, 0, 0, 1, 0, 0, 0, 0}, []byte{})
	f.Add(append(good, make([]byte, 200)...), []byte{}, []byte{1})
	f.Fuzz(func(t *testing.T, log, index, snapshot []byte) {
		fsys := vfs.NewMem()
		must(t, fsys.MkdirAll(testDir))
		must(t, vfs.WriteFile(fsys, filepath.Join(testDir, fileName(0, logSuffix)), log))
		must(t, vfs.WriteFile(fsys, filepath.Join(testDir, fileName(0, offsetSuffix)), index))
		must(t, vfs.WriteFile(fsys, filepath.Join(testDir, fileName(0, snapshotSuffix)), snapshot))
		end := int64(-1)
		for range 2 {
			l, err := Open(fsys, testDir, small())
			var corrupt *CorruptError
			if err != nil {
				if !errors.As(err, &corrupt) {
					t.Fatal(err)
				}
				return
			}
			if end >= 0 && l.EndOffset() != end {
				t.Fatalf("the second time it ends at %d, not %d", l.EndOffset(), end)
			}
			end = l.EndOffset()
			must(t, l.Verify(t.Context()))
			for at := l.StartOffset(); at < end; {
				buf, err := l.Read(at, 1000, end)
				must(t, err)
				if len(buf) == 0 {
					t.Fatalf("nothing at %d of %d", at, end)
				}
				for _, b := range splitAll(t, buf) {
					must(t, b.Check())
					at = b.NextOffset()
				}
			}
			must(t, l.Close())
		}
	})
}

func FuzzAppendReplicated(f *testing.F) {
	b := mustBatch(nobody, 2)
	b.SetBaseOffset(4)
	f.Add(append([]byte(b), 1, 2, 3))
	f.Add([]byte(b))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Open(vfs.NewMem(), testDir, small())
		must(t, err)
		got, err := l.AppendReplicated(data, 0)
		if end := l.EndOffset(); err == nil && end != got.NextOffset() || err != nil && end != 0 {
			t.Fatalf("%+v, %v, end %d", got, err, end)
		}
		must(t, l.Close())
	})
}
