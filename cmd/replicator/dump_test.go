package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
		"/metadata/metadata: byte 0: metadata {\"cluster\":", `"name":"shop"`, "checkpoint {", "segment 0..0, 1 batches, 1 records",
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
