package coordinator

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/broker/guard"
	"github.com/waybillhq/waybill/internal/record"
)

var errDisk = errors.New("disk is gone")

// memLog is a partition in memory that is durable at once, and takes as many
// batches as there is room for.
type memLog struct {
	mu      sync.Mutex
	batches []record.Batch
	end     int64
	room    int // batches; negative is no bound
	fail    error
}

func (l *memLog) Append(b record.Batch) (base, next int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.fail != nil:
		return 0, 0, l.fail
	case l.room == 0:
		return 0, 0, kerr.CoordinatorNotAvailable
	}
	l.room--
	base = l.end
	b.SetBaseOffset(base)
	l.batches, l.end = append(l.batches, b), b.NextOffset()
	return base, l.end, nil
}

func (l *memLog) WaitDurable(context.Context, int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fail
}

func (l *memLog) StartOffset() int64 { return 0 }

func (l *memLog) EndOffset() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

func (l *memLog) Read(from int64, _ int) (out []byte, err error) {
	for _, b := range l.batches {
		if b.NextOffset() > from {
			out = append(out, b...)
		}
	}
	return out, nil
}

func (l *memLog) DeleteBefore(int64) error { return nil }

// counter is a shard whose state is how many records its log has.
type counter struct {
	*Loop
	n int
}

func (c *counter) replay(b record.Batch) error {
	c.n += int(b.Count())
	return nil
}

func (c *counter) run(ctx context.Context) error {
	c.Loaded()
	for c.Failed() == nil {
		select {
		case f := <-c.Inbox():
			f()
		case <-ctx.Done():
			return nil
		}
	}
	return c.Failed()
}

// add appends records of some size and counts them.
func (c *counter) add(ctx context.Context, n, size int) error {
	var next int64
	err := c.Do(ctx, func() error {
		records := make([]record.Record, n)
		for i := range records {
			records[i].Value = make([]byte, size)
		}
		_, end, err := c.Append(records, record.NoProducer(record.None))
		if err == nil {
			c.n += n
		}
		next = end
		return err
	})
	if err != nil {
		return err
	}
	return c.Wait(ctx, next)
}

// lead leads a partition of a set, and returns it and what serving it comes to.
func lead(t *testing.T, set *Set[*counter], partition int32, log *memLog) (*counter, chan error) {
	t.Helper()
	c := &counter{Loop: NewLoop("topic", partition, log)}
	if err := set.Lead(c); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Serve(t.Context(), c.replay, c.run) }()
	synctest.Wait()
	return c, ended
}

// TestStateIsWhatTheLogSays: whatever a log does with an append, a shard has as
// many records as it, or ends and has them when it is led again.
func TestStateIsWhatTheLogSays(t *testing.T) {
	for name, c := range map[string]struct {
		spoil      func(*memLog)
		ends       bool
		has, after int
	}{
		"it takes it":          {func(*memLog) {}, false, 7, 7},
		"it has no room":       {func(l *memLog) { l.room = 0 }, false, 3, 3},
		"it has room for some": {func(l *memLog) { l.room = 1 }, true, 3, 5},
		"it fails":             {func(l *memLog) { l.fail = errDisk }, true, 3, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var set Set[*counter]
				log := &memLog{room: -1}
				s, ended := lead(t, &set, 4, log)
				if err := s.add(t.Context(), 3, 1); err != nil {
					t.Fatal(err)
				}
				c.spoil(log)
				err := s.add(t.Context(), 4, maxAppend/2) // two batches
				if (err != nil) != (c.has == 3) || err != nil && !errors.Is(err, kerr.CoordinatorNotAvailable) {
					t.Errorf("append: %v", err)
				}
				synctest.Wait()
				if got, err := set.Led(4); c.ends && !errors.Is(err, kerr.CoordinatorNotAvailable) || !c.ends && got != s {
					t.Errorf("led: %v", err)
				}
				if c.ends != (len(ended) == 1) || s.n != c.has {
					t.Errorf("ended: %v, %d records; want %v, %d", len(ended) == 1, s.n, c.ends, c.has)
				}
				if !c.ends {
					return
				}
				if err := s.Do(t.Context(), func() error { return nil }); !errors.Is(err, kerr.CoordinatorNotAvailable) {
					t.Errorf("asked after the end: %v", err)
				}
				log.room, log.fail = -1, nil
				if s, _ = lead(t, &set, 4, log); s.n != c.after {
					t.Errorf("led again it has %d records, want %d", s.n, c.after)
				}
			})
		})
	}
}

// TestAPanicEndsTheLeadership, wherever it is: who asked is told, and what the log has
// is there when the partition is led again.
func TestAPanicEndsTheLeadership(t *testing.T) {
	for name, panics := range map[string]func(ctx context.Context, s *counter) error{
		"in what was asked": func(ctx context.Context, s *counter) error {
			return s.Do(ctx, func() error { s.n++; panic("a fault") })
		},
		"in the loop": func(_ context.Context, s *counter) error {
			s.inbox <- func() { panic("a fault") }
			<-s.Done()
			return s.Ended()
		},
		"in what follows": func(ctx context.Context, s *counter) error {
			return s.Do(ctx, func() error { s.Fail(errDisk); panic("a fault") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var set Set[*counter]
				log := &memLog{room: -1}
				s, ended := lead(t, &set, 4, log)
				if err := s.add(t.Context(), 3, 1); err != nil {
					t.Fatal(err)
				}
				if err := panics(t.Context(), s); !errors.Is(err, kerr.CoordinatorNotAvailable) || !guard.Is(err) {
					t.Errorf("who asked is told %v", err)
				}
				if err := <-ended; err == nil {
					t.Error("leadership ends without a reason")
				}
				if _, err := set.Led(4); !errors.Is(err, kerr.CoordinatorNotAvailable) {
					t.Errorf("led: %v", err)
				}
				if s, _ = lead(t, &set, 4, log); s.n != 3 {
					t.Errorf("led again it has %d records, want 3", s.n)
				}
			})
		})
	}
	t.Run("in the replay", func(t *testing.T) {
		log := &memLog{room: -1}
		b, err := record.Encode(make([]record.Record, 1), record.NoProducer(record.None))
		if err == nil {
			_, _, err = log.Append(b)
		}
		if err != nil {
			t.Fatal(err)
		}
		s := &counter{Loop: NewLoop("topic", 0, log)}
		if err := s.Serve(t.Context(), func(record.Batch) error { panic("a fault") }, s.run); !guard.Is(err) {
			t.Errorf("served: %v", err)
		}
	})
}

func TestCarefulWhileTheLogMayRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var set Set[*counter]
		log := &memLog{room: -1}
		s, _ := lead(t, &set, 0, log)
		careful := func() (is bool) {
			_ = s.Do(t.Context(), func() error { is = s.Careful(); return nil })
			return is
		}
		if !careful() {
			t.Error("not careful before the first append")
		}
		for _, room := range []int{1, 0, 1} {
			log.room = room
			_ = s.add(t.Context(), 1, 1)
			if careful() != (room == 0) {
				t.Errorf("room for %d: careful is %v", room, careful())
			}
		}
	})
}

func TestASetSaysWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var set Set[*counter]
		good, _ := lead(t, &set, 0, &memLog{room: -1})
		bad := &memLog{room: -1}
		s, _ := lead(t, &set, 1, bad)
		if all, err := set.All(); err != nil || len(all) != 2 {
			t.Fatalf("%d shards, %v", len(all), err)
		}
		if err := set.Lead(&counter{Loop: NewLoop("topic", 1, bad)}); err == nil {
			t.Error("a partition is led twice")
		}
		bad.fail = errDisk
		_ = s.add(t.Context(), 1, 1)
		synctest.Wait()
		loading := &counter{Loop: NewLoop("topic", 2, bad)}
		if err := set.Lead(loading); err != nil {
			t.Fatal(err)
		}
		set.Down(3, errDisk)
		all, err := set.All()
		if len(all) != 1 || all[0] != good || !errors.Is(err, kerr.CoordinatorNotAvailable) {
			t.Errorf("%d shards, %v", len(all), err)
		}
		for partition, want := range []error{nil, nil, nil, kerr.CoordinatorNotAvailable, kerr.NotCoordinator} {
			if _, err := set.Taken(int32(partition)); !errors.Is(err, want) {
				t.Errorf("partition %d: taken: %v, want %v", partition, err, want)
			}
		}
		for partition, want := range []error{nil, kerr.CoordinatorNotAvailable, kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator} {
			if _, err := set.Led(int32(partition)); !errors.Is(err, want) {
				t.Errorf("partition %d: %v, want %v", partition, err, want)
			}
			err := set.Available(int32(partition))
			if down := want == kerr.CoordinatorNotAvailable; (err != nil) != down { //nolint:errorlint // it is the one of the table
				t.Errorf("partition %d: available: %v", partition, err)
			}
		}
		if f := set.Faults(); len(f) != 2 || !errors.Is(f[1], errDisk) || !errors.Is(f[3], errDisk) {
			t.Errorf("faults: %v", f)
		}
	})
}
