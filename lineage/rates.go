package lineage

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// PaceQuery asks how fast copies go, and how far they are behind.
type PaceQuery struct {
	Window     time.Duration // over which rates are; 0 is [DefaultWindow], the most [MaxWindow]
	Partitions bool          // each partition's too
}

// How far back rates look.
const (
	DefaultWindow = time.Minute
	MaxWindow     = time.Hour
)

// Pace is how fast a copy goes, and how far it is behind its source. Rates are what
// the hops of the window hold, so they are known on every node and of every fleet's
// copies; the source itself says where it ends. -1 is not known, and Unknown says why.
type Pace struct {
	RecordsPerSecond float64 `json:"recordsPerSecond" doc:"Copied during the window, by the ledger; -1 if not known"`
	BytesPerSecond   float64 `json:"bytesPerSecond" doc:"Of batches as written, likewise"`
	WindowSeconds    float64 `json:"windowSeconds" doc:"The shortest of its partitions': shorter than was asked for where that has too many hops; 0 if not known"`
	LagRecords       int64   `json:"lagRecords" doc:"Source offsets up to the source's high watermark that are not copied; -1 if not known"`
	LagSeconds       float64 `json:"lagSeconds" doc:"For how long the oldest of them has been at the source; -1 if not known"`
	LagBasis         string  `json:"lagBasis,omitempty" doc:"What lagSeconds rests on"`
	// Unknown lists what cannot be said, and why.
	Unknown []string `json:"unknown,omitempty"`
}

// unknownPace is that of a copy of which nothing is known yet.
func unknownPace() Pace {
	return Pace{RecordsPerSecond: -1, BytesPerSecond: -1, LagRecords: -1, LagSeconds: -1}
}

// What the time that a record has waited at its source rests on.
const (
	basisProduced = "when it was produced, by the source's ledger"
	basisCopied   = "when it was copied to the source"
	basisOwner    = "as the owner of the copy measures it"
)

// paceTogether is the pace of a topic's copy: rates and lags of its partitions added
// up, the longest wait, and not known what is not known of one of them.
func paceTogether(partitions []PartitionCopy) Pace {
	var all Pace
	for i := range partitions {
		p, of := partitions[i].Pace, fmt.Sprintf("partition %d: ", partitions[i].Source)
		for _, f := range []struct{ sum, one *float64 }{{&all.RecordsPerSecond, &p.RecordsPerSecond}, {&all.BytesPerSecond, &p.BytesPerSecond}} {
			if *f.sum < 0 || *f.one < 0 {
				*f.sum = -1
				continue
			}
			*f.sum += *f.one
		}
		if i == 0 || p.WindowSeconds < all.WindowSeconds {
			all.WindowSeconds = p.WindowSeconds
		}
		if all.LagRecords < 0 || p.LagRecords < 0 {
			all.LagRecords = -1
		} else {
			all.LagRecords += p.LagRecords
		}
		switch {
		case all.LagSeconds < 0 || p.LagSeconds < 0:
			all.LagSeconds, all.LagBasis = -1, ""
		case p.LagSeconds > all.LagSeconds:
			all.LagSeconds, all.LagBasis = p.LagSeconds, p.LagBasis
		}
		for _, why := range p.Unknown {
			if len(all.Unknown) < maxReasons {
				all.Unknown = append(all.Unknown, of+why)
			}
		}
	}
	return all
}

// maxReasons bounds how many reasons of partitions a topic repeats.
const maxReasons = 10

// pacer finds out the paces of copies whose both sides the caller may see.
type pacer struct {
	*viewer
	window time.Duration
	looks  int // hops of each copy
	now    time.Time
	ends   map[string]clusterEnds

	waits    map[CopyName]time.Duration
	waitsErr error
	asked    bool
}

type clusterEnds struct {
	at  map[flow.TopicPartition]int64
	err error
}

// paces adds to a graph what is known of its visible copies' paces.
func (g *graph) paces(q PaceQuery) error {
	p := &pacer{viewer: g.viewer, window: q.Window, now: time.Now(), ends: map[string]clusterEnds{}}
	sources, copies := map[string]map[string]ledger.TopicID{}, 0
	for i, c := range g.answer.Copies {
		if g.answer.Topics[c.From].Redacted || g.answer.Topics[c.To].Redacted {
			continue
		}
		copies += len(g.drawn[i])
		from := g.lives[c.From]
		if sources[from.cluster] == nil {
			sources[from.cluster] = map[string]ledger.TopicID{}
		}
		if have, ok := sources[from.cluster][from.name]; !ok || have != from.id && !from.earlier {
			sources[from.cluster][from.name] = from.id
		}
	}
	if copies == 0 {
		return nil
	}
	p.looks = max(1, g.x.cfg.Limits.Looks/copies)
	p.askEnds(sources)
	for i := range g.answer.Copies {
		c := &g.answer.Copies[i]
		if g.answer.Topics[c.From].Redacted || g.answer.Topics[c.To].Redacted {
			continue
		}
		for k := range c.Partitions {
			pace, err := p.pace(&g.drawn[i][k], g.lives[c.From])
			if err != nil {
				return err
			}
			c.Partitions[k].Pace = &pace
		}
		sum := paceTogether(c.Partitions)
		c.Pace = &sum
		for k := range c.Partitions {
			if !q.Partitions {
				c.Partitions[k].Pace = nil
			}
		}
	}
	return nil
}

// askEnds asks every source where its topics end, all at once.
func (p *pacer) askEnds(sources map[string]map[string]ledger.TopicID) {
	var mu sync.Mutex
	var asking sync.WaitGroup
	for cluster, topics := range sources {
		if p.x.cfg.Live == nil {
			continue
		}
		asking.Go(func() {
			at, err := p.x.cfg.Live.Ends(p.ctx, cluster, topics)
			mu.Lock()
			defer mu.Unlock()
			p.ends[cluster] = clusterEnds{at, err}
		})
	}
	asking.Wait()
}

func (p *pacer) pace(c *copyState, from life) (Pace, error) {
	pace := unknownPace()
	if err := p.ctx.Err(); err != nil {
		return pace, err
	}
	if why := p.behind(c); why != "" {
		pace.Unknown = []string{why}
		return pace, nil
	}
	records, bytes, since, err := p.x.recent(c, p.now.Add(-p.window), p.looks)
	if err != nil {
		return pace, err
	}
	// A window of no length, because the last hop has just been written, is a second.
	pace.WindowSeconds = max(p.now.Sub(since).Seconds(), 1)
	pace.RecordsPerSecond, pace.BytesPerSecond = float64(records)/pace.WindowSeconds, float64(bytes)/pace.WindowSeconds
	err = p.lag(&pace, c, from)
	return pace, err
}

// behind is why the index may not know where a copy stands.
func (p *pacer) behind(c *copyState) string {
	p.x.mu.RLock()
	l := p.x.byNo[c.ledger]
	p.x.mu.RUnlock()
	switch {
	case l == nil:
		return "its ledger is another one now"
	case p.x.cfg.Live == nil:
		return ""
	}
	return p.x.cfg.Live.Behind(l.cluster)
}

func (p *pacer) lag(pace *Pace, c *copyState, from life) error {
	source := c.begin.Copy.Source
	ends, asked := p.ends[source.Cluster]
	end, ok := ends.at[flow.TopicPartition{Topic: from.name, Partition: source.Partition}]
	switch {
	case !asked:
		pace.Unknown = append(pace.Unknown, "lag: nobody can be asked where the source ends")
		return nil
	case ends.err != nil:
		pace.Unknown = append(pace.Unknown, fmt.Sprintf("lag: %v", ends.err))
		return nil
	case !ok || from.earlier:
		pace.Unknown = append(pace.Unknown, "lag: the source does not show this partition of this life of the topic")
		return nil
	}
	if pace.LagRecords = max(0, end-c.next); pace.LagRecords == 0 {
		pace.LagSeconds = 0
		return nil
	}
	at, basis, err := p.arrived(source, c.next)
	if err != nil {
		return err
	}
	if basis != "" {
		pace.LagSeconds, pace.LagBasis = max(0, p.now.Sub(at).Seconds()), basis
		return nil
	}
	wait, ok := p.wait(CopyName{c.begin.Fleet, c.begin.Flow, from.name, source.Partition})
	switch {
	case ok:
		pace.LagSeconds, pace.LagBasis = wait.Seconds(), basisOwner
	case p.waitsErr != nil:
		pace.Unknown = append(pace.Unknown, fmt.Sprintf("lag in seconds: no ledger says when offset %d came to the source, and the owner of the copy cannot be asked: %v", c.next, p.waitsErr))
	default:
		pace.Unknown = append(pace.Unknown, fmt.Sprintf("lag in seconds: no ledger says when offset %d came to the source, and no owner of the copy in this fleet does", c.next))
	}
	return nil
}

// wait asks the owners of copies once.
func (p *pacer) wait(name CopyName) (time.Duration, bool) {
	if !p.asked && p.x.cfg.Live != nil {
		p.waits, p.waitsErr = p.x.cfg.Live.Waits(p.ctx)
	}
	p.asked = true
	d, ok := p.waits[name]
	return d, ok
}

// arrived is when an offset of a partition was written there, by the ledgers, and what
// that rests on; "" if none says so.
func (p *pacer) arrived(at ledger.End, offset int64) (_ time.Time, basis string, err error) {
	r := p.x.read()
	defer func() { err = errors.Join(err, r.Close()) }()
	_, into, err := r.copiesAt(at)
	if err != nil {
		return time.Time{}, "", err
	}
	for i := range into {
		h, _, err := r.hopByDest(&into[i], offset)
		if err != nil {
			return time.Time{}, "", err
		}
		if h != nil && !h.At.IsZero() && h.Fold == nil {
			return h.At, basisCopied, nil
		}
	}
	produced, _, err := r.runs(runQuery{
		kind: kindProduction, topic: topicKey{at.Cluster, at.TopicID}, partition: at.Partition, first: offset, last: offset, limit: 1,
	})
	if err != nil || len(produced) == 0 {
		return time.Time{}, "", err
	}
	return produced[0].FirstAt, basisProduced, nil
}

// recent sums up what the hops of a copy moved since a moment, from the last one back,
// at most so many of them; from is since when that is all of it.
func (x *Index) recent(c *copyState, since time.Time, limit int) (records, bytes int64, from time.Time, err error) {
	prefix := key(c.ledger, kindHop, c.key[:])
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return 0, 0, since, fmt.Errorf("read store: %w", err)
	}
	for ok := it.Last(); ok; ok = it.Prev() {
		h, err := readHop(it.Value())
		if err != nil {
			_ = it.Close() // what cannot be read is the error
			return 0, 0, since, err
		}
		if !h.At.After(since) || h.Fold != nil { // what is folded may be of long ago
			break
		}
		if limit--; limit < 0 {
			since = from
			break
		}
		records, bytes, from = records+h.Records(), bytes+h.Bytes, h.At
	}
	if err := it.Close(); err != nil {
		return 0, 0, since, fmt.Errorf("read store: %w", err)
	}
	return records, bytes, since, nil
}
