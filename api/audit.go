package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Audit is the trail of who did what. Accepted changes come into it with the
// replicated command that makes them; all else through Note.
type Audit interface {
	// Note keeps what came of a call that changed nothing replicated: it was
	// refused, concerned one node only, or read what is accounted for. It does not
	// block, and may count entries that come too fast instead of keeping them.
	Note(e AuditEntry)
	// Entries are those that a query is for, oldest first, of all nodes that answer.
	Entries(ctx context.Context, q AuditQuery) (AuditPage, error)
}

// AuditEntry is one call.
type AuditEntry struct {
	Time      time.Time `json:"time" doc:"By the clock of the node that was called"`
	Node      string    `json:"node" doc:"That was called"`
	User      string    `json:"user,omitempty" doc:"Empty if the caller showed no valid token"`
	Role      Role      `json:"role,omitempty"`
	Address   string    `json:"address,omitempty" doc:"That the call came from"`
	Operation string    `json:"operation" doc:"As the description of the API names it"`
	Target    string    `json:"target,omitempty" doc:"What it was about"`
	Reason    string    `json:"reason,omitempty" doc:"In the caller's words"`
	Status    int       `json:"status" doc:"HTTP status: 2xx was done, 4xx refused, 5xx failed"`
	Problem   string    `json:"problem,omitempty" doc:"Why it was refused"`

	Revision uint64        `json:"revision,omitempty" doc:"Of the state that the change led to"`
	Objects  []AuditChange `json:"objects,omitempty"`
	More     int           `json:"more,omitempty" doc:"Objects that were changed too and are not listed"`

	Source     string `json:"source" enum:"fleet,node" doc:"fleet: an accepted change, on every node; node: kept by the node that was called"`
	Seq        uint64 `json:"seq" doc:"Counts the entries of that source from 1"`
	Suppressed int    `json:"suppressed,omitempty" doc:"Like ones just before it that came too fast to be kept"`
}

// AuditChange is what happened to one object.
type AuditChange struct {
	Key    string   `json:"key"`
	Action string   `json:"action,omitempty"`
	Before uint64   `json:"before,omitempty" doc:"Revision; 0 or absent: there was none"`
	After  uint64   `json:"after,omitempty" doc:"Revision; 0 or absent: there is none"`
	Diff   []string `json:"diff,omitempty" doc:"In short; secrets are references and stay so"`
}

// AuditQuery picks entries. Empty fields pick all.
type AuditQuery struct {
	Since, Until time.Time
	User         string
	Object       string // key, or what a target names
	Operation    string
	Source       string
	Limit        int
	Cursor       string // of the page before; opaque
}

// AuditPage is some entries, and where the next ones are.
type AuditPage struct {
	Entries []AuditEntry  `json:"entries"`
	Next    string        `json:"next,omitempty" doc:"Cursor of the next page; absent: there are no more for now"`
	Missing []AuditAbsent `json:"missing,omitempty" doc:"Nodes whose own entries are not among these"`
	Damage  []AuditDamage `json:"damage,omitempty" doc:"Places at which a file of the trail is not as it was written"`
}

// AuditAbsent is a node that did not answer.
type AuditAbsent struct {
	Node   string `json:"node"`
	Reason string `json:"reason"`
}

// AuditDamage is a place in a file of the trail.
type AuditDamage struct {
	Node   string `json:"node"`
	File   string `json:"file"`
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

// AuditLimits of a page.
const (
	auditMost = 1000
)

type auditInput struct {
	Since     time.Time `query:"since" doc:"RFC 3339; only entries at it or later"`
	Until     time.Time `query:"until" doc:"RFC 3339; only entries before it"`
	User      string    `query:"user"`
	Object    string    `query:"object" doc:"Key of an object, such as ReplicationFlow/us-eu, or a part of the target"`
	Operation string    `query:"operation" doc:"Id of an operation, such as apply"`
	Source    string    `query:"source" enum:"fleet,node"`
	Limit     int       `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor    string    `query:"cursor" doc:"next of the page before"`
}

func registerAudit(h huma.API, a Audit) {
	register(h, adminRead("/api/v1/audit", "list-audit", "Who did what, when, from where, and what came of it", http.StatusBadRequest),
		func(ctx context.Context, in *auditInput) (*auditOutput, error) {
			page, err := a.Entries(ctx, AuditQuery{
				Since: in.Since, Until: in.Until, User: in.User, Object: in.Object, Operation: in.Operation, Source: in.Source,
				Limit: min(max(in.Limit, 1), auditMost), Cursor: in.Cursor,
			})
			if err != nil {
				return nil, err
			}
			if page.Entries == nil {
				page.Entries = []AuditEntry{}
			}
			return &auditOutput{Body: page}, nil
		})
}

type auditOutput struct{ Body AuditPage }

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }
