package api

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/lineage/export"
	"github.com/waybillhq/waybill/lineage/search"
)

// Lineage answers where events came from, where their copies lie and who read
// them, as far as the caller may see it.
type Lineage interface {
	LineageGraph
	LineageFolds
	Event(ctx context.Context, caller Caller, at lineage.Address, headers lineage.Headers) (*lineage.Answer, error)
	Topic(ctx context.Context, caller Caller, at lineage.Address, q lineage.PaceQuery) (*lineage.Graph, error)
	// Gaps lists those between two source offsets, last inclusive.
	Gaps(ctx context.Context, caller Caller, from lineage.Address, last int64) (*lineage.GapPage, error)
	// Deeds lists productions or accesses of a range of offsets, Principal what one
	// principal did in a cluster, by topic.
	Deeds(ctx context.Context, caller Caller, q lineage.DeedQuery) (*lineage.DeedPage, error)
	Principal(ctx context.Context, caller Caller, cluster, principal string, limit int, cursor string) (*lineage.PrincipalPage, error)
	// Group lists what a group has read in a cluster, by topic.
	Group(ctx context.Context, caller Caller, cluster, group string, limit int, cursor string) (*lineage.PrincipalPage, error)
	// Search finds events by time, key or trace.
	Search(ctx context.Context, caller Caller, q search.Query) (*search.Page, error)
	// Digests are keyed digests of records, and the offset to go on from, -1 at the end.
	Digests(ctx context.Context, caller Caller, q search.DigestQuery) (rows []search.Digest, next int64, err error)
	// Stream opens a stream of what comes into the index, which is closed when it is
	// not needed any more.
	Stream(ctx context.Context, caller Caller, q lineage.StreamQuery) (LineageStream, error)
	// OpenLineage says of a topic's copies what Topic does, Spans of an event's hops what
	// Event does.
	OpenLineage(ctx context.Context, caller Caller, at lineage.Address) ([]export.RunEvent, error)
	Spans(ctx context.Context, caller Caller, at lineage.Address) (*export.Traces, error)
	// Check reads the whole ledger of a cluster.
	Check(ctx context.Context, cluster string, anchors []lineage.Anchor) (*lineage.CheckReport, error)
}

// LifeQuery picks one life of a topic that was recreated.
type LifeQuery struct {
	TopicID string `query:"topicId" doc:"An earlier life of the topic; the present one if empty"`
}

func registerLineage(h huma.API, l Lineage) {
	denied := []int{http.StatusForbidden, http.StatusNotFound}
	register(h, accountedOperation(http.MethodGet, "/api/v1/lineage/events/{cluster}/{topic}/{partition}/{offset}", "event-lineage", "One event: who produced it, where its copies lie, who read it", denied...),
		func(ctx context.Context, in *struct {
			PositionPath
			LifeQuery
			Headers lineage.Headers `query:"headers" enum:"auto,keys,values,none" default:"auto" doc:"Of the record where the event was asked about and where it was produced: its headers' keys, or values too, and what its batch and producer say; needs Read on the topic. auto: keys, where the cluster does not record who produced; none: no record is read"`
		},
		) (*eventOutput, error) {
			at := lineage.Address{Cluster: in.Cluster, Topic: in.Topic, Partition: in.Partition, Offset: in.Offset, TopicID: in.TopicID}
			a, err := l.Event(ctx, CallerOf(ctx), at, in.Headers)
			if err != nil {
				return nil, err
			}
			return &eventOutput{Body: a}, nil
		})
	register(h, accountedOperation(http.MethodGet, "/api/v1/lineage/topics/{cluster}/{topic}", "topic-lineage", "One topic: what it is copied from and to, how fast and how far behind, and its clients", denied...),
		func(ctx context.Context, in *struct {
			TopicPath
			PaceQuery
		},
		) (*graphOutput, error) {
			g, err := l.Topic(ctx, CallerOf(ctx), in.address(), in.pace())
			if err != nil {
				return nil, err
			}
			return &graphOutput{Body: g}, nil
		})
	register(h, accountedOperation(http.MethodGet, "/api/v1/lineage/gaps/{cluster}/{topic}/{partition}", "topic-gaps", "Offsets of a partition that have no copy, and why", denied...),
		func(ctx context.Context, in *struct {
			TopicPath
			Partition int32 `path:"partition" minimum:"0" maximum:"2147483647"`
			From      int64 `query:"from" minimum:"0" doc:"First source offset"`
			To        int64 `query:"to" minimum:"-1" default:"-1" doc:"Last source offset; -1 is the end"`
		},
		) (*gapsOutput, error) {
			at := in.address()
			at.Partition, at.Offset = in.Partition, in.From
			if err := rangeFault(in.From, in.To); err != nil {
				return nil, err
			}
			if in.To < 0 {
				in.To = math.MaxInt64 - 1
			}
			page, err := l.Gaps(ctx, CallerOf(ctx), at, in.To)
			if err != nil {
				return nil, err
			}
			return &gapsOutput{Body: page}, nil
		})
	registerDeeds(h, l)
	registerSearch(h, l)
	registerLineageGraph(h, l)
	registerStream(h, l)
	registerExport(h, l)
	registerFolds(h, l)
}

// PageQuery asks for one page of a list.
type PageQuery struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Cursor string `query:"cursor" doc:"next of the page before"`
}

func registerDeeds(h huma.API, l Lineage) {
	denied := []int{http.StatusForbidden, http.StatusNotFound}
	register(h, accountedOperation(http.MethodGet, "/api/v1/lineage/accesses/{cluster}/{topic}/{partition}", "topic-accesses", "Who produced, or who fetched or committed, offsets of a partition", denied...),
		func(ctx context.Context, in *struct {
			TopicPath
			PageQuery
			Partition int32  `path:"partition" minimum:"0" maximum:"2147483647"`
			From      int64  `query:"from" minimum:"0" doc:"First offset"`
			To        int64  `query:"to" minimum:"-1" default:"-1" doc:"Last offset; -1 is the end"`
			Kind      string `query:"kind" enum:"accessed,produced" default:"accessed"`
			Principal string `query:"principal" doc:"Only this one's"`
			Group     string `query:"group" doc:"Only this group's; needs Describe on it, or on the cluster"`
		},
		) (*deedsOutput, error) {
			if err := cmp.Or(rangeFault(in.From, in.To), principalFault("query.principal", in.Principal)); err != nil {
				return nil, err
			}
			at := in.address()
			at.Partition, at.Offset = in.Partition, in.From
			page, err := l.Deeds(ctx, CallerOf(ctx), lineage.DeedQuery{
				At: at, Last: in.To, Produced: in.Kind == "produced", Principal: in.Principal, Group: in.Group, Limit: in.Limit, Cursor: in.Cursor,
			})
			if err != nil {
				return nil, err
			}
			return &deedsOutput{Body: page}, nil
		})
	register(h, accountedOperation(http.MethodGet, "/api/v1/lineage/principals/{cluster}/{principal}", "principal-accesses", "What a principal produced and read in a cluster, by topic", denied...),
		func(ctx context.Context, in *struct {
			PageQuery
			Cluster   string `path:"cluster" doc:"Name of a declared cluster, or its cluster.id"`
			Principal string `path:"principal" doc:"Such as User:billing"`
		},
		) (*principalOutput, error) {
			if err := principalFault("path.principal", in.Principal); err != nil {
				return nil, err
			}
			page, err := l.Principal(ctx, CallerOf(ctx), in.Cluster, in.Principal, in.Limit, in.Cursor)
			if err != nil {
				return nil, err
			}
			return &principalOutput{Body: page}, nil
		})
	register(h, accountedOperation(http.MethodGet, "/api/v1/lineage/groups/{cluster}/{group}", "group-accesses", "What a group has read in a cluster, by topic: needs Describe on it, or on the cluster", denied...),
		func(ctx context.Context, in *struct {
			PageQuery
			Cluster string `path:"cluster" doc:"Name of a declared cluster, or its cluster.id"`
			Group   string `path:"group"`
		},
		) (*principalOutput, error) {
			page, err := l.Group(ctx, CallerOf(ctx), in.Cluster, in.Group, in.Limit, in.Cursor)
			if err != nil {
				return nil, err
			}
			return &principalOutput{Body: page}, nil
		})
	register(h, adminRead("/api/v1/lineage/check/{cluster}", "check-ledger", "What was removed, altered or moved in a ledger: reads all of it", http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *struct {
			Cluster string   `path:"cluster" doc:"Name of a declared cluster"`
			Anchors []string `query:"anchor,explode" maxItems:"1000" doc:"Of an earlier check: finds whether the ledger is another one up to there"`
		},
		) (*checkOutput, error) {
			var anchors []lineage.Anchor
			for _, text := range in.Anchors {
				a, err := lineage.ParseAnchor(text)
				if err != nil {
					return nil, Errorf(http.StatusUnprocessableEntity, "%v", err)
				}
				anchors = append(anchors, a)
			}
			r, err := l.Check(ctx, in.Cluster, anchors)
			if err != nil {
				return nil, err
			}
			return &checkOutput{Body: r}, nil
		})
}

// rangeFault refuses a range that ends before it begins, to which "nothing" is no answer;
// last is inclusive, -1 the end.
func rangeFault(first, last int64) error {
	if last < 0 || last >= first {
		return nil
	}
	e := Errorf(http.StatusUnprocessableEntity, "the range ends at offset %d, before it begins at %d", last, first).WithHint("to is the last offset, inclusive; without it the range goes to the end")
	e.Errors = []Fact{{Location: "query.to", Message: fmt.Sprintf("expected an offset from %d on", first)}}
	return e
}

// principalFault refuses what no cluster calls anybody: a principal is TYPE:NAME, and a
// name alone would be answered with "nothing". "" is everybody.
func principalFault(location, principal string) error {
	if kind, name, ok := strings.Cut(principal, ":"); principal == "" || ok && kind != "" && name != "" {
		return nil
	}
	e := Errorf(http.StatusUnprocessableEntity, "%.80q is not a principal", principal).WithHint("write its type before its name, like User:billing")
	e.Errors = []Fact{{Location: location, Message: "expected TYPE:NAME"}}
	return e
}

type deedsOutput struct{ Body *lineage.DeedPage }

type principalOutput struct{ Body *lineage.PrincipalPage }

type checkOutput struct{ Body *lineage.CheckReport }

// TopicPath names a topic.
type TopicPath struct {
	Cluster string `path:"cluster" doc:"Name of a declared cluster, or its cluster.id"`
	Topic   string `path:"topic"`
	LifeQuery
}

func (p *TopicPath) address() lineage.Address {
	return lineage.Address{Cluster: p.Cluster, Topic: p.Topic, TopicID: p.TopicID}
}

type eventOutput struct{ Body *lineage.Answer }

type graphOutput struct{ Body *lineage.Graph }

type gapsOutput struct{ Body *lineage.GapPage }
