package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

// nodeFile is the plain file that 'replicator serve --config' reads. Its keys
// are documented in docs/fleet.md; those without omitempty must be there.
type nodeFile struct {
	Name    string `json:"name"`
	Fleet   string `json:"fleet"`
	DataDir string `json:"dataDir"`
	// Where it runs, and what flows may ask for in the nodes that run them.
	Region string            `json:"region,omitempty"`
	Rack   string            `json:"rack,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	Peer   nodePeer          `json:"peer"`
	API    nodeAPI           `json:"api"`
}

type nodePeer struct {
	Address   string `json:"address"`
	Advertise string `json:"advertise,omitempty"`
	// Certificates from outside; without them the fleet makes its own.
	CAFile    string   `json:"caFile,omitempty"`
	CertFile  string   `json:"certFile,omitempty"`
	KeyFile   string   `json:"keyFile,omitempty"`
	Bootstrap bool     `json:"bootstrap,omitempty"`
	Join      []string `json:"join,omitempty"`
	TokenFile string   `json:"tokenFile,omitempty"`
	Worker    bool     `json:"worker,omitempty"`
}

type nodeAPI struct {
	Address  string    `json:"address"`
	CertFile string    `json:"certFile,omitempty"`
	KeyFile  string    `json:"keyFile,omitempty"`
	Users    []apiUser `json:"users"`
}

type apiUser struct {
	Name       string            `json:"name"`
	Role       string            `json:"role"`
	Token      flow.Secret       `json:"token"`
	Principals map[string]string `json:"principals,omitempty"`
}

var (
	// A node's name stands in its certificate.
	validNode = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
	// A fleet's name is part of transactional ids and of ledger entries.
	validFleet = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	// A principal is of a type, User as a rule.
	validPrincipal = regexp.MustCompile(`^[A-Za-z]+:.+$`)
)

func newServe() *cobra.Command {
	var file, addressFile string
	var logs logging
	var life lifetime
	cmd := &cobra.Command{
		Use:     "serve --config FILE",
		Short:   "Run a replicator node of a fleet",
		Example: "  replicator serve --config /etc/waybill/node.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, users, err := loadNode(file)
			if err != nil {
				return err
			}
			ctx, stop := life.context(cmd.Context(), cmd.InOrStdin())
			defer stop()
			recent := newRecent(recentBytes)
			clean := newCleanLog(io.MultiWriter(cmd.ErrOrStderr(), recent), users)
			return runNode(ctx, nodeProcess{
				file: f, users: users, addressFile: addressFile, recent: recent,
				log: logs.logger(clean), clean: clean,
				reload: func() (nodeFile, []api.User, error) { return loadNode(file) },
			})
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "YAML file (see docs/fleet.md)")
	_ = cmd.MarkFlagRequired("config") // fails only if the flag is missing
	cmd.Flags().StringVar(&addressFile, "address-file", "", "write the bound addresses there, one a line: NAME HOST:PORT")
	logs.flags(cmd)
	life.flags(cmd)
	return cmd
}

// loadNode reads a node's file and resolves the API's tokens.
func loadNode(path string) (f nodeFile, users []api.User, err error) {
	c, err := loadConfig(path, &f)
	if err != nil {
		return f, nil, err
	}
	f.check(c)
	users = f.API.users(c)
	return f, users, c.err()
}

// check says everything that is wrong with the values.
func (f *nodeFile) check(c config) {
	if !validNode.MatchString(f.Name) {
		c.Fault("name", fmt.Sprintf("%q is not the name of a node", f.Name), "use up to 63 lower case letters, digits, dashes and dots")
	}
	if !validFleet.MatchString(f.Fleet) {
		c.Fault("fleet", fmt.Sprintf("%q is not the name of a fleet", f.Fleet), "use up to 32 lower case letters, digits and dashes")
	}
	for _, needed := range []struct{ path, value string }{
		{"dataDir", f.DataDir},
		{"peer.address", f.Peer.Address},
		{"api.address", f.API.Address},
	} {
		if needed.value == "" {
			c.Fault(needed.path, "is empty", "")
		}
	}
	f.checkLabels(c)
	f.Peer.check(c)
	f.API.check(c)
}

func (f *nodeFile) checkLabels(c config) {
	for _, place := range []struct{ path, value string }{{"region", f.Region}, {"rack", f.Rack}} {
		if place.value != "" && !flow.ValidLabel(place.value) {
			c.Fault(place.path, fmt.Sprintf("%q cannot be compared with those of clusters", place.value), flow.LabelFix)
		}
	}
	for _, key := range sortedNames(f.Labels) {
		switch {
		case slices.Contains(flow.NodeLabels, key):
			c.Fault("labels."+key, "is a label that every node has by itself", "its value is that of name, region or rack: remove it")
		case !flow.ValidLabel(key):
			c.Fault("labels", fmt.Sprintf("%q is not a label", key), flow.LabelFix)
		case !flow.ValidLabel(f.Labels[key]):
			c.Fault("labels."+key, fmt.Sprintf("%q is not a label's value", f.Labels[key]), flow.LabelFix)
		}
	}
}

func (p *nodePeer) check(c config) {
	c.address("peer.address", p.Address)
	c.address("peer.advertise", p.Advertise)
	given := p.CAFile != "" || p.CertFile != "" || p.KeyFile != ""
	for _, file := range []struct{ path, value string }{{"peer.caFile", p.CAFile}, {"peer.certFile", p.CertFile}, {"peer.keyFile", p.KeyFile}} {
		if given && file.value == "" {
			c.Fault(file.path, "is missing", "give all three of caFile, certFile and keyFile, or none: then the fleet makes its own certificates")
		}
	}
	switch {
	case given && p.TokenFile != "":
		c.Fault("peer.tokenFile", "goes not with certificate files", "a node with a certificate of the fleet's authority may join with that: remove one of the two")
	case !given && p.Worker:
		c.Fault("peer.worker", "is for nodes with certificate files", "make its token with 'replicator fleet token create --worker'")
	case p.Bootstrap && p.TokenFile != "":
		c.Fault("peer.tokenFile", "goes not with bootstrap", "a node begins a fleet, or joins one: remove one of the two")
	case p.Bootstrap && p.Worker:
		c.Fault("peer.worker", "goes not with bootstrap", "the first node has to vote")
	}
	c.file("peer.caFile", p.CAFile)
	c.file("peer.certFile", p.CertFile)
	c.file("peer.keyFile", p.KeyFile)
	for i, addr := range p.Join {
		c.address(fmt.Sprintf("peer.join[%d]", i), addr)
	}
	if !p.Bootstrap && len(p.Join) == 0 {
		c.Fault("peer", "neither begins a fleet nor joins one", "write bootstrap: true on the very first node, join: [\"host:port\"] with addresses of others on the rest")
	}
}

func (a *nodeAPI) check(c config) {
	c.address("api.address", a.Address)
	c.pair("api", a.CertFile, a.KeyFile)
	if a.Address != "" && a.CertFile == "" && !loopback(a.Address) {
		c.Fault("api.address", a.Address+" is not loopback", "set api.certFile and api.keyFile: tokens must not travel in the clear")
	}
}

// shortestToken is what cannot be guessed: 16 characters of base64 are 96 bits.
const shortestToken = 16

// users resolves the tokens.
func (a *nodeAPI) users(c config) []api.User {
	if len(a.Users) == 0 {
		c.Fault("api.users", "is empty", "nobody could call the API: add a user")
	}
	var users []api.User
	for i, u := range a.Users {
		at := fmt.Sprintf("api.users[%d]", i)
		role := api.Role(u.Role)
		if role != api.Admin && role != api.Viewer {
			c.Fault(at+".role", fmt.Sprintf("%q is not a role", u.Role), fmt.Sprintf("write %s or %s", api.Admin, api.Viewer))
		}
		token, err := kafka.ResolveSecret(u.Token)
		switch {
		case err != nil:
			c.Fault(at+".token", err.Error(), "")
		case len(token) < shortestToken:
			c.Fault(at+".token", fmt.Sprintf("has less than %d characters", shortestToken), "make one that cannot be guessed: openssl rand -base64 24")
		}
		if u.Name == "" {
			c.Fault(at+".name", "is empty", "")
		}
		for _, other := range users {
			if other.Name == u.Name {
				c.Fault(at+".name", fmt.Sprintf("%q is the name of two users", u.Name), "")
			}
			if token != "" && other.Token == token {
				c.Fault(at+".token", fmt.Sprintf("is that of %s too", other.Name), "who did what could not be told: give each user a token of his own")
			}
		}
		for _, cluster := range sortedNames(u.Principals) {
			if !validPrincipal.MatchString(u.Principals[cluster]) {
				c.Fault(at+".principals."+cluster, fmt.Sprintf("%q is not a principal", u.Principals[cluster]), "write User:name")
			}
		}
		users = append(users, api.User{Name: u.Name, Token: token, Role: role, Principals: u.Principals})
	}
	return users
}
