package flow

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// ReplicationFactor is that of new topics: a number, or [SourceReplicas].
type ReplicationFactor int16

// SourceReplicas is the replication factor of the source's topic, or the number
// of the destination's brokers where that is less.
const SourceReplicas ReplicationFactor = -1

const sourceReplicas = "source"

func parseReplicationFactor(s string) (ReplicationFactor, error) {
	if s == sourceReplicas {
		return SourceReplicas, nil
	}
	n, err := strconv.ParseInt(s, 10, 16)
	if err != nil || n < 1 || !decimal.MatchString(s) {
		return 0, mistake{fmt.Sprintf("%q is not a replication factor", s), "write 1 or more, source for that of the source's topic, or remove the key for the destination's default"}
	}
	return ReplicationFactor(n), nil
}

func (r ReplicationFactor) String() string {
	if r == SourceReplicas {
		return sourceReplicas
	}
	return strconv.Itoa(int(r))
}

func (r ReplicationFactor) written() any {
	if r == SourceReplicas {
		return sourceReplicas
	}
	return int16(r)
}

// MarshalYAML writes the factor as it is declared.
func (r ReplicationFactor) MarshalYAML() (any, error) { return r.written(), nil }

// MarshalJSON writes the factor as it is declared.
func (r ReplicationFactor) MarshalJSON() ([]byte, error) { return json.Marshal(r.written()) }
