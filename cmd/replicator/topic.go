package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/ledger"
)

func newTopic() *cobra.Command {
	var at clusterFlags
	cmd := &cobra.Command{
		Use:   "topic",
		Short: "List, create, describe and delete topics of a cluster; mirror topics of the bundled broker",
		Example: `  replicator topic list -f clusters.yaml --cluster us
  replicator topic create quakes -b 127.0.0.1:9092 --partitions 6 --config retention.ms=-1
  replicator topic promote orders -b 127.0.0.1:9092`,
	}
	at.flags(cmd)
	return family(cmd, append(mirrorVerbs(&at), topicList(&at), topicCreate(&at), topicDescribe(&at), topicDelete(&at))...)
}

// topicRow is a topic in a list.
type topicRow struct {
	Name       string `json:"name"`
	ID         string `json:"id"`
	Partitions int    `json:"partitions"`
	Records    int64  `json:"records"` // log end less log start; -1 if not known
}

func topicList(at *clusterFlags) *cobra.Command {
	var out output
	var internal bool
	cmd := &cobra.Command{
		Use: "list", Short: "Topics and how much is in them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return at.ask(cmd.Context(), func(ctx context.Context, cl *kgo.Client) error {
				rows, err := listTopics(ctx, kadm.NewClient(cl), internal)
				if err != nil {
					return err
				}
				return out.print(cmd.OutOrStdout(), rows, func(t *table) {
					t.row("TOPIC", "PARTITIONS", "RECORDS", "ID")
					for _, r := range rows {
						t.row(r.Name, r.Partitions, records(r.Records), r.ID)
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&internal, "internal", false, "internal topics too (names that begin with __)")
	out.flag(cmd)
	return cmd
}

func listTopics(ctx context.Context, adm *kadm.Client, internal bool) ([]topicRow, error) {
	topics, err := adm.ListTopicsWithInternal(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	rows := []topicRow{}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(topics)) {
		if strings.HasPrefix(name, "__") && !internal {
			continue
		}
		rows = append(rows, topicRow{Name: name, ID: ledger.TopicID(topics[name].ID).String(), Partitions: len(topics[name].Partitions)})
		names = append(names, name)
	}
	if len(names) == 0 {
		return rows, nil // asking for no topic's offsets would mean all
	}
	starts, err := adm.ListStartOffsets(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("list offsets: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("list offsets: %w", err)
	}
	for i := range rows {
		for p, end := range ends[rows[i].Name] {
			start := starts[rows[i].Name][p]
			if start.Err != nil || end.Err != nil {
				rows[i].Records = -1
				break
			}
			rows[i].Records += end.Offset - start.Offset
		}
	}
	return rows, nil
}

func topicCreate(at *clusterFlags) *cobra.Command {
	var partitions int32
	var replication int16
	var configs map[string]string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a topic", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			values := map[string]*string{}
			for k, v := range configs {
				values[k] = &v
			}
			return at.ask(cmd.Context(), func(ctx context.Context, cl *kgo.Client) error {
				resp, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, replication, values, args[0])
				if err != nil {
					return notCreated(args[0], err, resp.ErrMessage)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "created %s, %s, id %s\n", args[0], several(int(partitions), "partition"), ledger.TopicID(resp.ID))
				return nil
			})
		},
	}
	cmd.Flags().Int32VarP(&partitions, "partitions", "p", 1, "number of partitions")
	cmd.Flags().Int16Var(&replication, "replication-factor", -1, "copies of each; -1 is the cluster's default")
	cmd.Flags().StringToStringVar(&configs, "config", nil, "topic configuration, key=value")
	return cmd
}

// notCreated is why there is no such topic.
func notCreated(topic string, err error, message string) error {
	return refused("create topic "+topic, err, message)
}

// refused is an error with what the broker adds to its code.
func refused(doing string, err error, message string) error {
	if message == "" || strings.Contains(err.Error(), message) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w (%s)", doing, err, message)
}

// topicDescription is all about one topic.
type topicDescription struct {
	Name       string         `json:"name"`
	ID         string         `json:"id"`
	Mirror     *mirrorOf      `json:"mirror,omitempty"` // nil if it never was one
	Partitions []partitionRow `json:"partitions"`
}

// partitionRow is a partition in a description.
type partitionRow struct {
	Partition int32 `json:"partition"`
	Leader    int32 `json:"leader"`
	Epoch     int32 `json:"leaderEpoch"`
	Start     int64 `json:"logStart"`
	End       int64 `json:"logEnd"`
	Stable    int64 `json:"lastStable"`

	Mirror *mirrorPart `json:"mirror,omitempty"`
}

func (d *topicDescription) draw(t *table) {
	if d.Mirror == nil {
		t.row("PARTITION", "LEADER", "EPOCH", "START", "END", "STABLE")
		for _, r := range d.Partitions {
			t.row(r.Partition, r.Leader, r.Epoch, r.Start, r.End, r.Stable)
		}
		return
	}
	state := d.Mirror.State
	if d.Mirror.Failure != "" {
		state += ": " + d.Mirror.Failure
	}
	t.line(fmt.Sprintf("a mirror of %s, %s", d.Mirror.Source, state))
	t.row("PARTITION", "LEADER", "EPOCH", "START", "END", "STABLE", "WRITER-EPOCH", "SOURCE-EPOCH", "PROMOTED-AT")
	for _, r := range d.Partitions {
		m := cmp.Or(r.Mirror, &mirrorPart{SourceEpoch: -1, PromotedAt: -1})
		t.row(r.Partition, r.Leader, r.Epoch, r.Start, r.End, r.Stable, m.WriterEpoch, dash(int64(m.SourceEpoch)), dash(m.PromotedAt))
	}
	for _, r := range d.Partitions {
		if r.Mirror == nil {
			continue
		}
		for _, e := range r.Mirror.Ended {
			t.line(fmt.Sprintf("partition %d: %s", r.Partition, e))
		}
	}
}

func topicDescribe(at *clusterFlags) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use: "describe NAME", Short: "Partitions of a topic, their leaders and offsets; what a mirror topic is", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return at.ask(cmd.Context(), func(ctx context.Context, cl *kgo.Client) error {
				d, err := describeTopic(ctx, cl, args[0])
				if err != nil {
					return err
				}
				m, err := at.describeMirror(ctx, args[0])
				if err != nil {
					return err
				}
				d.addMirror(m)
				return out.print(cmd.OutOrStdout(), d, d.draw)
			})
		},
	}
	out.flag(cmd)
	return cmd
}

func describeTopic(ctx context.Context, cl *kgo.Client, name string) (*topicDescription, error) {
	adm := kadm.NewClient(cl)
	topics, err := adm.ListTopicsWithInternal(ctx, name)
	if err == nil {
		err = topics[name].Err
	}
	if err != nil {
		return nil, fmt.Errorf("describe topic %s: %w", name, err)
	}
	starts, err1 := adm.ListStartOffsets(ctx, name)
	ends, err2 := adm.ListEndOffsets(ctx, name)
	stable, err3 := adm.ListCommittedOffsets(ctx, name)
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return nil, fmt.Errorf("list offsets of %s: %w", name, err)
		}
	}
	d := &topicDescription{Name: name, ID: ledger.TopicID(topics[name].ID).String(), Partitions: []partitionRow{}}
	for _, p := range topics[name].Partitions.Sorted() {
		d.Partitions = append(d.Partitions, partitionRow{
			Partition: p.Partition, Leader: p.Leader, Epoch: p.LeaderEpoch,
			Start: starts[name][p.Partition].Offset, End: ends[name][p.Partition].Offset, Stable: stable[name][p.Partition].Offset,
		})
	}
	return d, nil
}

func topicDelete(at *clusterFlags) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a topic and all that is in it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return withCode(exitInvalid, fmt.Errorf("delete topic %s: its records are gone afterwards; add --yes if that is meant", args[0]))
			}
			return at.ask(cmd.Context(), func(ctx context.Context, cl *kgo.Client) error {
				if _, err := kadm.NewClient(cl).DeleteTopic(ctx, args[0]); err != nil {
					return fmt.Errorf("delete topic %s: %w", args[0], err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", args[0])
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "yes, delete it")
	return cmd
}
