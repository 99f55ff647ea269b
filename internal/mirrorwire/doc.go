// Package mirrorwire is the wire form of the requests by which a replicator works
// on mirror topics of a bundled cluster: topics that hold another cluster's
// records at that cluster's offsets.
//
// They are ordinary requests of the Kafka protocol, framed, versioned and
// advertised in ApiVersions like the others, with API keys of their own far above
// Kafka's. All versions are flexible (KIP-482): a field that a later version adds
// as a tagged one is skipped by who does not know it. A broker that does not
// advertise [AppendKey] has no mirror topics.
//
//	Append    appends batches at their own offsets, as a compare-and-append.
//	          ClusterAction on the cluster: the batches bring leader epochs,
//	          producer ids and control records along, which no right to Write on
//	          a topic covers.
//	Describe  tells what a mirror topic is and how far. Describe on the topic.
//	Alter     pauses, resumes, promotes, fails or restores. Alter on the topic
//	          and ClusterAction on the cluster.
//
// # Append
//
// Each partition says who writes (the writer's epoch: the assignment's, which only
// grows), where he believes the log to end, and what leader epoch its last record
// has. If all three match, everything is appended, else nothing. The answer to
// either tells the present end, epoch and writer's epoch, so that a writer can go
// on. It comes when what was appended is on disk, if the topic's flush.messages asks
// for that as it does by default; requests on a connection are pipelined like Produce.
// Error codes are Kafka's:
//
//	PRODUCER_FENCED          a writer with a higher epoch was here, or the topic
//	                         was promoted: stop
//	INVALID_UPDATE_VERSION   another end or epoch than expected: read the answer
//	FENCED_LEADER_EPOCH      the batches' leader epochs contradict what lies before
//	                         them; the topic is failed
//	POLICY_VIOLATION         the topic is paused or failed
//	INVALID_REQUEST          no mirror topic, another source, or nonsense
//	UNKNOWN_TOPIC_ID, UNKNOWN_TOPIC_OR_PARTITION, CORRUPT_MESSAGE, INVALID_RECORD,
//	OFFSET_OUT_OF_RANGE, KAFKA_STORAGE_ERROR, CLUSTER_AUTHORIZATION_FAILED as ever
//
// The types are plain values, like those of kmsg, which they are made to fit.
package mirrorwire
