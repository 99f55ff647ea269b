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

func decode(b []byte) ([]Record, error) {
	if len(b) < headerSize || string(b[:4]) != magic {
		return nil, fmt.Errorf("%w: not a metadata file", ErrCorrupt)
	}
	if v := binary.BigEndian.Uint32(b[4:]); v > version {
		return nil, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, v, version)
	}
	if n := binary.BigEndian.Uint64(b[8:]); n != uint64(len(b)-headerSize) {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrCorrupt, len(b)-headerSize, n)
	}
	if checksum(b) != binary.BigEndian.Uint32(b[16:]) {
		return nil, fmt.Errorf("%w: checksum does not match", ErrCorrupt)
	}
	var records []Record
	for dec := json.NewDecoder(bytes.NewReader(b[headerSize:])); dec.More(); {
		var r Record
		if err := dec.Decode(&r); err != nil {
			return nil, fmt.Errorf("%w: record %d: %w", ErrCorrupt, len(records)+1, err)
		}
		records = append(records, r)
	}
	return records, nil
}
