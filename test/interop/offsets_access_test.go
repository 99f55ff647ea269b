//go:build interop && unix

package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/lineage"
)

// TestOffsetsOfAccesses: what groups of an Apache Kafka have read, of the classic protocol
// and of KIP-848, is known from their commits. Rows that say committed are of the records
// that the consumer was given, all of them since it was seen first, and of no others; what
// its position went over while it had no member is no reading.
func TestOffsetsOfAccesses(t *testing.T) {
	w := newOffsetsPair(t, offsetsKafka, offsetsKafka)
	f := w.fleet()
	w.ledgerAtSource(f)
	groups := map[string][]kgo.Opt{"app": {kgo.ServerSideBalancer()}, "old": nil}
	first, second := map[string]*groupReader{}, map[string]*groupReader{}
	for group, opts := range groups {
		first[group] = w.reads(group, 5, opts...)
	}
	for group, reader := range first {
		found := w.rows(f, group, func(rows []lineage.Deed) bool { return len(rows) > 0 })
		if r := found[0]; r.Kind != "found" || r.First != 5 || r.Offsets != 0 || !slices.Equal(reader.offsets, upTo(0, 5)) {
			t.Fatalf("group %s: first seen as %+v, after it had read %v", group, r, reader.offsets)
		}
		reader.more(7)
	}
	for group, reader := range first {
		w.rows(f, group, func(rows []lineage.Deed) bool { return slices.Equal(offsetsRead(rows), upTo(5, 12)) })
		reader.cl.Close()
	}
	w.seenEmpty(f, "app", "old")
	for group := range first {
		w.us.commit(group, "orders", 15, "") // by nobody that reads
	}
	for group, opts := range groups {
		w.rows(f, group, func(rows []lineage.Deed) bool {
			return slices.ContainsFunc(rows, func(d lineage.Deed) bool { return d.Kind == "leapt" })
		})
		second[group] = w.reads(group, 3, opts...)
	}
	for group := range groups {
		want := slices.Concat(first[group].offsets[5:], second[group].offsets)
		rows := w.rows(f, group, func(rows []lineage.Deed) bool { return len(offsetsRead(rows)) >= len(want) })
		second[group].cl.Close()
		if got := offsetsRead(rows); !slices.Equal(got, want) || !slices.Equal(want, slices.Concat(upTo(5, 12), upTo(15, 18))) {
			t.Errorf("group %s: said to have read %v, was given %v", group, got, want)
		}
		for _, d := range rows {
			if d.Basis != "committed-offsets" || d.Group != group || d.Kind == "leapt" && (d.First != 12 || d.Last != 14 || d.Offsets != 0) {
				t.Errorf("group %s: got %+v", group, d)
			}
		}
		var all lineage.PrincipalPage // by topic
		w.ask(f, &all, "lineage", "access", "us", "--group", group)
		if len(all.Topics) != 1 || all.Topics[0].Topic != "orders" || all.Topics[0].Client.Offsets != int64(len(want)) {
			t.Errorf("group %s in the cluster: got %+v", group, all)
		}
	}
	var affected lineage.Affected
	w.ask(f, &affected, "lineage", "affected", "us/orders/0", "--from", "6", "--to", "6")
	for group := range groups {
		if !slices.ContainsFunc(affected.Readers, func(r lineage.Reader) bool { return r.Group == group && r.Topic == 0 && r.Reached && r.At != nil }) {
			t.Errorf("group %s is not among those affected: %+v", group, affected.Readers)
		}
	}
}

// ledgerAtSource has something copied into us, so that there is a ledger in which to note
// what its groups do.
func (w *offsetsPair) ledgerAtSource(f *fleet) {
	w.t.Helper()
	w.eu.topic("back", nil)
	must(w.t, "produce", w.eu.cl.ProduceSync(w.t.Context(), &kgo.Record{Topic: "back", Value: []byte("v")}).FirstErr())
	f.apply(`apiVersion: waybill/v1
kind: ReplicationFlow
metadata: {name: eu-us}
spec:
  source: eu
  destination: us
  topics: {include: [back], rename: {prefix: "eu."}}
`)
	f.wait("a copy into the source", func() error {
		ends, err := w.us.adm.ListCommittedOffsets(w.t.Context(), "eu.back")
		if err = errors.Join(err, ends.Error()); err != nil {
			return err
		}
		if end, ok := ends.Lookup("eu.back", 0); !ok || end.Offset < 1 {
			return fmt.Errorf("it ends at %d", end.Offset)
		}
		return nil
	})
}

// seenEmpty waits until the flow has looked at groups after their members had left. It asks
// for states before positions: a look that has found a position from after they had left
// may still have found them there, the one behind it cannot.
func (w *offsetsPair) seenEmpty(f *fleet, groups ...string) {
	w.t.Helper()
	for _, group := range groups {
		f.wait("group "+group+" to be without members", func() error {
			if row := w.row(f, group); row.SourceState != "Empty" {
				return fmt.Errorf("got %+v", row)
			}
			return nil
		})
	}
	for at := int64(1); at <= 2; at++ {
		w.us.commit("looks", "orders", at, "")
		w.follow(f, "looks", "wb.orders", 3+at)
	}
}

// groupReader is a member of a group at us, and the offsets that it was given.
type groupReader struct {
	w       *offsetsPair
	cl      *kgo.Client
	offsets []int64
}

// reads has a member join, read some records and commit. It stays.
func (w *offsetsPair) reads(group string, n int, opts ...kgo.Opt) *groupReader {
	w.t.Helper()
	r := &groupReader{w: w, cl: newClient(w.t, w.us.c, append([]kgo.Opt{
		kgo.ConsumerGroup(group), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	}, opts...)...)}
	r.more(n)
	return r
}

func (r *groupReader) more(n int) {
	r.w.t.Helper()
	r.w.poll(r.cl, n)
	for _, record := range r.w.last {
		r.offsets = append(r.offsets, record.Offset)
	}
	must(r.w.t, "commit", r.cl.CommitRecords(r.w.t.Context(), r.w.last...))
}

// rows are what the ledger says of a group, when it says enough.
func (w *offsetsPair) rows(f *fleet, group string, enough func([]lineage.Deed) bool) []lineage.Deed {
	w.t.Helper()
	var page lineage.DeedPage
	f.wait("what group "+group+" has read", func() error {
		if out, err := w.try(f, &page, "lineage", "access", "us/orders/0", "--group", group); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if !enough(page.Deeds) {
			return fmt.Errorf("got %+v", page.Deeds)
		}
		return nil
	})
	return page.Deeds
}

func (w *offsetsPair) try(f *fleet, out any, args ...string) (string, error) {
	text, err := w.replicator(f, append(args, "-o", "json")...)
	if err == nil {
		err = json.NewDecoder(strings.NewReader(text)).Decode(out)
	}
	return text, err
}

func (w *offsetsPair) ask(f *fleet, out any, args ...string) {
	w.t.Helper()
	if text, err := w.try(f, out, args...); err != nil {
		w.t.Fatalf("%v: %v\n%s", args, err, text)
	}
}

// offsetsRead are the offsets of the rows that say so, in order.
func offsetsRead(rows []lineage.Deed) (all []int64) {
	for _, d := range rows {
		if d.Kind == "committed" {
			all = append(all, upTo(d.First, d.Last+1)...)
		}
	}
	slices.Sort(all)
	return all
}

func upTo(from, to int64) (all []int64) {
	for i := from; i < to; i++ {
		all = append(all, i)
	}
	return all
}
