package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestInvitationNamesAProgramThatAShellFinds(t *testing.T) {
	dir := t.TempDir()
	self, other := filepath.Join(dir, "self"), filepath.Join(dir, "other")
	for _, path := range []string{self, other} {
		if err := os.WriteFile(path, nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	running := func() (string, error) { return self, nil }
	for _, c := range []struct {
		name, found string
		err         error
		want        string
	}{
		{"installed", self, nil, "replicator"},
		{"another one is installed", other, nil, self},
		{"run by go run", "", errors.New("not found"), self},
	} {
		if got := callMe(func(string) (string, error) { return c.found, c.err }, running); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}
