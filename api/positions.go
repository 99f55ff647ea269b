package api

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/waybillhq/waybill/offsets"
)

// How many positions a request may ask for: a URL holds some hundred, a body more.
const (
	maxQueryPositions = 1000
	maxBodyPositions  = 10_000
)

// Translations are the images of a position.
type Translations struct {
	From offsets.Where         `json:"from"`
	To   []offsets.Translation `json:"to"`
	Note string                `json:"note,omitempty" doc:"Why there is no answer, where there is none"`
}

// TranslationList answers for several positions, in their order.
type TranslationList struct {
	Translations []Translations `json:"translations"`
}

// PositionPath addresses a position, or the event that lies there.
type PositionPath struct {
	Cluster   string `path:"cluster" doc:"Name of a declared cluster, or its cluster.id"`
	Topic     string `path:"topic"`
	Partition int32  `path:"partition" minimum:"0" maximum:"2147483647"`
	Offset    int64  `path:"offset" minimum:"0"`
}

// AnswerQuery is where positions are wanted, and in which form.
type AnswerQuery struct {
	To     string `query:"to" doc:"Only in this cluster"`
	Format string `query:"format" enum:"json,csv,kafka" default:"json" doc:"json; csv: a line for each answer, with a heading; kafka: topic,partition,offset, as kafka-consumer-groups --reset-offsets --from-file reads it, of the positions that have an answer"`
}

func registerPositions(h huma.API, g Groups) {
	single := operation(http.MethodGet, "/api/v1/offsets/{cluster}/{topic}/{partition}/{offset}", "translate-offset", "Where a position lies on the other side", http.StatusNotFound)
	single.Responses = answerResponses(h, Translations{})
	register(h, single,
		func(ctx context.Context, in *struct {
			PositionPath
			AnswerQuery
		},
		) (*positionsOutput, error) {
			from := []offsets.Where{{Cluster: in.Cluster, Topic: in.Topic, Partition: in.Partition, Offset: in.Offset}}
			all, err := g.Translate(ctx, CallerOf(ctx), from, in.To)
			if err != nil {
				return nil, err
			}
			return encode(in.Format, all, all[0])
		})
	several := operation(http.MethodGet, "/api/v1/offsets/{cluster}", "translate-offsets", "Where several positions lie on the other side", http.StatusNotFound)
	several.Responses = answerResponses(h, TranslationList{})
	register(h, several,
		func(ctx context.Context, in *struct {
			Cluster   string   `path:"cluster" doc:"Name of a declared cluster, or its cluster.id"`
			Positions []string `query:"position,explode" maxItems:"1000" doc:"TOPIC/PARTITION/OFFSET, once for each position"`
			AnswerQuery
		},
		) (*positionsOutput, error) {
			from, err := parsePositions(in.Cluster, in.Positions)
			if err != nil {
				return nil, err
			}
			return translated(ctx, g, from, in.AnswerQuery)
		})
	bulk := operation(http.MethodPost, "/api/v1/offsets/{cluster}", "translate-offsets-in-bulk", "Where up to ten thousand positions lie on the other side", http.StatusNotFound, http.StatusRequestEntityTooLarge)
	bulk.Responses = answerResponses(h, TranslationList{})
	bulk.RequestBody = &huma.RequestBody{
		Required: true, Description: "Lines of topic,partition,offset, as kafka-consumer-groups exports them; a heading with these words may come first",
	}
	register(h, bulk,
		func(ctx context.Context, in *struct {
			Cluster string `path:"cluster" doc:"Name of a declared cluster, or its cluster.id"`
			AnswerQuery
			RawBody []byte `contentType:"text/csv"`
		},
		) (*positionsOutput, error) {
			from, err := readPositions(in.Cluster, in.RawBody)
			if err != nil {
				return nil, err
			}
			return translated(ctx, g, from, in.AnswerQuery)
		})
}

func translated(ctx context.Context, g Groups, from []offsets.Where, q AnswerQuery) (*positionsOutput, error) {
	all, err := g.Translate(ctx, CallerOf(ctx), from, q.To)
	if err != nil {
		return nil, err
	}
	return encode(q.Format, all, TranslationList{all})
}

// parsePositions reads TOPIC/PARTITION/OFFSET of each; a topic's name has no slash.
func parsePositions(cluster string, texts []string) ([]offsets.Where, error) {
	if len(texts) == 0 || len(texts) > maxQueryPositions {
		return nil, positionFault("query.position", "%d positions: name 1 to %d, or POST up to %d", len(texts), maxQueryPositions, maxBodyPositions)
	}
	from := make([]offsets.Where, 0, len(texts))
	for i, text := range texts {
		parts := strings.Split(text, "/")
		if len(parts) != 3 {
			return nil, positionFault(fmt.Sprintf("query.position[%d]", i), "%q is not TOPIC/PARTITION/OFFSET", text)
		}
		w, err := position(cluster, parts)
		if err != nil {
			return nil, positionFault(fmt.Sprintf("query.position[%d]", i), "%q: %v", text, err)
		}
		from = append(from, w)
	}
	return from, nil
}

// readPositions reads lines of topic,partition,offset.
func readPositions(cluster string, body []byte) ([]offsets.Where, error) {
	lines := csv.NewReader(bytes.NewReader(body))
	lines.FieldsPerRecord, lines.TrimLeadingSpace = 3, true
	var from []offsets.Where
	for first := true; ; first = false {
		fields, err := lines.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, positionFault("body", "%v: each line is topic,partition,offset", err)
		}
		if first && strings.EqualFold(strings.Join(fields, ","), "topic,partition,offset") {
			continue
		}
		line, _ := lines.FieldPos(0)
		w, err := position(cluster, fields)
		if err != nil {
			return nil, positionFault(fmt.Sprintf("body, line %d", line), "%v", err)
		}
		if from = append(from, w); len(from) > maxBodyPositions {
			return nil, Errorf(http.StatusRequestEntityTooLarge, "there are more than %d positions", maxBodyPositions).WithHint("ask in several requests")
		}
	}
	if len(from) == 0 {
		return nil, positionFault("body", "there is no position in it: each line is topic,partition,offset")
	}
	return from, nil
}

func position(cluster string, fields []string) (offsets.Where, error) {
	w := offsets.Where{Cluster: cluster, Topic: fields[0]}
	n, err := strconv.ParseInt(fields[1], 10, 32)
	if err != nil || n < 0 {
		return w, fmt.Errorf("partition %q is not a number from 0 to 2147483647", fields[1])
	}
	w.Partition = int32(n)
	if w.Offset, err = strconv.ParseInt(fields[2], 10, 64); err != nil || w.Offset < 0 {
		return w, fmt.Errorf("offset %q is not a number from 0 on", fields[2])
	}
	if w.Topic == "" {
		return w, fmt.Errorf("the topic's name is empty")
	}
	return w, nil
}

func positionFault(where, format string, args ...any) *Error {
	e := Errorf(http.StatusUnprocessableEntity, "a position cannot be read")
	e.Errors = []Fact{{Location: where, Message: fmt.Sprintf(format, args...)}}
	return e
}

// positionsOutput is an answer in the form that was asked for.
type positionsOutput struct {
	ContentType string `header:"Content-Type"`
	Body        any
}

// encode is an answer as format says; plain is what JSON carries.
func encode(format string, all []Translations, plain any) (*positionsOutput, error) {
	if format == "json" {
		return &positionsOutput{"application/json", plain}, nil
	}
	var text bytes.Buffer
	out := csv.NewWriter(&text)
	if format == "csv" {
		_ = out.Write([]string{"cluster", "topic", "partition", "offset", "to_cluster", "to_topic", "to_partition", "to_offset", "exact", "reread", "skipped", "why", "note"}) // a buffer takes everything
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	for _, t := range all {
		f := t.From
		if len(t.To) == 0 && format == "csv" {
			_ = out.Write([]string{f.Cluster, f.Topic, number(int64(f.Partition)), number(f.Offset), "", "", "-1", "-1", "false", "0", "0", string(offsets.NoCopy), t.Note})
		}
		for _, to := range t.To {
			w, r := to.To, to.Result
			switch {
			case format == "csv":
				_ = out.Write([]string{
					f.Cluster, f.Topic, number(int64(f.Partition)), number(f.Offset), w.Cluster, w.Topic, number(int64(w.Partition)), number(w.Offset),
					strconv.FormatBool(r.Exact), number(r.Reread), number(r.Skipped), string(r.Why), r.Note,
				})
			case w.Offset >= 0:
				_ = out.Write([]string{w.Topic, number(int64(w.Partition)), number(w.Offset)})
			}
		}
	}
	out.Flush()
	return &positionsOutput{"text/csv; charset=utf-8", text.Bytes()}, nil
}

// answerResponses describes an answer that comes as JSON or as CSV.
func answerResponses(h huma.API, plain any) map[string]*huma.Response {
	return map[string]*huma.Response{"200": {Description: http.StatusText(http.StatusOK), Content: map[string]*huma.MediaType{
		"application/json": {Schema: h.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(plain), true, "")},
		"text/csv":         {Schema: &huma.Schema{Type: huma.TypeString}},
	}}}
}
