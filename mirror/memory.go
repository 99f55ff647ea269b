package mirror

import (
	"slices"
	"sync"
)

// memory lends the memory that fetch responses are read into, and takes it back
// when the last batch of a response is on its way: at full speed a mirror would
// otherwise leave a gigabyte a second to the garbage collector. What is lent is
// not counted here but by a [budget]. It is safe for concurrent use; what is not
// given back is collected as all memory is.
type memory struct {
	free [len(memorySizes)]sync.Pool // of *[]byte
}

// memorySizes are what is lent: powers of two and the middles between them, so that
// at most a third is left unused. Smaller pieces are not worth keeping, larger
// ones are rare.
var memorySizes = [...]int{64 << 10, 96 << 10, 128 << 10, 192 << 10, 256 << 10, 384 << 10, 512 << 10, 768 << 10, 1 << 20, 3 << 19, 2 << 20, 3 << 20, 4 << 20, 6 << 20, 8 << 20, 12 << 20, 16 << 20}

// lendable is the largest size of what is lent that is not above n, and the least size at
// least.
func lendable(n int64) int64 {
	i, exactly := slices.BinarySearch(memorySizes[:], int(n))
	if !exactly {
		i = max(0, i-1)
	}
	return int64(memorySizes[i])
}

// class is the index of the least size that holds n bytes; ok is false if none is
// kept for it.
func class(n int) (i int, ok bool) {
	i, _ = slices.BinarySearch(memorySizes[:], n)
	return i, n > memorySizes[0]/2 && i < len(memorySizes)
}

// get returns n bytes or more, with any content.
func (m *memory) get(n int) []byte {
	i, ok := class(n)
	if !ok {
		return make([]byte, n)
	}
	if b, ok := m.free[i].Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, memorySizes[i])
}

// put takes back what get returned. Nobody may look at it any more.
func (m *memory) put(b []byte) {
	b = b[:cap(b)]
	returned(b)
	if i, ok := class(len(b)); ok && len(b) == memorySizes[i] {
		m.free[i].Put(&b)
	}
}

// returned is told of memory that nobody may look at any more. Tests spoil it.
var returned = func([]byte) {}
