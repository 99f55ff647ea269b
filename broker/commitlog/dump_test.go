package commitlog

import (
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/vfs"
)

func TestDumpNamesWhatThereIs(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, small())
	add(t, l, from{7, 0, 0, true}, 2)
	_, err := l.AppendMarker(Marker{7, 0, false, 0}, 0)
	must(t, err)
	for l.view.Load().count() == 1 {
		add(t, l, nobody, 3)
	}
	dump := func() string {
		var out strings.Builder
		must(t, Dump(fsys, testDir, true, &out))
		return out.String()
	}
	expect := func(got string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
	}
	must(t, l.WaitDurable(t.Context(), l.EndOffset()))
	expect(dump(),
		"checkpoint: start 0, active segment", "sealed 0..", "leader epoch 0 from offset 0",
		"byte 0: offsets 0..1, 2 records", "producer 7/0/0, transactional true, control false",
		"producer 7 aborted 0..2", "preallocated up to byte 600", "durable up to byte", "1 producers at offset")
	must(t, l.Close())

	flip(t, fsys, fileName(0, logSuffix), 900)
	flip(t, fsys, checkpointName, 90)
	expect(dump(), "UNREADABLE from byte", "checkpoint: CORRUPT")
}
