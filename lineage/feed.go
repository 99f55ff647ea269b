package lineage

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"sync"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// feedSize is how many notices a feed keeps, some 400 bytes each: a few seconds of a
// busy fleet, minutes of most.
const feedSize = 4096

// notice is what a stream needs of an entry that came into the index.
type notice struct {
	kind string
	at   time.Time

	// Of copies.
	begin          *ledger.Begin // says which
	epoch          uint64
	source, dest   offsetRange
	records, bytes int64
	gaps           map[string]int64
	lost           string // the side that lost what is retracted

	// Of productions and accesses.
	topic topicKey
	deed  Deed
}

// offsetRange is offsets from first to last, both -1 if there are none.
type offsetRange struct{ first, last int64 }

// rangeFrom is offsets from first up to next, if there are any.
func rangeFrom(first, next int64) offsetRange {
	if next <= first {
		return offsetRange{-1, -1}
	}
	return offsetRange{first, next - 1}
}

// feed keeps the last notices in a ring for whoever follows. Writing never waits for
// a reader; a reader that is too slow learns that it missed something.
type feed struct {
	ids cipher.Block // hides how much happens that a follower may not see

	mu      sync.Mutex
	ring    []notice // of number n at n modulo feedSize
	next    uint64   // number of the next notice; the first is 1
	waiting bool     // somebody waits for more
	more    chan struct{}
	ended   bool
	streams int
}

func newFeed() *feed {
	var key [16]byte
	_, _ = rand.Read(key[:])          // never fails
	block, _ := aes.NewCipher(key[:]) // fails only for a key of another size
	return &feed{ids: block, next: 1, more: make(chan struct{})}
}

// put adds notices.
func (f *feed) put(notices []notice) {
	if len(notices) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range notices {
		if len(f.ring) < feedSize {
			f.ring = append(f.ring, n)
		} else {
			f.ring[(f.next-1)%feedSize] = n
		}
		f.next++
	}
	f.wake()
}

// wake lets go who waits. mu is held.
func (f *feed) wake() {
	if f.waiting {
		close(f.more)
		f.more, f.waiting = make(chan struct{}), false
	}
}

// end ends all streams, now and later.
func (f *feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.wake()
}

// read returns notices from a number on, in page, at most as many as it has room for, and the
// number of the first of them. A number above the one that was asked for says that
// those between are gone. more is closed when there are others; nil at the end of all.
func (f *feed) read(from uint64, page []notice) (got []notice, first uint64, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil, from, nil
	}
	got = page[:0]
	first = min(max(from, f.next-uint64(len(f.ring))), f.next)
	for n := first; n < f.next && len(got) < cap(page); n++ {
		got = append(got, f.ring[(n-1)%feedSize])
	}
	f.waiting = true
	return got, first, f.more
}

// head is the number of the next notice.
func (f *feed) head() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next
}

// feedMagic tells ids of this feed from those of others.
const feedMagic = 0x7761_7962_696c_6c31

// id is a notice's number as followers see it.
func (f *feed) id(n uint64) string {
	var b [aes.BlockSize]byte
	binary.BigEndian.PutUint64(b[:], feedMagic)
	binary.BigEndian.PutUint64(b[8:], n)
	f.ids.Encrypt(b[:], b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// number is that of an id; ok is false if it is not of this feed.
func (f *feed) number(id string) (n uint64, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(id)
	if err != nil || len(b) != aes.BlockSize {
		return 0, false
	}
	f.ids.Decrypt(b, b)
	return binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b) == feedMagic
}
