package api

import (
	"fmt"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// describeInput finds what an operation takes and says so in its description.
func (e *endpoint) describeInput() {
	for _, f := range reflect.VisibleFields(e.input) {
		if f.Name == "RawBody" {
			e.rawBody = f.Index
			if e.op.RequestBody == nil {
				e.op.RequestBody = &huma.RequestBody{Required: true}
			}
			e.op.RequestBody.Content = map[string]*huma.MediaType{
				f.Tag.Get("contentType"): {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
			}
		}
		for _, in := range []string{"path", "query", "header"} {
			if tag := f.Tag.Get(in); tag != "" && !f.Anonymous {
				e.describeParam(f, in, tag)
			}
		}
	}
}

func (e *endpoint) describeParam(f reflect.StructField, in, tag string) {
	name, option, _ := strings.Cut(tag, ",")
	schema := huma.SchemaFromField(e.api.OpenAPI().Components.Schemas, f, "")
	if !readable(f.Type, schema, option == "explode") {
		panic(fmt.Sprintf("%s: parameter %s is a %s, which register does not read", e.op.OperationID, name, f.Type))
	}
	e.params = append(e.params, param{index: f.Index, in: in, name: name, byItself: f.Tag.Get("default"), schema: schema})
	described := &huma.Param{Name: name, In: in, Required: in == "path", Description: schema.Description, Schema: schema}
	if in == "query" {
		e.queries[name] = true
		explode := option == "explode"
		described.Explode = &explode
	}
	e.op.Parameters = append(e.op.Parameters, described)
}

// readable reports whether parse reads a type: of integers, those that hold all that
// their schema lets through.
func readable(t reflect.Type, s *huma.Schema, explode bool) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
		return true
	case reflect.Int32:
		return s.Minimum != nil && *s.Minimum >= math.MinInt32 && s.Maximum != nil && *s.Maximum <= math.MaxInt32
	case reflect.Slice:
		return t == typeOfTexts && explode
	}
	return t == typeOfTime
}

// describeOutput finds what an operation gives and says so in its description.
func (e *endpoint) describeOutput(t reflect.Type) {
	schemas := e.api.OpenAPI().Components.Schemas
	e.op.DefaultStatus = http.StatusNoContent
	if f, ok := t.FieldByName("Body"); ok {
		e.body, e.op.DefaultStatus = f.Index, http.StatusOK
	}
	if e.op.Responses == nil {
		e.op.Responses = map[string]*huma.Response{}
	}
	status := strconv.Itoa(e.op.DefaultStatus)
	if e.op.Responses[status] == nil {
		e.op.Responses[status] = &huma.Response{}
	}
	answer := e.op.Responses[status]
	answer.Description = http.StatusText(e.op.DefaultStatus)
	answer.Headers = map[string]*huma.Param{}
	if e.body != nil && answer.Content == nil {
		answer.Content = map[string]*huma.MediaType{"application/json": {Schema: huma.SchemaFromField(schemas, t.FieldByIndex(e.body), "")}}
	}
	for _, f := range reflect.VisibleFields(t) {
		if name := f.Tag.Get("header"); name != "" {
			e.headers = append(e.headers, header{f.Index, name})
			answer.Headers[name] = &huma.Header{Schema: huma.SchemaFromField(schemas, f, "")}
		}
	}
}

// describeErrors says that every error is a problem.
func (e *endpoint) describeErrors() {
	problem := e.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Error](), true, "")
	e.op.Errors = append(e.op.Errors, http.StatusInternalServerError)
	if readsBody(e.op.Method) {
		e.op.Errors = append(e.op.Errors, http.StatusBadRequest)
	}
	if e.rawBody != nil {
		e.op.Errors = append(e.op.Errors, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge)
	}
	slices.Sort(e.op.Errors)
	e.op.Errors = slices.Compact(e.op.Errors)
	for _, code := range e.op.Errors {
		e.op.Responses[strconv.Itoa(code)] = &huma.Response{
			Description: http.StatusText(code),
			Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: problem}},
		}
	}
}
