package offsets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// Cluster is what a [Syncer] asks of the cluster at one end. A partition that has
// no answer is missing from one.
type Cluster interface {
	// Groups lists the groups of consumers, by name.
	Groups(ctx context.Context) (map[string]Group, error)
	// Shares says whether the cluster tells where share groups start, and sets it.
	Shares(ctx context.Context) (tells, sets bool, err error)
	// Dealt says up to where share groups would have come, had they acknowledged in order
	// what they have. It is not told of every partition, nor of every group.
	Dealt(ctx context.Context, shareGroups []Group) (map[string]map[flow.TopicPartition]int64, error)
	// Commits are the committed positions of groups. Those of a group of which a
	// transaction is about to commit some are not settled, and are not had. If only some
	// groups' are not, the others' come with [GroupErrors].
	Commits(ctx context.Context, groups []Group) (map[string]map[flow.TopicPartition]Commit, error)
	// Commit writes positions of a group that has no members, without a leader
	// epoch. If the group has members after all, it returns an error that wraps
	// [ErrActive].
	Commit(ctx context.Context, group Group, at map[flow.TopicPartition]Commit) error
	// Topics are the ids of topics that exist.
	Topics(ctx context.Context, names []string) (map[string]ledger.TopicID, error)
	// Stable are last stable offsets.
	Stable(ctx context.Context, topics []string) (map[flow.TopicPartition]int64, error)
	// Starts are log starts, Ends high watermarks.
	Starts(ctx context.Context, topics []string) (map[flow.TopicPartition]int64, error)
	Ends(ctx context.Context, topics []string) (map[flow.TopicPartition]int64, error)
}

// Group is a group of consumers as a cluster has it.
type Group struct {
	Name, State string
	// Share says that it is a share group (KIP-932), whose positions are where its
	// share-partitions start.
	Share bool
}

// GroupErrors says why something could not be had of some groups, or done with them, by group.
type GroupErrors map[string]error

// errorsSaid is of how many groups an error has the words.
const errorsSaid = 3

func (e GroupErrors) Error() string {
	var said []string
	for i, group := range slices.Sorted(maps.Keys(e)) {
		if i == errorsSaid {
			said = append(said, fmt.Sprintf("and %d groups more", len(e)-i))
			break
		}
		said = append(said, fmt.Sprintf("group %s: %v", group, e[group]))
	}
	return strings.Join(said, "; ")
}

// Unwrap are the errors of all groups, in the order of their names.
func (e GroupErrors) Unwrap() []error {
	var all []error
	for _, group := range slices.Sorted(maps.Keys(e)) {
		all = append(all, e[group])
	}
	return all
}

// err is nil if there is none.
func (e GroupErrors) err() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// perGroup splits an error into what concerns some groups only, and what does not.
func perGroup(err error) (GroupErrors, error) {
	if some, ok := errors.AsType[GroupErrors](err); ok {
		return some, nil
	}
	return nil, err
}

// commitsOf are the commits of groups in a cluster, and why those of some cannot be had.
func commitsOf(ctx context.Context, c Cluster, groups []Group) (map[string]map[flow.TopicPartition]Commit, GroupErrors, error) {
	commits, err := c.Commits(ctx, groups)
	some, err := perGroup(err)
	if some == nil {
		some = GroupErrors{}
	}
	return commits, some, err
}

func sharing(g Group) bool   { return g.Share }
func consuming(g Group) bool { return !g.Share }

func without(groups []Group, which func(Group) bool) []Group {
	return slices.DeleteFunc(slices.Clone(groups), which)
}

func names(groups []Group) []string {
	all := make([]string, len(groups))
	for i, g := range groups {
		all[i] = g.Name
	}
	return all
}

// KafkaCluster is a [Cluster] over a client, which stays the caller's.
func KafkaCluster(cl *kgo.Client) Cluster { return kafkaCluster{cl, kadm.NewClient(cl)} }

type kafkaCluster struct {
	cl  *kgo.Client
	adm *kadm.Client
}

func (k kafkaCluster) Groups(ctx context.Context) (map[string]Group, error) {
	listed, err := k.adm.ListGroups(ctx)
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	groups := map[string]Group{}
	for name, g := range listed {
		// Others (connect) keep no offsets that a consumer would go on from.
		if slices.Contains([]string{"", "consumer", "streams", share}, g.ProtocolType) && !isNotes(name) {
			groups[name] = Group{name, g.State, g.ProtocolType == share}
		}
	}
	return groups, nil
}

func (k kafkaCluster) Commits(ctx context.Context, groups []Group) (map[string]map[flow.TopicPartition]Commit, error) {
	all, failed := k.committed(ctx, names(without(groups, sharing)))
	starts, err := k.starts(ctx, names(without(groups, consuming)))
	maps.Copy(all, starts)
	some, err := perGroup(err)
	maps.Copy(failed, some)
	return all, cmp.Or(err, failed.err())
}

func (k kafkaCluster) Commit(ctx context.Context, group Group, at map[flow.TopicPartition]Commit) error {
	if group.Share {
		return k.start(ctx, group.Name, at)
	}
	return k.commit(ctx, group.Name, at)
}

func (k kafkaCluster) committed(ctx context.Context, groups []string) (map[string]map[flow.TopicPartition]Commit, GroupErrors) {
	all, failed := map[string]map[flow.TopicPartition]Commit{}, GroupErrors{}
	for some := range slices.Chunk(groups, groupsAtOnce) {
		fetched := k.adm.FetchManyOffsets(kadm.RequireStable(ctx), some...)
		for _, name := range some {
			r, ok := fetched[name]
			if !ok { // none of what answered has said anything of it
				r.Err = errNoAnswer
			}
			at, err := settled(r)
			if err != nil {
				failed[name] = fmt.Errorf("fetch its offsets: %w", err)
				continue
			}
			all[name] = at
		}
	}
	return all, failed
}

// groupsAtOnce is of how many groups positions are asked for at once. A group may have
// positions in many partitions, and clients refuse answers above 100 MiB.
const groupsAtOnce = 500

var errNoAnswer = errors.New("the brokers have not answered")

// settled are the positions of a group, if all of them can be had.
func settled(r kadm.FetchOffsetsResponse) (map[flow.TopicPartition]Commit, error) {
	if r.Err != nil && !errors.Is(r.Err, kerr.GroupIDNotFound) {
		return nil, r.Err
	}
	at := map[flow.TopicPartition]Commit{}
	var failed []kadm.OffsetResponse
	for topic, ps := range r.Fetched {
		for n, o := range ps {
			switch {
			case o.Err != nil:
				failed = append(failed, o)
			case o.At >= 0:
				at[flow.TopicPartition{Topic: topic, Partition: n}] = Commit{o.At, o.Metadata}
			}
		}
	}
	if len(failed) == 0 {
		return at, nil
	}
	first := slices.MinFunc(failed, func(a, b kadm.OffsetResponse) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return nil, fmt.Errorf("%s/%d: %w", first.Topic, first.Partition, first.Err)
}

func (k kafkaCluster) commit(ctx context.Context, group string, at map[flow.TopicPartition]Commit) error {
	os := kadm.Offsets{}
	for tp, c := range at {
		// A source's leader epoch means nothing here, and one that is too high
		// stops Java consumers.
		os.Add(kadm.Offset{Topic: tp.Topic, Partition: tp.Partition, At: c.Offset, LeaderEpoch: -1, Metadata: c.Metadata})
	}
	resp, err := k.adm.CommitOffsets(ctx, group, os)
	if err == nil {
		err = resp.Error()
	}
	if err != nil && slices.ContainsFunc(refusals, func(r error) bool { return errors.Is(err, r) }) {
		return fmt.Errorf("commit offsets of group %s: %w: %w", group, ErrActive, err)
	}
	if err != nil {
		return fmt.Errorf("commit offsets of group %s: %w", group, err)
	}
	return nil
}

// refusals are what coordinators answer to a commit that is no member's while the
// group has some: the classic protocol's and KIP-848's.
var refusals = []error{kerr.UnknownMemberID, kerr.IllegalGeneration, kerr.RebalanceInProgress, kerr.StaleMemberEpoch, kerr.FencedMemberEpoch}

func (k kafkaCluster) Topics(ctx context.Context, names []string) (map[string]ledger.TopicID, error) {
	ids := map[string]ledger.TopicID{}
	if len(names) == 0 {
		return ids, nil
	}
	topics, err := k.adm.ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("look up topics: %w", err)
	}
	for _, t := range topics {
		switch {
		case errors.Is(t.Err, kerr.UnknownTopicOrPartition):
		case t.Err != nil:
			return nil, fmt.Errorf("look up topic %s: %w", t.Topic, t.Err)
		default:
			ids[t.Topic] = ledger.TopicID(t.ID)
		}
	}
	return ids, nil
}

func (k kafkaCluster) Stable(ctx context.Context, topics []string) (map[flow.TopicPartition]int64, error) {
	return listed("last stable offsets", topics)(k.adm.ListCommittedOffsets(ctx, topics...))
}

func (k kafkaCluster) Starts(ctx context.Context, topics []string) (map[flow.TopicPartition]int64, error) {
	return listed("log starts", topics)(k.adm.ListStartOffsets(ctx, topics...))
}

func (k kafkaCluster) Ends(ctx context.Context, topics []string) (map[flow.TopicPartition]int64, error) {
	return listed("log ends", topics)(k.adm.ListEndOffsets(ctx, topics...))
}

func listed(what string, topics []string) func(kadm.ListedOffsets, error) (map[flow.TopicPartition]int64, error) {
	return func(l kadm.ListedOffsets, err error) (map[flow.TopicPartition]int64, error) {
		at := map[flow.TopicPartition]int64{}
		if len(topics) == 0 { // asked for nothing, kadm lists everything
			return at, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", what, err)
		}
		l.Each(func(o kadm.ListedOffset) {
			if o.Err == nil {
				at[flow.TopicPartition{Topic: o.Topic, Partition: o.Partition}] = o.Offset
			}
		})
		return at, nil
	}
}
