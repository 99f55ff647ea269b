package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/lineage"
)

// witness is an event that a group has read in a datacenter which writes such
// things down, if there is one: produced, copied and read, it has a past to tell.
func (s *story) witness() (*datacenter, *kgo.Record) {
	at, read := s.world.us, s.partial[userAlerts]
	if !at.records() && s.world.eu.records() {
		at, read = s.world.eu, s.rest[userAlerts]
	}
	for p := range int32(partitions) {
		if records := read[p]; len(records) > 0 {
			return at, records[0]
		}
	}
	return at, nil
}

// lineage asks for one event, and holds the answer against what the story did.
// Of a cluster that does not record who produces and reads, the answer must say
// that it does not.
func (s *story) lineage(ctx context.Context) (string, string, error) {
	at, event := s.witness()
	if event == nil {
		return "", "", errors.New("group alerts has read nothing")
	}
	address := fmt.Sprintf("%s/%s/%d/%d", at.name, event.Topic, event.Partition, event.Offset)
	path := "/api/v1/lineage/events/" + address
	l := &s.report.Lineage
	l.Event = address
	l.Curl = fmt.Sprintf(`curl -H "Authorization: Bearer $(cat %s)" %s%s`, s.world.tokenFile("admin"), s.api.node().api, path)
	var answer lineage.Answer
	// Who read it is known once the broker has written it down, within a second.
	err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
		began := time.Now()
		if err := s.api.get(ctx, path, &answer); err != nil {
			return false, err
		}
		l.Millis = float64(time.Since(began).Microseconds()) / 1000
		l.take(&answer)
		return l.CopiedTo != "" && (l.ProducedBy != "" || !s.world.us.records()) && (l.ReadBy != "" || !at.records()), nil
	})
	if err != nil {
		return "", "", fmt.Errorf("%s: %w; the answer was %+v", l.Curl, err, answer)
	}
	s.checkLineage(at, &answer)
	return fmt.Sprintf("%s: %s, copied by %s %s, %s; %.0f ms", address, l.producer(), l.Flow, l.copied(), l.reader(), l.Millis), l.Curl, nil
}

func (s *story) checkLineage(at *datacenter, a *lineage.Answer) {
	l := &s.report.Lineage
	s.check(l.Flow == flowName, "event %s: copied by flow %q", l.Event, l.Flow)
	s.check(strings.HasPrefix(l.CopiedFrom, "us/") && strings.HasPrefix(l.CopiedTo, "eu/"), "event %s: copied from %s to %s", l.Event, l.CopiedFrom, l.CopiedTo)
	if s.world.us.records() {
		s.check(l.ProducedBy == "User:"+userSensors && l.ClientID == "seismometers", "event %s: produced by %s (%s)", l.Event, l.ProducedBy, l.ClientID)
		s.check(s.sawItHappen(l.ProducedAt), "event %s: produced at %v, before or after this story", l.Event, l.ProducedAt)
	} else {
		s.check(l.ProducedBy == "", "event %s: produced by %s, which datacenter us cannot tell", l.Event, l.ProducedBy)
	}
	s.check(s.sawItHappen(l.CopiedAt), "event %s: copied at %v, before or after this story", l.Event, l.CopiedAt)
	if at.records() {
		s.check(l.ReadBy == userAlerts || l.ReadBy == userReports, "event %s: read by group %q", l.Event, l.ReadBy)
	}
	for _, n := range a.Nodes {
		for _, d := range []*datacenter{s.world.us, s.world.eu} {
			if n.Cluster == d.name && !d.records() {
				s.check(len(n.Accesses) == 0 && len(n.Unknown) > 0, "event %s: nothing says that %s does not record who reads: %+v", l.Event, d.name, n)
			}
		}
	}
}

// sawItHappen says whether a moment lies in this story, as far as clocks of one
// second's difference can tell.
func (s *story) sawItHappen(at *time.Time) bool {
	return at != nil && at.After(s.began.Add(-time.Second)) && at.Before(time.Now().Add(time.Second))
}

// take picks the figures out of an answer.
func (l *LineageReport) take(a *lineage.Answer) {
	l.Unknown = nil
	for i, n := range a.Nodes {
		place := fmt.Sprintf("%s/%s/%d/%d", n.Cluster, n.Topic, n.Partition, n.Offset)
		for _, d := range n.Produced {
			if n.Origin {
				l.ProducedBy, l.ClientID, l.ProducedAt = d.Principal, d.ClientID, &d.At
			}
		}
		for _, d := range n.Accesses {
			if d.Group != "" {
				l.ReadBy = d.Group
			}
		}
		for _, e := range a.Edges {
			if e.To == i {
				l.CopiedTo, l.CopiedAt, l.Flow = place, e.At, e.Flow
			}
			if e.From == i {
				l.CopiedFrom = place
			}
		}
		for _, why := range n.Unknown {
			l.Unknown = append(l.Unknown, place+": "+why)
		}
	}
}

// copied is the other end of the copy than the one that was asked for.
func (l *LineageReport) copied() string {
	if l.Event == l.CopiedTo {
		return "from " + l.CopiedFrom
	}
	return "to " + l.CopiedTo
}

func (l *LineageReport) producer() string {
	if l.ProducedBy == "" {
		return "produced by somebody unknown"
	}
	return fmt.Sprintf("produced at %s by %s (%s)", l.ProducedAt.Local().Format("15:04:05.000"), l.ProducedBy, l.ClientID)
}

func (l *LineageReport) reader() string {
	if l.ReadBy == "" {
		return "readers unknown"
	}
	return "read by group " + l.ReadBy
}

// copiedBy is the node of the fleet that copied an event of the live topic.
func (a *apiClient) copiedBy(ctx context.Context, r *kgo.Record) (string, error) {
	var answer lineage.Answer
	if err := a.get(ctx, fmt.Sprintf("/api/v1/lineage/events/us/%s/%d/%d", r.Topic, r.Partition, r.Offset), &answer); err != nil {
		return "", err
	}
	for _, e := range answer.Edges {
		if e.From == 0 {
			return e.ReplicaNode, nil
		}
	}
	return "", fmt.Errorf("no copy of us/%s/%d/%d is known", r.Topic, r.Partition, r.Offset)
}
