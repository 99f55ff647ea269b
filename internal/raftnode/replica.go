package raftnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// Machine is a replicated state machine as pure functions. A state of type S is
// never changed once it has been returned: Apply returns a new one.
//
// All methods may be called from several goroutines at once.
type Machine[S any] interface {
	// Initial is the state before the first command.
	Initial() S
	// Check is asked by the leader before it appends a command. An error refuses
	// the command, with ErrRefused. The state is the leader's present one, and not
	// yet the one that the command will meet: what depends on that is decided by
	// Apply.
	Check(s S, command []byte) error
	// Apply returns the state after the command at index, and a result for who
	// proposed it. It must be deterministic: same state, index and bytes, same
	// state and result, in any version that knows the command. An error says that
	// the command is not known to this version, and halts the replica; a refusal
	// belongs into the result.
	Apply(s S, index uint64, command []byte) (next S, result []byte, err error)
	// Encode and Decode turn a state into bytes for a snapshot, and back.
	Encode(s S) ([]byte, error)
	Decode(b []byte) (S, error)
}

// StateMachine is what a Node drives: a *Replica of any type.
type StateMachine interface {
	fsm() raft.FSM
	check(command []byte) error
	wait(ctx context.Context, index uint64) error
	index() uint64
	digests() (digests, error)
	halted() <-chan struct{}
	haltCause() error
}

// Replica holds the current state of a Machine and publishes it. All methods may
// be called concurrently.
type Replica[S any] struct {
	machine Machine[S]

	current  atomic.Pointer[published[S]]
	marks    marks[S]
	haltOnce sync.Once
	haltCh   chan struct{}
	haltErr  error // set before haltCh is closed
}

// published is one state and the signal that a newer one is out.
type published[S any] struct {
	state S
	index uint64
	newer chan struct{}
}

var _ StateMachine = (*Replica[int])(nil)

// NewReplica returns a Replica in m's initial state.
func NewReplica[S any](m Machine[S]) *Replica[S] {
	r := &Replica[S]{machine: m, haltCh: make(chan struct{})}
	r.current.Store(&published[S]{state: m.Initial(), newer: make(chan struct{})})
	return r
}

// State returns the current state.
func (r *Replica[S]) State() S { return r.current.Load().state }

// Current returns the current state and the index of the last command in it.
func (r *Replica[S]) Current() (S, uint64) {
	p := r.current.Load()
	return p.state, p.index
}

// Watch returns the current state, the index of the last command in it, and a
// channel that is closed when there is a newer one.
func (r *Replica[S]) Watch() (state S, index uint64, newer <-chan struct{}) {
	p := r.current.Load()
	return p.state, p.index, p.newer
}

// Next blocks until there is a state newer than index after, and returns the
// newest. States in between are skipped.
func (r *Replica[S]) Next(ctx context.Context, after uint64) (S, uint64, error) {
	for {
		p := r.current.Load()
		if p.index > after {
			return p.state, p.index, nil
		}
		select {
		case <-p.newer:
		case <-r.haltCh:
			return p.state, p.index, r.haltErr
		case <-ctx.Done():
			return p.state, p.index, context.Cause(ctx)
		}
	}
}

func (r *Replica[S]) wait(ctx context.Context, index uint64) error {
	if index == 0 {
		return nil
	}
	_, _, err := r.Next(ctx, index-1)
	return err
}

func (r *Replica[S]) index() uint64              { return r.current.Load().index }
func (r *Replica[S]) fsm() raft.FSM              { return (*machineFSM[S])(r) }
func (r *Replica[S]) check(command []byte) error { return r.machine.Check(r.State(), command) }
func (r *Replica[S]) halted() <-chan struct{}    { return r.haltCh }

func (r *Replica[S]) haltCause() error {
	select {
	case <-r.haltCh:
		return r.haltErr
	default:
		return nil
	}
}

func (r *Replica[S]) halt(err error) {
	r.haltOnce.Do(func() {
		r.haltErr = fmt.Errorf("%w: %w", ErrHalted, err)
		close(r.haltCh)
	})
}

// publish replaces the current state. Only raft's state machine goroutine and,
// before it starts, Open call it.
func (r *Replica[S]) publish(state S, index uint64) {
	old := r.current.Swap(&published[S]{state: state, index: index, newer: make(chan struct{})})
	r.passed(old.index, state, index)
	close(old.newer)
}

// machineFSM shows a Replica to raft without exporting raft's methods on it.
type machineFSM[S any] Replica[S]

var _ raft.FSM = (*machineFSM[int])(nil)

// Apply implements raft.FSM. Its response is the result's bytes, or an error
// when the replica has halted.
func (f *machineFSM[S]) Apply(entry *raft.Log) any {
	r := (*Replica[S])(f)
	if err := r.haltCause(); err != nil {
		return err
	}
	next, result, err := r.machine.Apply(r.State(), entry.Index, entry.Data)
	if err != nil {
		r.halt(fmt.Errorf("apply entry %d: %w", entry.Index, err))
		return r.haltErr
	}
	r.publish(next, entry.Index)
	return result
}

// Snapshot implements raft.FSM. A halted replica takes none: the entries that it
// did not understand must stay in the log.
func (f *machineFSM[S]) Snapshot() (raft.FSMSnapshot, error) {
	r := (*Replica[S])(f)
	if err := r.haltCause(); err != nil {
		return nil, err
	}
	state, index := r.Current()
	return &machineSnapshot[S]{machine: r.machine, state: state, index: index}, nil
}

// Restore implements raft.FSM. A snapshot that cannot be decoded halts the
// replica instead of returning an error, which raft would answer with a panic.
func (f *machineFSM[S]) Restore(rc io.ReadCloser) error {
	r := (*Replica[S])(f)
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		r.halt(fmt.Errorf("read snapshot: %w", err))
		return nil
	}
	index, payload, err := openSnapshot(b)
	if err != nil {
		r.halt(err)
		return nil
	}
	state, err := r.machine.Decode(payload)
	if err != nil {
		r.halt(fmt.Errorf("decode snapshot at %d: %w", index, err))
		return nil
	}
	r.publish(state, index)
	return nil
}

// A snapshot is
//
//	magic "WBS1" | index u64 | CRC-32C of index and payload u32 | payload
//
// in big endian. The index is that of the last command in the payload.
const snapshotMagic = "WBS1"

const snapshotHeader = len(snapshotMagic) + 8 + 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sealSnapshot(index uint64, payload []byte) []byte {
	b := make([]byte, 0, snapshotHeader+len(payload))
	b = append(b, snapshotMagic...)
	b = binary.BigEndian.AppendUint64(b, index)
	sum := crc32.Update(crc32.Checksum(b[len(snapshotMagic):], castagnoli), castagnoli, payload)
	b = binary.BigEndian.AppendUint32(b, sum)
	return append(b, payload...)
}

func openSnapshot(b []byte) (index uint64, payload []byte, err error) {
	if len(b) < snapshotHeader || string(b[:len(snapshotMagic)]) != snapshotMagic {
		return 0, nil, errors.New("not a snapshot of this version")
	}
	head := b[len(snapshotMagic):snapshotHeader]
	payload = b[snapshotHeader:]
	sum := crc32.Update(crc32.Checksum(head[:8], castagnoli), castagnoli, payload)
	if got := binary.BigEndian.Uint32(head[8:]); got != sum {
		return 0, nil, fmt.Errorf("snapshot checksum is %08x, computed %08x", got, sum)
	}
	return binary.BigEndian.Uint64(head), payload, nil
}

type machineSnapshot[S any] struct {
	machine Machine[S]
	state   S
	index   uint64
}

func (s *machineSnapshot[S]) Persist(sink raft.SnapshotSink) error {
	payload, err := s.machine.Encode(s.state)
	if err == nil {
		_, err = sink.Write(sealSnapshot(s.index, payload))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

func (s *machineSnapshot[S]) Release() {}
