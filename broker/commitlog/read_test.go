package commitlog

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// ragged is a replicated log with gaps, of several segments and unordered
// timestamps, and its batches.
func ragged(t *testing.T, rng *rand.Rand) (*Log, []record.Batch) {
	t.Helper()
	l := open(t, vfs.NewMem(), small())
	var list []record.Batch
	next, epoch := int64(0), int32(0)
	for range 60 {
		var group []byte
		end := l.EndOffset()
		for range 1 + rng.IntN(3) {
			if rng.IntN(4) == 0 {
				next += rng.Int64N(20)
			}
			if rng.IntN(10) == 0 {
				epoch++
			}
			b := batch(t, nobody, 1+rng.IntN(4), 1000+rng.Int64N(500))
			b.SetBaseOffset(next)
			b.SetLeaderEpoch(epoch)
			next = b.NextOffset()
			list, group = append(list, b), append(group, b...)
		}
		got, err := l.AppendReplicated(group, end)
		must(t, err)
		if got.NextOffset() != next {
			t.Fatalf("%+v, want end %d", got, next)
		}
	}
	return l, list
}

func TestReadsEqualThoseOfAPlainList(t *testing.T) {
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 1))
		l, list := ragged(t, rng)
		for round := range 2 {
			for range 2000 {
				from, upTo := rng.Int64N(l.EndOffset()+1), rng.Int64N(l.EndOffset()+10)
				maxBytes := rng.IntN(800)
				got, err := l.Read(from, maxBytes, upTo)
				must(t, err)
				var want []byte
				for _, b := range list {
					if b.NextOffset() <= from {
						continue
					}
					if b.NextOffset() > upTo || from >= upTo || len(want) > 0 && len(want)+len(b) > maxBytes {
						break
					}
					want = append(want, b...)
				}
				// A read may end at a segment's end.
				if !bytes.HasPrefix(want, got) || len(got) == 0 && len(want) > 0 {
					t.Fatalf("seed %d, read %d up to %d, %d bytes: %v, want %v", seed, from, upTo, maxBytes, offsets(t, got), offsets(t, want))
				}
			}
			if round == 0 {
				fsys := l.fs
				must(t, l.Close())
				l = open(t, fsys, small())
			}
		}
		must(t, l.Verify(t.Context()))
	}
}

func TestLookUpsByTimeEqualThoseOfAPlainList(t *testing.T) {
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 2))
		l, list := ragged(t, rng)
		must(t, l.DeleteRecordsBefore(list[20].BaseOffset()+1))
		start := l.StartOffset()
		for range 1000 {
			ms, upTo := 950+rng.Int64N(600), rng.Int64N(l.EndOffset()+1)
			var want, greatest Found
			var any, some bool
			for _, b := range list {
				records, err := b.Decode(1 << 20)
				must(t, err)
				for _, r := range records {
					if r.Offset < start || r.Offset >= upTo {
						continue
					}
					f := Found{r.Offset, r.Timestamp, b.LeaderEpoch()}
					if !any && r.Timestamp >= ms {
						want, any = f, true
					}
					if b.NextOffset() <= upTo && b.BaseOffset() >= start && (!some || r.Timestamp > greatest.Timestamp) {
						greatest, some = f, true
					}
				}
			}
			got, ok, err := l.OffsetForTime(ms, upTo)
			must(t, err)
			if got != want || ok != any {
				t.Fatalf("seed %d, first at %d below %d: %+v %v, want %+v %v", seed, ms, upTo, got, ok, want, any)
			}
			// The batch that straddles the start is not told apart.
			got, ok, err = l.MaxTimestamp(upTo)
			must(t, err)
			if upTo > list[21].NextOffset() && (!ok || got.Timestamp < greatest.Timestamp) {
				t.Fatalf("seed %d, greatest below %d: %+v %v, want %+v %v", seed, upTo, got, ok, greatest, some)
			}
		}
	}
}

func TestReadBounds(t *testing.T) {
	l := open(t, vfs.NewMem(), small())
	add(t, l, nobody, 3)
	add(t, l, nobody, 3)
	must(t, l.DeleteRecordsBefore(1))
	for _, c := range []struct {
		from, upTo int64
		want       int
		err        error
	}{
		{0, 6, 0, ErrOffsetOutOfRange},
		{7, 9, 0, ErrOffsetOutOfRange},
		{1, 6, 2, nil},
		{2, 100, 2, nil},
		{4, 6, 1, nil},
		{6, 6, 0, nil},
		{1, 3, 1, nil},
		{1, 2, 0, nil},
		{1, 5, 1, nil},
		{3, 3, 0, nil},
	} {
		got, err := l.Read(c.from, 1<<20, c.upTo)
		if n := len(offsets(t, got)); n != c.want || !errors.Is(err, c.err) {
			t.Errorf("read %d up to %d: %d batches, %v, want %d, %v", c.from, c.upTo, n, err, c.want, c.err)
		}
	}
}

func TestReplicatedAppendsAreRefusedWhole(t *testing.T) {
	l := open(t, vfs.NewMem(), small())
	at := func(base int64, epoch int32) []byte {
		b := batch(t, nobody, 2, 0)
		b.SetBaseOffset(base)
		b.SetLeaderEpoch(epoch)
		return b
	}
	_, err := l.AppendReplicated(append(at(5, 3), at(7, 3)...), 0)
	must(t, err)
	flipped := at(9, 3)
	flipped[len(flipped)-1] ^= 1
	var corrupt *record.CorruptError
	for name, c := range map[string]struct {
		batches []byte
		end     int64
		want    error
	}{
		"another end":    {at(9, 3), 7, ErrUnexpectedEnd},
		"end ahead":      {at(11, 3), 11, ErrUnexpectedEnd},
		"below the end":  {at(8, 3), 9, ErrInvalidBatch},
		"going back":     {append(at(11, 3), at(10, 3)...), 9, ErrInvalidBatch},
		"older epoch":    {append(at(9, 3), at(11, 2)...), 9, ErrStaleLeaderEpoch},
		"cut off":        {at(9, 3)[:70], 9, ErrInvalidBatch},
		"nothing":        {nil, 9, ErrInvalidBatch},
		"a damaged last": {append(at(9, 3), flipped...), 9, nil},
	} {
		_, err := l.AppendReplicated(c.batches, c.end)
		if c.want == nil && !errors.As(err, &corrupt) || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if got := l.EndOffset(); got != 9 {
			t.Fatalf("%s: end %d, want 9", name, got)
		}
	}
}

func TestOffsetsFarApartGetSegmentsOfTheirOwn(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, small())
	var want []byte
	for _, base := range []int64{1 << 40, 1<<40 + 1<<31 - 2, 1 << 50} {
		b := batch(t, nobody, 2, 0)
		b.SetBaseOffset(base)
		want = append(want, b...)
		_, err := l.AppendReplicated(b, l.EndOffset())
		must(t, err)
	}
	for range 2 {
		if got := readAll(t, l, 0, 1000); !bytes.Equal(got, want) {
			t.Fatalf("read %v, want %v", offsets(t, got), offsets(t, want))
		}
		must(t, l.Verify(t.Context()))
		must(t, l.Close())
		l = open(t, fsys, small())
	}
}

func TestTooLarge(t *testing.T) {
	cfg := small()
	cfg.MaxBatchBytes = 100
	l := open(t, vfs.NewMem(), cfg)
	b := batch(t, nobody, 10, 0)
	if _, err := l.Append(b, 0, FromClient); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a client's: %v, want ErrTooLarge", err)
	}
	if _, err := l.Append(b, 0, FromCoordinator); err != nil {
		t.Errorf("a coordinator's: %v", err)
	}
	if _, err := l.Append(batch(t, nobody, 60, 0), 0, FromCoordinator); !errors.Is(err, ErrTooLarge) {
		t.Errorf("larger than a segment: %v, want ErrTooLarge", err)
	}
	huge := batch(t, nobody, 60, 0)
	huge.SetBaseOffset(l.EndOffset())
	huge.SetLeaderEpoch(0)
	if _, err := l.AppendReplicated(huge, l.EndOffset()); err != nil {
		t.Errorf("a leader's, larger than a segment: %v", err)
	}
}
