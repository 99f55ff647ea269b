package commitlog

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/vfs"
)

// TestAFullDiskRefusesAndComesBack fills the disk at every size of it, and gives
// room again.
func TestAFullDiskRefusesAndComesBack(t *testing.T) {
	refused := map[string]bool{}
	for space := int64(1400); space < 6000; space += 37 {
		fsys := vfs.NewMem()
		cfg := small()
		var told []Health
		cfg.Observe = observer(func(h Health) { told = append(told, h) })
		l := open(t, fsys, cfg)
		fsys.SetSpace(space)
		var acked int64
		write := func(i int) error {
			got, err := l.Append(batch(t, nobody, 2, 0), int32(i/10), FromClient)
			if err == nil {
				err = l.WaitDurable(t.Context(), got.NextOffset())
			}
			if err == nil {
				acked = got.NextOffset()
			}
			return err
		}
		var err error
		for i := 0; err == nil && i < 200; i++ {
			err = write(i)
		}
		if !errors.Is(err, ErrFull) || errors.Is(err, ErrOffline) {
			t.Fatalf("space %d: %v, want ErrFull", space, err)
		}
		for _, step := range []string{"preallocate", "index", "snapshot", "checkpoint"} {
			refused[step] = refused[step] || strings.Contains(err.Error(), step)
		}
		for range 3 {
			if err := write(30); !errors.Is(err, ErrFull) {
				t.Fatalf("space %d: %v, want ErrFull again", space, err)
			}
		}
		if h, cause := l.Health(); h != Full || cause == nil {
			t.Fatalf("space %d: %v %v", space, h, cause)
		}
		if acked > 0 {
			readAll(t, l, 0, 300)
		}
		// What was refused must not be found by a start either.
		again := open(t, fsys.Crash(nil), cfg)
		if got := again.EndOffset(); got != acked {
			t.Fatalf("space %d: opened anew it ends at %d, acknowledged was %d", space, got, acked)
		}
		fsys.SetSpace(-1)
		for i := range 20 {
			must(t, write(30+i))
		}
		if h, _ := l.Health(); h != Healthy || fmt.Sprint(told) != "[full healthy]" {
			t.Fatalf("space %d: %v after %v", space, h, told)
		}
		must(t, l.Verify(t.Context()))
		must(t, l.Close())
		l = open(t, fsys, cfg)
		if got := l.EndOffset(); got != acked {
			t.Fatalf("space %d: end %d, want %d", space, got, acked)
		}
		must(t, l.Verify(t.Context()))
	}
	for step, seen := range refused {
		if !seen {
			t.Errorf("no full disk was met at: %s", step)
		}
	}
}

type observer func(Health)

func (o observer) LogChanged(_ string, h Health, _ error) { o(h) }

// TestALogThatNobodyWritesToIsFullNoLongerThanTheDisk: Tend finds the room, and does
// not claim it before there is some.
func TestALogThatNobodyWritesToIsFullNoLongerThanTheDisk(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, small())
	add(t, l, nobody, 3)
	must(t, l.WaitDurable(t.Context(), l.EndOffset()))
	fsys.SetSpace(fsys.Used())
	var err error
	for i := 0; err == nil && i < 10_000; i++ {
		_, err = l.Append(batch(t, nobody, 2, 0), 0, FromClient)
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("got %v, want ErrFull", err)
	}
	before := fsys.Used()
	must(t, l.Tend(t.Context(), time.Now()))
	if h, _ := l.Health(); h != Full || fsys.Used() != before {
		t.Fatalf("on a full disk the log is %v, %d bytes became %d", h, before, fsys.Used())
	}
	fsys.SetSpace(-1)
	must(t, l.Tend(t.Context(), time.Now()))
	if h, _ := l.Health(); h != Healthy || fsys.Used() != before {
		t.Errorf("with room the log is %v, %d bytes became %d", h, before, fsys.Used())
	}
	must(t, l.Close())
	l = open(t, fsys, small())
	must(t, l.Verify(t.Context()))
}

// TestALogIsClosedOnAFullDisk: what a close has no room for is read at the next
// start.
func TestALogIsClosedOnAFullDisk(t *testing.T) {
	for room := int64(0); room < 600; room += 13 {
		fsys := vfs.NewMem()
		cfg := DefaultConfig()
		l := open(t, fsys, cfg)
		for range 3 {
			add(t, l, nobody, 50)
		}
		end := l.EndOffset()
		must(t, l.WaitDurable(t.Context(), end))
		rest := l.state.active.allocated - l.state.active.size // which closing gives back
		fsys.SetSpace(fsys.Used() - rest + room)
		must(t, l.Close())
		l = open(t, fsys, cfg)
		if got := l.EndOffset(); got != end {
			t.Fatalf("room %d: it ends at %d, not %d", room, got, end)
		}
		must(t, l.Verify(t.Context()))
		readAll(t, l, 0, 150)
		must(t, l.Close())
	}
}

func TestRetentionMakesRoomOnAFullDisk(t *testing.T) {
	fsys := vfs.NewMem()
	cfg := DefaultConfig()
	cfg.SegmentBytes, cfg.RetentionBytes = 100_000, 100_000
	l := open(t, fsys, cfg)
	for l.view.Load().count() < 4 {
		add(t, l, nobody, 50)
	}
	must(t, l.WaitDurable(t.Context(), l.EndOffset()))
	fsys.SetSpace(fsys.Used()) // Not a byte is left.
	start, err := l.Retain(time.Now(), l.EndOffset())
	if err != nil || start == 0 {
		t.Fatalf("start %d, %v", start, err)
	}
	add(t, l, nobody, 50)
	must(t, l.Close())
	if got := open(t, fsys, cfg).StartOffset(); got != start {
		t.Fatalf("start %d, want %d", got, start)
	}
}

func TestCompactionOnAFullDiskWaits(t *testing.T) {
	w := newWorld(t, 4)
	must(t, w.live(100))
	for space := w.fs.Used(); ; space += 100 {
		w.fs.SetSpace(space)
		_, err := w.clean(1 << 20)
		if h, _ := w.l.Health(); h == Offline {
			t.Fatalf("space %d: offline", space)
		}
		w.fs.SetSpace(-1)
		w.check(fmt.Sprintf("space %d", space))
		if err == nil {
			break
		}
		if d := w.l.Dirt(w.now, w.l.EndOffset()); !errors.Is(err, ErrFull) || d.Uncleanable != nil {
			t.Fatalf("space %d: %v, %v", space, err, d.Uncleanable)
		}
	}
	w.checkDuplicates()
	if left := leftovers(t, w.fs); len(left) > 0 {
		t.Fatalf("left %v", left)
	}
}
