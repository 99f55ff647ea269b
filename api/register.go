package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// register adds an operation, described by the fields of what it takes and gives.
//
// Of I, those with a tag path, query or header are parameters: strings, integers,
// booleans, times (RFC 3339), and []string for query parameters that may come
// several times (query:"name,explode"). RawBody []byte is the body, of the type in
// its tag contentType. Other tags are the JSON schema's, as huma has them; default is
// the value of a parameter that is not there. Of O, strings with a tag header are
// headers, and Body is answered as JSON, or as it is if it is []byte, or by being
// called if it is streamed.
//
// It stands in for huma.Register, of which the compiler makes a copy for every pair
// of types: 30 KB of the binary each.
func register[I, O any](h huma.API, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	e := &endpoint{
		api: h, op: &op, input: reflect.TypeFor[I](), queries: map[string]bool{},
		handle: func(ctx context.Context, in any) (any, error) { return handle(ctx, in.(*I)) },
	}
	e.describeInput()
	e.describeOutput(reflect.TypeFor[O]())
	e.describeErrors()
	h.OpenAPI().AddOperation(&op)
	h.Adapter().Handle(&op, h.Middlewares().Handler(e.serve))
}

// endpoint is how an operation is served.
type endpoint struct {
	api     huma.API
	op      *huma.Operation
	input   reflect.Type
	params  []param
	queries map[string]bool // names of query parameters
	rawBody []int           // index of the input's field, nil if there is none
	headers []header
	body    []int // index of the output's field, nil if there is none

	// handle takes and gives pointers to the operation's types.
	handle func(ctx context.Context, in any) (out any, err error)
}

// param is a field of an input.
type param struct {
	index    []int
	in, name string
	byItself string // the value if there is none
	schema   *huma.Schema
}

// header is a field of an output.
type header struct {
	index []int
	name  string
}

func (e *endpoint) serve(ctx huma.Context) {
	in := reflect.New(e.input)
	if problem := e.read(ctx, in.Elem()); problem != nil {
		refuse(e.api, ctx, problem)
		return
	}
	out, err := e.handle(ctx.Context(), in.Interface())
	if err == nil {
		err = e.answer(ctx, reflect.ValueOf(out))
	}
	if err != nil {
		problem := Errorf(http.StatusInternalServerError, "%v", err)
		errors.As(err, &problem)
		refuse(e.api, ctx, problem)
	}
}

// read fills in what the request has.
func (e *endpoint) read(ctx huma.Context, in reflect.Value) *Error {
	u := ctx.URL()
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return invalid(&huma.ErrorDetail{Location: "query", Message: err.Error()})
	}
	var unknown []error
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !e.queries[name] {
			unknown = append(unknown, &huma.ErrorDetail{Location: "query." + name, Message: "unknown query parameter"})
		}
	}
	if len(unknown) > 0 {
		return invalid(unknown...)
	}
	res := &huma.ValidateResult{}
	for i := range e.params {
		e.params[i].read(ctx, query, in, e.api.OpenAPI().Components.Schemas, res)
	}
	if len(res.Errors) > 0 {
		return invalid(res.Errors...)
	}
	if e.rawBody == nil {
		return noBody(ctx)
	}
	body, problem := readBody(ctx)
	in.FieldByIndex(e.rawBody).SetBytes(body)
	return problem
}

// invalid is the problem of parameters that cannot be used.
func invalid(faults ...error) *Error {
	e := Errorf(http.StatusUnprocessableEntity, "validation failed")
	for _, err := range faults {
		f := Fact{Message: err.Error()}
		if d, ok := err.(huma.ErrorDetailer); ok {
			f.Location, f.Message = d.ErrorDetail().Location, d.ErrorDetail().Message
		}
		e.Errors = append(e.Errors, f)
	}
	return e
}

// read finds the parameter, checks it and puts it into its field of the input.
func (p *param) read(ctx huma.Context, query url.Values, in reflect.Value, schemas huma.Registry, res *huma.ValidateResult) {
	var texts []string
	switch p.in {
	case "path":
		texts = []string{ctx.Param(p.name)}
	case "query":
		texts = query[p.name]
	case "header":
		var lines []string // of which several are one list (RFC 9110, 5.3)
		ctx.EachHeader(func(name, value string) {
			if strings.EqualFold(name, p.name) {
				lines = append(lines, value)
			}
		})
		texts = []string{strings.Join(lines, ", ")}
	}
	if len(texts) == 0 || texts[0] == "" {
		texts = []string{p.byItself}
	}
	at := huma.NewPathBuffer(nil, 0)
	at.Push(p.in)
	at.Push(p.name)
	if texts[0] == "" {
		if p.in == "path" {
			res.Add(at, "", "required path parameter is missing")
		}
		return
	}
	f := in.FieldByIndex(p.index)
	value, err := parse(f, texts)
	if err != nil {
		res.Add(at, texts[0], err.Error())
		return
	}
	huma.Validate(schemas, p.schema, at, huma.ModeWriteToServer, value, res)
}

var (
	typeOfTime  = reflect.TypeFor[time.Time]()
	typeOfTexts = reflect.TypeFor[[]string]()
)

// parse gives a field the value of a parameter, and returns what a schema is to look at.
func parse(f reflect.Value, texts []string) (any, error) {
	text := texts[0]
	switch {
	case f.Type() == typeOfTexts:
		f.Set(reflect.ValueOf(texts))
		return texts, nil
	case f.Type() == typeOfTime:
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return nil, errors.New("invalid date/time for format " + time.RFC3339Nano)
		}
		f.Set(reflect.ValueOf(at))
		return text, nil
	case f.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, errors.New("invalid boolean")
		}
		f.SetBool(b)
		return b, nil
	case f.CanInt():
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, errors.New("invalid integer")
		}
		f.SetInt(n) // what overflows is beyond the schema's bounds: see readable
		return n, nil
	}
	f.SetString(text)
	return text, nil
}

// noBody refuses a body that nobody would read: who put options there would get what he
// did not ask for.
func noBody(ctx huma.Context) *Error {
	if !readsBody(ctx.Method()) {
		return nil
	}
	_ = ctx.SetReadDeadline(time.Now().Add(bodyTimeout))
	n, err := io.ReadFull(ctx.BodyReader(), make([]byte, 1))
	if n == 0 && err != nil {
		return nil
	}
	return Errorf(http.StatusBadRequest, "this request takes no body").WithHint("options are query parameters, such as ?dryRun=true")
}

// readsBody says whether a body of a request means anything, or would if it were read: with
// GET and HEAD it does not (RFC 9110, 9.3.1).
func readsBody(method string) bool { return method != http.MethodGet && method != http.MethodHead }

// readBody reads a body that must be there, of at most MaxBody bytes.
func readBody(ctx huma.Context) ([]byte, *Error) {
	_ = ctx.SetReadDeadline(time.Now().Add(bodyTimeout)) // the server's own bounds it too
	body, err := io.ReadAll(io.LimitReader(ctx.BodyReader(), MaxBody+1))
	var network net.Error
	switch {
	case len(body) > MaxBody:
		return nil, Errorf(http.StatusRequestEntityTooLarge, "the body has more than %d bytes", MaxBody)
	case errors.As(err, &network) && network.Timeout():
		return nil, Errorf(http.StatusRequestTimeout, "the body did not come within %s", bodyTimeout)
	case err != nil:
		return nil, Errorf(http.StatusInternalServerError, "read the body: %v", err)
	case len(body) == 0:
		return nil, Errorf(http.StatusBadRequest, "request body is required")
	}
	return body, nil
}

// answer writes what out, a pointer, has. Nothing is written if it fails.
func (e *endpoint) answer(ctx huma.Context, out reflect.Value) error {
	if out.IsNil() || e.body == nil {
		ctx.SetStatus(e.op.DefaultStatus)
		return nil
	}
	out = out.Elem()
	body := out.FieldByIndex(e.body).Interface()
	content, raw := body.([]byte)
	stream, streams := body.(streamed)
	if !raw && !streams {
		var b bytes.Buffer
		if err := e.api.Marshal(&b, "application/json", body); err != nil {
			return fmt.Errorf("encode the answer: %w", err)
		}
		content = b.Bytes()
		ctx.SetHeader("Content-Type", "application/json")
	}
	for _, h := range e.headers {
		if text := out.FieldByIndex(h.index).String(); text != "" {
			ctx.SetHeader(h.name, text)
		}
	}
	ctx.SetStatus(e.op.DefaultStatus)
	if streams {
		if call := CallOf(ctx.Context()); call != nil {
			call.tell() // what goes on for days is not to be known only then
		}
		stream(ctx)
		return nil
	}
	_, _ = ctx.BodyWriter().Write(content) // the client may have gone
	return nil
}

// streamed is a Body that is written as it comes into being, after the headers.
type streamed func(huma.Context)
