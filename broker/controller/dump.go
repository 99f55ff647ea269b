package controller

import (
	"fmt"

	"github.com/waybillhq/waybill/broker/auth"
)

// FileName is that of the metadata file in its directory.
const FileName = fileName

// Dump reads a metadata file for people: its records, in which what must stay
// secret (the cluster's key, what SCRAM verifies passwords by) is left out. With an
// error the records are those that could be read.
func Dump(file []byte) ([]Record, error) {
	records, err := decode(file)
	for i := range records {
		r := &records[i]
		if r.Cluster != nil {
			r.Cluster.Secret = nil
		}
		if r.User != nil {
			r.User.Credential = auth.Credential{Iterations: r.User.Credential.Iterations}
		}
	}
	if err != nil {
		return records, err
	}
	if _, err := (&Image{}).Apply(records...); err != nil {
		return records, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return records, nil
}
