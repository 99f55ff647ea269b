package commitlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/vfs"
)

// damaged is a closed log of several segments with transactions, and what it
// reads as.
func damaged(t *testing.T) (fsys *vfs.Mem, content []byte, h history) {
	t.Helper()
	fsys = vfs.NewMem()
	h, err := script(fsys)
	must(t, err)
	l := open(t, fsys, small())
	content = readAll(t, l, l.StartOffset(), 400)
	must(t, l.Close())
	return fsys, content, h
}

// flip changes one bit of a file.
func flip(t *testing.T, fsys vfs.FS, name string, bit int64) {
	t.Helper()
	f, err := fsys.Open(filepath.Join(testDir, name))
	must(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], bit/8)
	must(t, err)
	b[0] ^= 1 << (bit % 8)
	_, err = f.WriteAt(b[:], bit/8)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

func sizes(t *testing.T, fsys vfs.FS) map[string]int64 {
	t.Helper()
	names, err := fsys.ReadDir(testDir)
	must(t, err)
	out := map[string]int64{}
	for _, name := range names {
		f, err := fsys.Open(filepath.Join(testDir, name))
		must(t, err)
		out[name], err = f.Size()
		must(t, err)
		must(t, f.Close())
	}
	return out
}

func activeName(names map[string]int64) (last string) {
	for name := range names {
		if strings.HasSuffix(name, logSuffix) && name > last {
			last = name
		}
	}
	return last
}

func TestNoFlippedBitPassesUnseen(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	whole, content, h := damaged(t)
	files := sizes(t, whole)
	active := activeName(files)
	for name, size := range files {
		for byteAt := range size {
			fsys := whole.Crash(nil)
			flip(t, fsys, name, byteAt*8+rng.Int64N(8))
			what := fmt.Sprintf("%s byte %d", name, byteAt)
			var corrupt *CorruptError
			l, err := Open(fsys, testDir, small())
			isLog := strings.HasSuffix(name, logSuffix)
			switch {
			case err != nil && !errors.As(err, &corrupt):
				t.Fatalf("%s: %v, want CorruptError", what, err)
			case err != nil && (isLog || name == checkpointName):
				continue
			case err != nil:
				t.Fatalf("%s: %v, want it rebuilt", what, err)
			case name == active:
				t.Fatalf("%s: opened, want CorruptError", what)
			case isLog:
				if err := l.Verify(t.Context()); !errors.As(err, &corrupt) {
					// Records below the log's start are not served.
					if l.StartOffset() > l.view.Load().extent(0).base && strings.HasPrefix(name, fileName(l.view.Load().extent(0).base, "")) {
						must(t, l.Close())
						continue
					}
					t.Fatalf("%s: verify says %v, want CorruptError", what, err)
				}
			default:
				if got := readAll(t, l, l.StartOffset(), 400); !bytes.Equal(got, content) {
					t.Fatalf("%s: the log reads differently", what)
				}
				checkProducers(t, l, h, what)
				if _, _, err := l.OffsetForTime(1000, l.EndOffset()); err != nil {
					t.Fatalf("%s: look up a time: %v", what, err)
				}
			}
			must(t, l.Close())
		}
	}
}

func TestMissingAndShortFiles(t *testing.T) {
	whole, content, h := damaged(t)
	files := sizes(t, whole)
	for name, size := range files {
		for _, short := range []bool{false, true} {
			if short && size == 0 {
				continue
			}
			what := fmt.Sprintf("%s missing", name)
			fsys := whole.Crash(nil)
			path := filepath.Join(testDir, name)
			if short {
				what = fmt.Sprintf("%s shorter", name)
				f, err := fsys.Open(path)
				must(t, err)
				must(t, f.Truncate(size-1))
				must(t, f.Close())
			} else {
				must(t, fsys.Remove(path))
			}
			l, err := Open(fsys, testDir, small())
			var corrupt *CorruptError
			if strings.HasSuffix(name, logSuffix) || name == checkpointName && short {
				if !errors.As(err, &corrupt) {
					t.Fatalf("%s: %v, want CorruptError", what, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v, want it rebuilt", what, err)
			}
			// Without a checkpoint the log starts at its first segment again.
			if got := readAll(t, l, 9, 400); !bytes.HasSuffix(got, content) {
				t.Fatalf("%s: the log reads differently", what)
			}
			if name != checkpointName {
				checkProducers(t, l, h, what)
			}
			must(t, l.Close())
			must(t, open(t, fsys, small()).Close())
		}
	}
}

func TestDamageToAcknowledgedDataIsNotATornTail(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, DefaultConfig())
	for range 3 {
		got := add(t, l, nobody, 2)
		must(t, l.WaitDurable(t.Context(), got.NextOffset()))
	}
	third, err := l.Read(4, 1, 6)
	must(t, err)
	dirty := add(t, l, nobody, 2) // not waited for
	size := l.Size()

	// The process is killed: no Close. What is behind the durable point may be
	// torn, what is before it may not.
	for name, c := range map[string]struct {
		at      int64
		corrupt bool
	}{
		"first batch":        {70, true},
		"last durable batch": {size - 2*int64(len(third)) + 70, true},
		"unsynced batch":     {size - 5, false},
	} {
		t.Run(name, func(t *testing.T) {
			after := l.fs.(*vfs.Mem).Crash(nil) // as a copy
			f, err := after.Open(filepath.Join(testDir, fileName(0, logSuffix)))
			must(t, err)
			all := make([]byte, size)
			live, err := fsys.Open(filepath.Join(testDir, fileName(0, logSuffix)))
			must(t, err)
			must(t, readFull(live, all, 0))
			must(t, live.Close())
			_, err = f.WriteAt(all, 0)
			must(t, err)
			must(t, f.Close())
			point, err := vfs.ReadFile(fsys, filepath.Join(testDir, recoveryName), 1<<20)
			must(t, err)
			must(t, vfs.WriteFile(after, filepath.Join(testDir, recoveryName), point))

			flip(t, after, fileName(0, logSuffix), c.at*8)
			again, err := Open(after, testDir, DefaultConfig())
			var corrupt *CorruptError
			if c.corrupt {
				if !errors.As(err, &corrupt) {
					t.Fatalf("open: %v, want CorruptError", err)
				}
				return
			}
			must(t, err)
			if got := again.EndOffset(); got != dirty.BaseOffset {
				t.Fatalf("end %d, want %d", got, dirty.BaseOffset)
			}
			must(t, again.Close())
		})
	}
}

func TestSealedSegmentsAreWithoutZeros(t *testing.T) {
	whole, _, _ := damaged(t)
	for name, size := range sizes(t, whole) {
		if !strings.HasSuffix(name, logSuffix) {
			continue
		}
		buf, err := vfs.ReadFile(whole, filepath.Join(testDir, name), size)
		must(t, err)
		var total int64
		for _, b := range splitAll(t, buf) {
			total += int64(len(b))
		}
		if total != size {
			t.Errorf("%s: %d bytes of batches in %d", name, total, size)
		}
	}
}

func TestOnlyTheLastSegmentCanBeTorn(t *testing.T) {
	whole, _, _ := damaged(t)
	files := sizes(t, whole)
	for name, size := range files {
		if !strings.HasSuffix(name, logSuffix) {
			continue
		}
		fsys := whole.Crash(nil)
		must(t, fsys.Remove(filepath.Join(testDir, checkpointName)))
		must(t, fsys.Remove(filepath.Join(testDir, recoveryName)))
		flip(t, fsys, name, (size-1)*8)
		l, err := Open(fsys, testDir, small())
		var corrupt *CorruptError
		if name != activeName(files) {
			if !errors.As(err, &corrupt) {
				t.Errorf("%s: %v, want CorruptError", name, err)
			}
			continue
		}
		must(t, err)
		must(t, l.Close())
	}
}
