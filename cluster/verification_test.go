package cluster

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

var (
	noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	duty = Work{Kind: WorkFlow, Name: "orders"}
)

func raw(text string) json.RawMessage { return json.RawMessage(text) }

// TestVerificationBelongsToTheDutysOwner has progress move from one owner to the
// next, and refuses what an earlier one still has to say.
func TestVerificationBelongsToTheDutysOwner(t *testing.T) {
	s := newScript(t)
	a := s.node("a")
	s.node("b")
	s.refused(&StartVerification{Flow: "orders", ID: "v1", At: noon}, ErrNotFound)
	s.flow("orders", "a", map[string]int32{"t": 2})
	first := s.owner(duty).Epoch
	s.refused(&PutVerification{Flow: "orders", ID: "v1", Epoch: first}, ErrNotFound)
	s.refused(&StartVerification{Flow: "orders", ID: "v1"}, ErrInvalid)
	s.must(&StartVerification{Flow: "orders", ID: "v1", By: "ann", Request: raw(`{"from":"start"}`), At: noon})
	s.must(&StartVerification{Flow: "orders", ID: "v1", By: "ann", Request: raw(`{"from":"start"}`), At: noon}) // said twice
	s.refused(&StartVerification{Flow: "orders", ID: "v2", By: "bob", At: noon}, ErrConflict)
	s.must(&PutVerification{Flow: "orders", ID: "v1", Epoch: first, Begun: true, Copies: map[string]json.RawMessage{"k0": raw(`1`), "k1": raw(`1`)}})

	s.must(&EndIncarnation{Node: "a", Incarnation: a})
	s.refused(&PutVerification{Flow: "orders", ID: "v1", Epoch: first, Copies: map[string]json.RawMessage{"k0": raw(`9`)}}, ErrNotOwner)
	s.place("b", duty)
	second := s.owner(duty).Epoch
	s.refused(&PutVerification{Flow: "orders", ID: "v1", Epoch: first, Copies: map[string]json.RawMessage{"k0": raw(`9`)}}, ErrNotOwner)
	s.must(&PutVerification{Flow: "orders", ID: "v1", Epoch: second, Copies: map[string]json.RawMessage{"k0": raw(`2`)}, Remove: []string{"k1"}})
	if got := s.state.Flows["orders"].Verification; !got.Running() || !got.Begun || !reflect.DeepEqual(got.Copies, map[string]json.RawMessage{"k0": raw(`2`)}) {
		t.Errorf("got %+v", got)
	}
	end := &PutVerification{Flow: "orders", ID: "v1", Epoch: second, Ended: noon.Add(time.Hour)}
	s.must(end)
	s.must(end)
	s.refused(&PutVerification{Flow: "orders", ID: "v1", Epoch: second, Copies: map[string]json.RawMessage{"k0": raw(`3`)}}, ErrConflict)

	// The next one finds how far the last one came.
	s.must(&StartVerification{Flow: "orders", ID: "v2", At: noon, Epoch: second, Found: raw(`"well"`)})
	got := s.state.Flows["orders"].Verification
	if got.ID != "v2" || got.Begun || string(got.Copies["k0"]) != "2" || string(got.Found) != `"well"` {
		t.Errorf("got %+v", got)
	}
}

func TestAPersonsVerificationTakesTheDeclaredOnesPlace(t *testing.T) {
	s := newScript(t)
	s.node("a")
	s.flow("orders", "a", map[string]int32{"t": 2})
	epoch := s.owner(duty).Epoch
	s.refused(&StartVerification{Flow: "orders", ID: "v1", At: noon, Epoch: epoch + 1}, ErrNotOwner)
	s.must(&StartVerification{Flow: "orders", ID: "v1", At: noon, Epoch: epoch})
	s.refused(&StartVerification{Flow: "orders", ID: "v2", At: noon, Epoch: epoch}, ErrConflict)
	s.must(&StartVerification{Flow: "orders", ID: "v3", By: "ann", At: noon})
	s.refused(&PutVerification{Flow: "orders", ID: "v1", Epoch: epoch}, ErrNotFound)
	s.refused(&StartVerification{Flow: "orders", ID: "v4", At: noon, Epoch: epoch}, ErrConflict)
	s.refused(&StopVerification{Flow: "orders", ID: "v1", At: noon}, ErrNotFound)
	s.refused(&StopVerification{Flow: "orders", ID: "v3"}, ErrInvalid)
	s.must(&StopVerification{Flow: "orders", ID: "v3", At: noon.Add(time.Minute)})
	s.must(&StopVerification{Flow: "orders", ID: "v3", At: noon.Add(time.Hour)})
	if got := s.state.Flows["orders"].Verification; !got.Stopped || !got.Ended.Equal(noon.Add(time.Minute)) {
		t.Errorf("got %+v", got)
	}
	s.must(&StartVerification{Flow: "orders", ID: "v4", At: noon, Epoch: epoch})
}
