package lineage

import (
	"context"
	"time"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// Live says what no ledger does: how clusters stand now, and what is declared.
// Clusters are named by cluster.id; an error is why something is not known. It bounds
// how long it takes, and may be asked from several goroutines at once. Whatever it
// tells is shown to those only who may see the topics, and what is in records to those
// who may read them.
type Live interface {
	// Behind is why the index may not have the newest of a cluster's ledger, "" if it has.
	Behind(cluster string) string
	// Ends are high watermarks of topics, of these lives of them: partitions of others
	// are left out.
	Ends(ctx context.Context, cluster string, topics map[string]ledger.TopicID) (map[flow.TopicPartition]int64, error)
	// Groups are positions that consumer groups have committed in these topics; more is
	// why there may be others, "" if there are none.
	Groups(ctx context.Context, cluster string, topics []string) (positions []GroupPosition, more string, err error)
	// Waits are for how long the oldest record missing has been at the source, as the
	// owners of copies measure it.
	Waits(ctx context.Context) (map[CopyName]time.Duration, error)
	// Record is the committed record at an offset, read with one bounded fetch; an error is
	// why there is none to be seen.
	Record(ctx context.Context, at At) (*Found, error)
	// Declared are the flows of the fleet.
	Declared() []DeclaredFlow
}

// GroupPosition is where a consumer group goes on in a partition.
type GroupPosition struct {
	Group string
	At    flow.TopicPartition
	Next  int64
}

// CopyName is a copy as its fleet calls it.
type CopyName struct {
	Fleet, Flow, SourceTopic string
	Partition                int32
}

// DeclaredFlow is a flow as it is declared, and the runbooks that are about it.
type DeclaredFlow struct {
	Fleet, Flow         string
	Source, Destination string // cluster.id, "" if it is not known
	Topics              func(name string) bool
	Runbooks            []string
}
