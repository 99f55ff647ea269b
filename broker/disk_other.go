//go:build !linux && !darwin

package broker

// diskSpace is not told here.
func diskSpace(string) (total, usable int64) { return -1, -1 }
