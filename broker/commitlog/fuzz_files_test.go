package commitlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// mended has the checksum of a file as it should be for what is in it: a fuzzer
// cannot find it, and what a checksum protects must not panic either.
func mended(name string, data []byte) []byte {
	data = slices.Clone(data)
	switch {
	case (name == checkpointName || name == mirrorName) && len(data) >= checksumLine:
		body := data[:len(data)-checksumLine]
		return fmt.Appendf(body, "%08x\n", crc32.Checksum(body, castagnoli))
	case strings.HasSuffix(name, snapshotSuffix) && len(data) >= 4:
		body := data[:len(data)-4]
		return binary.BigEndian.AppendUint32(body, crc32.Checksum(body, castagnoli))
	case name == recoveryName && len(data) >= recoveryLen:
		binary.BigEndian.PutUint32(data[recoveryLen-4:], crc32.Checksum(data[:recoveryLen-4], castagnoli))
	}
	return data
}

// FuzzStoredFiles puts anything in the place of one file of a log with several
// segments, opens it and asks it everything: nothing panics, and what is
// served are batches that pass their own checks.
func FuzzStoredFiles(f *testing.F) {
	whole := vfs.NewMem()
	_, err := script(whole)
	must(f, err)
	mirror, err := encodeMirror(Mirror{Role: Promoted, WriterEpoch: 3, PromotedAt: 9, Ended: []OpenTxn{{1, 2, 3}}})
	must(f, err)
	must(f, vfs.WriteFile(whole, filepath.Join(testDir, mirrorName), mirror))
	names, err := whole.ReadDir(testDir)
	must(f, err)
	for i, name := range names {
		data, err := vfs.ReadFile(whole, filepath.Join(testDir, name), 1<<20)
		must(f, err)
		f.Add(uint8(i), data)
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		name := names[int(which)%len(names)]
		for _, data := range [][]byte{data, mended(name, data)} {
			fsys := whole.Crash(nil)
			must(t, vfs.WriteFile(fsys, filepath.Join(testDir, name), data))
			l, err := Open(fsys, testDir, small())
			if err != nil {
				continue
			}
			askEverything(t, l)
			must(t, l.Close())
		}
	})
}

// askEverything reads a log by all of its files. Errors are its right.
func askEverything(t *testing.T, l *Log) {
	t.Helper()
	end := l.EndOffset()
	for at, tries := l.StartOffset(), 0; at < end && tries < 100; tries++ { // a file may claim any offsets
		at++
		buf, err := l.Read(at-1, 200, end)
		if err != nil {
			continue
		}
		for len(buf) > 0 {
			var b record.Batch
			b, buf, err = record.Next(buf)
			must(t, err)
			must(t, b.Check())
			at = b.NextOffset()
		}
	}
	for _, ms := range []int64{-1, 0, 1000, 1001} {
		_, _, _ = l.OffsetForTime(ms, end)
	}
	_, _, _ = l.MaxTimestamp(end)
	l.Aborted(0, end)
	l.EpochEnd(1)
	l.EpochAt(end)
	l.Producers()
	l.OpenTransactions()
	_ = l.Verify(t.Context())
}
