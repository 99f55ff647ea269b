package commitlog

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/waybillhq/waybill/internal/vfs"
)

// bytesOf reads a range whole.
func bytesOf(t *testing.T, r Range) []byte {
	t.Helper()
	buf, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	must(t, err)
	return buf
}

func TestARangeIsWhatAReadReturns(t *testing.T) {
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 2))
		l, _ := ragged(t, rng)
		for round := range 2 {
			for range 2000 {
				from, upTo := rng.Int64N(l.EndOffset()+1), rng.Int64N(l.EndOffset()+10)
				maxBytes := rng.IntN(1500)
				want, err := l.Read(from, maxBytes, upTo)
				must(t, err)
				r, err := l.Range(from, maxBytes, upTo)
				must(t, err)
				if got := bytesOf(t, r); !bytes.Equal(got, want) {
					t.Fatalf("seed %d, from %d up to %d, %d bytes: %v, want %v", seed, from, upTo, maxBytes, offsets(t, got), offsets(t, want))
				}
				if len(want) > 0 {
					list := splitAll(t, want)
					if next := list[len(list)-1].NextOffset(); r.NextOffset() != next {
						t.Fatalf("next offset %d, want %d", r.NextOffset(), next)
					}
				}
				r.Release()
			}
			if round == 0 {
				fsys := l.fs
				must(t, l.Close())
				l = open(t, fsys, small())
			}
		}
	}
}

func TestARangeOutlivesItsSegment(t *testing.T) {
	for name, fsys := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": vfs.OS{}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l, err := Open(fsys, dir, small())
			must(t, err)
			for range 40 {
				add(t, l, nobody, 3)
			}
			must(t, l.WaitDurable(t.Context(), l.EndOffset()))
			r, err := l.Range(0, 300, l.EndOffset())
			must(t, err)
			want := bytesOf(t, r)
			again, err := l.Range(0, 300, l.EndOffset())
			must(t, err)
			must(t, l.DeleteRecordsBefore(l.EndOffset()))
			if names, err := fsys.ReadDir(dir); err != nil || len(names) == 0 || names[0] == fileName(0, logSuffix) {
				t.Fatalf("the segment is still there: %v, %v", names, err)
			}
			if got := bytesOf(t, r); !bytes.Equal(got, want) {
				t.Error("other bytes after the segment was deleted")
			}
			r.Release()
			must(t, l.Close())
			if got := bytesOf(t, again); !bytes.Equal(got, want) {
				t.Error("other bytes after the log was closed")
			}
			file := again.file
			again.Release()
			if _, err := file.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
				t.Errorf("the last release left the file open: %v", err)
			}
		})
	}
}

func TestATruncationEndsRanges(t *testing.T) {
	l := open(t, vfs.NewMem(), small())
	for range 10 {
		add(t, l, nobody, 3)
	}
	r, err := l.Range(0, 1<<20, l.EndOffset())
	must(t, err)
	defer r.Release()
	_, err = l.TruncateTo(3)
	must(t, err)
	if _, err := r.ReadAt(make([]byte, 10), 0); !errors.Is(err, ErrTruncated) {
		t.Errorf("read: %v, want ErrTruncated", err)
	}
	if _, _, err := r.File(); !errors.Is(err, ErrTruncated) {
		t.Errorf("file: %v, want ErrTruncated", err)
	}
	after, err := l.Range(0, 1<<20, l.EndOffset())
	must(t, err)
	defer after.Release()
	if got := splitAll(t, bytesOf(t, after)); len(got) != 1 {
		t.Errorf("%d batches after the truncation, want 1", len(got))
	}
}

func TestALookUpOutsideTheLogIsRefused(t *testing.T) {
	l := open(t, vfs.NewMem(), small())
	add(t, l, nobody, 3)
	for _, from := range []int64{-1, 4} {
		if _, err := l.Range(from, 100, 3); !errors.Is(err, ErrOffsetOutOfRange) {
			t.Errorf("range from %d: %v", from, err)
		}
	}
	if r, err := l.Range(3, 100, 3); err != nil || r.Size() != 0 {
		t.Errorf("range at the end: %d bytes, %v", r.Size(), err)
	}
}
