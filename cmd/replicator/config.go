package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v4"
)

// loadConfig reads the plain YAML file of a process into out, strictly: unknown
// keys are errors, and all faults are reported together with their lines.
func loadConfig(path string, out any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return withCode(exitInvalid, fmt.Errorf("configuration: %w", err))
	}
	if err := yaml.Load(b, out, yaml.WithKnownFields()); err != nil {
		return withCode(exitInvalid, fmt.Errorf("configuration %s: %w", path, err))
	}
	return nil
}

// writeFile writes a file that only its owner reads, whole or not at all.
func writeFile(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err = f.Write(content); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
