package commitlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// keyed is a record of a model's history.
type keyed struct {
	offset    int64
	key       string
	value     []byte
	at        int64
	producer  int64
	aborted   bool
	undecided bool
}

// world is a compacted log and the plain list of what was ever written to it.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	fs      *vfs.Mem
	cfg     Config
	l       *Log
	now     time.Time
	records []keyed
	open    map[int64][]int // producer → its undecided records
	seq     map[int64]int32
	reached int64 // by a compaction that was cut off
}

func newWorld(t *testing.T, seed uint64) *world { return newWorldOn(t, vfs.NewMem(), seed) }

func newWorldOn(t *testing.T, fsys *vfs.Mem, seed uint64) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 5)), fs: fsys, cfg: small(), now: time.UnixMilli(10_000_000),
		open: map[int64][]int{}, seq: map[int64]int32{},
	}
	w.cfg.SegmentBytes = 900
	w.cfg.Compact, w.cfg.MinDirtyRatio, w.cfg.DeleteRetention = true, 0, time.Hour
	w.l = open(t, w.fs, w.cfg)
	return w
}

// write appends a batch of random records.
func (w *world) write() error {
	id := w.rng.Int64N(5) - 1 // 2 and 3 write transactions
	n := 1 + w.rng.IntN(4)
	codec := record.Codec(w.rng.IntN(5))
	var list []record.Record
	for range n {
		r := record.Record{Timestamp: w.now.UnixMilli() - w.rng.Int64N(1000), Key: fmt.Appendf(nil, "k%d", w.rng.IntN(8))}
		if w.rng.IntN(4) > 0 {
			r.Value = fmt.Appendf(nil, "%d", w.rng.IntN(1000))
		}
		list = append(list, r)
	}
	s := record.NoProducer(codec)
	if id >= 0 {
		s = record.Stamp{ProducerID: id, BaseSequence: w.seq[id], Attributes: record.Attributes(codec).WithTransactional(id >= 2)}
	}
	b, err := record.Encode(list, s)
	must(w.t, err)
	got, err := w.l.Append(b, max(0, w.l.LatestEpoch()), FromClient)
	if err != nil {
		return err
	}
	w.seq[id] += int32(n)
	for i, r := range list {
		if id >= 2 {
			w.open[id] = append(w.open[id], len(w.records))
		}
		w.records = append(w.records, keyed{got.BaseOffset + int64(i), string(r.Key), r.Value, r.Timestamp, id, false, id >= 2})
	}
	return nil
}

// decide ends the transaction of a producer.
func (w *world) decide(id int64, commit bool) error {
	if _, err := w.l.AppendMarker(Marker{ProducerID: id, Commit: commit}, max(0, w.l.LatestEpoch())); err != nil {
		return err
	}
	for _, i := range w.open[id] {
		w.records[i].undecided, w.records[i].aborted = false, !commit
	}
	delete(w.open, id)
	return nil
}

// live writes for a while, and makes it durable.
func (w *world) live(steps int) error {
	for range steps {
		var err error
		switch id := 2 + w.rng.Int64N(2); {
		case w.rng.IntN(6) == 0:
			err = w.decide(id, w.rng.IntN(2) == 0)
		case w.rng.IntN(25) == 0:
			err = w.l.AssignEpoch(w.l.LatestEpoch() + 1)
		default:
			err = w.write()
		}
		if err != nil {
			return err
		}
	}
	return w.l.WaitDurable(w.t.Context(), w.l.EndOffset())
}

// clean compacts until there is nothing to do.
func (w *world) clean(memory int64) (passes int, err error) {
	c := Cleaner{Memory: memory}
	for {
		done, err := c.Clean(context.Background(), w.l, w.now, w.l.EndOffset())
		if err != nil {
			return passes, err
		}
		passes++
		if !done.More {
			return passes, nil
		}
	}
}

// check compares the log with the model.
func (w *world) check(what string) {
	w.t.Helper()
	l := w.l
	end, dirty := l.EndOffset(), max(w.reached, l.Dirt(w.now, l.EndOffset()).FirstDirty)
	known := map[int64]keyed{}
	last := map[string]keyed{}
	for _, k := range w.records {
		known[k.offset] = k
		if !k.aborted && !k.undecided && k.offset < end {
			last[k.key] = k
		}
	}
	there := map[int64]bool{}
	var all []decoded
	for _, b := range splitAll(w.t, readAll(w.t, l, l.StartOffset(), 700)) {
		must(w.t, b.Check())
		if b.Attributes().Control() {
			all = append(all, decoded{b, nil})
			continue
		}
		list, err := b.Decode(1 << 20)
		must(w.t, err)
		all = append(all, decoded{b, list})
		for _, r := range list {
			k, ok := known[r.Offset]
			if !ok || k.key != string(r.Key) || !bytes.Equal(k.value, r.Value) || (k.value == nil) != (r.Value == nil) || k.at != r.Timestamp {
				w.t.Fatalf("%s: record %+v, written was %+v", what, r, k)
			}
			there[r.Offset] = true
		}
	}
	for key, k := range last {
		if k.value != nil && !there[k.offset] {
			w.t.Fatalf("%s: the last record of %s, at %d, is gone (compacted to %d)", what, key, k.offset, dirty)
		}
	}
	for _, k := range w.records {
		if k.offset >= dirty && k.offset < end && !there[k.offset] {
			w.t.Fatalf("%s: record at %d is gone, compacted was up to %d", what, k.offset, dirty)
		}
	}
	w.checkReading(what, all, known)
	must(w.t, l.Verify(w.t.Context()))
}

// decoded is a batch and its records, none if it is a marker. They are taken out
// once: decompression is what costs most under the race detector.
type decoded struct {
	record.Batch
	records []record.Record
}

// checkReading begins at every offset, as a read_committed consumer does.
func (w *world) checkReading(what string, all []decoded, known map[int64]keyed) {
	w.t.Helper()
	l := w.l
	stable := l.StableOffset(l.EndOffset())
	for at := l.StartOffset(); at < stable; at++ {
		got, err := l.Read(at, 1, stable)
		must(w.t, err)
		if len(got) == 0 {
			w.t.Fatalf("%s: nothing at %d, stable is %d", what, at, stable)
		}
		if b := splitAll(w.t, got)[0]; b.NextOffset() <= at {
			w.t.Fatalf("%s: at %d there is a batch up to %d", what, at, b.NextOffset())
		}
	}
	for range 20 {
		from := l.StartOffset() + w.rng.Int64N(max(stable-l.StartOffset(), 1))
		aborted := l.Aborted(from, stable)
		skip := map[int64]bool{}
		for _, b := range all {
			if b.NextOffset() > stable {
				break
			}
			for len(aborted) > 0 && aborted[0].FirstOffset <= b.LastOffset() {
				skip[aborted[0].ProducerID] = true
				aborted = aborted[1:]
			}
			if b.LastOffset() < from {
				continue
			}
			if b.Attributes().Control() {
				if m, err := decodeMarker(b.Batch); err == nil && !m.Commit {
					delete(skip, b.ProducerID())
				}
				continue
			}
			for _, r := range b.records {
				hidden := skip[b.ProducerID()] && b.Attributes().Transactional()
				if k := known[r.Offset]; hidden != k.aborted || k.undecided {
					w.t.Fatalf("%s: from %d: record at %d hidden %v, aborted %v, undecided %v", what, from, r.Offset, hidden, k.aborted, k.undecided)
				}
			}
		}
	}
}

func (w *world) reopen(fs *vfs.Mem) {
	w.t.Helper()
	if err := w.l.Close(); err != nil && !errors.Is(err, ErrClosed) {
		w.t.Logf("close: %v", err)
	}
	w.fs = fs
	w.l = open(w.t, fs, w.cfg)
	// What the crash took was not acknowledged.
	w.records = slices.DeleteFunc(w.records, func(k keyed) bool { return k.offset >= w.l.EndOffset() })
}

func TestCompactionKeepsTheLastRecordOfEachKey(t *testing.T) {
	for seed := range uint64(12) {
		w := newWorld(t, seed)
		for round := range 6 {
			must(t, w.live(60))
			before, sequences := w.l.Size(), w.l.Producers()
			memory := int64(1 << 20)
			if seed%3 == 0 {
				memory = keySlot * 4 // a few keys: many passes
			}
			passes, err := w.clean(memory)
			must(t, err)
			what := fmt.Sprintf("seed %d round %d", seed, round)
			if memory < 1<<20 && passes < 2 && w.l.Dirt(w.now, w.l.EndOffset()).DirtyBytes > 0 {
				t.Fatalf("%s: %d passes", what, passes)
			}
			if w.l.Size() > before {
				t.Fatalf("%s: %d bytes became %d", what, before, w.l.Size())
			}
			w.check(what)
			w.reopen(w.fs)
			w.check(what + ", opened anew")
			if got := w.l.Producers(); !slices.Equal(got, sequences) {
				t.Fatalf("%s: producers %+v, want %+v", what, got, sequences)
			}
			if round == 3 { // Tombstones and markers may go now.
				w.now = w.now.Add(2 * time.Hour)
			}
		}
		w.checkDuplicates()
	}
}

// checkDuplicates looks for keys that are there twice below what was compacted.
func (w *world) checkDuplicates() {
	w.t.Helper()
	dirty := w.l.Dirt(w.now, w.l.EndOffset()).FirstDirty
	if dirty == 0 {
		w.t.Fatal("nothing was compacted")
	}
	seen := map[string]int64{}
	for _, b := range splitAll(w.t, readAll(w.t, w.l, 0, 1<<20)) {
		if b.Attributes().Control() {
			continue
		}
		list, err := b.Decode(1 << 20)
		must(w.t, err)
		for _, r := range list {
			if r.Offset >= dirty {
				return
			}
			if before, ok := seen[string(r.Key)]; ok {
				w.t.Fatalf("key %s is at %d and %d, compacted is up to %d", r.Key, before, r.Offset, dirty)
			}
			seen[string(r.Key)] = r.Offset
		}
	}
}

// TestACompactedLogIsRebuiltFromItsBatches takes away all that is not batches.
func TestACompactedLogIsRebuiltFromItsBatches(t *testing.T) {
	for _, suffixes := range [][]string{{snapshotSuffix}, {offsetSuffix, timeSuffix, abortedSuffix}, {checkpointName, snapshotSuffix, abortedSuffix}} {
		for seed := range uint64(6) {
			w := newWorld(t, 100+seed)
			for range 3 {
				must(t, w.live(80))
				_, err := w.clean(1 << 20)
				must(t, err)
			}
			want, end := w.l.Producers(), w.l.EndOffset()
			must(t, w.l.Close())
			names, err := w.fs.ReadDir(testDir)
			must(t, err)
			for _, name := range names {
				for _, suffix := range suffixes {
					if strings.HasSuffix(name, suffix) {
						must(t, w.fs.Remove(filepath.Join(testDir, name)))
					}
				}
			}
			w.reopen(w.fs)
			if got := w.l.EndOffset(); got != end {
				t.Fatalf("without %v the log ends at %d, want %d", suffixes, got, end)
			}
			got := w.l.Producers()
			for i := range got {
				got[i].LastTimestamp, got[i].CoordinatorEpoch = 0, 0
				want[i].LastTimestamp, want[i].CoordinatorEpoch = 0, 0
			}
			if !slices.Equal(got, want) {
				t.Fatalf("without %v: producers %+v, want %+v", suffixes, got, want)
			}
			if suffixes[0] != checkpointName {
				w.check(fmt.Sprintf("seed %d without %v", seed, suffixes))
			}
		}
	}
}

// TestPowerCutAtEveryStepOfACompaction cuts the power before each call that
// changes the disk, and again while what is left is opened.
func TestPowerCutAtEveryStepOfACompaction(t *testing.T) {
	for _, seed := range []uint64{3, 8} {
		for step := 1; ; step++ {
			w := newWorld(t, seed)
			must(t, w.live(25))
			_, err := w.clean(1 << 20) // so that there is something clean
			must(t, err)
			must(t, w.live(25))
			w.now = w.now.Add(2 * time.Hour)
			w.reached = w.l.Dirt(w.now, w.l.EndOffset()).End
			n, last := 0, ""
			w.fs.SetFault(func(op vfs.Op, name string) error {
				if op == vfs.OpRead || op == vfs.OpOpen {
					return nil
				}
				if n++; n >= step {
					if n == step {
						last = fmt.Sprintf("%s %s", op, name)
					}
					return errPower
				}
				return nil
			})
			_, cut := w.clean(1 << 20)
			w.fs.SetFault(nil)
			torn := w.fs
			records := slices.Clone(w.records)
			for luck := range uint64(3) {
				what := fmt.Sprintf("seed %d step %d (%s) luck %d", seed, step, last, luck)
				var rng *rand.Rand
				if luck > 0 {
					rng = rand.New(rand.NewPCG(luck, uint64(step)))
				}
				w.records = slices.Clone(records)
				w.reopen(torn.Crash(rng))
				w.check(what)
				if d, left := w.l.Dirt(w.now, w.l.EndOffset()), leftovers(t, w.fs); len(left) > 0 || d.Uncleanable != nil {
					t.Fatalf("%s: left %v, %v", what, left, d.Uncleanable)
				}
				_, err := w.clean(1 << 20)
				must(t, err)
				w.check(what + ", compacted again")
			}
			if cut == nil {
				t.Logf("seed %d: %d steps", seed, step)
				break
			}
		}
	}
}

func leftovers(t *testing.T, fs vfs.FS) []string {
	t.Helper()
	names, err := fs.ReadDir(testDir)
	must(t, err)
	return slices.DeleteFunc(names, func(name string) bool {
		return !strings.HasSuffix(name, cleanedSuffix) && !strings.HasSuffix(name, tmpSuffix)
	})
}

func TestWhatMayBeCompacted(t *testing.T) {
	seg := func(base, next, size, first, newest int64) *segment {
		return &segment{sealed: sealed{Base: base, Next: next, Size: size, FirstTime: first, MaxTime: newest, LastAppend: newest}}
	}
	segments := []*segment{seg(0, 10, 100, 1000, 1900), seg(10, 20, 100, 2000, 2900), seg(20, 30, 200, 3000, 3900)}
	base := Config{Compact: true, MaxCompactionLag: time.Hour}
	young, overdue := base, base
	young.MinCompactionLag, overdue.MaxCompactionLag = 2*time.Second, 3*time.Second
	for name, c := range map[string]struct {
		cfg                       Config
		firstDirty, start, stable int64
		want                      Dirt
		ratio                     float64
	}{
		"everything":                      {base, 0, 0, 40, Dirt{End: 30, DirtyBytes: 400}, 1},
		"what is new":                     {base, 20, 0, 40, Dirt{FirstDirty: 20, End: 30, CleanBytes: 200, DirtyBytes: 200}, 0.5},
		"within a segment":                {base, 15, 0, 40, Dirt{FirstDirty: 15, End: 30, CleanBytes: 100, DirtyBytes: 300}, 0.75},
		"never above the stable offset":   {base, 0, 0, 29, Dirt{End: 20, DirtyBytes: 200}, 1},
		"not what is young":               {young, 0, 0, 40, Dirt{End: 20, DirtyBytes: 200}, 1},
		"what is overdue":                 {overdue, 10, 0, 40, Dirt{FirstDirty: 10, End: 30, CleanBytes: 100, DirtyBytes: 300, Overdue: true}, 0.75},
		"the start is ahead":              {base, 0, 20, 40, Dirt{FirstDirty: 20, End: 30, CleanBytes: 200, DirtyBytes: 200}, 0.5},
		"nothing":                         {base, 30, 0, 40, Dirt{FirstDirty: 30, End: 30, CleanBytes: 400}, 0},
		"overdue, but not below the lag ": {overdue, 20, 0, 40, Dirt{FirstDirty: 20, End: 30, CleanBytes: 200, DirtyBytes: 200}, 0.5},
	} {
		got := c.cfg.dirt(segments, c.firstDirty, c.start, c.stable, 5500)
		if got != c.want || got.Ratio() != c.ratio {
			t.Errorf("%s: %+v (%v), want %+v (%v)", name, got, got.Ratio(), c.want, c.ratio)
		}
	}
	for _, c := range []struct {
		limit int64
		want  string
	}{{100, "[0] [10] [20]"}, {200, "[0 10] [20]"}, {399, "[0 10] [20]"}, {400, "[0 10 20]"}} {
		var got []string
		for _, g := range group(segments, c.limit) {
			var bases []int64
			for _, s := range g {
				bases = append(bases, s.Base)
			}
			got = append(got, fmt.Sprint(bases))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("groups of %d bytes: %v, want %s", c.limit, got, c.want)
		}
	}
}

func TestTombstonesAndMarkersOutliveTheirHorizonOnly(t *testing.T) {
	w := newWorld(t, 1)
	w.cfg.SegmentBytes = 200
	must(t, w.l.SetConfig(w.cfg))
	put := func(id int64, key string, value []byte) {
		s := record.NoProducer(record.None)
		if id >= 0 {
			s = record.Stamp{ProducerID: id, BaseSequence: w.seq[id], Attributes: attrTransactional}
			w.seq[id]++
		}
		b, err := record.Encode([]record.Record{{Timestamp: w.now.UnixMilli(), Key: []byte(key), Value: value}}, s)
		must(t, err)
		_, err = w.l.Append(b, 0, FromClient)
		must(t, err)
	}
	put(-1, "a", []byte("1"))
	put(7, "b", []byte("1"))
	_, err := w.l.AppendMarker(Marker{ProducerID: 7, Commit: true}, 0)
	must(t, err)
	put(-1, "a", nil)
	put(-1, "b", []byte("2"))
	put(7, "c", []byte("3"))
	_, err = w.l.AppendMarker(Marker{ProducerID: 7}, 0)
	must(t, err)
	for range 8 {
		put(-1, "z", []byte("0123456789"))
	}
	end := w.l.EndOffset()
	shape := func() string {
		must(t, w.l.WaitDurable(t.Context(), w.l.EndOffset()))
		_, err := w.clean(1 << 20)
		must(t, err)
		var out []string
		for _, b := range splitAll(t, readAll(t, w.l, 0, 1<<20)) {
			if b.BaseOffset() > 6 {
				break
			}
			kind := fmt.Sprint(b.Count())
			if b.Attributes().Control() {
				kind = "marker " + kind
			}
			out = append(out, fmt.Sprintf("%d: %s", b.BaseOffset(), kind))
		}
		// The next segment makes the log dirty again.
		for range 8 {
			put(-1, "z", []byte("0123456789"))
		}
		return strings.Join(out, ", ")
	}
	// The producer's last batch stays, without its record, and its marker with it.
	const first = "2: marker 1, 3: 1, 4: 1, 5: 0, 6: marker 1"
	if got := shape(); got != first {
		t.Fatalf("%s, want %s", got, first)
	}
	if got := shape(); got != first {
		t.Fatalf("within the horizon: %s, want %s", got, first)
	}
	w.now = w.now.Add(61 * time.Minute)
	// The first marker's horizon began when a pass found its transaction empty.
	if got, want := shape(), "4: 1, 5: 0, 6: marker 1"; got != want && got != "2: marker 1, "+want {
		t.Fatalf("after the horizon: %s, want %s", got, want)
	}
	w.now = w.now.Add(61 * time.Minute)
	if got, want := shape(), "4: 1, 5: 0, 6: marker 1"; got != want {
		t.Fatalf("after another: %s, want %s", got, want)
	}
	if w.l.EndOffset() <= end {
		t.Fatal("the log has not grown")
	}
}

func TestTheEndOfALogIsNotForgotten(t *testing.T) {
	w := newWorld(t, 1)
	for range 3 {
		b, err := record.Encode([]record.Record{{Key: []byte("k")}}, record.NoProducer(record.None))
		must(t, err)
		_, err = w.l.Append(b, 0, FromClient)
		must(t, err)
	}
	must(t, w.l.WaitDurable(t.Context(), 3))
	w.cfg.MaxCompactionLag = time.Millisecond
	must(t, w.l.SetConfig(w.cfg))
	w.l.state.active.firstTime = 1
	_, err := w.l.Retain(w.now, 3) // rolls: everything is sealed
	must(t, err)
	for range 2 {
		_, err := w.clean(1 << 20)
		must(t, err)
		w.now = w.now.Add(2 * time.Hour)
		must(t, w.l.setFirstDirty(0, w.l.reloads))
		w.l.state.FirstDirty = 0
	}
	got, err := w.l.Read(0, 1, 3)
	must(t, err)
	if list := splitAll(t, got); len(list) != 1 || list[0].NextOffset() != 3 || list[0].Count() != 0 {
		t.Fatalf("left is %v, want one empty batch up to 3", list)
	}
	must(t, w.l.Close())
	must(t, w.fs.Remove(filepath.Join(testDir, checkpointName)))
	if got := open(t, w.fs, w.cfg).EndOffset(); got != 3 {
		t.Fatalf("end %d, want 3", got)
	}
}

func TestDamageMakesALogUncleanableAndStaysReadable(t *testing.T) {
	w := newWorld(t, 2)
	must(t, w.live(100))
	first := w.l.state.segments[0]
	flip(t, w.fs, fileName(first.Base, logSuffix), (record.HeaderSize+2)*8)
	_, err := w.clean(1 << 20)
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		t.Fatalf("%v, want CorruptError", err)
	}
	if d := w.l.Dirt(w.now, w.l.EndOffset()); !errors.As(d.Uncleanable, &corrupt) || d.Due(0) {
		t.Fatalf("%+v, want it uncleanable", d)
	}
	must(t, w.write())
	_, err = w.l.Read(first.Next, 100, w.l.EndOffset())
	must(t, err)
	if left := leftovers(t, w.fs); len(left) > 0 {
		t.Fatalf("left %v", left)
	}
}
