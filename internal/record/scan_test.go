package record

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// memoryLog is batches one after the other.
type memoryLog []Batch

func newMemoryLog(t *testing.T, counts ...int) (log memoryLog, end int64) {
	t.Helper()
	for _, n := range counts {
		records := make([]Record, n)
		for i := range records {
			records[i].Value = fmt.Append(nil, "value-", end+int64(i))
		}
		b, err := Encode(records, Stamp{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1})
		if err != nil {
			t.Fatal(err)
		}
		b.SetBaseOffset(end)
		log, end = append(log, b), b.NextOffset()
	}
	return log, end
}

// read returns so many batches from the one with an offset on, and the half of the next.
func (l memoryLog) read(from int64, most int) (buf []byte) {
	at := slices.IndexFunc(l, func(b Batch) bool { return b.NextOffset() > from })
	if at < 0 {
		return nil
	}
	for i, b := range l[at:] {
		if i == most {
			return append(buf, b[:len(b)/2]...)
		}
		buf = append(buf, b...)
	}
	return buf
}

// TestScan: each batch comes once, however many a read returns, and an error comes last.
func TestScan(t *testing.T) {
	log, end := newMemoryLog(t, 3, 1, 4, 2)
	wrong := errors.New("wrong")
	for _, c := range []struct {
		name  string
		from  int64
		end   int64
		read  func(int64) ([]byte, error)
		bases []int64
		err   error
	}{
		{"all at once", 0, end, func(at int64) ([]byte, error) { return log.read(at, 9), nil }, []int64{0, 3, 4, 8}, nil},
		{"one by one", 0, end, func(at int64) ([]byte, error) { return log.read(at, 1), nil }, []int64{0, 3, 4, 8}, nil},
		{"from within a batch, to within one", 5, 9, func(at int64) ([]byte, error) { return log.read(at, 1), nil }, []int64{4, 8}, nil},
		{"nothing", end, end, func(int64) ([]byte, error) { return nil, wrong }, nil, nil},
		{"an end that is not there", 0, end + 1, func(at int64) ([]byte, error) { return log.read(at, 3), nil }, []int64{0, 3, 4, 8}, ErrNothing},
		{"half a batch", 0, end, func(at int64) ([]byte, error) { return log.read(at, 0), nil }, nil, ErrNothing},
		{"a read that fails", 0, end, func(at int64) ([]byte, error) {
			if at > 3 {
				return nil, wrong
			}
			return log.read(at, 2), nil
		}, []int64{0, 3}, wrong},
		{"bytes that are no batch", 0, end, func(at int64) ([]byte, error) { return make([]byte, 100), nil }, nil, &CorruptError{0, "magic 0, want 2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var bases []int64
			var last error
			for b, err := range Scan(c.from, c.end, c.read) {
				if last != nil {
					t.Fatal("it goes on after an error")
				}
				if last = err; err == nil {
					bases = append(bases, b.BaseOffset())
				}
			}
			same := errors.Is(last, c.err) || last != nil && c.err != nil && last.Error() == c.err.Error()
			if !slices.Equal(bases, c.bases) || !same {
				t.Errorf("got %v %v, want %v %v", bases, last, c.bases, c.err)
			}
		})
	}
	for b := range Scan(0, end, func(at int64) ([]byte, error) { return log.read(at, 9), nil }) {
		if b.BaseOffset() > 0 {
			t.Fatal("it goes on though nobody wants more")
		}
		break
	}
}
