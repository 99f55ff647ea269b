package address

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// TestAReservedAddressIsForItsServer listens on it again and again; between two
// lives nobody is there, and who does not name the address cannot have it.
func TestAReservedAddressIsForItsServer(t *testing.T) {
	a := Reserve(t)
	for range 3 {
		if c, err := net.Dial("tcp", a); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("nobody listens, and a connection gives %v, %v", c, err)
		}
		// A port that is asked for as any is given like this: without sharing.
		alone := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 0)
			}), err)
		}}
		if l, err := alone.Listen(t.Context(), "tcp", a); !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatalf("another one gets it: %v, %v", l, err)
		}
		l, err := net.Listen("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		l.Close()
	}
}
