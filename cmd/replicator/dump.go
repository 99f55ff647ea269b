package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/internal/vfs"
)

func newDump() *cobra.Command {
	var format string
	var opts commitlog.DumpOptions
	cmd := &cobra.Command{
		Use:   "dump PATH...",
		Short: "What is in the bundled broker's files; damage is named",
		Long: `What is in the bundled broker's files: of its whole folder, of the folder of one
log, or of single files. Nothing is changed. Secrets of the metadata are left out.

Damage is named with file and position, and the exit code is 6. While the broker
runs, files may change between one look and the next: stop it to be sure.`,
		Example: `  replicator dump /var/lib/waybill-broker
  replicator dump --batches data/logs/x1Yq/0/00000000000000000000.log -o jsonl`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := dump{opts: opts, out: dumpWriter{w: cmd.OutOrStdout(), format: format}}
			err := d.paths(args)
			if err := d.out.close(err); err != nil {
				return err
			}
			if d.damaged > 0 {
				return withCode(exitNotMet, fmt.Errorf("dump: damage in %s", several(d.damaged, "place")))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&opts.Batches, "batches", false, "list every batch, and every entry of an index")
	f.BoolVar(&opts.Records, "records", false, "list every record, with key and value, and the batches too")
	formatFlag(cmd, &format, "text", "json", "jsonl")
	return cmd
}

// dump goes through files and folders of a broker.
type dump struct {
	opts    commitlog.DumpOptions
	out     dumpWriter
	damaged int
}

func (d *dump) emit(i commitlog.DumpItem) error {
	if i.Damaged() {
		d.damaged++
	}
	return d.out.write(i)
}

func (d *dump) paths(paths []string) error {
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return withCode(exitInvalid, fmt.Errorf("dump: %w", err))
		case info.IsDir():
			err = d.folder(path)
		default:
			err = d.file(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file dumps one file that was asked for.
func (d *dump) file(path string) error {
	dir, name := filepath.Split(path)
	switch {
	case name == controller.FileName:
		return d.metadata(path)
	case commitlog.IsLogFile(name):
		return commitlog.Dump(vfs.ReadOnly{}, filepath.Clean(dir), []string{name}, d.opts, d.emit)
	}
	return withCode(exitInvalid, fmt.Errorf("dump: %s is not a file of the bundled broker", path))
}

// folder dumps a folder and those in it; files that are not the broker's are
// passed over.
func (d *dump) folder(root string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return d.emit(commitlog.NewDumpDamage(path, 0, err.Error()))
		case e.IsDir():
			return d.log(path)
		case e.Name() == controller.FileName:
			return d.metadata(path)
		case e.Name() == controller.FileName+".tmp":
			return d.emit(commitlog.DumpItem{File: path, What: "leftover", Detail: leftover("a change of the metadata that was not made; the next one overwrites it")})
		}
		return nil
	})
}

// log dumps a folder if it is one of a log.
func (d *dump) log(dir string) error {
	names, err := (vfs.OS{}).ReadDir(dir)
	if err != nil {
		return nil //nolint:nilerr // the walk comes here again, with the error
	}
	for _, name := range names {
		if commitlog.IsLogFile(name) {
			return commitlog.Dump(vfs.ReadOnly{}, dir, nil, d.opts, d.emit)
		}
	}
	return nil
}

// metadataRecord is a record of the metadata file.
type metadataRecord struct{ controller.Record }

func (r metadataRecord) String() string {
	b, err := json.Marshal(r.Record)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

type leftover string

func (l leftover) String() string { return string(l) }

const metadataLimit = 1 << 30

func (d *dump) metadata(path string) error {
	file, err := vfs.ReadFile(vfs.ReadOnly{}, path, metadataLimit)
	if err != nil {
		return d.emit(commitlog.NewDumpDamage(path, 0, err.Error()))
	}
	records, at, damage := controller.Dump(file)
	for _, r := range records {
		if err := d.emit(commitlog.DumpItem{File: path, Position: r.Position, What: "metadata", Detail: metadataRecord{r.Record}}); err != nil {
			return err
		}
	}
	if damage != nil {
		return d.emit(commitlog.NewDumpDamage(path, at, damage.Error()))
	}
	return nil
}

// dumpWriter prints items as they come: a log may have more than fit in memory.
type dumpWriter struct {
	w      io.Writer
	format string
	count  int
}

func (o *dumpWriter) write(i commitlog.DumpItem) error {
	o.count++
	if o.format == "text" {
		_, err := fmt.Fprintln(o.w, i)
		return err
	}
	b, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("dump %s: %w", i.File, err)
	}
	if o.format == "json" {
		if o.count == 1 {
			b = append([]byte("[\n  "), b...)
		} else {
			b = append([]byte(",\n  "), b...)
		}
	} else {
		b = append(b, '\n')
	}
	_, err = o.w.Write(b)
	return err
}

// close ends the list, also after an error, which it returns.
func (o *dumpWriter) close(err error) error {
	if o.format != "json" {
		return err
	}
	end := "\n]\n"
	if o.count == 0 {
		end = "[]\n"
	}
	if _, werr := io.Copy(o.w, strings.NewReader(end)); err == nil {
		err = werr
	}
	return err
}
