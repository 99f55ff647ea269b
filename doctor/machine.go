package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"
)

// Free space below which a data folder is in trouble: raft, the index of the lineage
// and the audit trail must be able to grow.
const (
	freeLow  = 5 << 30 // bytes
	freeGone = 1 << 30
)

// Times of a flush of 4 KiB: every change of the fleet's state waits for one on a
// majority of the nodes, and for an election several come one after another.
const (
	flushSlow  = 20 * time.Millisecond
	flushWrong = 100 * time.Millisecond
	flushes    = 16
)

// Folder looks at the disk under a folder: its free space, and how long a flush
// takes. It writes a file of 64 KiB and removes it.
func Folder(dir string) []Finding {
	free, total, err := space(dir)
	all := []Finding{spaceFinding(dir, free, total, err)}
	took, err := flushTimes(dir)
	return append(all, flushFinding(dir, took, err))
}

func spaceFinding(dir string, free, total uint64, err error) Finding {
	if err != nil {
		if errors.Is(err, errors.ErrUnsupported) {
			return found(Disk, dir, Unknown, "free space is not known on this system")
		}
		return found(Disk, dir, Error, "free space: %v", err).todo("see that the folder is there and readable")
	}
	text := fmt.Sprintf("%s free of %s", gib(free), gib(total))
	const do = "make room, or move the data folder to a larger disk: a node whose disk is full stops"
	switch {
	case free < freeGone:
		return found(Disk, dir, Error, "%s", text).todo(do)
	case free < freeLow:
		return found(Disk, dir, Warning, "%s", text).todo(do)
	}
	return found(Disk, dir, OK, "%s", text)
}

func gib(n uint64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

// flushTimes are how long writes of 4 KiB take until they are on disk.
func flushTimes(dir string) (took []time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, 4<<10)
	for range flushes {
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}

func flushFinding(dir string, took []time.Duration, err error) Finding {
	if err != nil || len(took) == 0 {
		return found(Disk, dir, Error, "write and flush: %v", err).todo("see that the folder may be written to, and that the disk is not full")
	}
	sorted := slices.Sorted(slices.Values(took))
	median, worst := sorted[len(sorted)/2], sorted[len(sorted)-1]
	text := fmt.Sprintf("a flush of 4 KiB takes %s (median of %d), %s at worst", round(median), len(took), round(worst))
	const do = "take a faster disk, or one that is shared with less: leaders lose their office when flushes take long"
	switch {
	case median > flushWrong:
		return found(Disk, dir, Error, "%s", text).todo(do)
	case median > flushSlow || worst > 10*flushSlow:
		return found(Disk, dir, Warning, "%s", text).todo(do)
	}
	return found(Disk, dir, OK, "%s", text)
}

// round keeps three digits or so.
func round(d time.Duration) time.Duration { return d.Round(max(d.Abs()/100, 1)) }

// Host looks a host name of an address up.
func Host(ctx context.Context, where, address string) Finding {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return found(DNS, where, Error, "%q is not an address", address).todo("write host:port")
	}
	if net.ParseIP(host) != nil {
		return found(DNS, where, OK, "%s is an address already", host)
	}
	began := time.Now()
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return found(DNS, where, Error, "%v", err).todo("correct the name, or the name service of this machine")
	}
	took := time.Since(began)
	f := found(DNS, where, OK, "%s is %s (%s)", host, shortList(addrs, 4), round(took))
	if took > time.Second {
		f.Level = Warning
		return f.todo("find out why the name service is slow: every new connection waits for it")
	}
	return f
}

func shortList(all []string, most int) string {
	text := ""
	for i, s := range all {
		if i == most {
			return fmt.Sprintf("%s and %d more", text, len(all)-most)
		}
		if i > 0 {
			text += ", "
		}
		text += s
	}
	return text
}

// Clocks of two nodes further apart than this confuse people who compare logs and
// audit entries; nothing in the fleet depends on them.
const (
	skewSeen  = 500 * time.Millisecond
	skewWrong = 5 * time.Second
)

// ClockOf judges the clock of another machine, which said the time between two
// moments of this one's.
func ClockOf(where string, asked, answered, said time.Time) Finding {
	half := answered.Sub(asked) / 2
	skew := said.Sub(asked.Add(half))
	text := fmt.Sprintf("its clock is %s ahead of this node's, give or take %s", round(skew), round(half))
	if skew < 0 {
		text = fmt.Sprintf("its clock is %s behind this node's, give or take %s", round(-skew), round(half))
	}
	if skew = max(skew.Abs()-half, 0); skew > skewSeen {
		level := Warning
		if skew > skewWrong {
			level = Error
		}
		return found(Clock, where, level, "%s", text).todo("synchronise both machines' clocks (NTP); certificates, audit entries and lags are told by them")
	}
	return found(Clock, where, OK, "%s", text)
}
