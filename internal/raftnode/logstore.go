package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

// A stored entry's Data is
//
//	version 1 (u8) | CRC-32C (u32, big endian) | the entry's data
//
// The checksum covers index, term, type, extensions and data, so an entry that
// turns up under another index is noticed too.
const (
	entryVersion = 1
	entryHeader  = 1 + 4
)

func entrySum(l *raft.Log, data []byte) uint32 {
	var head [8 + 8 + 1 + 4]byte
	binary.BigEndian.PutUint64(head[0:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	binary.BigEndian.PutUint32(head[17:], uint32(len(l.Extensions)))
	sum := crc32.Checksum(head[:], castagnoli)
	sum = crc32.Update(sum, castagnoli, l.Extensions)
	return crc32.Update(sum, castagnoli, data)
}

// sealEntry returns a copy of l as it is stored. l itself stays as it is: raft
// goes on to replicate it.
func sealEntry(l *raft.Log) *raft.Log {
	sealed := *l
	sealed.Data = make([]byte, entryHeader, entryHeader+len(l.Data))
	sealed.Data[0] = entryVersion
	binary.BigEndian.PutUint32(sealed.Data[1:], entrySum(l, l.Data))
	sealed.Data = append(sealed.Data, l.Data...)
	return &sealed
}

// openEntry takes the header off l, which was stored under index.
func openEntry(index uint64, l *raft.Log) error {
	if l.Index != index {
		return &EntryError{Index: index, Err: fmt.Errorf("it says that it is entry %d", l.Index)}
	}
	if len(l.Data) < entryHeader || l.Data[0] != entryVersion {
		return &EntryError{Index: index, Err: errors.New("it has no checksum")}
	}
	stored := binary.BigEndian.Uint32(l.Data[1:])
	data := l.Data[entryHeader:]
	if sum := entrySum(l, data); sum != stored {
		return &EntryError{Index: index, Err: fmt.Errorf("its checksum is %08x, computed %08x", stored, sum)}
	}
	l.Data = data
	return nil
}

// checkedLog puts checksums between raft and a LogStore. fail is told of damage
// and does not return when raft would answer the error with a panic.
type checkedLog struct {
	raft.LogStore
	fail func(error)
}

// It is no raft.MonotonicLogStore: raft empties one whenever a snapshot comes, also of what
// lies beyond the snapshot and was acknowledged. So a log may have a hole (see logReport).
var _ raft.LogStore = (*checkedLog)(nil)

// GetLog implements raft.LogStore.
func (s *checkedLog) GetLog(index uint64, l *raft.Log) error {
	if err := s.LogStore.GetLog(index, l); err != nil {
		if !errors.Is(err, raft.ErrLogNotFound) {
			err = &EntryError{Index: index, Err: err}
			s.fail(err)
		}
		return err
	}
	if err := openEntry(index, l); err != nil {
		s.fail(err)
		return err
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (s *checkedLog) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (s *checkedLog) StoreLogs(logs []*raft.Log) error {
	sealed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		sealed[i] = sealEntry(l)
	}
	return s.LogStore.StoreLogs(sealed)
}

// checkedStable puts checksums between raft and a StableStore. A value is stored
// as CRC-32C of key and value (u32), then the value.
type checkedStable struct {
	raft.StableStore
	path string
	fail func(error)
}

var _ raft.StableStore = (*checkedStable)(nil)

func stableSum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

func sealValue(key, value []byte) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(value)), stableSum(key, value))
	return append(b, value...)
}

func openValue(key, stored []byte) ([]byte, error) {
	if len(stored) < 4 {
		return nil, fmt.Errorf("value of %q has no checksum", key)
	}
	value := stored[4:]
	if want, got := binary.BigEndian.Uint32(stored), stableSum(key, value); want != got {
		return nil, fmt.Errorf("checksum of %q is %08x, computed %08x", key, want, got)
	}
	return value, nil
}

// Set implements raft.StableStore. A term or vote that cannot be stored ends the
// node: it could not keep its promise after a restart.
func (s *checkedStable) Set(key, value []byte) error {
	if err := s.StableStore.Set(key, sealValue(key, value)); err != nil {
		err = &StoreError{Path: s.path, Err: fmt.Errorf("store %q: %w", key, err)}
		s.fail(err)
		return err
	}
	return nil
}

// Get implements raft.StableStore. The error for a key that is not there is
// passed on as it is: raft knows it by its text.
func (s *checkedStable) Get(key []byte) ([]byte, error) {
	stored, err := s.StableStore.Get(key)
	if err != nil {
		return nil, err
	}
	value, err := openValue(key, stored)
	if err != nil {
		err = &StoreError{Path: s.path, Err: err}
		s.fail(err)
		return nil, err
	}
	return value, nil
}

// SetUint64 implements raft.StableStore.
func (s *checkedStable) SetUint64(key []byte, v uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, v))
}

// GetUint64 implements raft.StableStore.
func (s *checkedStable) GetUint64(key []byte) (uint64, error) {
	b, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, &StoreError{Path: s.path, Err: fmt.Errorf("value of %q has %d bytes, want 8", key, len(b))}
	}
	return binary.BigEndian.Uint64(b), nil
}
