package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/ledger"
	kafkarecord "github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/lineage/search"
	"github.com/waybillhq/waybill/verify"
)

// searchDecode is what one batch may decompress to while records are searched: two
// searches at a time hold so much.
const searchDecode = 32 << 20

// newSearcher searches the declared clusters.
func newSearcher(d *directory) *search.Searcher {
	allowed := func(ctx context.Context, caller search.Caller, cluster string, op acl.Operation, topic string) bool {
		return rights{d}.Allowed(ctx, lineage.Caller(caller), cluster, op, acl.Topic, topic)
	}
	return search.New(search.Config{Allowed: allowed, Open: func(name string) (search.Cluster, string, error) {
		if declared, ok := d.name(name); ok {
			name = declared
		}
		cl, err := d.client(name)
		if errors.Is(err, errNoSuchCluster) {
			return nil, "", fmt.Errorf("%w: %w", search.ErrNotFound, err)
		}
		if err != nil {
			return nil, "", unreachable(err)
		}
		id, err := d.id(name)
		if err != nil {
			return nil, "", unreachable(err)
		}
		return &searchedCluster{name, cl, verify.KafkaCluster(cl)}, id, nil
	}})
}

// Search answers api.Lineage.
func (l *eventLineage) Search(ctx context.Context, caller api.Caller, q search.Query) (*search.Page, error) {
	page, err := l.searcher.Search(ctx, search.Caller(asking(caller)), q)
	return page, searchError(err)
}

func searchError(err error) error {
	switch {
	case errors.Is(err, search.ErrDenied):
		return api.Errorf(http.StatusForbidden, "%v", err).WithHint("for the principal that you are mapped to in that cluster: Read on the topic for what looks into records, Describe for a time alone")
	case errors.Is(err, search.ErrNotFound):
		return api.Errorf(http.StatusNotFound, "%v", err)
	case errors.Is(err, search.ErrInvalid):
		return api.Errorf(http.StatusUnprocessableEntity, "%v", err)
	case errors.Is(err, search.ErrBusy):
		return api.Errorf(http.StatusConflict, "%v", err).WithHint("wait for them, or ask another node")
	}
	return err
}

// searchedCluster is a [search.Cluster] over the node's own client.
type searchedCluster struct {
	name   string
	client *kgo.Client
	reads  verify.Cluster
}

func (c *searchedCluster) Topic(ctx context.Context, name string) (t search.Topic, err error) {
	adm := kadm.NewClient(c.client)
	topics, err := adm.ListTopicsWithInternal(ctx, name)
	if err != nil {
		return t, c.failed("look up the topic", err)
	}
	found := topics[name]
	switch {
	case !topics.Has(name):
		return t, fmt.Errorf("%w: cluster %s shows no topic %s", search.ErrNotFound, c.name, name)
	case found.Err != nil:
		return t, c.failed("look up the topic", found.Err)
	}
	t = search.Topic{ID: ledger.TopicID(found.ID), Partitions: map[int32]search.Bounds{}}
	starts, err := adm.ListStartOffsets(ctx, name)
	if err != nil {
		return t, c.failed("list offsets", err)
	}
	stable, err := adm.ListCommittedOffsets(ctx, name)
	if err != nil {
		return t, c.failed("list offsets", err)
	}
	ends, err := adm.ListEndOffsets(ctx, name)
	if err == nil {
		err = errors.Join(starts.Error(), stable.Error(), ends.Error())
	}
	if err != nil {
		return t, c.failed("list offsets", err)
	}
	for p := range found.Partitions {
		t.Partitions[p] = search.Bounds{Start: starts[name][p].Offset, Stable: stable[name][p].Offset, End: ends[name][p].Offset}
	}
	return t, nil
}

func (c *searchedCluster) After(ctx context.Context, topic string, at time.Time) (map[int32]search.Stamp, error) {
	listed, err := kadm.NewClient(c.client).ListOffsetsAfterMilli(ctx, at.UnixMilli(), topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, c.failed("list offsets by time", err)
	}
	stamps := map[int32]search.Stamp{}
	for p, o := range listed[topic] {
		stamp := search.Stamp{Offset: o.Offset}
		if o.Timestamp >= 0 {
			stamp.Time = time.UnixMilli(o.Timestamp).UTC()
		}
		stamps[p] = stamp
	}
	return stamps, nil
}

func (c *searchedCluster) Read(ctx context.Context, from search.Partition, offset int64, each func(*kafkarecord.Record) bool) (search.Stretch, error) {
	got, err := verify.Scan(ctx, c.reads.Reader(from.Topic, from.TopicID, from.Number), offset, searchDecode, each)
	if err != nil {
		return search.Stretch{}, c.failed("read the topic", err)
	}
	stretch := search.Stretch{Next: got.Next, Bytes: got.Bytes}
	for _, u := range got.Unread {
		stretch.Unread = append(stretch.Unread, search.Unread(u))
	}
	return stretch, nil
}

// failed is an error of the cluster's, and what to do where it is about the node's own
// rights.
func (c *searchedCluster) failed(what string, err error) error {
	problem := api.Errorf(http.StatusServiceUnavailable, "cluster %s: %s: %v", c.name, what, err)
	if errors.Is(err, kerr.TopicAuthorizationFailed) {
		return problem.WithHint("give the principal of the Cluster %s Read and Describe on the topic: the node reads for you", c.name)
	}
	return problem
}
