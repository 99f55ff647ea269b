package controller

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrCorrupt says that the store's file is not what was written.
var ErrCorrupt = errors.New("metadata store is corrupt")

// ErrVersion says that the store was written by a newer version.
var ErrVersion = errors.New("metadata store of a newer version")

const (
	magic   = "WBMD"
	version = 1
	// headerSize is magic, version, length and checksum.
	headerSize = 4 + 4 + 8 + 4
	maxFile    = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode writes a store's file: see FORMAT.md.
func encode(records []Record) ([]byte, error) {
	out := bytes.NewBuffer(make([]byte, headerSize))
	enc := json.NewEncoder(out) // ends each document with a newline
	for n := range records {
		if err := enc.Encode(&records[n]); err != nil {
			return nil, err
		}
	}
	b := out.Bytes()
	copy(b, magic)
	binary.BigEndian.PutUint32(b[4:], version)
	binary.BigEndian.PutUint64(b[8:], uint64(len(b)-headerSize))
	binary.BigEndian.PutUint32(b[16:], checksum(b))
	return b, nil
}

// checksum covers everything but itself.
func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:16], castagnoli), castagnoli, b[headerSize:])
}

func decode(b []byte) (records []Record, err error) {
	_, err = walk(b, func(_ int64, r Record) { records = append(records, r) })
	return records, err
}

// walk hands a file's records to fn, with the byte at which each begins. With an
// error it returns the byte at which the file is not as it should be.
func walk(b []byte, fn func(at int64, r Record)) (at int64, err error) {
	if len(b) < headerSize || string(b[:4]) != magic {
		return 0, fmt.Errorf("%w: not a metadata file", ErrCorrupt)
	}
	if v := binary.BigEndian.Uint32(b[4:]); v > version {
		return 4, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, v, version)
	}
	if n := binary.BigEndian.Uint64(b[8:]); n != uint64(len(b)-headerSize) {
		return 8, fmt.Errorf("%w: %d bytes, want %d", ErrCorrupt, len(b)-headerSize, n)
	}
	if checksum(b) != binary.BigEndian.Uint32(b[16:]) {
		return 16, fmt.Errorf("%w: checksum does not match", ErrCorrupt)
	}
	n := 0
	for dec := json.NewDecoder(bytes.NewReader(b[headerSize:])); dec.More(); n++ {
		at = headerSize + dec.InputOffset()
		if b[at] == '\n' { // which ends the record before
			at++
		}
		var r Record
		if err := dec.Decode(&r); err != nil {
			return at, fmt.Errorf("%w: record %d: %w", ErrCorrupt, n+1, err)
		}
		fn(at, r)
	}
	return at, nil
}
