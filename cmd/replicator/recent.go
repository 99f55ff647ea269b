package main

import (
	"bytes"
	"sync"
)

// recentBytes is how much of a process's log is kept for a support bundle.
const recentBytes = 1 << 20

// recent keeps the end of what is written to it, in whole lines.
type recent struct {
	mu   sync.Mutex
	text []byte
	most int
}

func newRecent(most int) *recent { return &recent{most: most} }

// Write implements io.Writer. Half of the room is given up at once, so that a line
// costs what it is long.
func (r *recent) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	written := len(p)
	if len(p) > r.most/2 {
		p = p[len(p)-r.most/2:]
	}
	if len(r.text)+len(p) > r.most {
		keep := r.text[len(r.text)/2:]
		if i := bytes.IndexByte(keep, '\n'); i >= 0 {
			keep = keep[i+1:]
		}
		r.text = append(r.text[:0], keep...)
	}
	r.text = append(r.text, p...)
	return written, nil
}

// Bytes is a copy of what is kept.
func (r *recent) Bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.text)
}
