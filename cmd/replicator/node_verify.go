package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/verify"
)

// verifications answers api.Verifications, and carries out those of the flows whose
// duty is this node's. The fleet keeps what was asked for and how far it has come.
type verifications struct {
	fleet     proposer
	directory *directory
	maps      *offsets.Maps
	entries   verify.Entries
	log       *slog.Logger
}

var _ api.Verifications = (*verifications)(nil)

// ledgerEntries answers from what the ledgers feed: the index has the hops with their
// digests, the maps have what was taken back.
type ledgerEntries struct {
	*lineage.Index
	maps *offsets.Maps
}

var _ verify.Entries = ledgerEntries{}

func (e ledgerEntries) TakenBack(into ledger.End, offset int64) (bool, error) {
	_, known := e.maps.Origin(into, offset)
	return known, nil // what stands in a hop was looked for first
}

func (e ledgerEntries) Origin(at ledger.End, offset int64) (ledger.Origin, bool) {
	return e.maps.Origin(at, offset)
}

func (e ledgerEntries) Stray(at ledger.End, offset int64) bool { return e.maps.Stray(at, offset) }

func (e ledgerEntries) ReadLedger(ctx context.Context, cluster string) (bool, error) {
	return e.maps.ReadLedger(ctx, cluster)
}

// byRunbook asks for the verifications of runbooks.
const byRunbook = "a runbook"

// verificationOf is the verification of a flow as the fleet knows it, nil if there was none.
func verificationOf(s *cluster.State, name string, now time.Time) (*verify.Report, error) {
	f := s.Flows[name]
	if f == nil || f.Verification == nil {
		return nil, nil
	}
	v := f.Verification
	r := &verify.Report{ID: v.ID, Flow: name, State: verify.Running, By: v.By, Started: v.Started, Ended: v.Ended, Problem: v.Problem}
	switch {
	case v.Stopped:
		r.State = verify.Stopped
	case !v.Running():
		r.State = verify.Done
	}
	if err := json.Unmarshal(v.Request, &r.Request); err != nil {
		return nil, fmt.Errorf("stored verification of flow %s: %w", name, err)
	}
	if len(v.Found) > 0 {
		r.Previous = &verify.Report{}
		if err := json.Unmarshal(v.Found, r.Previous); err != nil {
			return nil, fmt.Errorf("stored result of flow %s: %w", name, err)
		}
	}
	all, err := storedProgress(v)
	if err != nil {
		return nil, fmt.Errorf("stored verification of flow %s: %w", name, err)
	}
	for _, p := range all {
		if p.Run == v.ID {
			r.Partitions = append(r.Partitions, p)
		}
	}
	r.Sum(r.Partitions, now)
	if r.State == verify.Running && !v.Begun {
		r.ETASeconds, r.ETABasis = -1, ""
	}
	return r, nil
}

// storedProgress is the progress of all copies, also of those that only an earlier
// verification was about, by topic and partition.
func storedProgress(v *cluster.Verification) ([]verify.Progress, error) {
	all := make([]verify.Progress, 0, len(v.Copies))
	for key, data := range v.Copies {
		p := verify.Progress{Destination: -1} // where one does not say it
		if err := json.Unmarshal(data, &p); err != nil {
			return nil, fmt.Errorf("copy %s: %w", key, err)
		}
		all = append(all, p)
	}
	slices.SortStableFunc(all, func(a, b verify.Progress) int {
		return cmp.Or(cmp.Compare(a.SourceTopic, b.SourceTopic), cmp.Compare(a.Partition, b.Partition))
	})
	return all, nil
}

func (v *verifications) Verification(_ context.Context, name string) (*verify.Report, error) {
	s := v.fleet.State()
	if _, err := declaredFlow(s, name); err != nil {
		return nil, err
	}
	r, err := verificationOf(s, name, time.Now())
	if err == nil && r == nil {
		return nil, api.Errorf(http.StatusNotFound, "flow %q has not been verified", name).WithHint("replicator verify %s", name)
	}
	return r, err
}

func (v *verifications) StartVerification(ctx context.Context, name string, req verify.Request, by string) (*verify.Report, error) {
	if err := checkRequest(req); err != nil {
		return nil, err
	}
	if _, err := declaredFlow(v.fleet.State(), name); err != nil {
		return nil, err
	}
	if _, err := v.start(ctx, name, req, by, 0); err != nil {
		return nil, verificationError(err)
	}
	return v.Verification(ctx, name)
}

func (v *verifications) StopVerification(ctx context.Context, name string) (*verify.Report, error) {
	r, err := v.Verification(ctx, name)
	if err != nil {
		return nil, err
	}
	if r.State == verify.Running {
		if _, err := v.fleet.Propose(ctx, &cluster.StopVerification{Flow: name, ID: r.ID, At: time.Now()}); err != nil {
			return nil, verificationError(err)
		}
	}
	return v.Verification(ctx, name)
}

func verificationError(err error) error {
	switch {
	case errors.Is(err, cluster.ErrConflict):
		return api.Errorf(http.StatusConflict, "%v", err).WithHint("wait for it, or stop it")
	case errors.Is(err, cluster.ErrNotFound):
		return api.Errorf(http.StatusNotFound, "%v", err)
	}
	return err
}

// start asks the fleet for a verification and returns its id. epoch is that of a
// duty, 0 for a person.
func (v *verifications) start(ctx context.Context, name string, req verify.Request, by string, epoch uint64) (id string, err error) {
	now := time.Now().UTC()
	old, err := verificationOf(v.fleet.State(), name, now)
	if err != nil {
		return "", err
	}
	c := &cluster.StartVerification{Flow: name, ID: now.Format("20060102-150405.000"), By: by, At: now, Epoch: epoch}
	if old != nil {
		before := old
		if old.State == verify.Running { // it gives way, or this one is refused
			before = old.Previous
		}
		if before != nil {
			before.Partitions, before.Previous = nil, nil
			if c.Found, err = json.Marshal(before); err != nil {
				return "", fmt.Errorf("encode the result before: %w", err)
			}
		}
	}
	if c.Request, err = json.Marshal(req); err != nil {
		return "", fmt.Errorf("encode verification: %w", err)
	}
	_, err = v.fleet.Propose(ctx, c)
	return c.ID, err
}

// checkRequest finds everything that is wrong with a request.
func checkRequest(req verify.Request) error {
	bad := api.Errorf(http.StatusUnprocessableEntity, "the request is not valid")
	for i, pattern := range req.Topics {
		if _, err := (flow.Selector{Include: []string{pattern}}).Matcher(); err != nil {
			bad.Errors = append(bad.Errors, api.Fact{Location: fmt.Sprintf("query.topic[%d]", i), Message: err.Error()})
		}
	}
	if _, err := since(req.From); err != nil {
		bad.Errors = append(bad.Errors, api.Fact{Location: "query.from", Message: err.Error()})
	}
	if rate := req.BytesPerSecond; rate != 0 && rate < int64(flow.MinBytesPerSecond) {
		bad.Errors = append(bad.Errors, api.Fact{Location: "query.bytesPerSecond", Message: fmt.Sprintf("%d is too little to read with: write %d or more, or 0 for no limit", rate, flow.MinBytesPerSecond)})
	}
	if len(bad.Errors) > 0 {
		return bad
	}
	return nil
}

// since is the time at which a verification is to begin, zero if not at one.
func since(from string) (time.Time, error) {
	switch from {
	case "", flow.VerifyFromStart, flow.VerifyFromVerified:
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, from)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is not start, verified or a time like 2026-11-24T08:00:00Z", from)
	}
	return at, nil
}
