//go:build !unix

package broker

import (
	"fmt"
	"math"
	"os"
)

type noLock struct{}

// lockDir only makes the directory: the demo is all that runs on this system.
func lockDir(dir string) (releaser, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	return noLock{}, nil
}

func (noLock) release() error { return nil }

// diskFree does not know: errors of writing say it.
func diskFree(string) (int64, error) { return math.MaxInt64, nil }
