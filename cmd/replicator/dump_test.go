package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/waybillhq/waybill/broker/auth"
	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/controller"
	batches "github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// storedByBroker is a folder as a broker leaves it: metadata with a user, and one
// log of one batch.
func storedByBroker(t *testing.T) (dir, segment string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir = t.TempDir()
	ctl, err := controller.Open(vfs.OS{}, filepath.Join(dir, "metadata"), controller.Bootstrap{})
	check(err)
	credential, err := auth.NewCredential(auth.ScramSHA256, "hunter2", 4096)
	check(err)
	check(ctl.Update(func(*controller.Image) ([]controller.Record, error) {
		return []controller.Record{{User: &controller.User{Name: "shop", Mechanism: auth.ScramSHA256, Credential: credential}}}, nil
	}))
	logDir := filepath.Join(dir, "logs", "t", "0")
	check(os.MkdirAll(logDir, 0o750))
	l, err := commitlog.Open(vfs.OS{}, logDir, commitlog.DefaultConfig())
	check(err)
	b, err := batches.Encode([]batches.Record{{Timestamp: 1, Key: []byte("k"), Value: []byte("v")}}, batches.NoProducer(batches.None))
	check(err)
	_, err = l.Append(b, 0, commitlog.FromClient)
	check(err)
	check(l.WaitDurable(t.Context(), 1))
	check(l.Close())
	return dir, filepath.Join(logDir, "00000000000000000000.log")
}

func TestDumpOfABrokersFolder(t *testing.T) {
	dir, segment := storedByBroker(t)
	got := replicator(t, "", "dump", "--records", dir)
	for _, want := range []string{
		"/metadata/metadata: byte 20: metadata {\"cluster\":", `"name":"shop"`, "checkpoint {", "segment 0..0, 1 batches, 1 records",
		`record 0, timestamp 1, key "k", value "v"`,
	} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("no %q in\n%s", want, got.stdout)
		}
	}
	if got.code != exitOK || got.stderr != "" {
		t.Errorf("%d %s", got.code, got.stderr)
	}
	for _, secret := range []string{`"secret":"`, `"salt":"`, `"storedKey":"`, `"serverKey":"`} {
		if strings.Contains(got.stdout, secret) {
			t.Errorf("%s is shown", secret)
		}
	}
	var list []map[string]any
	if err := json.Unmarshal([]byte(replicator(t, "", "dump", dir, "-o", "json").stdout), &list); err != nil || len(list) < 5 {
		t.Errorf("%v, %d items", err, len(list))
	}
	for line := range strings.Lines(replicator(t, "", "dump", segment, "-o", "jsonl").stdout) {
		var item map[string]any
		if err := json.Unmarshal([]byte(line), &item); err != nil || item["file"] != segment {
			t.Errorf("%v: %s", err, line)
		}
	}
}

// TestDumpOfAWholeBroker is of what a broker leaves: metadata, internal topics, the
// ledger, a mirror topic. Then of the same with damage in each kind of file.
func TestDumpOfAWholeBroker(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	addr, stop := startBrokerIn(t, dir)
	at := func(stdin string, args ...string) {
		t.Helper()
		if got := replicator(t, stdin, append(args, "-b", addr)...); got.code != exitOK {
			t.Fatalf("%v: %+v", args, got)
		}
	}
	at("", "topic", "create", "t")
	at("", "topic", "create", "m", "--config", "mirror.source=c/"+strings.Repeat("A", 21)+"E")
	at("k:v\n", "produce", "t", "--key-separator", ":")
	at("", "consume", "t", "--group", "g", "-n", "1")
	stop()

	whole := replicator(t, "", "dump", "--records", dir)
	if whole.code != exitOK || whole.stderr != "" {
		t.Fatalf("%+v", whole)
	}
	for _, want := range []string{
		`metadata {"topic":{"name":"t"`, `metadata {"topic":{"name":"__waybill.ledger"`, `/mirror: byte 0: mirror {"version":1,"role":"mirroring"`,
		`key "k", value "v"`, `value "WL\x01`, // a page of the ledger
	} {
		if !strings.Contains(whole.stdout, want) {
			t.Errorf("no %q in\n%s", want, whole.stdout)
		}
	}
	if strings.Contains(whole.stdout, " unknown ") {
		t.Errorf("a file of the broker's own that the dump does not know:\n%s", whole.stdout)
	}

	metadata := filepath.Join(dir, "metadata", "metadata")
	for what, c := range map[string]struct {
		file string
		harm func([]byte) []byte
		at   string
	}{
		"a bit of the metadata":    {metadata, func(b []byte) []byte { b[200] ^= 4; return b }, "byte 16: DAMAGED: "},
		"the metadata's end":       {metadata, func(b []byte) []byte { return b[:len(b)-3] }, "byte 8: DAMAGED: "},
		"no metadata at all":       {metadata, func([]byte) []byte { return nil }, "byte 0: DAMAGED: "},
		"a later version":          {metadata, func(b []byte) []byte { b[7]++; return b }, "byte 4: DAMAGED: "},
		"metadata half written":    {metadata + ".tmp", func([]byte) []byte { return []byte("WB") }, "byte 0: leftover "},
		"a mirror's state":         {fileOf(t, dir, "mirror"), func(b []byte) []byte { b[20] ^= 1; return b }, "byte 0: DAMAGED: "},
		"half a compacted segment": {fileOf(t, dir, "mirror")[:len(fileOf(t, dir, "mirror"))-6] + "00000000000000000000.log.cleaned", func([]byte) []byte { return []byte("half") }, "byte 0: leftover "},
	} {
		t.Run(what, func(t *testing.T) {
			before, err := os.ReadFile(c.file)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			write := func(b []byte) {
				if err := os.WriteFile(c.file, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(c.harm(bytes.Clone(before)))
			got := replicator(t, "", "dump", dir)
			code := exitNotMet
			if strings.Contains(c.at, "leftover") {
				code = exitOK
			}
			if !strings.Contains(got.stdout, c.file+": "+c.at) || got.code != code {
				t.Errorf("no %q, or code %d, in\n%s", c.file+": "+c.at, got.code, got.stdout)
			}
			if before == nil {
				err = os.Remove(c.file)
			} else {
				err = os.WriteFile(c.file, before, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// fileOf is the one file of a name in a folder or below it.
func fileOf(t *testing.T, dir, name string) (found string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() == name {
			found = path
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("no file %s: %v", name, err)
	}
	return found
}

func TestDumpOfDamageExitsWith6(t *testing.T) {
	dir, segment := storedByBroker(t)
	file, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	file[65] ^= 1
	if err := os.WriteFile(segment, file, 0o600); err != nil {
		t.Fatal(err)
	}
	got := replicator(t, "", "dump", dir)
	if want := segment + ": byte 0: DAMAGED: "; got.code != exitNotMet || !strings.Contains(got.stdout, want) || got.stderr != "replicator: dump: damage in 1 place\n" {
		t.Errorf("got %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	replicator(t, "", "dump", dir+"/none").want(t, exitInvalid, "", "replicator: dump: stat "+dir+"/none: no such file or directory\n")
}

// TestTheDumpInTheDocumentsIsTrue makes the log whose dump the documents show.
func TestTheDumpInTheDocumentsIsTrue(t *testing.T) {
	const dir = "data/logs/x1Yq/0"
	documents := map[string]string{}
	for _, name := range []string{"broker/commitlog/FORMAT.md", "broker/DESIGN.md"} {
		b, err := os.ReadFile(root + name)
		if err != nil {
			t.Fatal(err)
		}
		documents[name] = string(b)
	}
	t.Chdir(t.TempDir())
	synctest.Test(t, func(t *testing.T) { // for the times of appends
		if err := os.MkdirAll(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		l, err := commitlog.Open(vfs.OS{}, dir, commitlog.DefaultConfig())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		transactional := batches.Stamp{ProducerID: 7, Attributes: 1 << 4}
		b, err := batches.Encode([]batches.Record{{Timestamp: 1000, Value: []byte("a")}, {Timestamp: 1001, Value: []byte("b")}}, transactional)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(b, 4, commitlog.FromClient); err != nil {
			t.Fatal(err)
		}
		if _, err := l.AppendMarker(commitlog.Marker{ProducerID: 7}, 4); err != nil {
			t.Fatal(err)
		}
		if err := l.WaitDurable(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
	whole := replicator(t, "", "dump", "--batches", dir)
	segment := dir + "/00000000000000000000.log"
	file, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	file[147] ^= 1 // in the marker
	if err := os.WriteFile(segment, file, 0o600); err != nil {
		t.Fatal(err)
	}
	harmed := replicator(t, "", "dump", segment)
	for _, c := range []struct {
		document, command string
		code              int
		outcome
	}{
		{"broker/commitlog/FORMAT.md", "replicator dump --batches " + dir, exitOK, whole},
		{"broker/commitlog/FORMAT.md", "replicator dump " + segment, exitNotMet, harmed},
		{"broker/DESIGN.md", "replicator dump " + segment, exitNotMet, harmed},
	} {
		want := "$ " + c.command + "\n" + c.stdout + c.stderr
		if c.outcome.code != c.code || !strings.Contains(documents[c.document], want) {
			t.Errorf("%s does not show, with code %d,\n%s", c.document, c.outcome.code, want)
		}
	}
}
