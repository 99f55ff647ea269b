// Package flow holds the nouns that an operator declares: [Cluster],
// [ReplicationFlow] and [Runbook], and their YAML.
//
// It is a leaf: it imports nothing of this project and does no I/O beyond the
// files that it is told to read. What it returns is valid: [Parse] reports every
// fault at once, each with file, line, column and the fix, and fills defaults in.
// Secrets are references ([Secret]); they are resolved by the process that uses
// them and never held in an object.
package flow
