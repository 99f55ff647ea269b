package broker

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/group"
	"github.com/waybillhq/waybill/internal/record"
)

// setting is one row of the catalogue of topic configurations. DescribeConfigs,
// AlterConfigs and CreateTopics derive from it.
type setting struct {
	name  string
	kind  kmsg.ConfigType
	def   string
	check func(value string) error
	doc   string
}

const (
	maxInt64 = "9223372036854775807"

	noTiers  = "There is no remote storage: nothing goes by it."
	ownLevel = "The broker compresses at a level of its own: nothing goes by it."
)

// topicSettings are the topic configurations that this broker has, with Kafka's
// names and defaults. What is not here is refused: INVALID_CONFIG.
var topicSettings = []setting{
	{"cleanup.policy", kmsg.ConfigTypeList, "delete", listOf("delete", "compact"), "What happens to old data: deleted by age and size, or all but the last record of each key; empty: kept. A compacted topic refuses records without a key."},
	{"compression.gzip.level", kmsg.ConfigTypeInt, "-1", either(between(-1, -1), between(1, 9)), ownLevel},
	{"compression.lz4.level", kmsg.ConfigTypeInt, "9", between(1, 17), ownLevel},
	{"compression.type", kmsg.ConfigTypeString, "producer", oneOf("gzip", "snappy", "lz4", "zstd", "uncompressed", "producer"), "How batches are stored. producer: as producers compressed them. Else the broker compresses anew what comes otherwise, which costs it processor time."},
	{"compression.zstd.level", kmsg.ConfigTypeInt, "3", between(-131072, 22), ownLevel},
	{"delete.retention.ms", kmsg.ConfigTypeLong, "86400000", between(0, math.MaxInt64), "How long compaction keeps tombstones, and the markers of transactions of which no record is left, after it first saw them."},
	{"file.delete.delay.ms", kmsg.ConfigTypeLong, "60000", between(0, math.MaxInt64), "Deleted segments are gone when the last reader has let go of them, however long that takes."},
	{"flush.messages", kmsg.ConfigTypeLong, "1", between(1, math.MaxInt64), "1: a record is on disk before it is acknowledged or served. More: it is acknowledged when the operating system has it, and synced after so many records at the latest; killing the broker loses nothing, a power cut what was not synced."},
	{"flush.ms", kmsg.ConfigTypeLong, maxInt64, between(0, math.MaxInt64), "With flush.messages above 1: after what time a record is synced at the latest, to the second. A minute is the most; 0 syncs before every acknowledgement."},
	{"follower.replication.throttled.replicas", kmsg.ConfigTypeList, "", throttledReplicas, "Replicas that fetch from their leaders at a bounded rate. There is one replica, which fetches from none."},
	{"index.interval.bytes", kmsg.ConfigTypeInt, "4096", between(0, math.MaxInt32), "About how many bytes of log one index entry stands for."},
	{"leader.replication.throttled.replicas", kmsg.ConfigTypeList, "", throttledReplicas, "Replicas that serve their followers at a bounded rate. There is one replica, which has none."},
	{"local.retention.bytes", kmsg.ConfigTypeLong, "-2", between(-2, math.MaxInt64), noTiers},
	{"local.retention.ms", kmsg.ConfigTypeLong, "-2", between(-2, math.MaxInt64), noTiers},
	{"max.compaction.lag.ms", kmsg.ConfigTypeLong, maxInt64, between(1, math.MaxInt64), "How long a record may remain uncompacted; its segment ends and is compacted then, however little there is."},
	{"max.message.bytes", kmsg.ConfigTypeInt, "1048588", between(0, math.MaxInt32-1), "The largest batch that is accepted."},
	{"message.timestamp.after.max.ms", kmsg.ConfigTypeLong, "3600000", between(0, math.MaxInt64), "How far in the future a record's timestamp may lie."},
	{"message.timestamp.before.max.ms", kmsg.ConfigTypeLong, maxInt64, between(0, math.MaxInt64), "How far in the past a record's timestamp may lie."},
	{"message.timestamp.type", kmsg.ConfigTypeString, "CreateTime", oneOf("CreateTime", "LogAppendTime"), "Whether the producer or the broker sets timestamps."},
	{"min.cleanable.dirty.ratio", kmsg.ConfigTypeDouble, "0.5", ratio, "The part of a log, by size, that must be new for compaction to begin."},
	{"min.compaction.lag.ms", kmsg.ConfigTypeLong, "0", between(0, math.MaxInt64), "How long a record stays uncompacted at least."},
	{"min.insync.replicas", kmsg.ConfigTypeInt, "1", between(1, math.MaxInt32), "How many replicas must have a record for acks=all. There is one."},
	{"preallocate", kmsg.ConfigTypeBoolean, "true", boolean, "Segments are preallocated in any case."},
	{"remote.storage.enable", kmsg.ConfigTypeBoolean, "false", oneOf("false"), noTiers},
	{"retention.bytes", kmsg.ConfigTypeLong, "-1", between(-1, math.MaxInt64), "The size of a partition beyond which old segments are deleted."},
	{"retention.ms", kmsg.ConfigTypeLong, "604800000", between(-1, math.MaxInt64), "The age beyond which segments are deleted."},
	{"segment.bytes", kmsg.ConfigTypeInt, "1073741824", between(14, math.MaxInt32), "The size at which a new segment begins."},
	{"segment.index.bytes", kmsg.ConfigTypeInt, "10485760", between(4, math.MaxInt32), "Indexes are as large as their entries; a segment does not end for them."},
	{"segment.jitter.ms", kmsg.ConfigTypeLong, "0", between(0, math.MaxInt64), "By how much segment.ms is shortened at most, by chance, so that segments do not end all at once."},
	{"segment.ms", kmsg.ConfigTypeLong, "604800000", between(1, math.MaxInt64), "The age at which a new segment begins."},
	{"unclean.leader.election.enable", kmsg.ConfigTypeBoolean, "false", boolean, "Whether a replica that lacks records may lead. There is one replica."},
}

func topicSetting(name string) (setting, bool) {
	at, ok := slices.BinarySearchFunc(topicSettings, name, func(s setting, name string) int { return strings.Compare(s.name, name) })
	if !ok {
		return setting{}, false
	}
	return topicSettings[at], true
}

// checkTopicConfigs says what is wrong with a topic's configuration.
func checkTopicConfigs(configs map[string]string) error {
	for name, value := range configs {
		s, ok := topicSetting(name)
		if !ok {
			if strings.HasPrefix(name, mirrorSetting) {
				return fmt.Errorf("topic config %q is read-only", name)
			}
			return fmt.Errorf("unknown topic config %q", name)
		}
		if err := s.check(value); err != nil {
			return fmt.Errorf("topic config %s=%q: %w", name, value, err)
		}
	}
	return nil
}

// check says what is wrong with a topic's configuration, the broker's defaults
// included where it has no value of its own.
func (s *liveSettings) check(configs map[string]string) error {
	if err := checkTopicConfigs(configs); err != nil {
		return err
	}
	return checkLags(s.complete(configs))
}

// checkLags refuses topics that compaction would have to leave alone and to take
// at the same time.
func checkLags(configs map[string]string) error {
	if c := topicConfigOf(configs, logShare{}).log; c.MinCompactionLag > c.MaxCompactionLag {
		return fmt.Errorf("min.compaction.lag.ms (%d) is above max.compaction.lag.ms (%d)",
			c.MinCompactionLag.Milliseconds(), c.MaxCompactionLag.Milliseconds())
	}
	return nil
}

func oneOf(values ...string) func(string) error {
	return func(v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("want one of %s", strings.Join(values, ", "))
		}
		return nil
	}
}

func boolean(v string) error { return oneOf("true", "false")(strings.ToLower(v)) }

// listOf takes any of the values, separated by commas.
func listOf(values ...string) func(string) error {
	return func(v string) error {
		for one := range strings.SplitSeq(v, ",") {
			if one = strings.TrimSpace(one); one != "" && !slices.Contains(values, one) {
				return fmt.Errorf("want any of %s", strings.Join(values, ", "))
			}
		}
		return nil
	}
}

// either takes what one of the checks takes; the last one says what is wanted.
func either(first, second func(string) error) func(string) error {
	return func(v string) error {
		if first(v) == nil {
			return nil
		}
		return second(v)
	}
}

func between(least, most int64) func(string) error {
	return func(v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < least || n > most {
			return fmt.Errorf("want a number from %d to %d", least, most)
		}
		return nil
	}
}

var partitionsAndBrokers = regexp.MustCompile(`^(\d+:\d+(,\d+:\d+)*)?$`)

func throttledReplicas(v string) error {
	if v != "*" && !partitionsAndBrokers.MatchString(v) {
		return errors.New("want * or a list of partition:broker")
	}
	return nil
}

func ratio(v string) error {
	if f, err := strconv.ParseFloat(v, 64); err != nil || f < 0 || f > 1 {
		return fmt.Errorf("want a number from 0 to 1")
	}
	return nil
}

// topicConfig is a topic's configuration as the broker uses it.
type topicConfig struct {
	log           commitlog.Config
	compacted     bool
	appendTime    bool // LogAppendTime
	beforeMax     int64
	afterMax      int64
	minISR        int
	maxBatchBytes int
	codec         record.Codec // asProduced, or what all batches are stored with
}

// asProduced is the codec that a batch comes with.
const asProduced record.Codec = -1

// storedAs is the codec for a batch that came with another.
func (c *topicConfig) storedAs(came record.Codec) record.Codec {
	if c.codec == asProduced {
		return came
	}
	return c.codec
}

// codecOf is what a compression.type stands for.
func codecOf(name string) record.Codec {
	switch name {
	case "uncompressed":
		return record.None
	case "gzip":
		return record.Gzip
	case "snappy":
		return record.Snappy
	case "lz4":
		return record.LZ4
	case "zstd":
		return record.Zstd
	}
	return asProduced
}

// topicConfigOf reads configs that checkTopicConfigs has passed.
func topicConfigOf(configs map[string]string, share logShare) topicConfig {
	text := func(name string) string {
		if v, ok := configs[name]; ok {
			return v
		}
		s, _ := topicSetting(name)
		return s.def
	}
	number := func(name string) int64 {
		n, err := strconv.ParseInt(text(name), 10, 64)
		if err != nil { // the store was written by a version with other rules
			s, _ := topicSetting(name)
			n, _ = strconv.ParseInt(s.def, 10, 64)
		}
		return n
	}
	fraction := func(name string) float64 {
		f, err := strconv.ParseFloat(text(name), 64)
		if err != nil {
			s, _ := topicSetting(name)
			f, _ = strconv.ParseFloat(s.def, 64)
		}
		return f
	}
	policy := text("cleanup.policy")
	c := topicConfig{
		log:           commitlog.DefaultConfig(),
		compacted:     strings.Contains(policy, "compact"),
		appendTime:    text("message.timestamp.type") == "LogAppendTime",
		beforeMax:     number("message.timestamp.before.max.ms"),
		afterMax:      number("message.timestamp.after.max.ms"),
		minISR:        int(number("min.insync.replicas")),
		maxBatchBytes: int(number("max.message.bytes")),
		codec:         codecOf(text("compression.type")),
	}
	c.log.SegmentBytes = number("segment.bytes")
	c.log.SegmentAge = milliseconds(number("segment.ms"))
	c.log.IndexInterval = max(1, number("index.interval.bytes"))
	c.log.MaxBatchBytes = max(1, c.maxBatchBytes)
	c.log.RetentionAge, c.log.RetentionBytes = -1, -1
	if strings.Contains(policy, "delete") {
		c.log.RetentionAge = milliseconds(number("retention.ms"))
		c.log.RetentionBytes = number("retention.bytes")
	}
	c.log.VerifyTransactions = true
	c.log.SegmentJitter = milliseconds(number("segment.jitter.ms"))
	c.log.FlushMessages, c.log.FlushAge = number("flush.messages"), milliseconds(number("flush.ms"))
	c.log.Compact = c.compacted
	c.log.MinDirtyRatio = fraction("min.cleanable.dirty.ratio")
	c.log.MinCompactionLag = milliseconds(number("min.compaction.lag.ms"))
	c.log.MaxCompactionLag = milliseconds(number("max.compaction.lag.ms"))
	c.log.DeleteRetention = milliseconds(number("delete.retention.ms"))
	c.log.Syncs, c.log.Files, c.log.Observe = share.syncs, share.files, share.observe
	return c
}

// milliseconds is a duration that does not overflow.
func milliseconds(ms int64) time.Duration {
	if ms > math.MaxInt64/int64(time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}

// brokerSettings are those that the process configuration sets. They are read-only
// but for dynamicSettings, of which those that are not here are defaults of
// topics.
func (b *Broker) brokerSettings() []setting {
	flag := strconv.FormatBool
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	var listeners, advertised []string
	for _, l := range b.cfg.Listeners {
		listeners = append(listeners, l.Name+"://"+l.Addr)
		advertised = append(advertised, l.Name+"://"+b.Addr(l.Name))
	}
	row := func(name string, kind kmsg.ConfigType, value, doc string) setting {
		return setting{name: name, kind: kind, def: value, doc: doc}
	}
	return []setting{
		row("advertised.listeners", kmsg.ConfigTypeString, strings.Join(advertised, ","), "Where clients are sent."),
		row("auto.create.topics.enable", kmsg.ConfigTypeBoolean, flag(b.cfg.AutoCreateTopics), "Whether asking for a topic creates it."),
		row("broker.id", kmsg.ConfigTypeInt, number(int64(b.cfg.NodeID)), "The id of this node."),
		row("default.replication.factor", kmsg.ConfigTypeInt, "1", "The broker is the only replica."),
		row("group.consumer.assignors", kmsg.ConfigTypeList, strings.Join(group.Assignors(), ","), "The assignors of the consumer protocol. The first is the default."),
		row("group.consumer.heartbeat.interval.ms", kmsg.ConfigTypeInt, number(b.cfg.GroupConsumerHeartbeatInterval.Milliseconds()), "How often members of the consumer protocol beat."),
		row("group.consumer.migration.policy", kmsg.ConfigTypeString, string(b.cfg.GroupMigration), "Which groups may change their protocol while they have members."),
		row("group.consumer.session.timeout.ms", kmsg.ConfigTypeInt, number(b.cfg.GroupConsumerSessionTimeout.Milliseconds()), "After what silence a member of the consumer protocol is taken out."),
		row("group.initial.rebalance.delay.ms", kmsg.ConfigTypeInt, number(b.cfg.GroupInitialRebalanceDelay.Milliseconds()), "How long the first rebalance of a group waits for members."),
		row("listeners", kmsg.ConfigTypeString, strings.Join(listeners, ","), "The bound addresses."),
		row("log.cleaner.backoff.ms", kmsg.ConfigTypeLong, number(b.cfg.CleanerInterval.Milliseconds()), "How long compaction rests when there is nothing to do."),
		row("log.cleaner.dedupe.buffer.size", kmsg.ConfigTypeLong, number(b.cfg.CleanerMemory), "The memory of compaction for keys, 24 bytes each; more keys take more passes."),
		row("log.cleaner.enable", kmsg.ConfigTypeBoolean, "true", "Compacted topics are compacted."),
		row("log.cleaner.io.max.bytes.per.second", kmsg.ConfigTypeDouble, number(b.cfg.CleanerBytesPerSecond), "What compaction reads and writes at most; 0 is no bound."),
		row("log.cleaner.threads", kmsg.ConfigTypeInt, "1", "One log is compacted at a time."),
		row("max.incremental.fetch.session.cache.slots", kmsg.ConfigTypeInt, number(int64(b.cfg.Limits.MaxFetchSessions)), "How many clients' partitions are remembered between their Fetch requests."),
		row("node.id", kmsg.ConfigTypeInt, number(int64(b.cfg.NodeID)), "The id of this node."),
		row("num.partitions", kmsg.ConfigTypeInt, number(int64(b.cfg.DefaultPartitions)), "Partitions of topics that are created without a number."),
		row("offsets.retention.minutes", kmsg.ConfigTypeInt, number(int64(b.cfg.OffsetsRetention.Minutes())), "How long offsets outlive the members of their group."),
		row("offsets.topic.num.partitions", kmsg.ConfigTypeInt, number(int64(b.cfg.OffsetsPartitions)), "Partitions of __consumer_offsets."),
		row("offsets.topic.replication.factor", kmsg.ConfigTypeShort, "1", "The broker is the only replica."),
		row("socket.request.max.bytes", kmsg.ConfigTypeInt, number(int64(b.cfg.Limits.MaxRequestBytes)), "The largest Produce request; others are held to 16 MiB."),
		row("transaction.state.log.num.partitions", kmsg.ConfigTypeInt, number(int64(b.cfg.TransactionsPartitions)), "Partitions of __transaction_state."),
		row("transaction.state.log.replication.factor", kmsg.ConfigTypeShort, "1", "The broker is the only replica."),
	}
}
