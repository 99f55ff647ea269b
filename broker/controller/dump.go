package controller

import (
	"fmt"

	"github.com/waybillhq/waybill/broker/auth"
)

// FileName is that of the metadata file in its directory.
const FileName = fileName

// Dumped is a record of a metadata file, and the byte at which it begins.
type Dumped struct {
	Position int64
	Record   Record
}

// Dump reads a metadata file for people: its records, in which what must stay
// secret (the cluster's key, what SCRAM verifies passwords by) is left out. With an
// error the records are those that could be read, and at is the byte at which the
// file is not as it should be.
func Dump(file []byte) (dumped []Dumped, at int64, err error) {
	var records []Record
	at, err = walk(file, func(at int64, r Record) {
		if r.Cluster != nil {
			r.Cluster.Secret = nil
		}
		if r.User != nil {
			r.User.Credential = auth.Credential{Iterations: r.User.Credential.Iterations}
		}
		records, dumped = append(records, r), append(dumped, Dumped{at, r})
	})
	if err != nil {
		return dumped, at, err
	}
	if _, err := (&Image{}).Apply(records...); err != nil {
		return dumped, headerSize, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return dumped, 0, nil
}
