package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
)

const (
	minFrame = 8       // key, version, correlation id
	maxKept  = 2 << 10 // longer requests say nothing more than short ones
	perKind  = 6       // of each key and version
)

// kind is an API key and a version of it.
type kind struct{ key, version int16 }

// frames are the requests kept so far, without their lengths. It is safe for
// concurrent use.
type frames struct {
	mu   sync.Mutex
	kept map[kind][][]byte
}

// add keeps a frame if there are not enough of its kind, and of its length, yet:
// requests that differ in length differ in shape.
func (f *frames) add(frame []byte) {
	k := kind{int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))}
	f.mu.Lock()
	defer f.mu.Unlock()
	alike := func(have []byte) bool { return len(have) == len(frame) }
	if have := f.kept[k]; len(have) < perKind && !slices.ContainsFunc(have, alike) {
		f.kept[k] = append(have, frame)
	}
}

func (f *frames) summary() string {
	n := 0
	for _, have := range f.kept {
		n += len(have)
	}
	return fmt.Sprintf("%d requests of %d keys and versions", n, len(f.kept))
}

// The file is gzip over frames as they were sent, lengths included, in the order
// of key, version and length.

func readFrames(path string) (*frames, error) {
	f := &frames{kept: map[kind][][]byte{}}
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
		f.add(all[4 : 4+n])
		all = all[4+n:]
	}
	return f, nil
}

func writeFrames(path string, f *frames) error {
	kinds := make([]kind, 0, len(f.kept))
	for k := range f.kept {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(a, b kind) int {
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
