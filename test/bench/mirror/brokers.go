package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/internal/ledger"
)

// node is a broker of its own, a cluster of one.
type node struct {
	addr string
	pid  int
	stop func()
}

// kinds start a broker with its data in a folder, by the names of -between.
var kinds = map[string]func(ctx context.Context, dir string) (*node, error){"bundled": bundled}

// bundled starts a bundled broker as a process of its own.
func bundled(ctx context.Context, dir string) (*node, error) {
	ctx, stop := context.WithCancel(ctx)
	p, err := begin(ctx, "broker", job{Dir: filepath.Join(dir, "data")})
	if err != nil {
		stop()
		return nil, err
	}
	n := &node{pid: p.cmd.Process.Pid, stop: func() {
		stop()
		_ = p.cmd.Wait() // it was told to end
	}}
	if n.addr, err = p.line(); err != nil {
		n.stop()
		return nil, fmt.Errorf("bundled broker: %w", err)
	}
	return n, nil
}

// serveBroker is the process of a bundled broker.
func serveBroker(ctx context.Context, j job) error {
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.Listeners[0].Addr = j.Dir, "127.0.0.1:0"
	b, err := broker.New(cfg)
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-b.Ready():
			fmt.Println(b.Addr(cfg.Listeners[0].Name))
		case <-ctx.Done():
		}
	}()
	return b.Run(ctx)
}

// pair are two clusters between which records are copied.
type pair struct {
	kind         string
	source, sink *node
	dir          string
	topics       int // made so far
}

func openPair(ctx context.Context, kind string) (p *pair, err error) {
	start := kinds[kind]
	if start == nil {
		return nil, fmt.Errorf("there are no %q to copy between: stand-ins, bundled, or kafka with -tags interop", kind)
	}
	p = &pair{kind: kind}
	if p.dir, err = os.MkdirTemp("", "waybill-bench-"); err != nil {
		return nil, err
	}
	for _, n := range []**node{&p.source, &p.sink} {
		dir, err := os.MkdirTemp(p.dir, "")
		if err == nil {
			*n, err = start(ctx, dir)
		}
		if err != nil {
			p.close()
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
	}
	return p, nil
}

func (p *pair) close() {
	for _, n := range []*node{p.source, p.sink} {
		if n != nil {
			n.stop()
		}
	}
	_ = os.RemoveAll(p.dir) // a leftover in a temporary folder harms nobody
}

// name is one that no topic of the pair has.
func (p *pair) name() string {
	p.topics++
	return fmt.Sprintf("bench-%d", p.topics)
}

// createSink makes the topic that one who copies writes to.
func (p *pair) createSink(ctx context.Context, who string, j job) error {
	switch who {
	case "mm2": // it makes its own
		return nil
	case "preserve":
		cl, err := kgo.NewClient(kgo.SeedBrokers(p.source.addr))
		if err != nil {
			return err
		}
		defer cl.Close()
		found, err := kadm.NewClient(cl).Metadata(ctx, j.From)
		if err != nil {
			return err
		}
		id := found.Topics[j.From].ID
		return createTopic(ctx, p.sink, j.To, j.Cell.Partitions, "mirror.source", fmt.Sprintf("%s/%s", found.Cluster, ledger.TopicID(id).String()))
	}
	return createTopic(ctx, p.sink, j.To, j.Cell.Partitions)
}

// createTopic makes a topic that keeps records of any age; configs are names and values.
func createTopic(ctx context.Context, n *node, name string, partitions int, configs ...string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.addr))
	if err != nil {
		return err
	}
	defer cl.Close()
	all := map[string]*string{"retention.ms": kadm.StringPtr("-1")}
	for i := 0; i < len(configs); i += 2 {
		all[configs[i]] = &configs[i+1]
	}
	const each = 500 // more at once are refused by brokers with small limits
	made, err := kadm.NewClient(cl).CreateTopic(ctx, int32(min(partitions, each)), 1, all, name)
	if err := errors.Join(err, made.Err); err != nil {
		return fmt.Errorf("create topic %s: %w", name, err)
	}
	for have := min(partitions, each); have < partitions; {
		have = min(have+each, partitions)
		grown, err := kadm.NewClient(cl).UpdatePartitions(ctx, have, name)
		if err := errors.Join(err, grown.Error()); err != nil {
			return fmt.Errorf("grow topic %s: %w", name, err)
		}
	}
	return await(ctx, "leaders of "+name, func() (bool, error) {
		list, err := kadm.NewClient(cl).ListEndOffsets(ctx, name)
		err = errors.Join(err, list.Error())
		return err == nil && len(list[name]) == partitions, err
	})
}

// load fills a topic with a cell's batches as they are.
func load(ctx context.Context, n *node, name string, c cell) error {
	if err := createTopic(ctx, n, name, c.Partitions); err != nil {
		return err
	}
	batch, err := c.batch()
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.addr), kgo.BrokerMaxWriteBytes(100<<20), kgo.MaxVersions(kversion.V3_9_0())) // later ones name topics by id
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 60_000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = name
	for p := range c.Partitions {
		part := kmsg.NewProduceRequestTopicPartition()
		part.Partition, part.Records = int32(p), batch
		t.Partitions = append(t.Partitions, part)
	}
	req.Topics = append(req.Topics, t)
	for range c.perPartition() / int64(c.Batch) {
		resp, err := req.RequestWith(ctx, cl)
		if err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return fmt.Errorf("load %s/%d: %w", name, p.Partition, err)
				}
			}
		}
	}
	return nil
}

// ends is how many offsets a topic has, over all partitions; 0 if there is none.
func ends(ctx context.Context, cl *kadm.Client, name string) (sum int64, err error) {
	list, err := cl.ListEndOffsets(ctx, name)
	if err != nil {
		return 0, err
	}
	list.Each(func(o kadm.ListedOffset) { sum += max(0, o.Offset) })
	return sum, nil
}

// run copies a cell once between two brokers. The topic with its records is there.
func (p *pair) run(ctx context.Context, who, from string, c cell) (usage, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	j := job{Cell: c, Source: p.source.addr, Sink: p.sink.addr, From: from, To: p.name()}
	if err := p.createSink(ctx, who, j); err != nil {
		return usage{}, err
	}
	u, err := copyOnce(ctx, who, j)
	if err != nil || who == "mm2" {
		return u, err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(p.sink.addr))
	if err != nil {
		return usage{}, err
	}
	defer cl.Close()
	if sum, err := ends(ctx, kadm.NewClient(cl), j.To); err != nil || sum < c.records() {
		return usage{}, fmt.Errorf("%s, %s: the sink has %d offsets, want %d at least (%w)", who, c.Name, sum, c.records(), err)
	}
	return u, nil
}

// await asks again until ok, or the context ends.
func await(ctx context.Context, what string, ok func() (bool, error)) error {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		is, err := ok()
		if is {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(ctx.Err(), err))
		case <-look.C:
		}
	}
}
