package commitlog

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/vfs"
)

// dumpOf is a dump as text, and its damage.
func dumpOf(t *testing.T, fsys vfs.FS, opts DumpOptions, names ...string) (all string, damage []string) {
	t.Helper()
	var out strings.Builder
	must(t, Dump(fsys, testDir, names, opts, func(i DumpItem) error {
		out.WriteString(i.String() + "\n")
		if i.Damaged() {
			damage = append(damage, i.String())
		}
		return nil
	}))
	return out.String(), damage
}

// dumped is a log of several segments with an aborted transaction.
func dumped(t *testing.T) (*vfs.Mem, *Log) {
	t.Helper()
	fsys := vfs.NewMem()
	l := open(t, fsys, small())
	add(t, l, from{7, 0, 0, true}, 2)
	_, err := l.AppendMarker(Marker{7, 0, false, 0}, 0)
	must(t, err)
	for l.view.Load().count() < 3 {
		add(t, l, nobody, 3)
	}
	must(t, l.WaitDurable(t.Context(), l.EndOffset()))
	return fsys, l
}

func TestDumpNamesWhatThereIs(t *testing.T) {
	fsys, l := dumped(t)
	for _, then := range []func() error{l.Close, func() error { return nil }} { // while it is open, and after
		got, damage := dumpOf(t, fsys, DumpOptions{Records: true})
		for _, want := range []string{
			`checkpoint {"version":1,"start":0`, "segment 0..", "byte 0: batch 0..1, 2 records", "producer 7 epoch 0 sequence 0, transactional\n",
			"transactional, control, abort", `record 1, timestamp 1001, key null, value "7/0/0+1"`, "aborted 0..2 of producer 7",
			"entry offset", "entry timestamp", "durable up to byte", "snapshot at offset", "producer 7 epoch 0, last sequence 1",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
		if len(damage) > 0 {
			t.Errorf("damage in a whole log: %q", damage)
		}
		must(t, then())
	}
}

func TestDumpNamesDamageWithFileAndPosition(t *testing.T) {
	first := func(suffix string) string { return fileName(0, suffix) }
	for name, c := range map[string]struct {
		harm func(t *testing.T, fsys *vfs.Mem)
		want string
	}{
		"a bit of a batch":        {func(t *testing.T, fsys *vfs.Mem) { flip(t, fsys, first(logSuffix), 900) }, first(logSuffix) + ": byte "},
		"a bit of the checkpoint": {func(t *testing.T, fsys *vfs.Mem) { flip(t, fsys, checkpointName, 90) }, checkpointName + ": byte 0: DAMAGED: checksum"},
		"an offset index's entry": {func(t *testing.T, fsys *vfs.Mem) { flip(t, fsys, first(offsetSuffix), 60) }, first(offsetSuffix) + ": byte 0: DAMAGED"},
		"a time index's entry":    {func(t *testing.T, fsys *vfs.Mem) { flip(t, fsys, first(timeSuffix), 60) }, first(timeSuffix) + ": byte 0: DAMAGED"},
		"an aborted transaction":  {func(t *testing.T, fsys *vfs.Mem) { flip(t, fsys, first(abortedSuffix), 260) }, first(abortedSuffix) + ": byte 0: DAMAGED: checksum"},
		"a missing segment":       {func(t *testing.T, fsys *vfs.Mem) { must(t, fsys.Remove(testDir+"/"+first(logSuffix))) }, first(logSuffix) + ": byte 0: DAMAGED: the checkpoint has it"},
		"a missing index":         {func(t *testing.T, fsys *vfs.Mem) { must(t, fsys.Remove(testDir+"/"+first(timeSuffix))) }, first(timeSuffix) + ": byte 0: DAMAGED: the checkpoint has it"},
		"both recovery points": {func(t *testing.T, fsys *vfs.Mem) {
			flip(t, fsys, recoveryName, 80)
			flip(t, fsys, recoveryName, 80+8*recoverySlot)
		}, recoveryName + ": byte 0: DAMAGED"},
	} {
		t.Run(name, func(t *testing.T) {
			fsys, l := dumped(t)
			must(t, l.Close())
			c.harm(t, fsys)
			if all, damage := dumpOf(t, fsys, DumpOptions{}); !strings.Contains(strings.Join(damage, "\n"), c.want) {
				t.Errorf("no %q in\n%s", c.want, all)
			}
		})
	}
}

// What was durable is damage where it is harmed, what was not is a torn tail.
func TestDumpTellsATornTailFromDamage(t *testing.T) {
	for name, c := range map[string]struct {
		batch int // which of three is harmed
		want  string
	}{
		"the first, synced":  {0, ": byte 0: DAMAGED: "},
		"the second, synced": {1, ": byte %d: DAMAGED: "},
		"the third, not":     {2, ": byte %d: torn "},
	} {
		t.Run(name, func(t *testing.T) {
			fsys := vfs.NewMem()
			l := open(t, fsys, DefaultConfig())
			add(t, l, nobody, 1)
			add(t, l, nobody, 1)
			must(t, l.WaitDurable(t.Context(), 2))
			add(t, l, nobody, 1)
			at := l.Size() / 3 * int64(c.batch)
			flip(t, fsys, fileName(0, logSuffix), (at+70)*8)
			want := strings.ReplaceAll(c.want, "%d", strconv.FormatInt(at, 10))
			all, damage := dumpOf(t, fsys, DumpOptions{})
			if !strings.Contains(all, fileName(0, logSuffix)+want) || len(damage) != strings.Count(want, "DAMAGED") {
				t.Errorf("no %q, or damage %q, in\n%s", want, damage, all)
			}
		})
	}
}

// A mirror's file and its batches, which have holes and the source's epochs.
func TestDumpOfAMirror(t *testing.T) {
	fsys := vfs.NewMem()
	l := mirrorLog(t, fsys)
	end, err := l.AppendMirrored(plainAppend(l, 1, sourceBatch(from{1, 0, 0, true}, 2, 5, 3), sourceBatch(nobody, 1, 40, 8)))
	must(t, err)
	must(t, l.WaitDurable(t.Context(), end))
	must(t, l.Close())
	all, damage := dumpOf(t, fsys, DumpOptions{Batches: true})
	for _, want := range []string{`mirror: byte 0: mirror {"version":1,"role":"mirroring","writerEpoch":1,"highestEpoch":8,`, "batch 5..6, 2 records, ", "batch 40..40, 1 records, "} {
		if len(damage) > 0 || !strings.Contains(all, want) {
			t.Errorf("no %q, or damage %q, in\n%s", want, damage, all)
		}
	}
	flip(t, fsys, mirrorName, 100)
	if all, damage := dumpOf(t, fsys, DumpOptions{}); len(damage) != 1 || !strings.Contains(damage[0], "/"+mirrorName+": byte 0: DAMAGED: ") {
		t.Errorf("damage %q in\n%s", damage, all)
	}
}

// Slots are written in turn, so a power cut can tear one.
func TestDumpTakesATornRecoveryPointForNoDamage(t *testing.T) {
	for _, slot := range []int64{0, 1} {
		fsys, l := dumped(t)
		must(t, l.Close())
		flip(t, fsys, recoveryName, 80+8*recoverySlot*slot)
		all, damage := dumpOf(t, fsys, DumpOptions{})
		if len(damage) > 0 || !strings.Contains(all, "torn") {
			t.Errorf("slot %d: damage %q in\n%s", slot, damage, all)
		}
	}
}

func TestDumpEndsWithItsReader(t *testing.T) {
	fsys, l := dumped(t)
	must(t, l.Close())
	gone, calls := errors.New("gone"), 0
	err := Dump(fsys, testDir, nil, DumpOptions{Records: true}, func(DumpItem) error { calls++; return gone })
	if !errors.Is(err, gone) || calls != 1 {
		t.Errorf("%v after %d items", err, calls)
	}
}

// FuzzDump dumps a folder in which one file holds anything. The checkpoint and the
// mirror's state get right checksums, so that what they say is believed.
func FuzzDump(f *testing.F) {
	whole := vfs.NewMem()
	l, err := Open(whole, testDir, small())
	must(f, err)
	for seq := range int32(8) {
		_, err := l.Append(mustBatch(from{7, 0, 9 * seq, true}, 9), 0, FromClient)
		must(f, err)
	}
	_, err = l.AppendMarker(Marker{7, 0, false, 0}, 0)
	must(f, err)
	must(f, l.Close())
	names, err := whole.ReadDir(testDir)
	must(f, err)
	names = append(names, mirrorName, fileName(0, logSuffix)+cleanedSuffix, fileName(0, offsetSuffix)+cleanedSuffix)
	content := map[string][]byte{mirrorName: []byte(`{"version":1,"role":"mirroring"}` + "\n")}
	for i, name := range names {
		if buf, err := vfs.ReadFile(whole, filepath.Join(testDir, strings.TrimSuffix(name, cleanedSuffix)), 1<<20); err == nil {
			content[name] = buf
		}
		if name == checkpointName {
			cp := content[name][:len(content[name])-checksumLine]
			for _, intent := range []string{`"drop":[0],`, `"cut":{"size":9,"offset":2},`, `"empty":true,`, `"swap":{"base":0},`, ""} {
				content[name] = []byte("{" + intent + string(cp[1:]))
				f.Add(byte(i), content[name])
			}
			continue
		}
		f.Add(byte(i), content[name])
	}
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		fsys, size := vfs.NewMem(), map[string]int64{}
		must(t, fsys.MkdirAll(testDir))
		for i, name := range names {
			buf := content[name]
			if i == int(which)%len(names) {
				buf = data
			}
			if name == checkpointName || name == mirrorName {
				buf = fmt.Appendf(bytes.Clone(buf), "%08x\n", crc32.Checksum(buf, castagnoli))
			}
			path := filepath.Join(testDir, name)
			size[path] = int64(len(buf))
			must(t, vfs.WriteFile(fsys, path, buf))
		}
		must(t, Dump(fsys, testDir, nil, DumpOptions{Records: true}, func(i DumpItem) error {
			if i.Position < 0 || i.Position > size[i.File] {
				t.Errorf("%s, which has %d bytes", i, size[i.File])
			}
			return nil
		}))
	})
}
