package commitlog

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/waybillhq/waybill/internal/vfs"
)

// ErrMissing says that a log which was made is not there.
var ErrMissing = errors.New("the log is missing: its folder, or every segment and the checkpoint in it")

// OpenExisting is [Open] of a log that was made before: it makes none, since to begin
// anew would be to lose what it held without a word.
func OpenExisting(fsys vfs.FS, dir string, cfg Config) (*Log, error) {
	if _, err := fsys.Size(filepath.Join(dir, checkpointName)); err == nil {
		return Open(fsys, dir, cfg) // the usual case, without a listing
	}
	names, err := readNames(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	if !slices.ContainsFunc(names, isSubstance) {
		return nil, fmt.Errorf("open log %s: %w", dir, ErrMissing)
	}
	return Open(fsys, dir, cfg)
}

// Blank says whether dir has nothing in it that was ever written to a log: it is
// empty, not there, or a log that was made and then not used, or not made to its end.
func Blank(fsys vfs.FS, dir string) (bool, error) {
	names, err := readNames(fsys, dir)
	if err != nil {
		return false, fmt.Errorf("look at log %s: %w", dir, err)
	}
	first := fileName(0, logSuffix)
	for _, name := range names {
		switch name {
		case checkpointName, recoveryName, mirrorName, fileName(0, offsetSuffix), fileName(0, timeSuffix):
			continue // these are about what is in segments
		case checkpointName + tmpSuffix, recoveryName + tmpSuffix, mirrorName + tmpSuffix, spareName:
			continue
		case first:
			if size, err := fsys.Size(filepath.Join(dir, name)); err != nil || size > 0 {
				return false, err
			}
		default:
			return false, nil
		}
	}
	// A log that is at its end, with a start above 0, has a segment of that name.
	return slices.Contains(names, first) || !slices.ContainsFunc(names, isSubstance), nil
}

// isSubstance says whether a log was made where a file of that name is.
func isSubstance(name string) bool {
	_, segment := parseName(name, logSuffix)
	return segment || name == checkpointName
}

// readNames are those in a directory, none if there is no directory.
func readNames(fsys vfs.FS, dir string) ([]string, error) {
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}
