package scenarios

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/runbook"
	"github.com/waybillhq/waybill/verify"
)

// The comparison of both sides survives the node that carries it out, finds a bit
// that flipped on the destination's disk, also where its checksum was made to fit,
// and stops the runbook whose check it is.
func TestVerify(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil, nil)
	w.us.createTopic("orders", 2)
	w.us.produce("orders", 2, 200)
	w.us.produceValue("orders", 1, "a value that is to change")
	w.declare("orders")
	w.running(2)
	for range 16 {
		w.us.produceValue("orders", 0, strings.Repeat("x", 64<<10))
	}
	w.copied("orders", 2*200+1+16)
	const records = 2*200 + 1 + 16

	n := w.liveNode()
	if got := n.verified(0); got.Verdict != verify.Equal || got.Records != records || got.RunsConfirmed == 0 || got.RunsConfirmed != got.Runs {
		t.Errorf("got %+v", got)
	}

	// Two sides of a megabyte, at a rate that takes a quarter of a minute.
	first := n.startVerification("?bytesPerSecond=131072")
	owner, begun := w.verifier(first.ID, ""), verify.Report{}
	eventually(t, recovery, "the comparison is under way", func() error {
		begun = verify.Report{}
		if err := n.get("/api/v1/flows/us-eu/verification?partitions=true", &begun); err != nil {
			return err
		}
		if begun.State != verify.Running {
			return fmt.Errorf("%d of %d, %s", begun.Compared, begun.Offsets, begun.State)
		}
		return nil
	})
	owner.process.kill()
	n = w.other(owner.name)
	w.verifier(first.ID, owner.name)
	var ended verify.Report
	eventually(t, recovery, "another node ends it", func() error {
		now := verify.Report{}
		if err := n.get("/api/v1/flows/us-eu/verification?partitions=true", &now); err != nil {
			return err
		}
		if now.ID != first.ID || now.Compared < begun.Compared {
			t.Fatalf("it was at %d of %s, now it is at %d of %s", begun.Compared, first.ID, now.Compared, now.ID)
		}
		if ended = now; now.State != verify.Done {
			return errNotYet
		}
		return nil
	})
	if ended.Verdict != verify.Equal || ended.Records != records {
		t.Errorf("got %+v", ended)
	}
	owner.start()
	w.running(2)

	// A bit flips on the destination's disk, while its broker runs.
	put := w.eu.flip("a value that is to change", false)
	w.finds(n, verify.Damaged)
	// The same, under a checksum that was made to fit: no broker can know.
	put()
	if got := n.verified(0); got.Verdict != verify.Equal {
		t.Errorf("after repair: got %+v", got)
	}
	w.eu.flip("a value that is to change", true)
	w.finds(n, verify.Different)

	// The check of a runbook is the same comparison.
	n.apply("apiVersion: waybill/v1\nkind: Runbook\nmetadata: {name: drill}\nspec:\n  flow: us-eu\n  steps:\n    - {id: look, check: verify}\n")
	var x runbook.Execution
	n.post("/api/v1/runbooks/drill/start?reason=drill", &x)
	eventually(t, recovery, "the check fails", func() error {
		x = runbook.Execution{}
		if err := n.get("/api/v1/runbooks/drill/execution", &x); err != nil {
			return err
		}
		if x.State != runbook.Stopped {
			return errNotYet
		}
		return nil
	})
	if !strings.Contains(x.Problem, "1 records differ, the first is different orders/1@200, orders/1@") || !strings.Contains(x.Problem, "(changed: destination)") {
		t.Errorf("got %q", x.Problem)
	}
	w.nobodyDied()
}

// What a flow leaves out or puts aside is judged again, as its ledger tells by what rules.
func TestVerifyJudgesAgainWhatWasLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, nil)
	w.us.createTopic("orders", 1)
	for range 3 {
		w.us.produceValue("orders", 0, `{"keep": false}`)
	}
	w.us.produceValue("orders", 0, "about this one the filter has no answer")
	w.us.produceValue("orders", 0, `{"keep": true}`)
	n := w.nodes[0]
	n.apply(w.us.yaml() + w.eu.yaml() + flowYAML("orders") + "  records: {filter: json.keep, poison: quarantine}\n")
	w.running(1)
	w.copied("orders", 1)
	got := n.verified(0)
	if got.Verdict != verify.Equal || got.Records != 1 || got.Gaps["filtered"] != 3 || got.Gaps["quarantined"] != 1 || got.GapsUnchecked != 0 {
		t.Errorf("got %+v", got)
	}
	w.nobodyDied()
}

// The declaration of a flow has both sides compared without being asked, and a person
// stops what runs.
func TestVerifyInTheBackground(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, nil)
	w.us.createTopic("orders", 2)
	w.us.produce("orders", 2, 50)
	n := w.nodes[0]
	n.apply(w.us.yaml() + w.eu.yaml() + flowYAML("orders") + "  verify: {interval: 1s, from: verified}\n")
	w.running(2)
	var r verify.Report
	reached := func(want int64) {
		t.Helper()
		eventually(t, recovery, "a comparison", func() error {
			r = verify.Report{}
			if err := n.get("/api/v1/flows/us-eu/verification?partitions=true", &r); err != nil {
				return err
			}
			next := int64(0)
			for _, p := range r.Partitions {
				next += p.Next
			}
			if next != want || r.Verdict != verify.Equal {
				return fmt.Errorf("at %d in %+v", next, r)
			}
			return nil
		})
	}
	reached(100)
	w.us.produce("orders", 2, 7)
	reached(114)
	if r.By != "" || r.Records > 14 { // only they are new
		t.Errorf("got %+v", r)
	}

	// A person's takes its place, one at a time.
	first := n.startVerification("?from=start&bytesPerSecond=65536")
	if first.By != "ops" {
		t.Errorf("got %+v", first)
	}
	a, err := n.call("DELETE", "/api/v1/flows/us-eu/verification", adminToken, "")
	must(t, err)
	must(t, json.Unmarshal(a.body, &r))
	if r.ID != first.ID || r.State == verify.Running {
		t.Errorf("got %+v", r)
	}
	w.nobodyDied()
}

// startVerification asks for one and does not wait for it.
func (n *node) startVerification(query string) verify.Report {
	n.t.Helper()
	var r verify.Report
	n.post("/api/v1/flows/us-eu/verification"+query, &r)
	return r
}

// verified runs the command to its end, which has an exit code.
func (n *node) verified(code int) verify.Report {
	n.t.Helper()
	cmd := exec.Command(replicator, "verify", "us-eu", "-o", "json", "--server", n.api)
	cmd.Env = append(os.Environ(), "WAYBILL_TOKEN="+adminToken)
	var failed *exec.ExitError
	out, err := cmd.Output()
	if err != nil && !errors.As(err, &failed) {
		n.t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		n.t.Errorf("verify: exit code %d, want %d: %v", got, code, failed)
	}
	var r verify.Report
	must(n.t, json.Unmarshal(out, &r))
	return r
}

// finds has a comparison find the one record that changed.
func (w *world) finds(n *node, kind verify.Kind) {
	w.t.Helper()
	got := n.verified(6)
	if got.Verdict != verify.Differs || len(got.First) != 1 {
		w.t.Fatalf("got %+v", got)
	}
	d := got.First[0]
	if d.Kind != kind || d.SourceTopic != "orders" || d.Partition != 1 || d.Source != 200 || d.Destination < 200 || d.Changed != verify.ChangedDestination {
		w.t.Errorf("got %+v", d)
	}
}

// verifier is the node that carries a verification out, not the one named.
func (w *world) verifier(id, not string) (found *node) {
	w.t.Helper()
	eventually(w.t, recovery, "a node carries it out", func() error {
		for _, n := range w.nodes {
			if n.name != not && n.process.logged("id="+id) {
				found = n
				return nil
			}
		}
		return errNotYet
	})
	return found
}

// produceValue writes one record in a batch of its own that is not compressed.
func (b *broker) produceValue(topic string, partition int32, value string) {
	b.t.Helper()
	cl := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	defer cl.Close()
	must(b.t, cl.ProduceSync(b.ctx(), &kgo.Record{Topic: topic, Partition: partition, Key: []byte("k"), Value: []byte(value)}).FirstErr())
}

// flip flips a bit of a text in the broker's logs, and makes the batch's checksum
// fit if that is wanted. It returns what puts the log back as it was.
func (b *broker) flip(text string, seal bool) (restore func()) {
	b.t.Helper()
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	must(b.t, filepath.WalkDir(b.file("data"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".log") {
			return err
		}
		all, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(all, []byte(text))
		if at < 0 {
			return nil
		}
		for pos := 0; ; {
			batch, _, err := record.Next(all[pos:])
			if err != nil {
				return fmt.Errorf("%s at %d: %w", path, pos, err)
			}
			if pos += len(batch); pos < at {
				continue
			}
			was := bytes.Clone(batch)
			batch[at-(pos-len(batch))] ^= 1
			if seal {
				binary.BigEndian.PutUint32(batch[17:], crc32.Checksum(batch[21:], castagnoli))
			}
			b.overwrite(path, int64(pos-len(batch)), batch)
			restore = func() { b.overwrite(path, int64(pos-len(was)), was) }
			return filepath.SkipAll
		}
	}))
	if restore == nil {
		b.t.Fatalf("no log of %s has %q", b.name, text)
	}
	return restore
}

func (b *broker) overwrite(path string, at int64, with []byte) {
	b.t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(b.t, err)
	_, err = f.WriteAt(with, at)
	must(b.t, errors.Join(err, f.Close()))
}
