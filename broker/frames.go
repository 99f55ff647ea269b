package broker

import (
	"math/bits"
	"sync"
)

// The frames of Produce requests are read into memory that is lent: a batch goes
// to its log while the request is handled, and nothing refers to the frame
// afterwards, so that the next one can have it. Those of other requests are not
// lent, since their bytes may live on (the metadata of a group's member). Only
// frames that hold budget are, so what is lent is bounded by it: whole where there
// is plenty, otherwise more and more as the frame comes in.
const (
	leastLentBits = 16 // 64 KiB: budgetThreshold
	mostLentBits  = 24 // 16 MiB: a client packs a batch of each partition into a request
)

// lentFrames has a pool for each power of two.
var lentFrames [mostLentBits - leastLentBits + 1]sync.Pool

// poisonFrames makes what reads a frame too late read nonsense. Tests set it.
var poisonFrames bool

// lendFrame returns memory of a size, nil for sizes that are not lent.
func lendFrame(size int) *[]byte {
	class := max(bits.Len(uint(size-1)), leastLentBits)
	if class > mostLentBits {
		return nil
	}
	buf, ok := lentFrames[class-leastLentBits].Get().(*[]byte)
	if !ok {
		made := make([]byte, 1<<class)
		buf = &made
	}
	*buf = (*buf)[:size]
	return buf
}

func takeBackFrame(buf *[]byte) {
	whole := (*buf)[:cap(*buf)]
	if poisonFrames {
		for i := range whole {
			whole[i] = 0xdb
		}
	}
	*buf = whole
	lentFrames[bits.Len(uint(cap(whole)-1))-leastLentBits].Put(buf)
}
