package flow

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Start is where a copy without history begins: [StartEarliest], [StartLatest], at
// a time ([StartAt]) or where a consumer group stands ([StartCommitted]). Starts
// are equal if they are written alike.
type Start string

// The starts without an argument.
const (
	StartEarliest Start = "earliest"
	StartLatest   Start = "latest"
)

const (
	startTimestamp = "timestamp"
	startCommitted = "committed"
)

// StartAt begins each partition with its first record whose timestamp is t or
// later; where there is none, at the end.
func StartAt(t time.Time) Start {
	return startTimestamp + ":" + Start(t.UTC().Format(time.RFC3339Nano))
}

// StartCommitted begins each partition where a consumer group stands at the
// source. Where it has committed nothing: at the first offset, since a copy may
// hold more than the group needs, and never less.
func StartCommitted(group string) Start { return startCommitted + ":" + Start(group) }

// Timestamp is the time of a [StartAt].
func (s Start) Timestamp() (t time.Time, ok bool) {
	text, ok := strings.CutPrefix(string(s), startTimestamp+":")
	if !ok {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, text)
	return t, err == nil
}

// Group is the group of a [StartCommitted].
func (s Start) Group() (name string, ok bool) {
	return strings.CutPrefix(string(s), startCommitted+":")
}

// written is the start as it is declared: a word, or one key with its value.
func (s Start) written() any {
	if at, ok := s.Timestamp(); ok {
		return map[string]string{startTimestamp: at.Format(time.RFC3339Nano)}
	}
	if group, ok := s.Group(); ok {
		return map[string]string{startCommitted: group}
	}
	return string(s)
}

// MarshalYAML writes the start as it is declared.
func (s Start) MarshalYAML() (any, error) { return s.written(), nil }

// MarshalJSON writes the start as it is declared.
func (s Start) MarshalJSON() ([]byte, error) { return json.Marshal(s.written()) }

// startKeys are the keys of a start that is declared with one.
type startKeys struct {
	Timestamp string `json:"timestamp,omitempty"`
	Committed string `json:"committed,omitempty"`
}

func (k startKeys) start() (Start, error) {
	switch {
	case (k.Timestamp == "") == (k.Committed == ""):
		return "", mistake{"says not where to begin", "write one of {timestamp: 2026-01-02T03:04:05Z} and {committed: GROUP}"}
	case k.Committed != "":
		return StartCommitted(k.Committed), nil
	}
	t, err := time.Parse(time.RFC3339, k.Timestamp)
	if err != nil || t.UnixMilli() < 0 {
		return "", mistake{fmt.Sprintf("%q is not a time", k.Timestamp), "write it with its zone, like 2026-01-02T03:04:05Z"}
	}
	return StartAt(t), nil
}
