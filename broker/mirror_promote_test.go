package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/mirrorwire"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// spied is a file system that tells of metadata that are about to be stored.
type spied struct {
	*vfs.Mem
	storing func()
}

func (f *spied) Rename(from, to string) error {
	if filepath.Base(to) == "metadata" && f.storing != nil {
		f.storing()
	}
	return f.Mem.Rename(from, to)
}

// startSpied starts a broker on a file system whose hook is set afterwards.
func startSpied(t *testing.T) (*testBroker, *spied) {
	t.Helper()
	cfg, pool := testConfig(t)
	fsys := &spied{Mem: vfs.NewMem()}
	cfg.FS = fsys
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	<-b.Ready()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return &testBroker{Broker: b, fs: fsys.Mem, cfg: cfg, pool: pool}, fsys
}

// mirrorBatch is a batch of one record of a source, at an offset and leader epoch.
func mirrorBatch(t *testing.T, offset int64, epoch int32) record.Batch {
	t.Helper()
	b, err := record.Encode([]record.Record{{Value: []byte("v")}}, record.NoProducer(record.None))
	if err != nil {
		t.Fatal(err)
	}
	b.SetBaseOffset(offset)
	binary.BigEndian.PutUint32(b[12:], uint32(epoch)) // no checksum covers the leader epoch
	return b
}

// appendFromSource appends to a mirror as its writer, from within the broker.
func appendFromSource(t *testing.T, p *replica.Partition, epoch int32) error {
	t.Helper()
	_, err := p.AppendMirrored(commitlog.MirrorAppend{
		WriterEpoch: 1, ExpectedEnd: p.EndOffset(), ExpectedEpoch: p.LastEpoch(), TruncateTo: -1, StartOffset: -1,
		Batches: mirrorBatch(t, p.EndOffset(), epoch),
	})
	return err
}

// TestNothingIsMirroredBehindThePromotedEpoch has a writer that brings a much higher
// leader epoch while the promotion is being stored: the epoch that the topic goes on
// with has been chosen by then.
func TestNothingIsMirroredBehindThePromotedEpoch(t *testing.T) {
	b, fsys := startSpied(t)
	b.makeMirror(t, "orders", 1)
	p, err := b.partition("orders", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := appendFromSource(t, p, 5); err != nil {
		t.Fatal(err)
	}
	late := []error{}
	fsys.storing = func() { late = append(late, appendFromSource(t, p, 500)) }
	if got := b.alter(t, mirrorwire.AlterRequestTopic{Topic: "orders", Op: mirrorwire.Promote}); got.ErrorCode != 0 || got.State != mirrorwire.Promoted {
		t.Fatalf("promote: %+v", got)
	}
	fsys.storing = nil
	if len(late) == 0 || !errors.Is(late[0], replica.ErrMirrorClosed) {
		t.Errorf("append while the promotion was being stored: %v, want %v", late, replica.ErrMirrorClosed)
	}
	if at := produceN(t, b.client(t), "orders", 0, 1); at != 1 {
		t.Errorf("first record after the promotion at %d, want 1", at)
	}
}

// TestAPromotionThatIsNotStoredLetsTheMirrorGoOn: its writer is let in again.
func TestAPromotionThatIsNotStoredLetsTheMirrorGoOn(t *testing.T) {
	b := startBroker(t, nil)
	b.makeMirror(t, "orders", 1)
	p, err := b.partition("orders", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := appendFromSource(t, p, 5); err != nil {
		t.Fatal(err)
	}
	b.fs.FailNext(vfs.OpRename, "metadata.tmp", 1, errors.New("the disk is gone"))
	if got := b.alter(t, mirrorwire.AlterRequestTopic{Topic: "orders", Op: mirrorwire.Promote}); got.ErrorCode == 0 || got.State != mirrorwire.Active {
		t.Fatalf("promote: %+v", got)
	}
	b.fs.SetFault(nil)
	if err := appendFromSource(t, p, 6); err != nil {
		t.Errorf("append after a promotion that was not stored: %v", err)
	}
}

// TestAPromotionGoesOnAboveWhatWasMirrored: whatever epoch its beginning has stored, a
// promotion that is carried on leads above all that the source has written.
func TestAPromotionGoesOnAboveWhatWasMirrored(t *testing.T) {
	b := startBroker(t, nil)
	b.makeMirror(t, "orders", 1)
	p, err := b.partition("orders", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := appendFromSource(t, p, 500); err != nil {
		t.Fatal(err)
	}
	if _, err := b.setMirror(b.topic("orders"), 3, controller.Mirror{Source: testSource, State: controller.MirrorPromoting}); err != nil {
		t.Fatal(err)
	}
	b = b.restart(t)
	if got := stateOf(b.topic("orders")); got != mirrorwire.Promoted {
		t.Fatalf("after a restart it is %v", got)
	}
	if at := produceN(t, b.client(t), "orders", 0, 1); at != 1 {
		t.Errorf("first record after the promotion at %d, want 1", at)
	}
}

// TestMetadataFromBeforeAPromotionMirrorNothing into the topic: a person decides.
func TestMetadataFromBeforeAPromotionMirrorNothing(t *testing.T) {
	b := startBroker(t, quietBroker)
	b.makeMirror(t, "orders", 1)
	p, err := b.partition("orders", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := appendFromSource(t, p, 5); err != nil {
		t.Fatal(err)
	}
	old, err := vfs.ReadFile(b.fs, metadataFile, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	promote := mirrorwire.AlterRequestTopic{Topic: "orders", Op: mirrorwire.Promote}
	if got := b.alter(t, promote); got.State != mirrorwire.Promoted {
		t.Fatalf("promote: %+v", got)
	}
	produceN(t, b.client(t), "orders", 0, 1)
	b.stop()
	b.putMetadata(t, old)
	for range 2 {
		b = b.restart(t)
		topic := b.topic("orders")
		if stateOf(topic) != mirrorwire.Failed || topic.Mirror.Reason != promotedBefore {
			t.Fatalf("it is %+v", topic.Mirror)
		}
		if err := appendFromSource(t, topic.partitions[0], 6); err == nil {
			t.Error("something is mirrored behind the records of its own")
		}
		if got := b.alter(t, mirrorwire.AlterRequestTopic{Topic: "orders", Op: mirrorwire.Resume}); got.ErrorCode == 0 || got.State != mirrorwire.Failed {
			t.Errorf("resume: %+v", got)
		}
	}
	if got := b.alter(t, promote); got.ErrorCode != 0 || got.State != mirrorwire.Promoted {
		t.Fatalf("promoted again: %+v", got)
	}
	if at := produceN(t, b.client(t), "orders", 0, 1); at != 2 {
		t.Errorf("the next record is at %d, want 2", at)
	}
}
