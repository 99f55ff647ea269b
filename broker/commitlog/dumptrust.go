package commitlog

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/waybillhq/waybill/internal/vfs"
)

// A dump calls damage what a start would refuse or would have to mend. What a
// crash leaves is neither: files that an intent of the checkpoint takes away, and
// indexes and snapshots that were being written and that no checkpoint speaks of.

// leftover says why the next start removes a file or puts another in its place; it
// is empty if the file counts.
func (d *dumper) leftover(name string) string {
	plain, isCleaned := strings.CutSuffix(name, cleanedSuffix)
	at, suffix, ok := parseAny(plain)
	swap := d.swap()
	switch {
	case strings.HasSuffix(name, tmpSuffix):
		return "what was to replace a file; the next start removes it"
	case !ok:
		return ""
	case isCleaned && (swap == nil || swap.Base != at):
		return "a compaction that came to no end; the next start removes it"
	case isCleaned || d.known == nil:
		return ""
	case d.known.Empty || slices.Contains(d.known.Drop, at), d.known.Cut != nil && suffix == snapshotSuffix && at > d.known.Cut.Offset:
		return "the checkpoint intends to remove it, which the next start does"
	case swap != nil && swap.Base == at && (d.exists(name+cleanedSuffix) || suffix == abortedSuffix && !swap.Aborted):
		return "a compacted one is to take its place, which the next start sees to"
	}
	return ""
}

func (d *dumper) swap() *swap {
	if d.known == nil {
		return nil
	}
	return d.known.Swap
}

// parseAny takes apart the name of a file that has an offset in it.
func parseAny(name string) (at int64, suffix string, ok bool) {
	suffix = filepath.Ext(name)
	if !slices.Contains([]string{logSuffix, offsetSuffix, timeSuffix, abortedSuffix, snapshotSuffix}, suffix) {
		return 0, "", false
	}
	at, ok = parseName(name, suffix)
	return at, suffix, ok
}

func (d *dumper) exists(name string) bool {
	_, err := d.fs.Size(filepath.Join(d.dir, name))
	return !errors.Is(err, fs.ErrNotExist)
}

// cut is what the checkpoint intends to leave of the segment at base, nil if all.
func (d *dumper) cut(base int64) *cut {
	if d.known == nil || d.known.Active != base {
		return nil
	}
	return d.known.Cut
}

// sealed is what the checkpoint knows of a segment that takes no more appends; the
// zero value if it knows none at base.
func (d *dumper) sealed(base int64) sealed {
	if d.known == nil {
		return sealed{}
	}
	i := slices.IndexFunc(d.known.Sealed, func(s sealed) bool { return s.Base == base })
	if i < 0 {
		return sealed{}
	}
	return d.known.Sealed[i]
}

// flaw names what is wrong in a file that can be built from the batches, of which
// so many bytes were durable before a checkpoint spoke of it. Behind them a crash
// may have left anything. Without a checkpoint that can be read nobody knows.
func (d *dumper) flaw(name string, pos, durable int64, reason string) {
	if pos < durable || d.unreadable {
		d.damage(name, pos, reason)
		return
	}
	d.item(name, pos, "unfinished", text(reason+"; no start relies on it"))
}

// context reads what tells a torn tail, and the rest of what a crash leaves, from
// damage.
func (d *dumper) context(names []string) {
	var err error
	d.known, err = readCheckpoint(d.fs, d.dir) // its own dump names the error
	d.unreadable = err != nil
	if buf, err := vfs.ReadFile(d.fs, filepath.Join(d.dir, recoveryName), 1<<20); err == nil {
		_, d.point = newestPoint(buf)
	}
	for _, name := range names {
		if base, ok := parseName(name, logSuffix); ok && d.leftover(name) == "" {
			d.last = max(d.last, base)
		}
	}
}
