package record

// Headers that tell where a record was copied from, and of one in quarantine why
// it is there. They come after the record's own. A record that was copied several
// times has several; the last are of the last time.
const (
	HeaderSourceCluster   = "waybill-source-cluster"   // cluster.id
	HeaderSourceTopic     = "waybill-source-topic"     // name
	HeaderSourcePartition = "waybill-source-partition" // decimal
	HeaderSourceOffset    = "waybill-source-offset"    // decimal
	HeaderSourceTimestamp = "waybill-source-timestamp" // milliseconds since 1970, decimal

	HeaderQuarantineReason  = "waybill-quarantine-reason"
	HeaderQuarantineContent = "waybill-quarantine-content" // [ContentRecord] or [ContentBatch]
)

// What a record in quarantine is: itself, or a whole batch of the source, as bytes
// and in the value, that could not be taken apart.
const (
	ContentRecord = "record"
	ContentBatch  = "batch"
)
