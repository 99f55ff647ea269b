package commitlog

import (
	"errors"
	"testing"

	"github.com/waybillhq/waybill/internal/vfs"
)

// TestWhatWasMadeIsNotMadeAnew: a log that lost its folder, or everything in it, is
// missing; one that lost less is another's to judge.
func TestWhatWasMadeIsNotMadeAnew(t *testing.T) {
	for what, c := range map[string]struct {
		prepare        func(fsys *vfs.Mem)
		missing, blank bool
	}{
		"no folder":        {func(*vfs.Mem) {}, true, true},
		"an empty folder":  {func(fsys *vfs.Mem) { must(t, fsys.MkdirAll(testDir)) }, true, true},
		"a new log":        {func(fsys *vfs.Mem) { _, err := Open(fsys, testDir, small()); must(t, err) }, false, true},
		"a closed new log": {func(fsys *vfs.Mem) { used(t, fsys, 0) }, false, true},
		"a log in use": {func(fsys *vfs.Mem) {
			l, err := Open(fsys, testDir, small())
			must(t, err)
			add(t, l, nobody, 1)
		}, false, false},
		"a used log":                 {func(fsys *vfs.Mem) { used(t, fsys, 3) }, false, false},
		"a used log without content": {func(fsys *vfs.Mem) { used(t, fsys, 3); remove(t, fsys, checkpointName, fileName(0, logSuffix)) }, true, false},
		"a used log without segment": {func(fsys *vfs.Mem) { used(t, fsys, 3); remove(t, fsys, fileName(0, logSuffix)) }, false, false},
		"a log that was emptied": {func(fsys *vfs.Mem) {
			l, err := Open(fsys, testDir, small())
			must(t, err)
			add(t, l, nobody, 3)
			must(t, l.WaitDurable(t.Context(), 3))
			must(t, l.DeleteRecordsBefore(3))
			must(t, l.Close())
		}, false, false},
	} {
		fsys := vfs.NewMem()
		c.prepare(fsys)
		if blank, err := Blank(fsys, testDir); blank != c.blank || err != nil {
			names, _ := fsys.ReadDir(testDir)
			t.Errorf("%s, %q: blank %t, %v", what, names, blank, err)
		}
		before, _ := fsys.ReadDir(testDir)
		l, err := OpenExisting(fsys, testDir, small())
		if errors.Is(err, ErrMissing) != c.missing {
			t.Errorf("%s: %v", what, err)
		}
		if after, _ := fsys.ReadDir(testDir); c.missing && len(after) != len(before) {
			t.Errorf("%s: a missing log was begun: %q", what, after)
		}
		if l != nil {
			must(t, l.Close())
		}
	}
}

// used makes a log, appends n records and closes it.
func used(t *testing.T, fsys *vfs.Mem, n int) {
	l, err := Open(fsys, testDir, small())
	must(t, err)
	if n > 0 {
		add(t, l, nobody, n)
	}
	must(t, l.Close())
}

func remove(t *testing.T, fsys *vfs.Mem, names ...string) {
	for _, name := range names {
		must(t, fsys.Remove(testDir+"/"+name))
	}
}
