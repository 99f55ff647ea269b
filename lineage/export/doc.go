// Package export writes answers of package lineage in the forms of other tools:
// OpenLineage events ([OpenLineage]), OpenTelemetry spans as OTLP/JSON ([Spans]) and
// tables as CSV or NDJSON ([Write]).
//
// It takes answers that were made for their caller: what is redacted in them has no
// event and no span, and is not counted. It asks nobody anything.
//
// What is left out: sending any of it somewhere; OTLP as protobuf.
//
// Goroutines: none. All functions are pure.
package export
