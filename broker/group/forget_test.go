package group

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kerr"
)

// forget is what a deletion does.
func (r *rig) forget(ctx context.Context, topic string) {
	r.Forget(topic)
	_ = r.Forgotten(ctx, topic)
}

// TestATopicIsForgottenWhoeverAskedIsGone: a client may delete a topic and leave, and
// offsets in a topic that is no more must not become positions in the next one.
func TestATopicIsForgottenWhoeverAskedIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		gone, leave := context.WithCancel(t.Context())
		leave()
		for range 20 { // whichever of two things that can go on does
			if err := r.commit("g", at(0, 5)); err != nil {
				t.Fatal(err)
			}
			r.forget(gone, "t")
			synctest.Wait()
			r.wantOffset("g", -1)
		}
	})
}

// TestATopicIsForgottenByTheNextLeader: one that is deleted between two leaderships of
// a partition is forgotten by the second, and what is committed then is of the next
// topic.
func TestATopicIsForgottenByTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		if err := r.commit("g", at(0, 5)); err != nil {
			t.Fatal(err)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.forget(t.Context(), "t")
		serve, err := r.Lead(0, r.log)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- serve(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		r.wantOffset("g", -1)
		if err := r.commit("g", at(0, 7)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.wantOffset("g", 7)
	})
}

// TestForgottenIsForGood: a topic is forgotten when no crash brings anything of it back.
func TestForgottenIsForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		if err := r.commit("g", at(0, 5)); err != nil {
			t.Fatal(err)
		}
		r.Forget("t")
		if !r.Forgetting("t") || r.Forgetting("other") {
			t.Error("it is forgotten before anything was done")
		}
		synctest.Wait()
		r.wantOffset("g", -1)
		left, leave := context.WithCancel(t.Context())
		leave()
		for range 20 { // whichever of two things that can go on does
			_ = r.Forgotten(left, "t")
		}
		if err := r.Forgotten(t.Context(), "t"); err != nil || r.Forgetting("t") {
			t.Errorf("it is not forgotten: %v", err)
		}
		if err := r.stop(); err != nil { // while it led, it could forget before it is down
			t.Fatal(err)
		}
		r.Down(0, errors.New("a damaged log"))
		r.Forget("t")
		if err := r.Forgotten(t.Context(), "t"); !errors.Is(err, kerr.CoordinatorNotAvailable) || !r.Forgetting("t") {
			t.Errorf("a partition that is down has forgotten it: %v", err)
		}
	})
}

// TestAVerificationEndsWhoeverAskedIsGone: nothing is kept of a producer whose client
// leaves while its transaction's coordinator is asked.
func TestAVerificationEndsWhoeverAskedIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for id := range int64(20) {
			ctx, leave := context.WithCancel(t.Context())
			req := CommitRequest{Group: "g", Generation: -1, Offsets: []Offset{at(0, 5)}}
			err := r.CommitInTransaction(ctx, req, id, 0, func(context.Context) error { leave(); return kerr.InvalidTxnState })
			if !errors.Is(err, kerr.InvalidTxnState) && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		s, err := r.shard("g")
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Do(t.Context(), func() error {
			if n := len(s.verifying); n > 0 {
				t.Errorf("%d verifications are left", n)
			}
			return nil
		})
	})
}
