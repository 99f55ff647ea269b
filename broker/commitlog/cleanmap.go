package commitlog

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
)

// keyMap remembers the last offset of each key in memory that does not depend on
// the keys' length: a slot has 16 bytes of a hash and the offset. The hash is
// salted and cut from SHA-256, so that nobody can make two keys look like one,
// which would delete a record.
type keyMap struct {
	slots []byte
	count int
	limit int // of count
	salt  [16]byte
	buf   []byte
}

const (
	keySlot = 16 + 8
	// keyLoad is how full a table of slots gets, in percent.
	keyLoad = 90
)

// newKeyMap makes a map of at most memory bytes that has room for want keys, if
// that is less.
func newKeyMap(memory int64, want int64) *keyMap {
	slots := max(min(want*100/keyLoad+1, memory/keySlot), 2)
	m := &keyMap{slots: make([]byte, slots*keySlot), limit: max(int(slots*keyLoad/100), 1)}
	if _, err := rand.Read(m.salt[:]); err != nil {
		panic("commitlog: no random numbers: " + err.Error()) // rand.Read never fails
	}
	return m
}

func (m *keyMap) full() bool { return m.count >= m.limit }

// slot is where a key is, or would be.
func (m *keyMap) slot(key []byte) (at []byte, hash [16]byte, found bool) {
	m.buf = append(append(m.buf[:0], m.salt[:]...), key...)
	sum := sha256.Sum256(m.buf)
	copy(hash[:], sum[:])
	n := uint64(len(m.slots) / keySlot)
	for i := binary.BigEndian.Uint64(hash[:]) % n; ; i = (i + 1) % n {
		at = m.slots[i*keySlot:][:keySlot]
		offset := binary.BigEndian.Uint64(at[16:])
		if offset == 0 {
			return at, hash, false
		}
		if [16]byte(at[:16]) == hash {
			return at, hash, true
		}
	}
}

// put notes that a key was written at an offset. A key that is new must have
// room.
func (m *keyMap) put(key []byte, offset int64) {
	at, hash, found := m.slot(key)
	if !found {
		copy(at, hash[:])
		m.count++
	}
	binary.BigEndian.PutUint64(at[16:], uint64(offset)+1) // 0 is a free slot
}

// get is the last offset of a key, -1 if there is none.
func (m *keyMap) get(key []byte) int64 {
	at, _, found := m.slot(key)
	if !found {
		return -1
	}
	return int64(binary.BigEndian.Uint64(at[16:])) - 1
}
