package commitlog

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"

	"github.com/waybillhq/waybill/internal/vfs"
)

func TestFewFilesAreOpenHoweverManyThereAre(t *testing.T) {
	fsys, pool := vfs.NewMem(), NewFiles(4)
	must(t, fsys.MkdirAll(testDir))
	var files []*file
	for i := range 20 {
		f, err := pool.create(fsys, fmt.Sprintf("%s/%d", testDir, i))
		must(t, err)
		_, err = f.WriteAt([]byte{byte(i)}, 0)
		must(t, err)
		files = append(files, f)
	}
	if got := pool.Open(); got != 20 {
		t.Fatalf("%d files are open, want all 20: their writes are not synced", got)
	}
	for _, f := range files {
		must(t, f.DataSync())
	}
	held, err := files[3].acquire()
	must(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i, f := range files {
				var b [1]byte
				if _, err := f.ReadAt(b[:], 0); err != nil || b[0] != byte(i) {
					t.Errorf("file %d holds %d, %v", i, b[0], err)
				}
			}
		})
	}
	wg.Wait()
	one, err := pool.create(fsys, testDir+"/one more")
	must(t, err)
	files = append(files, one)
	if got := pool.Open(); got > 5 {
		t.Fatalf("%d files are open, want about 4", got)
	}

	must(t, files[3].Close())
	if _, err := held.ReadAt(make([]byte, 1), 0); err != nil {
		t.Fatalf("a file in use was closed: %v", err)
	}
	if _, err := files[3].acquire(); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("a closed file was opened again: %v", err)
	}
	files[3].release()
	if _, err := held.ReadAt(make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("after its last user it is still open: %v", err)
	}
	must(t, closeAll(files...))
	if got := pool.Open(); got != 0 {
		t.Fatalf("%d files are left open", got)
	}
}
