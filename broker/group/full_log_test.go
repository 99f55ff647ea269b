package group

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// full lets the log refuse everything, or take it again.
func (r *rig) full(is bool) {
	r.log.set(func() {
		r.log.refuse, r.log.tries = nil, 0
		if is {
			r.log.refuse = fmt.Errorf("%w: no room", kerr.CoordinatorNotAvailable)
		}
	})
}

// TestAFullLogChangesNothing: what a log refuses has not happened, for whoever
// asks, and what time brings is tried again and not all the time.
func TestAFullLogChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		j := r.stable("g")
		if err := r.commit("g", at(0, 5)); !errors.Is(err, kerr.UnknownMemberID) {
			t.Fatalf("a commit from outside a live group: %v", err)
		}
		if err := r.commit("other", at(0, 5)); err != nil {
			t.Fatal(err)
		}
		r.full(true)
		refused := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, kerr.CoordinatorNotAvailable) {
				t.Errorf("%s: got %v, want COORDINATOR_NOT_AVAILABLE", what, err)
			}
		}
		check := func() {
			t.Helper()
			r.wantOffset("other", 5)
			if d, err := r.Describe(t.Context(), "g"); err != nil || d.State != Stable || len(d.Members) != 1 || string(d.Members[0].Assignment) != "p0" {
				t.Errorf("group: got %+v, %v; want it as it was", d, err)
			}
		}
		refused("commit", r.commit("other", at(0, 6)))
		check()
		_, err := r.Leave(t.Context(), "g", []Leaver{{MemberID: j.MemberID}})
		refused("leave", err)
		check()
		_, err = r.beat("new", "A", 0)
		refused("first heartbeat", err)
		if l, err := r.List(t.Context()); err != nil || len(l) != 2 {
			t.Errorf("groups: got %v, %v; want two", l, err)
		}
		refused("delete", r.Delete(t.Context(), "other"))
		refused("end of a transaction", r.EndTransaction(t.Context(), 0, Marker{ProducerID: 1}))
		r.forget(t.Context(), "t")
		check()
		if err := r.Heartbeat(t.Context(), "g", Heartbeat{MemberID: j.MemberID, Generation: 1}); err != nil {
			t.Errorf("heartbeat: %v", err)
		}
		r.full(true)
		time.Sleep(time.Minute) // the member's session is over, and cannot be ended
		check()
		if r.log.tries < 30 || r.log.tries > 150 {
			t.Errorf("%d tries in a minute, want one or two a second", r.log.tries)
		}
		r.full(false)
		time.Sleep(2 * time.Second)
		if d, err := r.Describe(t.Context(), "g"); err != nil || d.State != Empty {
			t.Errorf("group: got %+v, %v; want it empty", d, err)
		}
		r.wantOffset("other", -1)
		r.restart()
		r.wantOffset("other", -1)
	})
}

// TestARefusalBySurpriseBeginsAnew: a group that has changed before its log refused
// it is read from the log again, by who leads next.
func TestARefusalBySurpriseBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		j := r.stable("g")
		r.full(true)
		leave := func() error {
			_, err := r.Leave(t.Context(), "g", []Leaver{{MemberID: j.MemberID}})
			return err
		}
		for range 2 {
			if err := leave(); !errors.Is(err, kerr.CoordinatorNotAvailable) {
				t.Errorf("leave: got %v, want COORDINATOR_NOT_AVAILABLE", err)
			}
		}
		if err := r.stop(); !errors.Is(err, errUnsaved) {
			t.Fatalf("leadership ended with %v", err)
		}
		r.start()
		for range 3 { // as careful as it has to be
			if err := leave(); !errors.Is(err, kerr.CoordinatorNotAvailable) {
				t.Errorf("leave: got %v, want COORDINATOR_NOT_AVAILABLE", err)
			}
			if d, err := r.Describe(t.Context(), "g"); err != nil || d.State != Stable {
				t.Errorf("group: got %+v, %v", d, err)
			}
		}
		r.full(false)
		if err := leave(); err != nil {
			t.Errorf("leave: %v", err)
		}
	})
}

// unshared makes a step of a group and fails, if it looks, when a copy of the group
// changes with it.
func unshared[E any](t *testing.T, m machine, look bool, step func() E) E {
	t.Helper()
	if !look {
		return step()
	}
	kept := m.clone()
	before := picture(reflect.ValueOf(kept))
	out := step()
	if after := picture(reflect.ValueOf(kept)); after != before {
		t.Fatalf("a copy has changed from\n%s to\n%s", before, after)
	}
	return out
}

// picture is a value with all that it points to.
func picture(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() || v.Type() == reflect.TypeFor[*time.Location]() {
			return "-"
		}
		return picture(v.Elem())
	case reflect.Struct:
		fields := make([]string, v.NumField())
		for i := range fields {
			fields[i] = picture(v.Field(i))
		}
		return "{" + strings.Join(fields, " ") + "}"
	case reflect.Slice, reflect.Array:
		all := make([]string, v.Len())
		for i := range all {
			all[i] = picture(v.Index(i))
		}
		return "[" + strings.Join(all, " ") + "]"
	case reflect.Map:
		var all []string
		for _, k := range v.MapKeys() {
			all = append(all, picture(k)+":"+picture(v.MapIndex(k)))
		}
		slices.Sort(all)
		return "map[" + strings.Join(all, " ") + "]"
	}
	return fmt.Sprint(v)
}
