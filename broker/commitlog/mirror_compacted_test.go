package commitlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// compactable is a log that may be compacted, of n records with five keys: the key
// of an offset is keyAt.
func compactable(t *testing.T, fs vfs.FS, n int) (*Log, Config) {
	t.Helper()
	cfg := small()
	cfg.Compact, cfg.MinDirtyRatio = true, 0
	l, err := Open(fs, testDir, cfg)
	must(t, err)
	for offset := range int64(n) {
		b, err := record.Encode([]record.Record{{Timestamp: 1, Key: []byte(keyAt(offset)), Value: []byte("v")}}, record.NoProducer(0))
		must(t, err)
		_, err = l.Append(b, 3, FromClient)
		must(t, err)
	}
	must(t, l.WaitDurable(t.Context(), l.EndOffset()))
	return l, cfg
}

func keyAt(offset int64) string { return fmt.Sprintf("k%d", offset*offset%5) }

// lacks is the first key that would be without its last record if the log were cut
// to an offset, "" if none would be.
func lacks(t *testing.T, l *Log, cut int64) string {
	t.Helper()
	has, last := map[int64]bool{}, map[string]int64{}
	for _, b := range splitAll(t, readAll(t, l, l.StartOffset(), 500)) {
		list, err := b.Decode(1 << 20)
		must(t, err)
		for _, r := range list {
			has[r.Offset] = true
		}
	}
	for offset := range cut {
		last[keyAt(offset)] = offset
	}
	for key, offset := range last {
		if !has[offset] {
			return key
		}
	}
	return ""
}

// TestACutLeavesEachKeyItsLastRecord makes a log a mirror that had been compacted,
// or whose compaction was cut off at any step. What may be cut leaves the last record
// of each key before the cut: the source has it.
func TestACutLeavesEachKeyItsLastRecord(t *testing.T) {
	const n = 60
	for step := 1; ; step++ {
		fs := vfs.NewMem()
		l, cfg := compactable(t, fs, n)
		did := 0
		fs.SetFault(func(op vfs.Op, _ string) error {
			if did++; op != vfs.OpRead && did >= step {
				return errPower
			}
			return nil
		})
		_, err := (&Cleaner{Memory: 1 << 20}).Clean(t.Context(), l, time.Now(), n)
		fs.SetFault(nil)
		l = open(t, fs.Crash(rand.New(rand.NewPCG(uint64(step), 1))), cfg)
		must(t, l.BeginMirror(n, 3, false))
		allowed, refused := 0, 0
		for cut := l.StartOffset() + 1; cut <= n; cut++ {
			switch why := l.CheckCut(cut); {
			case errors.Is(why, ErrOffsetOutOfRange):
				refused++
			case why != nil:
				t.Fatal(why)
			default:
				allowed++
				if key := lacks(t, l, cut); key != "" {
					t.Fatalf("step %d: a cut to %d is allowed, and %s has lost its last record before it", step, cut, key)
				}
			}
		}
		must(t, l.CheckCut(l.StartOffset()))
		if allowed == 0 || err == nil && (refused == 0 || lacks(t, l, n/2) == "") {
			t.Fatalf("step %d: %d cuts are allowed and %d refused", step, allowed, refused)
		}
		if refused > 0 {
			a := plainAppend(l, 1)
			a.TruncateTo = l.StartOffset() + 1
			if _, err := l.AppendMirrored(a); !errors.Is(err, ErrOffsetOutOfRange) || l.EndOffset() != n {
				t.Fatalf("step %d: a writer cuts what may not be cut: %v", step, err)
			}
			a.TruncateTo = l.StartOffset()
			if end, err := l.AppendMirrored(a); err != nil || end != l.StartOffset() {
				t.Fatalf("step %d: cut to the start: it ends at %d, %v", step, end, err)
			}
			must(t, l.CheckCut(l.EndOffset()))
		}
		if err == nil {
			t.Logf("%d steps", step)
			return
		}
	}
}

// TestAMirrorIsNotCompacted: not by a pass that was under way when the log became
// one either. Promoted, it is again.
func TestAMirrorIsNotCompacted(t *testing.T) {
	l, _ := compactable(t, vfs.NewMem(), 60)
	before := readAll(t, l, 0, 500)
	c := &Cleaner{Memory: 1 << 20}
	p := l.beginPass(t.Context(), c, time.Now(), 60)
	must(t, l.BeginMirror(60, 3, false))
	if err := p.run(); !errors.Is(err, errChanged) {
		t.Errorf("the pass that was under way: %v", err)
	}
	done, err := c.Clean(t.Context(), l, time.Now(), 60)
	if must(t, err); done.After > 0 || done.More || string(readAll(t, l, 0, 500)) != string(before) {
		t.Errorf("a pass over the mirror: %+v", done)
	}
	must(t, promote(l, 4))
	if done, err = c.Clean(t.Context(), l, time.Now(), 60); err != nil || done.Before <= done.After {
		t.Errorf("a pass after the promotion: %+v, %v", done, err)
	}
}
