package runbook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/waybillhq/waybill/flow"
)

// Actions are what a runbook does to the world, by the name of the flow. All are
// idempotent and may be repeated at any time, by another node too. An error means
// that it could not be done or seen now, and is tried again until the step's time
// limit; a [Result] that is not OK means that it was seen, and is wrong. ctx ends
// when the node stops owning the runbook.
type Actions interface {
	// Preflight sees whether the runbook can work: both clusters answer, the flow
	// runs without errors, the rights for all later steps are there.
	Preflight(ctx context.Context, flow string) (Result, error)
	// VerifyGroups sees where each group stands on the destination; it is not OK
	// if one of them would read a record again or skip one.
	VerifyGroups(ctx context.Context, flow string) (Result, error)
	// VerifyRecords compares both sides' records.
	VerifyRecords(ctx context.Context, flow string) (Result, error)
	// Lag is the number of records at the source that are not on the destination,
	// over all partitions. It reads the source's log ends after it was called:
	// a lag of 0 after a fence means that nothing is left.
	Lag(ctx context.Context, flow string) (records int64, err error)

	// PlanFence returns the rules, as texts, that must be added at the source to
	// deny the principals writing to the flow's topics. Rules that are there
	// already are not among them.
	PlanFence(ctx context.Context, flow string, principals []string) ([]string, error)
	// Fence adds rules; those that are there already are left alone.
	Fence(ctx context.Context, flow string, rules []string) error
	// MissingRules are those of the rules that are not there.
	MissingRules(ctx context.Context, flow string, rules []string) ([]string, error)
	// Unfence removes rules; those that are gone already are no error.
	Unfence(ctx context.Context, flow string, rules []string) error
	// SourceEnds are the log ends of all partitions of the flow at the source.
	SourceEnds(ctx context.Context, flow string) (Ends, error)

	// ApplyGroupOffsets commits the translated offsets of all groups on the
	// destination. If one has no exact translation, it commits none and is not OK.
	ApplyGroupOffsets(ctx context.Context, flow string) (Result, error)

	// PauseFlow declares the flow paused, ResumeFlow declares it running.
	PauseFlow(ctx context.Context, flow string) error
	ResumeFlow(ctx context.Context, flow string) error
}

// Result is what was seen or done.
type Result struct {
	OK      bool
	Summary string // one line, as evidence
	Facts   []Fact
}

// Ends are log end offsets by partition.
type Ends map[flow.TopicPartition]int64

// Digest is equal for equal ends.
func (e Ends) Digest() string {
	h := sha256.New()
	for _, tp := range slices.SortedStableFunc(maps.Keys(e), compareTopicPartition) {
		fmt.Fprintf(h, "%q %d %d\n", tp.Topic, tp.Partition, e[tp])
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (e Ends) facts() []Fact {
	var sum int64
	for _, end := range e {
		sum += end
	}
	facts := []Fact{
		{"partitions", fmt.Sprint(len(e))},
		{"sum of the log ends", fmt.Sprint(sum)},
		{"sha256 of the log ends", e.Digest()},
	}
	const few = 16
	if len(e) <= few {
		for _, tp := range slices.SortedStableFunc(maps.Keys(e), compareTopicPartition) {
			facts = append(facts, Fact{"end of " + tp.String(), fmt.Sprint(e[tp])})
		}
	}
	return facts
}

func compareTopicPartition(a, b flow.TopicPartition) int {
	if c := strings.Compare(a.Topic, b.Topic); c != 0 {
		return c
	}
	return int(a.Partition) - int(b.Partition)
}
