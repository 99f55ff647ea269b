package commitlog

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/waybillhq/waybill/internal/vfs"
)

const (
	checkpointName    = "checkpoint"
	checkpointVersion = 1
	// checkpointAdvice ends what is said of a damaged checkpoint. It is not taken for
	// absent: the start would go back, and an intent, half carried out, be forgotten.
	checkpointAdvice = "; if it is removed while the broker is stopped it is rebuilt from the segments, and records that were deleted from the log's start, or cut from its end just before, may be there again"
	// checkpointLimit bounds what is read: room for a million segments.
	checkpointLimit = 256 << 20
)

// checkpoint is what the log knows of itself beyond its batches. It is replaced
// as a whole, atomically. Drop, Cut and Empty are intents: they are carried out,
// again if need be, before the log is used, and the checkpoint that follows has
// none.
type checkpoint struct {
	Version int `json:"version"`
	// Start is the first offset that may be read.
	Start int64 `json:"start"`
	// Active is the base of the segment that takes appends, and ActiveSince the
	// time of its first, in ms, 0 before it.
	Active      int64    `json:"active"`
	ActiveSince int64    `json:"activeSince,omitempty"`
	Sealed      []sealed `json:"sealed,omitempty"`
	Epochs      epochs   `json:"epochs,omitempty"`
	// Sparse says that offsets may skip: a replica of something compacted.
	// Otherwise each batch follows the one before, and recovery insists on it.
	Sparse bool `json:"sparse,omitempty"`
	// Known is what is known of the active segment's beginning, up to a size that
	// is durable: a start need not read it. Its indexes are in files.
	Known *sealed `json:"known,omitempty"`
	// FirstDirty is the offset up to which compaction has been.
	FirstDirty int64 `json:"firstDirty,omitempty"`
	// Learned is the offset up to which compaction, one that was cut off included,
	// may have known keys when it removed older records.
	Learned int64 `json:"learned,omitempty"`

	Swap  *swap   `json:"swap,omitempty"`  // give cleaned files their place
	Drop  []int64 `json:"drop,omitempty"`  // remove these segments
	Cut   *cut    `json:"cut,omitempty"`   // then cut the active segment
	Empty bool    `json:"empty,omitempty"` // remove every segment and snapshot
}

// cut shortens a segment to a size, where the batch at offset began.
type cut struct {
	Size   int64 `json:"size"`
	Offset int64 `json:"offset"`
}

// swap puts what compaction wrote in the place of the segment at Base.
type swap struct {
	Base    int64 `json:"base"`
	Aborted bool  `json:"aborted,omitempty"` // it has aborted transactions
}

// sealed is a segment that takes no more appends: what is known of it without
// reading it. Times are in ms since 1970.
type sealed struct {
	Base       int64  `json:"base"`
	Next       int64  `json:"next"` // offset after its last batch
	Size       int64  `json:"size"`
	MaxTime    int64  `json:"maxTime"`   // greatest timestamp of a batch, -1 if it has none
	MaxTimeAt  int64  `json:"maxTimeAt"` // last offset of that batch
	LastAppend int64  `json:"lastAppend"`
	Offsets    int64  `json:"offsets"` // size of the offset index
	Times      int64  `json:"times"`   // size of the time index
	Aborted    int64  `json:"aborted"` // size of the aborted-transaction index
	AbortedCRC uint32 `json:"abortedCrc"`
	// FirstTime is the greatest timestamp of the first batch, 0 if it is not known.
	FirstTime int64 `json:"firstTime,omitempty"`
	// Cleaned says that compaction wrote it.
	Cleaned bool `json:"cleaned,omitempty"`
}

func (c checkpoint) encode() ([]byte, error) {
	c.Version = checkpointVersion
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode checkpoint: %w", err)
	}
	body = append(body, '\n')
	return fmt.Appendf(body, "%08x\n", crc32.Checksum(body, castagnoli)), nil
}

const checksumLine = 9 // eight digits and a newline

func decodeCheckpoint(buf []byte) (checkpoint, error) {
	var c checkpoint
	if len(buf) < checksumLine {
		return c, errors.New("it is cut off")
	}
	body, line := buf[:len(buf)-checksumLine], buf[len(buf)-checksumLine:]
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	if err != nil || line[8] != '\n' || crc32.Checksum(body, castagnoli) != uint32(sum) {
		return c, errors.New("checksum does not match")
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return c, fmt.Errorf("decode: %w", err)
	}
	if c.Version != checkpointVersion {
		return c, fmt.Errorf("version %d is not known", c.Version)
	}
	next := int64(0)
	for _, s := range c.Sealed {
		if s.Base < next || s.Next < s.Base || s.Size < 0 {
			return c, fmt.Errorf("segment %d runs to %d with %d bytes", s.Base, s.Next, s.Size)
		}
		next = s.Next
	}
	if c.Active < next || c.Start < 0 {
		return c, fmt.Errorf("active segment %d begins before %d", c.Active, next)
	}
	if k := c.Known; k != nil && (k.Base != c.Active || k.Next < k.Base || min(k.Size, k.Offsets, k.Times, k.Aborted) < 0) {
		return c, fmt.Errorf("the active segment %d is known as %d to %d with %d bytes", c.Active, k.Base, k.Next, k.Size)
	}
	if c.Swap != nil && !slices.ContainsFunc(c.Sealed, func(s sealed) bool { return s.Base == c.Swap.Base }) {
		return c, fmt.Errorf("segment %d is to be swapped and not there", c.Swap.Base)
	}
	return c, nil
}

// readCheckpoint returns nil if there is none.
func readCheckpoint(fsys vfs.FS, dir string) (*checkpoint, error) {
	buf, err := vfs.ReadFile(fsys, filepath.Join(dir, checkpointName), checkpointLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	c, err := decodeCheckpoint(buf)
	if err != nil {
		return nil, &CorruptError{File: checkpointName, Offset: -1, Reason: err.Error() + checkpointAdvice}
	}
	return &c, nil
}

// writeCheckpoint replaces the checkpoint. With ErrFull the old one is in place.
func writeCheckpoint(fsys vfs.FS, dir string, c checkpoint) error {
	buf, err := c.encode()
	if err != nil {
		return err
	}
	if err := replaceFile(fsys, dir, checkpointName, buf); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// replaceFile is vfs.WriteFile, which tells by ErrFull that the old file is in
// place.
func replaceFile(fsys vfs.FS, dir, name string, buf []byte) error {
	path := filepath.Join(dir, name)
	if err := vfs.WriteNew(fsys, path+tmpSuffix, buf); err != nil {
		return full(err)
	}
	return vfs.Replace(fsys, path+tmpSuffix, path)
}

// recoveryPoint is a file that says how much of the active segment is durable.
// After a crash it tells damage to acknowledged data, which is below it, from a
// torn tail. It is written after every sync of the segment, so it is exact when
// only the process died; it is synced at most once in recoverySyncEvery, so after
// a power cut it may be older, never newer.
type recoveryPoint struct {
	file     *file
	there    bool // the file exists
	seq      uint64
	at       durablePoint // the newest
	lastSync time.Time
}

const (
	recoveryName      = "recovery-point"
	recoveryMagic     = "WBRP"
	recoverySyncEvery = time.Second

	// Two slots in sectors of their own, written in turn: a torn write leaves
	// the other.
	recoverySlot = 512
	recoveryLen  = 4 + 8 + 8 + 8 + 4
)

// durablePoint is a place in the active segment: its base and the bytes that are
// durable.
type durablePoint struct{ base, size int64 }

func encodePoint(seq uint64, p durablePoint) []byte {
	buf := append(make([]byte, 0, recoveryLen), recoveryMagic...)
	buf = binary.BigEndian.AppendUint64(buf, seq)
	buf = binary.BigEndian.AppendUint64(buf, uint64(p.base))
	buf = binary.BigEndian.AppendUint64(buf, uint64(p.size))
	return binary.BigEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli))
}

func decodePoint(buf []byte) (seq uint64, p durablePoint, ok bool) {
	if len(buf) < recoveryLen || string(buf[:4]) != recoveryMagic {
		return 0, p, false
	}
	if crc32.Checksum(buf[:recoveryLen-4], castagnoli) != binary.BigEndian.Uint32(buf[recoveryLen-4:]) {
		return 0, p, false
	}
	p.base, p.size = int64(binary.BigEndian.Uint64(buf[12:])), int64(binary.BigEndian.Uint64(buf[20:]))
	return binary.BigEndian.Uint64(buf[4:]), p, p.base >= 0 && p.size >= 0
}

// openRecoveryPoint reads the file and returns the newest point in it; the zero
// point if there is none.
func openRecoveryPoint(pool *Files, fsys vfs.FS, dir string) (r *recoveryPoint, p durablePoint, err error) {
	name := filepath.Join(dir, recoveryName)
	r = &recoveryPoint{file: pool.lazy(fsys, name), lastSync: time.Now()}
	r.file.hint = true
	buf, err := vfs.ReadFile(fsys, name, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return r, p, nil
	}
	if err != nil {
		return nil, p, fmt.Errorf("read recovery point: %w", err)
	}
	r.there = true
	r.seq, p = newestPoint(buf)
	r.at = p
	return r, p, nil
}

// newestPoint is the one that counts of the slots of a recovery point's file.
func newestPoint(buf []byte) (seq uint64, p durablePoint) {
	for at := 0; at < len(buf); at += recoverySlot {
		if s, q, ok := decodePoint(buf[at:]); ok && s >= seq {
			seq, p = s, q
		}
	}
	return seq, p
}

// make sees to it that the file is there, with its room, so that noting a point
// needs none.
func (r *recoveryPoint) make() error {
	if r.there {
		return nil
	}
	if err := vfs.WriteNew(r.file.fs, r.file.name, make([]byte, 2*recoverySlot)); err != nil {
		return fmt.Errorf("make recovery point: %w", full(err))
	}
	if err := r.file.fs.SyncDir(filepath.Dir(r.file.name)); err != nil {
		return fmt.Errorf("sync log directory: %w", err)
	}
	r.there = true
	return nil
}

func (r *recoveryPoint) put(p durablePoint) error {
	if err := r.make(); err != nil {
		return err
	}
	r.seq++
	if _, err := r.file.WriteAt(encodePoint(r.seq, p), int64(r.seq%2)*recoverySlot); err != nil {
		return fmt.Errorf("write recovery point: %w", err)
	}
	r.at = p
	return nil
}

// advance notes a later point. The caller is the only writer.
func (r *recoveryPoint) advance(p durablePoint) error {
	if err := r.put(p); err != nil {
		return err
	}
	if time.Since(r.lastSync) < recoverySyncEvery {
		return nil
	}
	return r.sync()
}

// lower makes an earlier point durable, before the log is cut back to it.
func (r *recoveryPoint) lower(p durablePoint) error {
	for range 2 {
		if err := r.put(p); err != nil {
			return err
		}
	}
	return r.sync()
}

func (r *recoveryPoint) sync() error {
	r.lastSync = time.Now()
	if err := r.file.DataSync(); err != nil {
		return fmt.Errorf("sync recovery point: %w", err)
	}
	return nil
}
