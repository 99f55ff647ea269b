//go:build !linux

package address

import (
	"net"
	"testing"
)

// Reserve returns an address, as host:port, that nobody has at the moment.
func Reserve(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
