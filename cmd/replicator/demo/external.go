package demo

import (
	"errors"
	"fmt"
	"slices"
)

// External is a datacenter that somebody else runs: any Kafka that its clients
// reach over SASL_SSL with SCRAM-SHA-512. It must be empty, not make topics by
// itself, know all [Users], of whom the first is its super user, and allow the
// rest what [SourceACLs] or [DestinationACLs] list, and nothing else.
//
// Such a cluster writes down neither who produces nor who reads, so the story
// checks that lineage says so.
type External struct {
	Address       string            // host:port
	CAFile        string            // PEM
	PasswordFiles map[string]string // by user
}

// Users are the people and programs of the story; the first is the super user.
func Users() []string { return slices.Clone(users) }

// SourceACLs are all that datacenter us allows, as acl.ParseRule reads them: the
// replicator's are the least that it needs at the source of a flow.
func SourceACLs() []string { return slices.Clone(aclsSource) }

// DestinationACLs are all that datacenter eu allows.
func DestinationACLs() []string { return slices.Clone(aclsDestination) }

func (e *External) validate(name string) error {
	var errs []error
	if e.Address == "" || e.CAFile == "" {
		errs = append(errs, fmt.Errorf("datacenter %s: an address and an authority's file are needed", name))
	}
	for _, u := range users {
		if e.PasswordFiles[u] == "" {
			errs = append(errs, fmt.Errorf("datacenter %s: no password file of user %s", name, u))
		}
	}
	return errors.Join(errs...)
}
