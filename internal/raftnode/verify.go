package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"runtime/debug"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// logReport is what a verified log file holds. The zero logReport is that of a
// file that does not exist.
type logReport struct {
	first, last uint64 // entries, 0 if none
	lastTerm    uint64
	term        uint64 // current term, 0 if none
	path        string
}

// stableKeys are the keys that raft stores beside the log. Any other is one of
// them with a flipped bit.
var stableKeys = map[string]bool{"CurrentTerm": true, "LastVoteTerm": true, "LastVoteCand": true}

// verifyLogFile reads a whole log file and returns an *EntryError or *StoreError
// if anything in it is damaged. A file that does not exist is fine.
func verifyLogFile(path string) (r logReport, err error) {
	r.path = path
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	// bbolt follows damaged pages off its map, and panics on what it finds.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &StoreError{Path: path, Err: fmt.Errorf("pages are damaged: %v", p)}
		}
	}()
	if err := verifyMeta(path); err != nil {
		return r, &StoreError{Path: path, Err: err}
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: lockTimeout})
	if err != nil {
		return r, &StoreError{Path: path, Err: err}
	}
	err = db.View(r.scan)
	var entry *EntryError
	if err != nil && !errors.As(err, &entry) {
		err = &StoreError{Path: path, Err: err}
	}
	return r, errors.Join(err, db.Close())
}

// scan reads everything first, on this goroutine, where a fault is caught, and
// lets bbolt check its pages after that, on one of its own.
func (r *logReport) scan(tx *bbolt.Tx) error {
	err := r.scanBuckets(tx)
	if err != nil {
		return err
	}
	for damage := range tx.Check() { // to its end, or its goroutine stays
		if err == nil {
			err = fmt.Errorf("pages are damaged: %w", damage)
		}
	}
	return err
}

func (r *logReport) scanBuckets(tx *bbolt.Tx) error {
	logs, conf := tx.Bucket([]byte("logs")), tx.Bucket([]byte("conf"))
	if logs == nil || conf == nil {
		return errors.New("a bucket is missing")
	}
	err := conf.ForEach(func(k, v []byte) error {
		value, err := openValue(k, v)
		if err == nil && !stableKeys[string(k)] {
			err = fmt.Errorf("unknown key %q", k)
		}
		if err == nil && string(k) == "CurrentTerm" && len(value) == 8 {
			r.term = binary.BigEndian.Uint64(value)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = logs.ForEach(func(k, v []byte) error {
		if len(k) != 8 {
			return fmt.Errorf("entry with a key of %d bytes", len(k))
		}
		return r.entry(binary.BigEndian.Uint64(k), v)
	})
	if err != nil {
		return err
	}
	if r.last > 0 && r.term < r.lastTerm {
		return fmt.Errorf("the current term is %d, but the last entry's is %d", r.term, r.lastTerm)
	}
	return nil
}

func (r *logReport) entry(index uint64, value []byte) error {
	if r.last > 0 && index != r.last+1 {
		return &EntryError{Index: r.last + 1, Err: fmt.Errorf("it is missing; the next is %d", index)}
	}
	var l raft.Log
	if err := codec.NewDecoderBytes(value, &codec.MsgpackHandle{}).Decode(&l); err != nil {
		return &EntryError{Index: index, Err: err}
	}
	if err := openEntry(index, &l); err != nil {
		return err
	}
	if l.Term < r.lastTerm {
		return &EntryError{Index: index, Err: fmt.Errorf("its term %d is below its predecessor's, %d", l.Term, r.lastTerm)}
	}
	if r.first == 0 {
		r.first = index
	}
	r.last, r.lastTerm = index, l.Term
	return nil
}

// meets checks that the log begins where the newest readable snapshot ends, or
// before. Without it raft would start from an older state and find a hole.
func (r *logReport) meets(dir string, snapshots raft.SnapshotStore) error {
	metas, err := snapshots.List()
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	var newest uint64
	for _, m := range metas {
		_, rc, err := snapshots.Open(m.ID)
		if err != nil {
			continue // raft skips it too
		}
		if err := rc.Close(); err != nil {
			return fmt.Errorf("close snapshot: %w", err)
		}
		newest = max(newest, m.Index)
	}
	if r.first > newest+1 {
		return &StoreError{Path: dir, Err: fmt.Errorf("the log begins at entry %d, but the newest readable snapshot ends at %d", r.first, newest)}
	}
	return nil
}

// bbolt's file begins with two meta pages, written in turn; the newer valid one
// counts. A damaged one makes bbolt fall back to the state before the last
// write, which may have been acknowledged, so both must be valid. A crash does
// not explain it: a meta page's 80 bytes lie in one sector.
const (
	boltPageHeader = 16
	boltMetaSize   = 64 // the last 8 bytes are FNV-1a of those before
	boltMagic      = 0xED0CDAED
)

func verifyMeta(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return nil // killed before bbolt wrote its first page
	}
	var pages [2][boltPageHeader + boltMetaSize]byte
	if _, err := f.ReadAt(pages[0][:], 0); err != nil {
		return fmt.Errorf("read meta page 0: %w", err)
	}
	pageSize := int64(binary.NativeEndian.Uint32(pages[0][boltPageHeader+8:]))
	if _, err := f.ReadAt(pages[1][:], pageSize); err != nil {
		return fmt.Errorf("read meta page 1: %w", err)
	}
	for i, p := range pages {
		meta := p[boltPageHeader:]
		sum := fnv.New64a()
		sum.Write(meta[:boltMetaSize-8])
		if binary.NativeEndian.Uint32(meta) != boltMagic || binary.NativeEndian.Uint64(meta[boltMetaSize-8:]) != sum.Sum64() {
			return fmt.Errorf("meta page %d is damaged", i)
		}
	}
	return nil
}
