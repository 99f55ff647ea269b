package commitlog

import "slices"

// epochStart says that a leader epoch's first offset is Start.
type epochStart struct {
	Epoch int32 `json:"epoch"`
	Start int64 `json:"start"`
}

// epochs are the leader epochs of a log, both fields ascending. The functions on
// it are pure and return new slices: readers hold the old ones.
type epochs []epochStart

func (e epochs) latest() int32 {
	if len(e) == 0 {
		return -1
	}
	return e[len(e)-1].Epoch
}

// assign notes that an epoch above the latest begins at start. Epochs that began
// there before it have no records and go.
func (e epochs) assign(epoch int32, start int64) epochs {
	return append(e.cutFrom(start), epochStart{epoch, start})
}

// cutFrom forgets what begins at or above end.
func (e epochs) cutFrom(end int64) epochs {
	n := len(e)
	for n > 0 && e[n-1].Start >= end {
		n--
	}
	return slices.Clip(e[:n])
}

// startFrom forgets what ended below start. The epoch of the record before start
// stays, and begins where it did: a log of which everything is deleted knows by it
// which epochs are older, and an epoch at its end that has no record is none.
func (e epochs) startFrom(start int64) epochs {
	first := 0
	for first+1 < len(e) && e[first+1].Start < start {
		first++
	}
	return slices.Clone(e[first:])
}

// end is the largest epoch not above the one asked for, and where it ends in a
// log from logStart to logEnd; (-1, -1) when the log cannot tell. An epoch older
// than all that have records ends where the log starts.
func (e epochs) end(epoch int32, logStart, logEnd int64) (int32, int64) {
	for len(e) > 1 && e[1].Start <= logStart {
		e = e[1:]
	}
	if epoch < 0 || len(e) == 0 || epoch > e.latest() {
		return -1, -1
	}
	if epoch == e.latest() {
		return epoch, logEnd
	}
	above, _ := slices.BinarySearchFunc(e, epoch, func(s epochStart, epoch int32) int {
		if s.Epoch <= epoch {
			return -1
		}
		return 1
	})
	if above == 0 {
		return epoch, max(e[0].Start, logStart)
	}
	return e[above-1].Epoch, e[above].Start
}

// at is the epoch of the records at an offset, -1 if none is known.
func (e epochs) at(offset int64) int32 {
	for i := len(e) - 1; i >= 0; i-- {
		if e[i].Start <= offset {
			return e[i].Epoch
		}
	}
	return -1
}
