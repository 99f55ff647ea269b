package raftnode

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/waybillhq/waybill/internal/vfs"
)

const (
	// roomWanted is how much must be free, in bytes, before a log that found its disk
	// full is taken to have room: several commands of the largest size.
	roomWanted = 8 * MaxCommand
	roomRetry  = time.Second
	roomFile   = "room.tmp"
)

// room knows whether the disk of the log is full. Raft's leader steps down when it
// cannot write an entry; but nothing keeps it from being elected again, for its log
// is as long as the others', to fail at the first entry of its term and have them
// all wait for another election. So a voter asks for no votes while its disk is full
// (see transport). It goes on voting for others.
type room struct {
	log  *slog.Logger
	try  func() error // whether there is room for roomWanted
	full atomic.Bool
	look chan struct{}
}

func newRoom(dir string, l *slog.Logger) *room {
	try := func() error { return vfs.TryRoom(vfs.Private{}, filepath.Join(dir, roomFile), roomWanted) }
	if dir == "" {
		try = func() error { return nil }
	}
	return &room{log: l, try: try, look: make(chan struct{}, 1)}
}

// note takes the outcome of a write.
func (r *room) note(err error) {
	switch {
	case err == nil && r.full.CompareAndSwap(true, false):
		r.log.Info("the disk of the raft log has room again")
	case vfs.IsFull(err) && r.full.CompareAndSwap(false, true):
		r.log.Error("the disk of the raft log is full: this node cannot lead. Free some space in its data folder", "error", err)
		select {
		case r.look <- struct{}{}:
		default:
		}
	}
}

// tend looks, while the disk is full, whether there is room again. Nothing may be
// written to the log otherwise, while nobody leads.
func (r *room) tend(ctx context.Context) {
	for {
		select {
		case <-r.look:
		case <-ctx.Done():
			return
		}
		for r.full.Load() {
			select {
			case <-time.After(roomRetry):
				r.note(r.try())
			case <-ctx.Done():
				return
			}
		}
	}
}

// roomLog tells room how writes went.
type roomLog struct {
	raft.LogStore
	room *room
}

var _ raft.LogStore = roomLog{}

// StoreLog implements raft.LogStore.
func (s roomLog) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (s roomLog) StoreLogs(logs []*raft.Log) error {
	err := s.LogStore.StoreLogs(logs)
	s.room.note(err)
	return err
}
