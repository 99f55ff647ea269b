package doctor

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// versions is what a broker speaks, by request: the newest version of each.
type versions map[int16]int16

// has reports whether a request is spoken in a version or a newer one.
func (v versions) has(key kmsg.Key, version int16) bool {
	newest, ok := v[key.Int16()]
	return ok && newest >= version
}

// ability is something that a cluster may be able to do, and what a fleet lacks if it
// is not.
type ability struct {
	name    string
	holds   func(versions) bool
	without string
	level   Level // where it is missing
	fix     string
}

// abilities are what Waybill makes of versions. Sources: KIP-98 (transactions),
// KIP-516 (topic ids), KIP-320 (truncation), KIP-430 (rights).
var abilities = []ability{
	{"transactions", func(v versions) bool {
		return v.has(kmsg.InitProducerID, 1) && v.has(kmsg.AddPartitionsToTxn, 0) && v.has(kmsg.EndTxn, 0) && v.has(kmsg.TxnOffsetCommit, 0)
	}, "as a destination it takes only delivery: at-least-once", Warning, "upgrade to Kafka 2.0 or later for exactly-once, or declare delivery: at-least-once"},
	{
		"topic ids", func(v versions) bool { return v.has(kmsg.Metadata, 10) },
		"a topic that is deleted and made again cannot be told from the one before", Warning, "upgrade to Kafka 2.8 or later",
	},
	{
		"leader epochs", func(v versions) bool { return v.has(kmsg.OffsetForLeaderEpoch, 2) && v.has(kmsg.Fetch, 9) },
		"records that the cluster loses in an unclean election may go unnoticed", Warning, "upgrade to Kafka 2.1 or later",
	},
	{
		"rights", func(v versions) bool { return v.has(kmsg.Metadata, 8) },
		"it does not tell a client what it may do, so rights are known from its ACLs only", OK, "",
	},
	{
		"incremental settings", func(v versions) bool { return v.has(kmsg.IncrementalAlterConfigs, 0) },
		"settings of topics cannot follow the source's", Warning, "upgrade to Kafka 2.3 or later, or set topics.configs: {sync: false}",
	},
	{
		"zstd", func(v versions) bool { return v.has(kmsg.Produce, 7) && v.has(kmsg.Fetch, 10) },
		"batches compressed with zstd cannot be written there", Warning, "upgrade to Kafka 2.1 or later",
	},
}

// speaks asks a broker what it is, and says what that means for a flow.
func (l *look) speaks(ctx context.Context, conn *kafka.Conn) {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = kafka.Software, "1"
	answer, err := conn.Request(ctx, req, 3)
	if err != nil {
		l.add(found(Versions, l.where, Unknown, "%v", err))
		return
	}
	resp := answer.(*kmsg.ApiVersionsResponse)
	l.versions = versions{}
	for _, k := range resp.ApiKeys {
		l.versions[k.ApiKey] = k.MaxVersion
	}
	l.add(judgeVersions(l.where, l.versions, kversion.FromApiVersionsResponse(resp).VersionGuess(kversion.SkipKeys(mirrorKeys()...)))...)
}

func mirrorKeys() []int16 {
	return []int16{mirrorwire.AppendKey, mirrorwire.DescribeKey, mirrorwire.AlterKey}
}

func judgeVersions(where string, v versions, guess string) []Finding {
	what, fidelity := "speaks as Kafka "+guess, "takes copies with offsets: translate"
	if _, ok := v[mirrorwire.AppendKey]; ok {
		what, fidelity = "is a bundled broker", "takes copies with offsets: preserve or translate"
	}
	all := []Finding{found(Versions, where, OK, "%s; %s", what, fidelity)}
	for _, a := range abilities {
		if a.holds(v) {
			continue
		}
		f := found(Versions, where, a.level, "no %s: %s", a.name, a.without)
		f.ToDo = a.fix
		all = append(all, f)
	}
	return all
}
