package main

import (
	"errors"
	"fmt"
	"net"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

// nodeFile is the plain file that 'replicator serve --config' reads. Its keys
// are documented in docs/fleet.md.
type nodeFile struct {
	Name    string `yaml:"name"`
	Fleet   string `yaml:"fleet"`
	DataDir string `yaml:"dataDir"`
	Peer    struct {
		Address   string   `yaml:"address"`
		Advertise string   `yaml:"advertise"`
		CAFile    string   `yaml:"caFile"`
		CertFile  string   `yaml:"certFile"`
		KeyFile   string   `yaml:"keyFile"`
		Bootstrap bool     `yaml:"bootstrap"`
		Join      []string `yaml:"join"`
	} `yaml:"peer"`
	API struct {
		Address  string    `yaml:"address"`
		CertFile string    `yaml:"certFile"`
		KeyFile  string    `yaml:"keyFile"`
		Users    []apiUser `yaml:"users"`
	} `yaml:"api"`
}

type apiUser struct {
	Name       string            `yaml:"name"`
	Role       string            `yaml:"role"`
	Token      flow.Secret       `yaml:"token"`
	Principals map[string]string `yaml:"principals"`
}

// A fleet's name is part of transactional ids and of ledger entries.
var validFleet = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

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
			var f nodeFile
			if err := loadConfig(file, &f); err != nil {
				return err
			}
			users, err := f.validate()
			if err != nil {
				return withCode(exitInvalid, fmt.Errorf("configuration %s: %w", file, err))
			}
			ctx, stop := life.context(cmd.Context(), cmd.InOrStdin())
			defer stop()
			return runNode(ctx, f, users, addressFile, logs.logger(cmd.ErrOrStderr()))
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "YAML file (see docs/fleet.md)")
	_ = cmd.MarkFlagRequired("config") // fails only if the flag is missing
	cmd.Flags().StringVar(&addressFile, "address-file", "", "write the bound addresses there, one a line: NAME HOST:PORT")
	logs.flags(cmd)
	life.flags(cmd)
	return cmd
}

// validate says everything that is wrong, and resolves the API's tokens.
func (f *nodeFile) validate() ([]api.User, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for key, v := range map[string]string{
		"name": f.Name, "dataDir": f.DataDir, "peer.address": f.Peer.Address, "peer.caFile": f.Peer.CAFile,
		"peer.certFile": f.Peer.CertFile, "peer.keyFile": f.Peer.KeyFile, "api.address": f.API.Address,
	} {
		if v == "" {
			bad("%s is missing", key)
		}
	}
	if !validFleet.MatchString(f.Fleet) {
		bad("fleet %q: up to 32 lower case letters, digits and dashes", f.Fleet)
	}
	if f.Peer.Bootstrap == (len(f.Peer.Join) > 0) {
		bad("peer: set either bootstrap (the first node of a new fleet) or join (addresses of nodes that are there)")
	}
	if host, _, err := net.SplitHostPort(f.API.Address); f.API.Address != "" && err != nil {
		bad("api.address: %w", err)
	} else if ip := net.ParseIP(host); f.API.CertFile == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		bad("api.address %s is not loopback: set api.certFile and api.keyFile, tokens must not travel in the clear", f.API.Address)
	}
	users, err := f.users()
	return users, errors.Join(append(errs, err)...)
}

// users resolves the tokens; short ones could be guessed.
func (f *nodeFile) users() ([]api.User, error) {
	const shortest = 16
	var errs []error
	var users []api.User
	if len(f.API.Users) == 0 {
		errs = append(errs, errors.New("api.users is empty: nobody could call the API"))
	}
	for _, u := range f.API.Users {
		token, err := kafka.ResolveSecret(u.Token)
		role := api.Role(u.Role)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("api.users: %s: token: %w", u.Name, err))
		case len(token) < shortest:
			errs = append(errs, fmt.Errorf("api.users: %s: the token has less than %d characters", u.Name, shortest))
		case u.Name == "":
			errs = append(errs, errors.New("api.users: a user has no name"))
		case role != api.Admin && role != api.Viewer:
			errs = append(errs, fmt.Errorf("api.users: %s: role %q is neither %s nor %s", u.Name, u.Role, api.Admin, api.Viewer))
		}
		users = append(users, api.User{Name: u.Name, Token: token, Role: role, Principals: u.Principals})
	}
	return users, errors.Join(errs...)
}
