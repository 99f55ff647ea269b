package broker

import (
	"reflect"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// eachError calls count for every error code in an answer that is not 0. The two
// that are most of the traffic are looked at by name, the others by reflection.
func eachError(resp kmsg.Response, count func(code int16)) {
	switch r := resp.(type) {
	case nil:
	case *kmsg.ProduceResponse:
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				if code := r.Topics[i].Partitions[j].ErrorCode; code != 0 {
					count(code)
				}
			}
		}
	case *fetchAnswer:
		if r.ErrorCode != 0 {
			count(r.ErrorCode)
		}
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				if code := r.Topics[i].Partitions[j].ErrorCode; code != 0 {
					count(code)
				}
			}
		}
	default:
		v := reflect.ValueOf(resp).Elem()
		planOf(v.Type()).walk(v, count)
	}
}

// errorPlan is where the error codes of a type are.
type errorPlan struct {
	code  int // the field ErrorCode, or -1
	lists []errorList
}

type errorList struct {
	field int
	plan  *errorPlan
}

var errorPlans sync.Map // reflect.Type to *errorPlan

func planOf(t reflect.Type) *errorPlan {
	if p, ok := errorPlans.Load(t); ok {
		return p.(*errorPlan)
	}
	p := &errorPlan{code: -1}
	for i := range t.NumField() {
		f := t.Field(i)
		switch {
		case f.Name == "ErrorCode" && f.Type.Kind() == reflect.Int16:
			p.code = i
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			if inner := planOf(f.Type.Elem()); inner.code >= 0 || len(inner.lists) > 0 {
				p.lists = append(p.lists, errorList{i, inner})
			}
		}
	}
	errorPlans.Store(t, p)
	return p
}

func (p *errorPlan) walk(v reflect.Value, count func(code int16)) {
	if p.code >= 0 {
		if code := v.Field(p.code).Int(); code != 0 {
			count(int16(code))
		}
	}
	for _, l := range p.lists {
		list := v.Field(l.field)
		for i := range list.Len() {
			l.plan.walk(list.Index(i), count)
		}
	}
}
