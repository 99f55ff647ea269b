package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
)

// bbolt checks its pages too, but on a goroutine of its own, where following a
// damaged page number ends the process. This reads the same format from bytes,
// bounds first:
//
//	page    id u64 | flags u16 | count u16 | overflow u32 | elements | keys and values
//	branch  element: pos u32 | ksize u32 | page u64
//	leaf    element: flags u32 | pos u32 | ksize u32 | vsize u32
//	meta    magic u32 | version u32 | page size u32 | flags u32 | root page u64 |
//	        root sequence u64 | freelist u64 | end u64 | txid u64 | FNV-1a u64
//
// in native byte order. pos counts from the element itself. A leaf element with
// flag 1 is a bucket: its value is root page u64 | sequence u64, and with root
// page 0 the bucket's only page follows. Keys and values lie in the order of the
// elements without a gap, so a count that is wrong shows.
const (
	pageHeader  = 16
	elementSize = 16
	metaSize    = 64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	minPageSize = 1 << 9
	maxPageSize = 1 << 20
	maxDepth    = 64
)

// boltFile is a bbolt file in memory.
type boltFile struct {
	b        []byte
	pageSize int
	end      uint64 // first page that is not in use
	seen     []bool // by page
}

type boltMeta struct {
	root, freelist, end, txid uint64
}

// readBolt calls visit for every key and value of every bucket, and returns an
// error if any page in use is damaged, used twice, or neither used nor free.
func readBolt(b []byte, visit func(bucket string, key, value []byte) error) error {
	if len(b) < pageHeader+metaSize {
		return errors.New("shorter than a page")
	}
	f := &boltFile{b: b, pageSize: int(binary.NativeEndian.Uint32(b[pageHeader+8:]))}
	if f.pageSize < minPageSize || f.pageSize > maxPageSize || f.pageSize&(f.pageSize-1) != 0 || len(b) < 2*f.pageSize {
		return fmt.Errorf("meta page 0 is damaged: page size %d", f.pageSize)
	}
	// The meta pages are written in turn; the newer one counts. A damaged one would
	// make bbolt fall back to the state before the last write, which may have been
	// acknowledged, so both must be valid. A crash does not explain it: their 80
	// bytes lie in one sector.
	var meta boltMeta
	for i := range 2 {
		m, err := readMeta(b[i*f.pageSize:], uint64(i))
		if err != nil {
			return fmt.Errorf("meta page %d is damaged: %w", i, err)
		}
		if i == 0 || m.txid > meta.txid {
			meta = m
		}
	}
	f.end = meta.end
	if f.end < 2 || f.end > uint64(len(b)/f.pageSize) {
		return fmt.Errorf("file has %d pages, %d are in use", len(b)/f.pageSize, f.end)
	}
	f.seen = make([]bool, f.end)
	f.seen[0], f.seen[1] = true, true
	if err := f.freelist(meta.freelist); err != nil {
		return err
	}
	err := f.tree(meta.root, 0, nil, func(flags uint32, key, value []byte) error {
		if flags != 1 {
			return errors.New("a key outside of all buckets")
		}
		return f.bucket(string(key), value, visit)
	})
	if err != nil {
		return err
	}
	for id, seen := range f.seen {
		if !seen {
			return fmt.Errorf("page %d is neither used nor free", id)
		}
	}
	return nil
}

func readMeta(page []byte, id uint64) (m boltMeta, err error) {
	b := page[pageHeader : pageHeader+metaSize]
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	u64 := binary.NativeEndian.Uint64
	switch {
	case binary.NativeEndian.Uint32(b) != boltMagic || binary.NativeEndian.Uint32(b[4:]) != boltVersion:
		return m, errors.New("not bbolt's")
	case u64(b[metaSize-8:]) != sum.Sum64():
		return m, errors.New("checksum mismatch")
	case u64(page) != id || binary.NativeEndian.Uint16(page[8:]) != flagMeta:
		return m, errors.New("its header is not that of a meta page")
	}
	return boltMeta{root: u64(b[16:]), freelist: u64(b[32:]), end: u64(b[40:]), txid: u64(b[48:])}, nil
}

// take returns a page with its overflow, and marks it as used.
func (f *boltFile) take(id uint64, want uint16) (page []byte, count int, err error) {
	if id < 2 || id >= f.end {
		return nil, 0, fmt.Errorf("page %d is out of range", id)
	}
	start := int(id) * f.pageSize
	head := f.b[start : start+pageHeader]
	flags, overflow := binary.NativeEndian.Uint16(head[8:]), uint64(binary.NativeEndian.Uint32(head[12:]))
	if binary.NativeEndian.Uint64(head) != id || flags&want == 0 || flags&(flags-1) != 0 || id+overflow >= f.end {
		return nil, 0, fmt.Errorf("page %d has a damaged header", id)
	}
	for i := id; i <= id+overflow; i++ {
		if f.seen[i] {
			return nil, 0, fmt.Errorf("page %d is used twice", i)
		}
		f.seen[i] = true
	}
	return f.b[start : start+int(overflow+1)*f.pageSize], int(binary.NativeEndian.Uint16(head[10:])), nil
}

func (f *boltFile) freelist(id uint64) error {
	page, count, err := f.take(id, flagFreelist)
	if err != nil {
		return fmt.Errorf("list of free pages: %w", err)
	}
	ids := page[pageHeader:]
	if count == 0xFFFF { // the real count follows
		n := binary.NativeEndian.Uint64(ids)
		ids = ids[8:]
		if n > uint64(len(ids)/8) {
			return errors.New("list of free pages is too long")
		}
		count = int(n)
	}
	if count > len(ids)/8 {
		return errors.New("list of free pages is too long")
	}
	for i := range count {
		free := binary.NativeEndian.Uint64(ids[8*i:])
		if free < 2 || free >= f.end || f.seen[free] {
			return fmt.Errorf("free page %d is out of range or used twice", free)
		}
		f.seen[free] = true
	}
	return nil
}

func (f *boltFile) bucket(name string, value []byte, visit func(string, []byte, []byte) error) error {
	if len(value) < 16 {
		return fmt.Errorf("bucket %q is damaged", name)
	}
	leaf := func(flags uint32, k, v []byte) error {
		if flags != 0 {
			return fmt.Errorf("bucket %q has a bucket in it", name)
		}
		return visit(name, k, v)
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return f.tree(root, 0, nil, leaf)
	}
	page := value[16:]
	if len(page) < pageHeader || binary.NativeEndian.Uint16(page[8:]) != flagLeaf {
		return fmt.Errorf("bucket %q is damaged", name)
	}
	_, err := leafPage(page, int(binary.NativeEndian.Uint16(page[10:])), nil, leaf)
	return err
}

// tree visits a page and what is below it. lower is the key that its first key
// must not be below.
func (f *boltFile) tree(id uint64, depth int, lower []byte, visit func(uint32, []byte, []byte) error) error {
	if depth > maxDepth {
		return errors.New("pages are nested too deep")
	}
	page, count, err := f.take(id, flagBranch|flagLeaf)
	if err != nil {
		return err
	}
	if binary.NativeEndian.Uint16(page[8:]) == flagLeaf {
		if _, err := leafPage(page, count, lower, visit); err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		return nil
	}
	if count == 0 || pageHeader+count*elementSize > len(page) {
		return fmt.Errorf("page %d: %d elements", id, count)
	}
	var last []byte
	next := pageHeader + count*elementSize
	for i := range count {
		at := pageHeader + i*elementSize
		key, err := cut(page, at, binary.NativeEndian.Uint32(page[at:]), binary.NativeEndian.Uint32(page[at+4:]), &next)
		if err != nil || bytes.Compare(key, last) < 0 || (i > 0 && bytes.Equal(key, last)) {
			return fmt.Errorf("page %d: element %d is damaged", id, i)
		}
		last = key
		if err := f.tree(binary.NativeEndian.Uint64(page[at+8:]), depth+1, key, visit); err != nil {
			return err
		}
	}
	return nil
}

// leafPage visits the elements of a leaf, whose keys must grow, and returns the
// last key.
func leafPage(page []byte, count int, last []byte, visit func(uint32, []byte, []byte) error) ([]byte, error) {
	if pageHeader+count*elementSize > len(page) {
		return nil, fmt.Errorf("%d elements", count)
	}
	next := pageHeader + count*elementSize
	for i := range count {
		at := pageHeader + i*elementSize
		pos, ksize := binary.NativeEndian.Uint32(page[at+4:]), binary.NativeEndian.Uint32(page[at+8:])
		vsize := binary.NativeEndian.Uint32(page[at+12:])
		both, err := cut(page, at, pos, ksize+vsize, &next)
		if err != nil || ksize > uint32(len(both)) || vsize > uint32(len(both)) {
			return nil, fmt.Errorf("element %d is damaged", i)
		}
		key := both[:ksize]
		if c := bytes.Compare(key, last); c < 0 || c == 0 && i > 0 {
			return nil, fmt.Errorf("element %d is out of order", i)
		}
		last = key
		if err := visit(binary.NativeEndian.Uint32(page[at:]), key, both[ksize:]); err != nil {
			return nil, err
		}
	}
	return last, nil
}

// cut returns size bytes at pos from the element at. They must begin at next,
// which it moves on.
func cut(page []byte, at int, pos, size uint32, next *int) ([]byte, error) {
	begin := at + int(pos)
	if begin != *next || int(size) > len(page)-begin {
		return nil, errors.New("out of place")
	}
	*next = begin + int(size)
	return page[begin:*next], nil
}
