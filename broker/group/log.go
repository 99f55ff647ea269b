package group

import "github.com/waybillhq/waybill/broker/coordinator"

// Topic is the name of the topic that holds groups and their offsets.
const Topic = "__consumer_offsets"

// Log is one partition of [Topic], as its leader has it.
type Log interface {
	coordinator.Log
	// AppendMarker writes the end of a transaction and returns the offset after
	// it. Its errors are those of Append.
	AppendMarker(m Marker) (next int64, err error)
}

// Marker is the end of a transaction on one partition.
type Marker struct {
	ProducerID       int64
	ProducerEpoch    int16
	Commit           bool // false is an abort
	CoordinatorEpoch int32
}
