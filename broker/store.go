package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybillhq/waybill/broker/auth"
	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/internal/vfs"
)

// orphansDir is where logs go that the metadata does not know, beside logs.
const orphansDir = "orphans"

// ErrNoMetadata says that a data folder has logs and no metadata: nothing tells
// what they are.
var ErrNoMetadata = errors.New("there are logs, and no metadata that says what they are")

// ErrForeign says that a folder is somebody else's.
var ErrForeign = errors.New("the data folder is not a broker's")

func (b *Broker) metadataDir() string { return filepath.Join(b.cfg.Dir, "metadata") }

// hasStore says whether there is a store in the data folder, and why none is to be
// made there.
func (b *Broker) hasStore() (bool, error) {
	if there, err := controller.Exists(b.fs, b.metadataDir()); there || err != nil {
		return there, err
	}
	logs, err := b.fs.ReadDir(b.logsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read logs directory: %w", err)
	}
	if len(logs) > 0 {
		return false, fmt.Errorf("%w: %s has %d folders, and %s is missing: put it back from a backup of the data folder, or, to begin with an empty store, move %s elsewhere",
			ErrNoMetadata, b.logsDir(), len(logs), filepath.Join(b.metadataDir(), controller.FileName), b.logsDir())
	}
	names, err := b.fs.ReadDir(b.cfg.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read data folder: %w", err)
	}
	foreign := slices.DeleteFunc(names, ownName)
	switch {
	case slices.Contains(foreign, "meta.properties"):
		return false, fmt.Errorf("%w: %s is one of an Apache Kafka (it holds meta.properties), whose logs cannot be taken over: name an empty folder, or one that is not there yet", ErrForeign, b.cfg.Dir)
	case len(foreign) > 0:
		return false, fmt.Errorf("%w: %s holds %s: name an empty folder, or one that is not there yet", ErrForeign, b.cfg.Dir, some(foreign))
	}
	return false, nil
}

// ownName says whether a data folder without a store may hold a name: what a start
// that failed leaves, what a file system has of its own, and hidden files.
func ownName(name string) bool {
	switch name {
	case lockName, "metadata", "logs", orphansDir, "lost+found":
		return true
	}
	return strings.HasPrefix(name, ".")
}

// some are the first few of names.
func some(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

func (b *Broker) bootstrapUsers() ([]controller.User, error) {
	var out []controller.User
	for name, password := range b.cfg.BootstrapUsers {
		for _, m := range []auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512} {
			c, err := auth.NewCredential(m, password, auth.DefaultIterations)
			if err != nil {
				return nil, fmt.Errorf("bootstrap user %q: %w", name, err)
			}
			out = append(out, controller.User{Name: name, Mechanism: m, Credential: c})
		}
	}
	return out, nil
}

// warnOfIgnored names what the configuration has for a new store and this one, which
// is not, has otherwise: who changed it there waits in vain.
func (b *Broker) warnOfIgnored() {
	image := b.ctl.Image()
	var missing, other, rules []string
	for _, name := range slices.Sorted(maps.Keys(b.cfg.BootstrapUsers)) {
		known, same := false, false
		for _, m := range []auth.Mechanism{auth.ScramSHA256, auth.ScramSHA512} {
			if c, ok := image.Credential(m, name); ok && !known {
				known, same = true, c.Verifies(m, b.cfg.BootstrapUsers[name])
			}
		}
		switch {
		case !known:
			missing = append(missing, name)
		case !same:
			other = append(other, name)
		}
	}
	for _, r := range b.cfg.BootstrapACLs {
		if !slices.Contains(image.ACLs, r) {
			rules = append(rules, r.String())
		}
	}
	if len(missing)+len(other) > 0 {
		b.log.Warn("users of the configuration are taken at the first start only, and these are not as it says: change them with 'kafka-configs.sh --alter --entity-type users'",
			"missing", missing, "otherPassword", other)
	}
	if len(rules) > 0 {
		b.log.Warn("acls of the configuration are taken at the first start only, and these are not there: add them with 'kafka-acls.sh --add'", "missing", rules)
	}
}

// settleLogs finishes deletions that were begun, and puts aside what the metadata
// does not know: it may have been restored from an old copy, and to remove logs for
// that would be to lose the data over a mistake.
func (b *Broker) settleLogs() error {
	names, err := b.fs.ReadDir(b.logsDir())
	if err != nil {
		return fmt.Errorf("read logs directory: %w", err)
	}
	image := b.ctl.Image()
	for id, name := range image.Deleted {
		b.removeLogs(id, name)
	}
	for _, name := range names {
		var id controller.TopicID
		if id.UnmarshalText([]byte(name)) != nil {
			continue
		}
		_, deleted := image.Deleted[id]
		t := image.TopicByID(id)
		switch {
		case t != nil:
			err = b.putExtraAside(t)
		case !deleted:
			err = b.putAside(name, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// idsUnseen is how many producer ids may be in use that no log knows, when the
// metadata is found to be older than the logs.
const idsUnseen = 1 << 20

// catchUp brings metadata up to what the logs have seen, if an old copy of it was put
// back. To count starts and producer ids again would refuse every append for its
// leader epoch, and take new producers' records for repetitions of old ones'.
func (b *Broker) catchUp() error {
	image := b.ctl.Image()
	starts, highest := image.Starts, int64(-1)
	own := func(id int64) bool { return controller.OwnProducerID(image.ClusterID, id) }
	for _, t := range b.topics.Load().byName {
		for _, p := range t.partitions {
			epoch, id := p.Newest(own)
			if !t.Mirror.ReadOnly() { // a mirror's epochs are the source's
				starts = max(starts, epoch-t.EpochOffset+1)
			}
			highest = max(highest, id)
		}
	}
	if starts == image.Starts && highest < image.NextProducerID {
		return nil
	}
	b.outdated = true
	b.log.Warn("the metadata is older than the logs, which is as if it had been put back from a backup: what was changed since (topics, users, acls, settings) is not in it",
		"starts", image.Starts, "seen", starts-1)
	err := b.ctl.Update(func(i *controller.Image) ([]controller.Record, error) {
		out := []controller.Record{{ProducerIDs: &controller.ProducerIDs{Next: max(i.NextProducerID, highest+1) + idsUnseen}}}
		if starts > i.Starts {
			out = append(out, controller.Record{Start: &controller.StartRecord{Count: starts}})
		}
		return out, nil
	})
	if err != nil {
		return fmt.Errorf("bring old metadata up to its logs: %w", err)
	}
	for _, t := range b.topics.Load().byName {
		for _, p := range t.partitions {
			p.RaiseEpoch(starts + t.EpochOffset)
		}
	}
	return nil
}

// removeLogs removes the logs of a deleted topic. What fails is tried again by the
// next start.
func (b *Broker) removeLogs(id controller.TopicID, name string) {
	err := b.fs.RemoveAll(b.topicDir(id))
	if err == nil {
		err = b.fs.SyncDir(b.logsDir())
	}
	if err != nil {
		b.log.Error("remove logs of deleted topic", "topic", name, "id", id.String(), "err", err)
		return
	}
	b.removed[id] = name
}

// putExtraAside puts aside partitions of t beyond those that it has.
func (b *Broker) putExtraAside(t *controller.Topic) error {
	names, err := b.fs.ReadDir(b.topicDir(t.ID))
	if err != nil {
		return nil //nolint:nilerr // to open its partitions says what there is to say
	}
	for _, name := range names {
		if n, err := strconv.Atoi(name); err != nil || n < int(t.Partitions) {
			continue
		}
		id := t.ID.String()
		if err := b.putAside(filepath.Join(id, name), id+"-"+name); err != nil {
			return err
		}
	}
	return nil
}

// putAside moves a folder of logs out of the way. One in which nothing was ever
// written is what a crash leaves of a topic that was not made to its end: it goes.
func (b *Broker) putAside(folder, name string) error {
	from := filepath.Join(b.logsDir(), folder)
	if blank, err := b.blank(from); err == nil && blank {
		b.log.Info("removing empty logs of a topic or partition that was not made to its end", "folder", from)
		if err := b.fs.RemoveAll(from); err != nil {
			return fmt.Errorf("remove empty logs %s: %w", from, err)
		}
		return nil
	}
	dir := filepath.Join(b.cfg.Dir, orphansDir)
	to := filepath.Join(dir, name+"-"+time.Now().UTC().Format("20060102T150405.000Z"))
	if err := b.fs.MkdirAll(dir); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	if err := b.fs.RenameDir(from, to); err != nil {
		return fmt.Errorf("move logs that the metadata does not know from %s to %s: %w", from, to, err)
	}
	b.log.Warn("moved logs aside that the metadata does not know: it is older than they are, or they were copied in; they are not served, and nothing removes them",
		"from", from, "to", to)
	return nil
}

// Orphans are the logs that were put aside because the metadata does not know them,
// each a topic's or a partition's, and the bytes of their files. It reads the folders.
func (b *Broker) Orphans() (count int, bytes int64, err error) {
	dir := filepath.Join(b.cfg.Dir, orphansDir)
	names, err := b.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read %s: %w", dir, err)
	}
	for _, name := range names {
		n, err := sizeOf(b.fs, filepath.Join(dir, name))
		if err != nil {
			return 0, 0, err
		}
		bytes += n
	}
	return len(names), bytes, nil
}

// sizeOf is the bytes of all files in a folder of logs, of a topic or of a partition.
// What an operator removes meanwhile counts as nothing.
func sizeOf(fsys vfs.FS, dir string) (bytes int64, err error) {
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", dir, err)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		size := sizeOf
		if _, err := strconv.Atoi(name); err != nil { // no partition's folder
			size = func(fsys vfs.FS, file string) (int64, error) { return fsys.Size(file) }
		}
		n, err := size(fsys, path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("size of %s: %w", path, err)
		}
		bytes += n
	}
	return bytes, nil
}

// blank says whether a folder of a topic, or of one partition, holds nothing.
func (b *Broker) blank(dir string) (bool, error) {
	names, err := b.fs.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil {
			return commitlog.Blank(b.fs, dir)
		}
		if blank, err := commitlog.Blank(b.fs, filepath.Join(dir, name)); err != nil || !blank {
			return false, err
		}
	}
	return true, nil
}
