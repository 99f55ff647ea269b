package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/mirrorwire"
)

const (
	minFrame = 8       // key, version, correlation id
	maxKept  = 2 << 10 // longer requests say nothing more than short ones
	perRun   = 3       // of each key and version
	perKind  = 10      // of all runs
)

// kind is an API key and a version of it.
type kind struct{ key, version int16 }

type span struct{ oldest, newest int16 }

// frames are the requests kept so far, without their lengths. It is safe for
// concurrent use.
type frames struct {
	spoken map[int16]span // what the broker speaks; set before the first add
	mu     sync.Mutex
	kept   map[kind][][]byte
	added  map[kind]int // in this run
}

func kindOf(frame []byte) (kind, bool) {
	if len(frame) < minFrame {
		return kind{}, false
	}
	return kind{int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))}, true
}

// add keeps a frame if there are not enough of its kind, and of its length, yet:
// requests that differ in length differ in shape.
func (f *frames) add(frame []byte) {
	k, ok := kindOf(frame)
	spoken, known := f.spoken[k.key]
	if !ok || !known || k.version < spoken.oldest || k.version > spoken.newest || len(frame) > maxKept {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	alike := func(have []byte) bool { return len(have) == len(frame) }
	if have := f.kept[k]; f.added[k] < perRun && len(have) < perKind && !slices.ContainsFunc(have, alike) {
		f.kept[k] = append(have, bytes.Clone(frame))
		f.added[k]++
	}
}

func (f *frames) summary() string {
	n := 0
	for _, have := range f.kept {
		n += len(have)
	}
	var missing []string
	for _, key := range slices.Sorted(maps.Keys(f.spoken)) {
		for v := f.spoken[key].oldest; v <= f.spoken[key].newest; v++ {
			if len(f.kept[kind{key, v}]) == 0 {
				missing = append(missing, fmt.Sprintf("%s v%d", cmp.Or(mirrorwire.Name(key), kmsg.NameForKey(key)), v))
			}
		}
	}
	return fmt.Sprintf("%d requests of %d keys and versions; without: %s", n, len(f.kept), strings.Join(missing, ", "))
}

// The file is gzip over frames as they were sent, lengths included, in the order
// of key, version and length.

func readFrames(path string) (*frames, error) {
	f := &frames{spoken: map[int16]span{}, kept: map[kind][][]byte{}, added: map[kind]int{}}
	packed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	} else if err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	all, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for len(all) > 4 {
		n := int(binary.BigEndian.Uint32(all))
		if n < minFrame || n > len(all)-4 {
			return nil, fmt.Errorf("%s: frame of %d bytes where %d are left", path, n, len(all)-4)
		}
		k, _ := kindOf(all[4 : 4+n])
		f.kept[k] = append(f.kept[k], all[4:4+n])
		all = all[4+n:]
	}
	return f, nil
}

func writeFrames(path string, f *frames) error {
	kinds := slices.SortedFunc(maps.Keys(f.kept), func(a, b kind) int {
		return (int(a.key)-int(b.key))<<16 + int(a.version) - int(b.version)
	})
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	for _, k := range kinds {
		slices.SortFunc(f.kept[k], func(a, b []byte) int { return len(a) - len(b) })
		for _, frame := range f.kept[k] {
			if _, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
				return err
			}
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, packed.Bytes(), 0o644)
}
