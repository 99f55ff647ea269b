package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/waybillhq/waybill/runbook"
)

// Runbooks runs declared runbooks. A runbook has at most one execution that has
// not ended; its name stands for the latest one.
type Runbooks interface {
	// Plan is the execution as it would begin, not stored.
	Plan(ctx context.Context, name string) (*runbook.Execution, error)
	Start(ctx context.Context, name string, by Person) (*runbook.Execution, error)
	Latest(ctx context.Context, name string) (*runbook.Execution, error)
	// Decide applies a person's decision: approve, confirm, pause, resume, retry,
	// rollback or abort. Step is the id of the step that waits, for the first two.
	Decide(ctx context.Context, name, decision, step string, by Person) (*runbook.Execution, error)
}

// Person is who decides, and why.
type Person struct {
	Name   string
	Reason string
}

// RunbookPath names a runbook.
type RunbookPath struct {
	Name string `path:"name"`
}

type runbookRead struct {
	RunbookPath
	ReadQuery
}

type decisionInput struct {
	RunbookPath
	Decision string `path:"decision" enum:"approve,confirm,pause,resume,retry,rollback,abort"`
	Step     string `query:"step" doc:"Id of the step that waits; may be left out if only one does"`
	Reason   string `query:"reason" doc:"Stands in the evidence"`
}

func registerRunbooks(h huma.API, r Runbooks) {
	register(h, stateOperation("/api/v1/runbooks/{name}/plan", "plan-runbook", "The steps that a run would take", http.StatusNotFound),
		func(ctx context.Context, in *runbookRead) (*executionOutput, error) {
			return execution(r.Plan(ctx, in.Name))
		})
	register(h, stateOperation("/api/v1/runbooks/{name}/execution", "get-execution", "The latest run: steps, evidence, decisions", http.StatusNotFound),
		func(ctx context.Context, in *runbookRead) (*executionOutput, error) {
			return execution(r.Latest(ctx, in.Name))
		})
	report := stateOperation("/api/v1/runbooks/{name}/report", "get-report", "The latest run as a Markdown report", http.StatusNotFound)
	report.Responses = map[string]*huma.Response{"200": {Content: map[string]*huma.MediaType{"text/markdown": {Schema: &huma.Schema{Type: huma.TypeString}}}}}
	register(h, report,
		func(ctx context.Context, in *runbookRead) (*reportOutput, error) {
			x, err := r.Latest(ctx, in.Name)
			if err != nil {
				return nil, err
			}
			return &reportOutput{ContentType: "text/markdown; charset=utf-8", Body: []byte(x.Markdown())}, nil
		})
	register(h, adminOperation(http.MethodPost, "/api/v1/runbooks/{name}/start", "start-runbook", "Run it", http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *struct {
			RunbookPath
			Reason string `query:"reason" doc:"Stands in the evidence"`
		},
		) (*executionOutput, error) {
			return execution(r.Start(ctx, in.Name, Person{CallerOf(ctx).Name, in.Reason}))
		})
	register(h, adminOperation(http.MethodPost, "/api/v1/runbooks/{name}/{decision}", "decide-runbook", "Approve, confirm, pause, resume, retry, roll back or abort", http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *decisionInput) (*executionOutput, error) {
			return execution(r.Decide(ctx, in.Name, in.Decision, in.Step, Person{CallerOf(ctx).Name, in.Reason}))
		})
}

type executionOutput struct{ Body *runbook.Execution }

type reportOutput struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

func execution(x *runbook.Execution, err error) (*executionOutput, error) {
	if err != nil {
		return nil, err
	}
	return &executionOutput{Body: x}, nil
}
