package vfs

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// write makes a file with data in it and does not sync it.
func write(t *testing.T, fsys FS, name, data string) File {
	t.Helper()
	f, err := fsys.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(data), 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBothFileSystemsAgree(t *testing.T) {
	for name, c := range map[string]struct {
		fsys FS
		dir  string
	}{
		"os":  {OS{}, t.TempDir()},
		"mem": {NewMem(), "/data"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(c.dir, "a", "b")
			must(t, c.fsys.MkdirAll(dir))
			file := filepath.Join(dir, "x")
			f := write(t, c.fsys, file, "hello")
			must(t, f.Preallocate(8))
			must(t, f.Preallocate(4)) // never shrinks
			must(t, f.DataSync())
			got, err := ReadFile(c.fsys, file, 100)
			if want := []byte("hello\x00\x00\x00"); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("content %q, %v, want %q", got, err, want)
			}
			if _, err := ReadFile(c.fsys, file, 7); err == nil {
				t.Fatal("a file above the limit was read")
			}
			must(t, f.Truncate(2))
			must(t, f.Sync())
			if size, err := f.Size(); size != 2 || err != nil {
				t.Fatalf("size %d, %v, want 2", size, err)
			}
			if n, err := f.ReadAt(make([]byte, 4), 0); n != 2 || err == nil {
				t.Fatalf("read past the end: %d, %v", n, err)
			}
			must(t, f.Close())
			if _, err := c.fsys.Create(file); !errors.Is(err, fs.ErrExist) {
				t.Fatalf("create again: %v, want ErrExist", err)
			}
			must(t, WriteFile(c.fsys, file, []byte("new")))
			must(t, c.fsys.Rename(file, filepath.Join(dir, "y")))
			if _, err := c.fsys.Open(file); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("open the old name: %v, want ErrNotExist", err)
			}
			must(t, write(t, c.fsys, filepath.Join(dir, "c"), "").Close())
			names, err := c.fsys.ReadDir(dir)
			if want := []string{"c", "y"}; err != nil || !slices.Equal(names, want) {
				t.Fatalf("names %q, %v, want %q", names, err, want)
			}
			must(t, c.fsys.SyncDir(dir))
			must(t, c.fsys.Remove(filepath.Join(dir, "c")))
			moved := filepath.Join(filepath.Dir(dir), "moved")
			must(t, c.fsys.RenameDir(dir, moved))
			if got, err := ReadFile(c.fsys, filepath.Join(moved, "y"), 10); string(got) != "new" {
				t.Fatalf("a file of a directory that was moved: %q, %v", got, err)
			}
			if err := c.fsys.RenameDir(dir, moved); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("move a directory that is not there: %v, want ErrNotExist", err)
			}
			must(t, c.fsys.RenameDir(moved, dir))
			must(t, c.fsys.RemoveAll(dir))
			must(t, c.fsys.RemoveAll(dir))
			if _, err := c.fsys.ReadDir(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("read a removed directory: %v, want ErrNotExist", err)
			}
		})
	}
}

func TestCrashKeepsWhatWasSynced(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/d"))
	f := write(t, m, "/d/synced", "kept")
	must(t, f.Sync())
	must(t, write(t, m, "/d/dirty", "lost").Close())
	must(t, m.SyncDir("/d"))
	must(t, write(t, m, "/d/nameless", "lost").Close())
	if _, err := f.WriteAt([]byte("KEPT+"), 0); err != nil {
		t.Fatal(err)
	}

	after := m.Crash(nil)
	for name, want := range map[string]string{"/d/synced": "kept", "/d/dirty": ""} {
		if got, err := ReadFile(after, name, 100); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v, want %q", name, got, err, want)
		}
	}
	if _, err := after.Open("/d/nameless"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unsynced name: %v, want ErrNotExist", err)
	}
}

func TestWriteFileIsAtomic(t *testing.T) {
	for name, replace := range map[string]func(FS, string, []byte) error{"own directory": WriteFile, "beside others": WriteFileBeside} {
		t.Run(name, func(t *testing.T) {
			for step := 1; ; step++ {
				m := NewMem()
				must(t, m.MkdirAll("/d"))
				must(t, replace(m, "/d/f", []byte("old")))
				n := 0
				m.SetFault(func(Op, string) error {
					if n++; n >= step {
						return errors.New("power is out")
					}
					return nil
				})
				err := replace(m, "/d/f", []byte("new"))
				for seed := range uint64(20) {
					got, rerr := ReadFile(m.Crash(rand.New(rand.NewPCG(seed, 1))), "/d/f", 100)
					if rerr != nil || (string(got) != "old" && string(got) != "new") || (err == nil && string(got) != "new") {
						t.Fatalf("step %d: write said %v, content after the crash %q, %v", step, err, got, rerr)
					}
				}
				if err == nil {
					return
				}
			}
		})
	}
}

// Whatever fails, a file that has the name of WriteFile's temporary one stays, and
// nothing else is left in the directory.
func TestWriteFileBesideLeavesOthersAlone(t *testing.T) {
	for step := 1; ; step++ {
		m := NewMem()
		must(t, m.MkdirAll("/d"))
		must(t, WriteNew(m, "/d/f.tmp", []byte("somebody's")))
		n, boom := 0, errors.New("boom")
		m.SetFault(func(Op, string) error {
			if n++; n == step {
				return boom
			}
			return nil
		})
		err := WriteFileBeside(m, "/d/f", []byte("new"))
		if err != nil && !errors.Is(err, boom) {
			t.Fatalf("step %d: %v, want the fault", step, err)
		}
		m.SetFault(nil)
		names, rerr := m.ReadDir("/d")
		must(t, rerr)
		names = slices.DeleteFunc(names, func(n string) bool { return n == "f" })
		if got, rerr := ReadFile(m, "/d/f.tmp", 100); !slices.Equal(names, []string{"f.tmp"}) || string(got) != "somebody's" {
			t.Fatalf("step %d (%v): the directory has %q besides, f.tmp holds %q (%v)", step, err, names, got, rerr)
		}
		if err == nil {
			if got, rerr := ReadFile(m, "/d/f", 100); string(got) != "new" {
				t.Fatalf("it holds %q, %v", got, rerr)
			}
			return
		}
	}
}

func TestPrivateFilesAreTheirOwners(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	must(t, os.WriteFile(file, []byte("old"), 0o644))
	must(t, WriteFileBeside(Private{}, file, []byte("new")))
	info, err := os.Stat(file)
	must(t, err)
	if got, err := os.ReadFile(file); info.Mode().Perm() != 0o600 || string(got) != "new" {
		t.Errorf("mode %v, content %q (%v), want 0600 and the new content", info.Mode(), got, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v is left (%v), want the one file", left, err)
	}
	if err := WriteFileBeside(Private{}, filepath.Join(dir, "none", "f"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func TestAFailedSyncLosesTheWritesForGood(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/d"))
	f := write(t, m, "/d/f", "data")
	must(t, m.SyncDir("/d"))
	boom := errors.New("boom")
	m.FailNext(OpSync, "f", 1, boom)
	if err := f.DataSync(); !errors.Is(err, boom) {
		t.Fatalf("sync: %v, want %v", err, boom)
	}
	must(t, f.DataSync()) // says all is well, as kernels have
	if got, _ := ReadFile(m.Crash(nil), "/d/f", 10); string(got) != "\x00\x00\x00\x00" {
		t.Fatalf("after the crash %q, want the size and nothing in it", got)
	}
	_, err := f.WriteAt([]byte("data"), 0)
	must(t, err)
	must(t, f.DataSync())
	if got, _ := ReadFile(m.Crash(nil), "/d/f", 10); string(got) != "data" {
		t.Fatalf("written again and synced: %q", got)
	}
}

func TestAFullDiskTakesWhatThereIsAndComesBack(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/d"))
	f := write(t, m, "/d/f", "12345678")
	m.SetSpace(10)
	if n, err := f.WriteAt([]byte("abcd"), 8); n != 2 || !IsFull(err) {
		t.Fatalf("wrote %d, %v, want 2 and a full disk", n, err)
	}
	if err := f.Preallocate(20); !IsFull(err) {
		t.Fatalf("preallocate: %v, want a full disk", err)
	}
	if _, err := f.WriteAt([]byte("over"), 0); err != nil {
		t.Fatalf("overwriting needs no room: %v", err)
	}
	must(t, f.Truncate(4))
	if _, err := f.WriteAt([]byte("abcdef"), 4); err != nil || m.Used() != 10 {
		t.Fatalf("with room again: %v, %d bytes used", err, m.Used())
	}
	if size, err := m.Size("/d/f"); size != 10 || err != nil {
		t.Fatalf("size %d, %v", size, err)
	}
}
