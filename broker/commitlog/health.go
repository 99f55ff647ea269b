package commitlog

import (
	"errors"
	"fmt"
	"sync"
)

// Health is what a log can do.
type Health int8

const (
	// Healthy logs take appends.
	Healthy Health = iota
	// Full logs refuse appends, with [ErrFull], until the disk has room again;
	// each append tries, and [Log.Tend] does. Reads go on.
	Full
	// Offline logs have failed in a write or a sync, and refuse appends until
	// they are opened again. Reads go on.
	Offline
)

func (h Health) String() string {
	switch h {
	case Healthy:
		return "healthy"
	case Full:
		return "full"
	case Offline:
		return "offline"
	}
	return fmt.Sprintf("health(%d)", int8(h))
}

// Observer is told when a log's health changes, and why: dir is the log's
// directory. It must not call the log back.
type Observer interface {
	LogChanged(dir string, h Health, cause error)
}

type health struct {
	mu    sync.Mutex
	now   Health
	cause error
	tell  Observer
}

func (h *health) observe(tell Observer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tell = tell
}

// become notes a state and tells of a new one. Offline stays.
func (h *health) become(dir string, state Health, cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.now == state || h.now == Offline {
		return
	}
	h.now, h.cause = state, cause
	if h.tell != nil {
		h.tell.LogChanged(dir, state, cause)
	}
}

// Health is what the log can do now, and why not more.
func (l *Log) Health() (h Health, cause error) {
	l.health.mu.Lock()
	defer l.health.mu.Unlock()
	return l.health.now, l.health.cause
}

// fail takes the log offline, and returns the error that says so.
func (l *Log) fail(err error) error {
	l.durable.fail(fmt.Errorf("%w: %w", ErrOffline, err))
	if err := l.durable.failure(); errors.Is(err, ErrOffline) {
		l.health.become(l.dir, Offline, err)
	}
	return l.durable.failure()
}

// refuse is the outcome of a step that failed: ErrFull leaves the log as it was,
// all else takes it offline.
func (l *Log) refuse(err error) error {
	if !errors.Is(err, ErrFull) || errors.Is(err, errHalfDone) {
		return l.fail(err)
	}
	l.health.become(l.dir, Full, err)
	return err
}

// commit makes a checkpoint durable, and then the log's own.
func (l *Log) commit(cp checkpoint) error {
	if err := writeCheckpoint(l.fs, l.dir, cp); err != nil {
		return l.refuse(err)
	}
	l.state.checkpoint, l.stale = cp, false
	return nil
}

// withoutIntents notes that the checkpoint's intents have been carried out. With
// a full disk they stand there until it is written the next time.
func (l *Log) withoutIntents() error {
	cp := l.state.checkpoint
	cp.Drop, cp.Swap = nil, nil
	err := l.commit(cp)
	if errors.Is(err, ErrFull) {
		l.state.checkpoint, l.stale = cp, true
		return nil
	}
	return err
}

// settleIntents sees to it that no intent that has been carried out is left: to
// carry one out again after a crash would take other files for those it meant.
func (l *Log) settleIntents() error {
	l.writer.Lock()
	defer l.writer.Unlock()
	if !l.stale || l.writable() != nil {
		return l.writable()
	}
	return l.commit(l.state.checkpoint)
}
