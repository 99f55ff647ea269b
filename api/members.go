package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Membership is who belongs to the fleet, and its state as a whole.
type Membership interface {
	Members(ctx context.Context) (Members, error)
	// NewToken makes a token that lets one node in. A ttl or worker that makes no
	// sense is refused.
	NewToken(ctx context.Context, ttl time.Duration, worker bool) (JoinToken, error)
	Tokens(ctx context.Context) (TokenList, error)
	DeleteToken(ctx context.Context, id string) error
	// RemoveNode takes a node out for good. Without force one that lives hands its
	// work over first, and a removal that costs the fleet its majority is refused. If
	// disk is not empty, so is that of a node which is on another one.
	RemoveNode(ctx context.Context, node, disk string, force bool) error
	// Transfer hands leadership to a node, or to any other if node is empty.
	Transfer(ctx context.Context, node string) error
	// Backup is the fleet's state as a file.
	Backup(ctx context.Context) ([]byte, error)
}

// Members are the nodes of the fleet as raft has them.
type Members struct {
	ID        string   `json:"id" doc:"Of the fleet: nodes of another one are refused"`
	Leader    string   `json:"leader" doc:"Empty while there is none"`
	Term      uint64   `json:"term"`
	Revision  uint64   `json:"revision" doc:"Of the state on the node that answers"`
	Hash      string   `json:"hash" doc:"SHA-256 of that state: nodes at one revision have the same"`
	Voters    int      `json:"voters"`
	Tolerates int      `json:"tolerates" doc:"So many voters more may go before nothing can be changed; -1: it is so now"`
	Nodes     []Member `json:"nodes"`
}

// Member is one node of the fleet as raft has it.
type Member struct {
	Name             string     `json:"name"`
	Role             string     `json:"role" enum:"voter,standby,worker" doc:"standby: gets a vote when a voter goes; worker: never votes"`
	Answers          bool       `json:"answers"`
	Reason           string     `json:"reason,omitempty" doc:"Why it does not answer"`
	PeerAddress      string     `json:"peerAddress"`
	Address          string     `json:"address,omitempty" doc:"Of its HTTP API"`
	Version          string     `json:"version,omitempty"`
	Disk             string     `json:"disk" doc:"Identifies its directory"`
	Behind           int64      `json:"behind" doc:"Log entries that the node that answers has and this one has not; -1: not known"`
	CertificateUntil *time.Time `json:"certificateUntil,omitempty"`
	LogFull          bool       `json:"logFull,omitempty" doc:"The disk of its raft log is full: it cannot lead until it has room"`
}

// JoinToken lets one node in.
type JoinToken struct {
	ID      string    `json:"id"`
	Token   string    `json:"token,omitempty" doc:"Only in the answer that makes it: nobody keeps it"`
	Worker  bool      `json:"worker,omitempty" doc:"Who comes with it never votes"`
	Expires time.Time `json:"expires"`
	UsedBy  string    `json:"usedBy,omitempty" doc:"The node that has come with it"`
}

// TokenList is all tokens that are remembered.
type TokenList struct {
	Tokens []JoinToken `json:"tokens"`
}

func registerMembership(h huma.API, m Membership) {
	register(h, operation(http.MethodGet, "/api/v1/fleet", "fleet-members", "The nodes of the fleet as raft has them"),
		func(ctx context.Context, _ *struct{}) (*membersOutput, error) {
			all, err := m.Members(ctx)
			return &membersOutput{Body: all}, err
		})
	register(h, adminOperation(http.MethodPost, "/api/v1/fleet/tokens", "create-token", "Make a token that lets one node in", http.StatusConflict),
		func(ctx context.Context, in *tokenInput) (*tokenOutput, error) {
			t, err := m.NewToken(ctx, time.Duration(in.Seconds)*time.Second, in.Worker)
			return &tokenOutput{Body: t}, err
		})
	register(h, adminOperation(http.MethodGet, "/api/v1/fleet/tokens", "list-tokens", "Join tokens of the last day"),
		func(ctx context.Context, _ *struct{}) (*tokensOutput, error) {
			all, err := m.Tokens(ctx)
			return &tokensOutput{Body: all}, err
		})
	register(h, adminOperation(http.MethodDelete, "/api/v1/fleet/tokens/{id}", "delete-token", "Take a join token back", http.StatusNotFound),
		func(ctx context.Context, in *struct {
			ID string `path:"id"`
		},
		) (*struct{}, error) {
			return nil, m.DeleteToken(ctx, in.ID)
		})
	register(h, adminOperation(http.MethodDelete, "/api/v1/fleet/nodes/{node}", "remove-node", "Take a node out of the fleet for good", http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *struct {
			Node  string `path:"node"`
			Disk  string `query:"disk" doc:"Only if the node is on this disk, which the list of nodes has: one that joined under its name meanwhile stays"`
			Force bool   `query:"force" doc:"Do not wait for its work, and remove it even if no majority answers then"`
		},
		) (*struct{}, error) {
			return nil, m.RemoveNode(ctx, in.Node, in.Disk, in.Force)
		})
	register(h, adminOperation(http.MethodPost, "/api/v1/fleet/transfer", "transfer-leadership", "Hand raft's leadership to another node", http.StatusNotFound, http.StatusConflict),
		func(ctx context.Context, in *struct {
			To string `query:"to" doc:"A voter; whoever is most up to date if empty"`
		},
		) (*struct{}, error) {
			return nil, m.Transfer(ctx, in.To)
		})
	register(h, adminOperation(http.MethodGet, "/api/v1/fleet/backup", "backup-fleet", "The fleet's state as a file, without secrets"),
		func(ctx context.Context, _ *struct{}) (*backupOutput, error) {
			b, err := m.Backup(ctx)
			return &backupOutput{ContentType: "application/json", Body: b}, err
		})
}

type membersOutput struct{ Body Members }

type tokenInput struct {
	Seconds int64 `query:"ttlSeconds" default:"3600" minimum:"60" maximum:"604800" doc:"For how long it can be used"`
	Worker  bool  `query:"worker" doc:"Who comes with it never votes, and cannot let others in"`
}

type tokenOutput struct{ Body JoinToken }

type tokensOutput struct{ Body TokenList }

type backupOutput struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}
