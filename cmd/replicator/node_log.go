package main

import (
	"io"
	"sync"
	"time"

	"github.com/waybillhq/waybill/api"
)

// secretsFresh is how old the secrets may be that are looked for in the log: passwords in
// files are changed while a node runs.
const secretsFresh = 30 * time.Second

// cleanLog takes secrets out of what a node logs, as out of a support bundle: nothing that
// is logged should hold one, but errors are others' words. It gets whole lines.
type cleanLog struct {
	to io.Writer

	mu     sync.Mutex
	values func() []string // that are secrets now
	found  *scrubber       // of those at a time, nil if they are to be asked for
	at     time.Time
}

// newCleanLog knows the tokens of the API's users until it is told more.
func newCleanLog(to io.Writer, users []api.User) *cleanLog {
	first := &secrets{users: users}
	return &cleanLog{to: to, values: first.tokens}
}

// follow has the log ask for secrets there from now on. It is asked while a line is
// written, so it must not log.
func (l *cleanLog) follow(values func() []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.values, l.found = values, nil
}

// again has the secrets asked for before the next line: there are others.
func (l *cleanLog) again() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found = nil
}

// Write implements io.Writer.
func (l *cleanLog) Write(line []byte) (int, error) {
	if _, err := l.to.Write(l.scrubber().clean(line)); err != nil {
		return 0, err
	}
	return len(line), nil
}

func (l *cleanLog) scrubber() *scrubber {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.found == nil || time.Since(l.at) > secretsFresh {
		l.found, l.at = newScrubber(l.values()), time.Now()
	}
	return l.found
}
