package broker

import (
	"errors"
	"io/fs"
	"net"
	"syscall"
	"testing"

	"github.com/waybillhq/waybill/internal/vfs"
)

// TestSocketsAreBoundBeforeTheStoreIsOpened has an address that cannot be bound:
// that is known before anything of the store is touched, which may take long.
func TestSocketsAreBoundBeforeTheStoreIsOpened(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg, _ := testConfig(t)
	cfg.Listeners[0].Addr = taken.Addr().String()
	store := vfs.NewMem()
	cfg.FS = store
	if _, err := New(cfg); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("an address that is taken: %v", err)
	}
	if names, err := store.ReadDir(cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the store has %q, %v: it was opened first", names, err)
	}
}
