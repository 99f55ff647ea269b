package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Where the shipped events have their key and time.
const (
	DefaultKey  = "properties.net"
	DefaultTime = "properties.time"
)

const (
	topicQuakes = "quakes"      // the events of the input
	topicLive   = "quakes-live" // what a producer writes while a node is killed
	partitions  = 6
	flowName    = "us-eu"
)

// Options are what a user may choose.
type Options struct {
	Input Input
	// Dir keeps everything; empty is a temporary folder that is removed.
	Dir string
	// Addresses, host:port; port 0 is a free one.
	USAddress, EUAddress, APIAddress string
	// US and EU are datacenters that somebody else runs; nil starts a bundled
	// broker.
	US, EU *External
	// Program is the replicator's binary; empty is this program.
	Program string
	// Progress gets a line an act, Stay a pause at the end with everything
	// running, until ctx ends. Color says whether Progress is a terminal.
	Progress io.Writer
	Stay     func(ctx context.Context, r *Report)
	Color    bool
}

// DefaultOptions are free ports on loopback and the shipped events.
func DefaultOptions() Options {
	const anyPort = "127.0.0.1:0"
	return Options{Input: Input{Key: DefaultKey, Time: DefaultTime}, USAddress: anyPort, EUAddress: anyPort, APIAddress: anyPort, Progress: io.Discard}
}

// actLimit bounds one act: the slowest takes about seven seconds.
const actLimit = 60 * time.Second

// story is one demonstration under way.
type story struct {
	opts    Options
	world   *world
	api     *apiClient
	report  *Report
	events  []Event
	began   time.Time
	stage   stage
	written map[int32]int  // events of the input, by their partition at the source
	partial map[string]Log // what each group has read at the source
	rest    map[string]Log // and at the destination
	failed  []error
}

// act is one line of the story.
type act struct {
	name string
	// play returns the act's figure and what that proves.
	play func(context.Context) (figure, proof string, err error)
}

// Run plays the whole story. The report is complete if the error is nil; a check
// that did not hold is in Report.Failures and not an error.
func Run(ctx context.Context, opts Options) (report *Report, failure error) {
	began := time.Now()
	s := &story{
		opts: opts, began: began, world: &world{dir: opts.Dir, program: opts.Program},
		written: map[int32]int{}, partial: map[string]Log{}, rest: map[string]Log{},
		stage:  stage{w: opts.Progress, color: opts.Color},
		report: &Report{Failures: []string{}, Groups: []GroupReport{}},
	}
	s.stage.title("Waybill: two datacenters, one flow, checking itself as it goes")
	var err error
	if s.events, err = opts.Input.Load(); err != nil {
		return nil, err
	}
	if s.world.program == "" {
		if s.world.program, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
	}
	remove, err := s.world.folder()
	if err != nil {
		return nil, err
	}
	defer func() {
		if ctx.Err() == nil && (failure != nil || !report.OK) {
			s.stage.note("logs and data are kept in " + s.world.dir)
			return
		}
		remove()
	}()
	defer s.world.close()
	s.api = &apiClient{world: s.world}
	for _, a := range s.acts() {
		if err := s.perform(ctx, a); err != nil {
			return nil, err
		}
	}
	s.finish()
	if opts.Stay != nil && ctx.Err() == nil {
		opts.Stay(ctx, s.report)
	}
	return s.report, nil
}

func (s *story) acts() []act {
	return []act{
		{"two datacenters, three nodes", s.start},
		{"apply clusters and flow", s.apply},
		{"produce in us", s.produce},
		{"groups read a part in us", s.readPart},
		{"mirror to eu", s.mirror},
		{"group goes on in eu", s.continueInEU},
		{"kill -9 under load", s.killUnderLoad},
		{"lineage of one event", s.lineage},
		{"planned failover by runbook", s.failover},
		{"compare both datacenters", s.compare},
	}
}

// perform plays one act and prints its line. An act that cannot be played ends
// the story; one whose check fails does not.
func (s *story) perform(ctx context.Context, a act) error {
	ctx, cancel := context.WithTimeoutCause(ctx, actLimit, fmt.Errorf("no end after %s", actLimit))
	defer cancel()
	before := len(s.failed)
	began := time.Now()
	figure, proof, err := a.play(ctx)
	if err != nil {
		s.stage.line(false, a.name, err.Error(), "", time.Since(began))
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", err, cause)
		}
		return fmt.Errorf("%s: %w", a.name, err)
	}
	s.stage.line(len(s.failed) == before, a.name, figure, proof, time.Since(began))
	for _, f := range s.failed[before:] {
		s.stage.note(f.Error())
	}
	return nil
}

// check notes a failure if something does not hold.
func (s *story) check(holds bool, format string, args ...any) {
	if !holds {
		s.failed = append(s.failed, fmt.Errorf(format, args...))
	}
}

func (s *story) finish() {
	r := s.report
	for _, f := range s.failed {
		r.Failures = append(r.Failures, f.Error())
	}
	r.OK = len(r.Failures) == 0
	r.Seconds = time.Since(s.began).Seconds()
	s.stage.verdict(r)
}

func (s *story) start(ctx context.Context) (string, string, error) {
	began := time.Now()
	if err := s.world.build(ctx, s.opts); err != nil {
		return "", "", err
	}
	var status apiStatus
	if err := poll(ctx, 20*time.Millisecond, func() (bool, error) {
		err := s.api.get(ctx, "/api/v1/status", &status)
		return err == nil && status.Fleet.Leader != "" && len(status.Fleet.Nodes) == len(s.world.fleet), nil
	}); err != nil {
		return "", "", fmt.Errorf("wait for the fleet: %w", err)
	}
	s.report.Connections = s.world.connections()
	return fmt.Sprintf("us %s · eu %s · raft leader %s, ready in %.1f s", s.world.us.address, s.world.eu.address, status.Fleet.Leader, time.Since(began).Seconds()),
		"TLS, SCRAM-SHA-512 and deny-by-default ACLs everywhere", nil
}

// apply creates the topics, puts foreign records where the copies will go, so
// that offsets must differ, and declares the clusters and the flow.
func (s *story) apply(ctx context.Context) (string, string, error) {
	w := s.world
	for _, topic := range []string{topicQuakes, topicLive} {
		if err := w.us.createTopic(ctx, topic, partitions); err != nil {
			return "", "", err
		}
	}
	if err := w.eu.createTopic(ctx, topicQuakes, partitions); err != nil {
		return "", "", err
	}
	var foreign []*kgo.Record
	for p := range int32(partitions) {
		for i := range 10 + 7*p {
			foreign = append(foreign, &kgo.Record{
				Topic: topicQuakes, Partition: p, Value: fmt.Appendf(nil, "here before %d", i),
				Headers: []kgo.RecordHeader{{Key: foreignHeader, Value: []byte("eu")}},
			})
		}
	}
	cl, err := w.eu.client(userSensors, "earlier-app", kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return "", "", err
	}
	defer cl.Close()
	if err := cl.ProduceSync(ctx, foreign...).FirstErr(); err != nil {
		return "", "", fmt.Errorf("produce foreign records: %w", err)
	}
	yaml := w.objectsYAML()
	if err := os.WriteFile(w.objectsFile(), []byte(yaml), 0o600); err != nil {
		return "", "", err
	}
	var applied struct{ Revision uint64 }
	if err := s.api.insist(ctx, "/api/v1/apply", []byte(yaml), &applied); err != nil {
		return "", "", err
	}
	return fmt.Sprintf("%s at revision %d; eu/quakes holds %d foreign records already", filepath.Base(w.objectsFile()), applied.Revision, len(foreign)),
		"destination offsets differ, so translation has something to prove", nil
}

// produce writes the input, as an application would: keyed, the event's time as
// the record's.
func (s *story) produce(ctx context.Context) (string, string, error) {
	cl, err := s.world.us.client(userSensors, "seismometers", kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.ProducerLinger(0))
	if err != nil {
		return "", "", err
	}
	defer cl.Close()
	keys := map[string]bool{}
	from, to := s.events[0].Time, s.events[0].Time
	var records []*kgo.Record
	for i, e := range s.events {
		if e.Key != nil {
			keys[string(e.Key)] = true
		}
		if e.Time.Before(from) {
			from = e.Time
		}
		if e.Time.After(to) {
			to = e.Time
		}
		records = append(records, &kgo.Record{
			Topic: topicQuakes, Key: e.Key, Value: e.Value, Timestamp: e.Time,
			Headers: []kgo.RecordHeader{{Key: "line", Value: fmt.Appendf(nil, "%d", i+1)}},
		})
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return "", "", fmt.Errorf("produce: %w", err)
	}
	s.report.Produced += len(records)
	for _, r := range records {
		s.written[r.Partition]++
	}
	return fmt.Sprintf("%s of %s to %s, %s, %s", several(len(records), "event"), from.UTC().Format(time.DateOnly), to.UTC().Format(time.DateOnly),
			several(len(keys), "key"), several(partitions, "partition")),
		"acknowledged: on disk in us", nil
}

// readPart lets two groups read the first events of each partition in us, commit,
// and leave.
func (s *story) readPart(ctx context.Context) (string, string, error) {
	for group, share := range map[string]int{userAlerts: 40, userReports: 15} {
		part, total := map[int32]int{}, 0
		for p, n := range s.written {
			part[p] = (n*share + 99) / 100
			total += part[p]
		}
		read, err := s.world.us.groupSession(ctx, group, topicQuakes,
			func(read Log, r *kgo.Record) bool { return len(read[r.Partition]) < part[r.Partition] },
			func(read Log) bool { return read.count() == total })
		if err != nil {
			return "", "", err
		}
		s.partial[group] = read
	}
	return fmt.Sprintf("alerts %d, reports %d; committed, and left", s.partial[userAlerts].count(), s.partial[userReports].count()),
		fmt.Sprintf("in the middle of %s and of %d", several(s.middles(userAlerts), "partition"), s.middles(userReports)), nil
}

// middles counts the partitions of which a group has read a part, but not all.
func (s *story) middles(group string) (n int) {
	for p, read := range s.partial[group] {
		if len(read) > 0 && len(read) < s.written[p] {
			n++
		}
	}
	return n
}

// mirror waits for lag 0 and compares.
func (s *story) mirror(ctx context.Context) (string, string, error) {
	began := time.Now()
	flow, err := s.api.lagZero(ctx)
	if err != nil {
		return "", "", err
	}
	took := time.Since(began)
	_, copied, v, err := s.compareTopic(ctx, topicQuakes)
	if err != nil {
		return "", "", err
	}
	shifted := 0
	for _, records := range copied {
		if len(records) > 0 && records[0].Offset != 0 {
			shifted++
		}
	}
	s.check(v.OK(), "us/quakes and eu/quakes differ: %+v", v)
	s.check(shifted > 0, "no partition of eu/quakes has other offsets than us/quakes")
	return fmt.Sprintf("lag 0 after %.1f s, %s; %d of %d equal, %d out of order", took.Seconds(), flow.Delivery, v.Compared-v.Missing-v.Mismatched, v.Compared, v.Reordered),
		fmt.Sprintf("offsets differ in %s", several(shifted, "partition")), nil
}

// compareTopic reads a topic on both sides, foreign records left out.
func (s *story) compareTopic(ctx context.Context, topic string) (source, copied Log, v Verdict, err error) {
	if source, err = s.world.us.readAll(ctx, topic); err != nil {
		return nil, nil, v, err
	}
	if copied, err = s.world.eu.readAll(ctx, topic); err != nil {
		return nil, nil, v, err
	}
	copied = copied.withoutForeign()
	return source, copied, Compare(source, copied), nil
}

// continueInEU lets the group go on from its translated offsets.
func (s *story) continueInEU(ctx context.Context) (string, string, error) {
	if err := s.api.groupSynced(ctx, userAlerts); err != nil {
		return "", "", err
	}
	return s.goOn(ctx, userAlerts)
}

// goOn reads the rest of a group's events in eu and holds both parts together
// against what was produced.
func (s *story) goOn(ctx context.Context, group string) (string, string, error) {
	source, err := s.world.us.readAll(ctx, topicQuakes)
	if err != nil {
		return "", "", err
	}
	first := s.partial[group]
	want := source.count() - first.count()
	rest, err := s.world.eu.groupSession(ctx, group, topicQuakes,
		func(Log, *kgo.Record) bool { return true },
		func(read Log) bool { return read.withoutForeign().count() >= want })
	if err != nil {
		return "", "", err
	}
	rest = rest.withoutForeign()
	s.rest[group] = rest
	v := Compare(source, first.join(rest))
	s.report.Groups = append(s.report.Groups, GroupReport{
		Group: group, ReadAtSource: first.count(), ReadAtDestination: rest.count(),
		Reread: v.Duplicated, Skipped: v.Missing, Exact: v.OK(),
	})
	s.check(v.OK(), "group %s did not read every event once: %+v", group, v)
	return fmt.Sprintf("%s: %d in us + %d in eu = %d", group, first.count(), rest.count(), first.count()+rest.count()),
		fmt.Sprintf("%d read again, %d skipped", v.Duplicated, v.Missing), nil
}

// compare reads both datacenters once more, all of it.
func (s *story) compare(ctx context.Context) (string, string, error) {
	var total Verdict
	for _, topic := range []string{topicQuakes, topicLive} {
		_, copied, v, err := s.compareTopic(ctx, topic)
		if err != nil {
			return "", "", err
		}
		s.report.Mirrored += copied.count() - v.Duplicated - v.Phantom
		total.add(v)
	}
	s.report.add(total)
	s.check(total.OK(), "the datacenters differ: %+v", total)
	s.check(total.Compared == s.report.Produced, "%d records were acknowledged, us has %d", s.report.Produced, total.Compared)
	return fmt.Sprintf("%d records compared byte by byte", total.Compared),
		fmt.Sprintf("%d missing, %d doubled, %d reordered, %d altered", total.Missing, total.Duplicated, total.Reordered, total.Mismatched+total.Phantom), nil
}
