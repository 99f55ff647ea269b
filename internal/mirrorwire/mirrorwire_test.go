package mirrorwire

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

var keys = []int16{AppendKey, DescribeKey, AlterKey}

func newRequest(key int16) kmsg.Request {
	switch key {
	case AppendKey:
		return new(AppendRequest)
	case DescribeKey:
		return new(DescribeRequest)
	}
	return new(AlterRequest)
}

// random fills every exported field.
func random(v reflect.Value, rng *rand.Rand) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "versioned" {
				random(v.Field(i), rng)
			}
		}
	case reflect.Slice:
		n := 1 + rng.IntN(3) // an empty array and none are the same here
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			random(v.Index(i), rng)
		}
	case reflect.Array:
		for i := range v.Len() {
			random(v.Index(i), rng)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		random(v.Elem(), rng)
	case reflect.String:
		v.SetString(string([]byte{'a' + byte(rng.IntN(26)), 'x'}))
	case reflect.Uint8:
		v.SetUint(rng.Uint64() & 0xff)
	default:
		v.SetInt(rng.Int64() >> (64 - v.Type().Bits()))
	}
}

func TestEveryFieldSurvivesTheWire(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, key := range keys {
		for range 50 {
			req := newRequest(key)
			resp := req.ResponseKind()
			if req.Key() != key || resp.Key() != key || resp.RequestKind().Key() != key || Name(key) == "" {
				t.Fatalf("key %d: request has %d, response %d", key, req.Key(), resp.Key())
			}
			random(reflect.ValueOf(req).Elem(), rng)
			random(reflect.ValueOf(resp).Elem(), rng)
			again := newRequest(key)
			if err := again.ReadFrom(req.AppendTo(nil)); err != nil || !reflect.DeepEqual(again, req) {
				t.Fatalf("%s: %v\n got %+v\nwant %+v", Name(key), err, again, req)
			}
			answer := req.ResponseKind()
			if err := answer.ReadFrom(resp.AppendTo(nil)); err != nil || !reflect.DeepEqual(answer, resp) {
				t.Fatalf("answer of %s: %v\n got %+v\nwant %+v", Name(key), err, answer, resp)
			}
		}
	}
}

func TestOtherKeysAreKafkas(t *testing.T) {
	for key := range int16(kmsg.MaxKey + 1) {
		if Name(key) != "" {
			t.Errorf("key %d is Kafka's", key)
		}
	}
}

func TestFieldsOfLaterVersionsAreSkipped(t *testing.T) {
	ref := TopicRef{Topic: "orders"}
	body := (&DescribeRequest{Topics: []TopicRef{ref}}).AppendTo(nil)
	body = append(body[:len(body)-2], 1, 9, 2, 'x', 'y', 0) // a tag in the topic
	var got DescribeRequest
	if err := got.ReadFrom(body); err != nil || len(got.Topics) != 1 || got.Topics[0] != ref {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := got.ReadFrom(append(body, 0)); err == nil {
		t.Error("bytes after the message are taken")
	}
}

func FuzzReadFrom(f *testing.F) {
	rng := rand.New(rand.NewPCG(2, 2))
	for i, key := range keys {
		req := newRequest(key)
		random(reflect.ValueOf(req).Elem(), rng)
		resp := req.ResponseKind()
		random(reflect.ValueOf(resp).Elem(), rng)
		f.Add(uint8(i), false, req.AppendTo(nil))
		f.Add(uint8(i), true, resp.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, which uint8, response bool, data []byte) {
		req := newRequest(keys[int(which)%len(keys)])
		var m interface {
			AppendTo([]byte) []byte
			ReadFrom([]byte) error
		} = req
		if response {
			m = req.ResponseKind()
		}
		if m.ReadFrom(data) != nil {
			return
		}
		if err := m.ReadFrom(m.AppendTo(nil)); err != nil {
			t.Fatalf("our own encoding: %v", err)
		}
	})
}
