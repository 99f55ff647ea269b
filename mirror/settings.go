package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/waybillhq/waybill/flow"
)

// What a topic does when nothing else is said (Kafka's defaults).
const (
	defaultMaxMessageBytes = 1048588
	keyMaxMessageBytes     = "max.message.bytes"
	keyTimestampType       = "message.timestamp.type"
	keyMirrorSource        = "mirror.source"
)

// loadTimeout bounds a look at the destination topics of copies that start, which may be
// ten thousand.
const loadTimeout = time.Minute

// topicSettings are what starting copies need to know of destination topics.
type topicSettings struct {
	peer   *peer
	within time.Duration // 0: loadTimeout

	mu     sync.Mutex
	topics map[string]limits
	ends   map[flow.TopicPartition]int64
}

// load reads the settings and log ends of the destination topics of copiers, anew
// each time: an end that was read before a copy wrote more would look like a loss.
// Where the destination does not let us read its configuration, Kafka's defaults
// are assumed: a batch that is too large then shows when it is refused.
// A destination that does not answer is given up after within, and the copies wait.
func (s *topicSettings) load(ctx context.Context, copiers []*copier) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.within, loadTimeout))
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.topics, s.ends = map[string]limits{}, map[flow.TopicPartition]int64{}
	for _, c := range copiers {
		s.topics[c.a.DestinationTopic] = limits{maxBatch: defaultMaxMessageBytes}
	}
	topics := slices.Sorted(maps.Keys(s.topics))
	adm := kadm.NewClient(s.peer.client)
	ends, err := adm.ListEndOffsets(ctx, topics...)
	if some, ok := errors.AsType[*kadm.ShardErrors](err); err != nil && (!ok || some.AllFailed) {
		return fmt.Errorf("list ends of destination topics: %w", err)
	}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil {
			s.ends[flow.TopicPartition{Topic: o.Topic, Partition: o.Partition}] = o.Offset
		}
	})
	configs, err := adm.DescribeTopicConfigs(ctx, topics...)
	if err != nil {
		return fmt.Errorf("describe destination topics: %w", err)
	}
	for _, rc := range configs {
		if _, asked := s.topics[rc.Name]; asked && rc.Err == nil {
			s.topics[rc.Name] = limitsOf(rc.Configs)
		}
	}
	return nil
}

func limitsOf(configs []kadm.Config) limits {
	lim := limits{maxBatch: defaultMaxMessageBytes}
	for _, c := range configs {
		switch value := c.MaybeValue(); c.Key {
		case keyMaxMessageBytes:
			if n, err := strconv.Atoi(value); err == nil && n > 0 {
				lim.maxBatch = n
			}
		case keyTimestampType:
			lim.appendTime = value == "LogAppendTime"
		case "cleanup.policy":
			lim.compacted = strings.Contains(value, "compact")
		case "message.timestamp.before.max.ms":
			lim.before = bound(value)
		case "message.timestamp.after.max.ms":
			lim.after = bound(value)
		case "message.timestamp.difference.max.ms": // before Kafka 3.6
			lim.before = cmp.Or(lim.before, bound(value))
			lim.after = cmp.Or(lim.after, bound(value))
		}
	}
	return lim
}

// bound reads a number of milliseconds; 0 stands for none, and for one that nobody
// lives to see.
func bound(value string) int64 {
	if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > 0 && n < math.MaxInt64/2 {
		return n
	}
	return 0
}

func (s *topicSettings) limits(topic string, maxDecode int) limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	lim, ok := s.topics[topic]
	if !ok {
		lim.maxBatch = defaultMaxMessageBytes
	}
	lim.maxDecode = maxDecode
	return lim
}

// end is where a destination log ended when the settings were read, which was
// before any batch of the copies that are being started.
func (s *topicSettings) end(tp flow.TopicPartition) (end int64, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end, known = s.ends[tp]
	return end, known
}
