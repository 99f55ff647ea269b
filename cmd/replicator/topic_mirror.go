package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// mirrorOf is what a topic of the bundled broker is, or was, a mirror of.
type mirrorOf struct {
	Source  string `json:"source"`
	State   string `json:"state"`
	Failure string `json:"failure,omitempty"`
}

// mirrorPart is a partition of a mirror topic.
type mirrorPart struct {
	WriterEpoch int64 `json:"writerEpoch"`
	SourceEpoch int32 `json:"sourceEpoch"` // of the last record; -1 if there is none, and when it is promoted
	PromotedAt  int64 `json:"promotedAt"`  // -1 until then
	// Ended are the transactions that the promotion aborted.
	Ended []endedTransaction `json:"endedTransactions,omitempty"`
}

type endedTransaction struct {
	ProducerID    int64 `json:"producerId"`
	ProducerEpoch int16 `json:"producerEpoch"`
	FirstOffset   int64 `json:"firstOffset"`
}

func mirrorPartOf(state mirrorwire.State, p mirrorwire.DescribeResponsePartition) *mirrorPart {
	m := &mirrorPart{WriterEpoch: p.WriterEpoch, SourceEpoch: p.LastEpoch, PromotedAt: p.PromotedAt}
	if state == mirrorwire.Promoted {
		m.SourceEpoch = -1 // the last record is this cluster's
	}
	for _, e := range p.Ended {
		m.Ended = append(m.Ended, endedTransaction(e))
	}
	return m
}

// dash is a number, or a dash where there is none.
func dash(n int64) string {
	if n < 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// addMirror adds to a description what the topic is as a mirror, if it is one.
func (d *topicDescription) addMirror(m *mirrorwire.DescribeResponseTopic) {
	if m == nil || m.State == mirrorwire.NoMirror {
		return
	}
	d.Mirror = &mirrorOf{Source: m.Source, State: mirrorwire.StateName(m.State), Failure: m.Reason}
	for i := range min(len(m.Partitions), len(d.Partitions)) {
		d.Partitions[i].Mirror = mirrorPartOf(m.State, m.Partitions[i])
	}
}

func (e endedTransaction) String() string {
	return fmt.Sprintf("the transaction of producer %d epoch %d that began at %d was aborted; its source may have committed it since", e.ProducerID, e.ProducerEpoch, e.FirstOffset)
}

// mirrorRequest asks a broker of the bundled kind, over a connection of its own:
// the general client knows no requests but Kafka's.
func (c *clusterFlags) mirrorRequest(ctx context.Context, req kmsg.Request) (_ kmsg.Response, err error) {
	cl, err := c.cluster()
	if err != nil {
		return nil, err
	}
	var unreachable []error
	for _, addr := range cl.Spec.BootstrapServers {
		conn, err := kafka.Dial(ctx, cl, addr, "replicator-cli")
		if err != nil {
			unreachable = append(unreachable, err)
			continue
		}
		resp, err := conn.Request(ctx, req, mirrorwire.MaxVersion)
		return resp, errors.Join(err, conn.Close())
	}
	return nil, errors.Join(unreachable...)
}

// describeMirror is nil if the cluster has no mirror topics.
func (c *clusterFlags) describeMirror(ctx context.Context, name string) (*mirrorwire.DescribeResponseTopic, error) {
	resp, err := c.mirrorRequest(ctx, &mirrorwire.DescribeRequest{Topics: []mirrorwire.TopicRef{{Topic: name}}})
	var unknown *kafka.VersionError
	if errors.As(err, &unknown) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("describe mirror topic %s: %w", name, err)
	}
	return oneMirror("describe mirror topic "+name, resp.(*mirrorwire.DescribeResponse).Topics)
}

// alterMirror changes the state of a mirror topic and returns what it is then.
func (c *clusterFlags) alterMirror(ctx context.Context, doing, name string, op mirrorwire.Op) (*mirrorwire.DescribeResponseTopic, error) {
	doing += " topic " + name
	resp, err := c.mirrorRequest(ctx, &mirrorwire.AlterRequest{Topics: []mirrorwire.AlterRequestTopic{{Topic: name, Op: op}}})
	var unknown *kafka.VersionError
	if errors.As(err, &unknown) {
		return nil, fmt.Errorf("%s: the cluster has no mirror topics: %w", doing, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return oneMirror(doing, resp.(*mirrorwire.AlterResponse).Topics)
}

func oneMirror(doing string, topics []mirrorwire.DescribeResponseTopic) (*mirrorwire.DescribeResponseTopic, error) {
	if len(topics) != 1 {
		return nil, fmt.Errorf("%s: the broker answers about %d topics", doing, len(topics))
	}
	if err := kerr.ErrorForCode(topics[0].ErrorCode); err != nil {
		text := ""
		if topics[0].ErrorMessage != nil {
			text = *topics[0].ErrorMessage
		}
		return nil, refused(doing, err, text)
	}
	return &topics[0], nil
}

// topicMirror is a verb that changes the state of a mirror topic.
func topicMirror(at *clusterFlags, verb, short, long string, op mirrorwire.Op) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Long: long, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return at.ask(cmd.Context(), func(ctx context.Context, _ *kgo.Client) error {
				m, err := at.alterMirror(ctx, verb, args[0], op)
				if err != nil {
					return err
				}
				out := cmd.OutOrStdout()
				fmt.Fprintf(out, "%s, a mirror of %s, is %s\n", m.Topic, m.Source, mirrorwire.StateName(m.State))
				for _, p := range m.Partitions {
					for _, e := range p.Ended {
						fmt.Fprintf(out, "partition %d: %s\n", p.Partition, endedTransaction(e))
					}
				}
				return nil
			})
		},
	}
}

func mirrorVerbs(at *clusterFlags) []*cobra.Command {
	const rights = "\n\nNeeds Alter on the topic and ClusterAction on the cluster. May be repeated."
	return []*cobra.Command{
		topicMirror(at, "pause", "Let a mirror topic take nothing until it is resumed",
			"Let a mirror topic of the bundled broker take nothing until it is resumed."+rights, mirrorwire.Pause),
		topicMirror(at, "resume", "Let a mirror topic that is paused or has failed go on",
			"Let a mirror topic of the bundled broker that is paused or has failed go on."+rights, mirrorwire.Resume),
		topicMirror(at, "promote", "Make a mirror topic an ordinary one that takes writes",
			"Make a mirror topic of the bundled broker an ordinary one that takes writes, for good.\nTransactions that its source has open are aborted and listed."+rights, mirrorwire.Promote),
	}
}
