// Package flow holds the nouns that an operator declares: [Cluster],
// [ReplicationFlow] and [Runbook], and their YAML.
//
// It is a leaf: it imports nothing of this project, does no I/O beyond the files
// that it is told to read, and starts no goroutine. All functions may be called
// concurrently; objects are plain values that nobody changes after they are
// shared.
//
// # The path of a declaration
//
// [ReadFiles] (or [Parse]) reads a stream of documents into the nodes of the YAML
// library, decodes them by the Go types' own keys, judges each object by itself
// and fills its defaults in. [Check] then judges the set: the objects of the files
// together with those that the fleet has. [Diff] shows what would change.
// [Encode] and [Decode] carry one object through the fleet's log as JSON, by the
// same decoder; [MarshalYAML] writes what a person reads, and can apply again.
//
// # What it promises
//
//   - Every fault is reported at once, as [Problems]: file, line, column, the path
//     of the value, what is wrong, and what to write instead.
//   - Nothing is guessed. Unknown keys, keys written twice, null, anchors, tags,
//     yes for true, 010 for a number are faults. A text is what is written: a topic
//     may be called 0123, 1_000 or no.
//   - A secret is a reference ([Secret]) that the process resolves that uses it. A
//     literal one is refused, and no error shows it or a value of a wrong type.
//   - What is parsed is complete: defaults are in the object, so one that is stored
//     means the same after an upgrade changes a default.
//
// The JSON Schema for editors is docs/schema/waybill-v1.schema.json; a test holds
// it and the types here together. It knows less than Parse: it cannot compile
// patterns, nor look at other objects.
//
// # What is left out
//
// Paths of files in an object are not looked at: they are those of the nodes that
// use them. Whether a destination has the mirror topics that offsets: preserve needs,
// the status of the flow's topics says.
package flow
