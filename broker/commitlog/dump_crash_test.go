package commitlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/vfs"
)

// dumpHistories end with whatever the disk refuses. cut lets them begin undisturbed.
var dumpHistories = map[string]func(t *testing.T, fsys *vfs.Mem, cut func()) error{
	"appends, transactions, deletion, truncation": func(_ *testing.T, fsys *vfs.Mem, cut func()) error {
		cut()
		_, err := script(fsys)
		return err
	},
	"a compaction": func(t *testing.T, fsys *vfs.Mem, cut func()) error {
		w := newWorldOn(t, fsys, 3)
		for range 2 { // the second finds what the first has left, and tombstones that may go
			must(t, w.live(25))
			w.now = w.now.Add(2 * time.Hour)
		}
		cut()
		if _, err := w.clean(1 << 20); err != nil {
			return err
		}
		return w.l.Close()
	},
	"a mirror that is cut, and promoted": func(t *testing.T, fsys *vfs.Mem, cut func()) error {
		l, err := Open(fsys, testDir, small())
		must(t, err)
		cut()
		steps := []func() error{
			func() error { return l.BeginMirror(0, -1, false) },
			func() error {
				_, err := l.AppendMirrored(plainAppend(l, 1, sourceBatch(from{1, 0, 0, true}, 2, 0, 3), sourceBatch(from{2, 0, 0, true}, 1, 2, 3), sourceBatch(nobody, 2, 7, 4)))
				return err
			},
			func() error {
				_, err := l.AppendMirrored(MirrorAppend{WriterEpoch: 1, ExpectedEnd: 9, ExpectedEpoch: 4, TruncateTo: 3, StartOffset: -1})
				return err
			},
			func() error {
				_, err := l.AppendMirrored(plainAppend(l, 2, sourceBatch(from{2, 0, 1, true}, 1, 5, 5)))
				return err
			},
			func() error { return promote(l, 9) },
		}
		for _, step := range steps {
			if err := step(); err != nil {
				_ = l.Close() // It is offline: there is nothing to save.
				return err
			}
		}
		return l.Close()
	},
	"a reset, marks, segments that age": func(t *testing.T, fsys *vfs.Mem, cut func()) error {
		cfg := DefaultConfig()
		cfg.markBytes, cfg.knownBytes = 1000, 500
		l, err := Open(fsys, testDir, cfg)
		must(t, err)
		cut()
		grow := func() error {
			for range 12 {
				if _, err := l.Append(mustBatch(nobody, 3), 0, FromClient); err != nil {
					return err
				}
			}
			return l.Tend(t.Context(), time.Now())
		}
		for _, step := range []func() error{grow, func() error { return l.Reset(70) }, grow, grow, func() error { return l.Close() }} {
			if err := step(); err != nil {
				_ = l.Close() // It is offline: there is nothing to save.
				return err
			}
		}
		return nil
	},
}

// A dump is asked for after something has gone wrong: it must not call damage what
// a kill or a power cut leaves, at any step, and the next start puts right.
func TestDumpFindsNoDamageInWhatACrashLeaves(t *testing.T) {
	named := map[string]bool{
		"a compaction that came to no end": false, "a compacted one is to take its place": false, "intends to remove it": false, "intends to cut it off": false,
		"what was to replace a file": false, "no start relies on it": false, "while the first was written": false, "the next start cuts it": false,
	}
	look := func(t *testing.T, fsys *vfs.Mem, what string) {
		if _, err := fsys.ReadDir(testDir); err != nil {
			return // it was not made yet
		}
		all, damage := dumpOf(t, fsys, DumpOptions{Batches: true})
		if len(damage) > 0 {
			t.Errorf("%s: damage %q in\n%s", what, damage, all)
		}
		for what := range named {
			named[what] = named[what] || strings.Contains(all, what)
		}
		l, err := Open(fsys, testDir, small())
		if err != nil {
			t.Fatalf("%s: open: %v", what, err)
		}
		must(t, l.Close())
	}
	for name, history := range dumpHistories {
		t.Run(name, func(t *testing.T) {
			for calls := 0; ; calls++ {
				fsys := vfs.NewMem()
				err := history(t, fsys, func() { cutPower(fsys, calls) })
				fsys.SetFault(nil)
				look(t, fsys.Crash(nil), fmt.Sprintf("power cut after %d calls, all unsynced lost", calls))
				for seed := range uint64(2) {
					look(t, fsys.Crash(rand.New(rand.NewPCG(seed, uint64(calls)))), fmt.Sprintf("power cut after %d calls, seed %d", calls, seed))
				}
				look(t, fsys, fmt.Sprintf("killed after %d calls", calls))
				if err == nil {
					t.Logf("%d calls", calls)
					return
				}
				if !errors.Is(err, errPower) && !errors.Is(err, ErrOffline) {
					t.Fatalf("after %d calls: %v", calls, err)
				}
			}
		})
	}
	for what, found := range named {
		if !found {
			t.Errorf("no dump said %q", what)
		}
	}
}

// TestDumpNamesTheFileOfAnyFlippedBit flips a bit of each byte of each file of a
// log that was closed, one at a time.
func TestDumpNamesTheFileOfAnyFlippedBit(t *testing.T) {
	fsys, l := dumped(t)
	must(t, l.Close())
	whole, _ := dumpOf(t, fsys, DumpOptions{Batches: true})
	for name, size := range sizes(t, fsys) {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(size)))
			for at := range size {
				bit := at*8 + rng.Int64N(8)
				flip(t, fsys, name, bit)
				all, damage := dumpOf(t, fsys, DumpOptions{Batches: true})
				flip(t, fsys, name, bit)
				if named(all, name) {
					continue
				}
				if all == whole && (name == recoveryName || name == checkpointName) {
					continue // between the slots nothing counts; nor does the case of a checksum's digits
				}
				t.Fatalf("bit %d: damage %q in\n%s", bit, damage, all)
			}
		})
	}
}

// named says whether a dump finds fault with a file.
func named(dump, name string) bool {
	return slices.ContainsFunc(strings.Split(dump, "\n"), func(line string) bool {
		file, found, ok := strings.Cut(line, ": byte ")
		return ok && strings.HasSuffix(file, "/"+name) && (strings.Contains(found, ": DAMAGED: ") || strings.Contains(found, " unfinished ") || strings.Contains(found, " torn "))
	})
}
