package flow

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// MaxFile is the size in bytes of the largest file that is read: some thousand
// objects.
const MaxFile = 4 << 20

// envelope is what every document has.
type envelope struct {
	APIVersion string `json:"apiVersion"`
	Kind       Kind   `json:"kind"`
}

var kinds = []string{string(KindCluster), string(KindReplicationFlow), string(KindRunbook)}

// Parse reads all objects of one stream of YAML documents; file is its name in
// errors. The objects are valid, each by itself, and have their defaults; what
// they mean to each other is for [Check]. If anything is wrong the error is
// [Problems], complete, and no object is returned.
func Parse(file string, r io.Reader) ([]Object, error) {
	objects, problems, err := parse(file, r)
	if err != nil {
		return nil, err
	}
	if err := problems.err(); err != nil {
		return nil, err
	}
	return objects, nil
}

// ReadFiles is [Parse] for several files. A path that is a directory stands for
// its files with the endings .yaml and .yml, in order of their names, without
// its subdirectories; "-" stands for stdin. The faults of all files are returned
// together.
func ReadFiles(stdin io.Reader, paths ...string) ([]Object, error) {
	files, err := expand(paths)
	if err != nil {
		return nil, err
	}
	var all []Object
	var problems Problems
	for _, file := range files {
		objects, faults, err := readFile(stdin, file)
		if err != nil {
			return nil, err
		}
		all, problems = append(all, objects...), append(problems, faults...)
	}
	if err := problems.err(); err != nil {
		return nil, err
	}
	return all, nil
}

func readFile(stdin io.Reader, file string) ([]Object, Problems, error) {
	if file == "-" {
		return parse("stdin", stdin)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, fmt.Errorf("read declarations: %w", err)
	}
	objects, problems, err := parse(file, f)
	return objects, problems, errors.Join(err, f.Close())
}

func expand(paths []string) ([]string, error) {
	var files []string
	for _, path := range paths {
		if path == "-" {
			files = append(files, path)
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("read declarations: %w", err)
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, fmt.Errorf("read declarations: %w", err)
		}
		before := len(files)
		for _, e := range entries { // in order of names
			ending := filepath.Ext(e.Name())
			if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") && (ending == ".yaml" || ending == ".yml") {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
		if len(files) == before {
			return nil, fmt.Errorf("read declarations: %s has no .yaml file", path)
		}
	}
	return files, nil
}

// parse returns the faults apart from the error of reading.
func parse(file string, r io.Reader) ([]Object, Problems, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(text) > MaxFile {
		return nil, nil, fmt.Errorf("read %s: larger than %d bytes; split it", file, MaxFile)
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", file, err)
	}
	var objects []Object
	var problems Problems
	for documents := 0; ; documents++ {
		var doc yaml.Node
		err := loader.Load(&doc)
		if errors.Is(err, io.EOF) {
			if documents == 0 {
				problems = append(problems, Problem{File: file, Message: "has no object in it", Fix: "begin with apiVersion: " + APIVersion})
			}
			return objects, problems, nil
		}
		if err != nil { // what follows cannot be told apart any more
			return objects, append(problems, syntaxProblem(file, err)), nil
		}
		if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null" {
			continue // nothing but comments between two separators
		}
		object, faults := decodeDocument(file, doc.Content[0])
		if len(faults) == 0 {
			objects = append(objects, object)
		}
		problems = append(problems, faults...)
	}
}

// syntaxProblem places what the YAML library found. Its messages do not quote
// values, except an anchor's name, which may be a password that begins with a
// star.
func syntaxProblem(file string, err error) Problem {
	p := Problem{File: file, Message: "is not YAML", Fix: "check quotes, brackets and indentation here"}
	var load *yaml.LoadError
	if errors.As(err, &load) {
		p.Line, p.Column = max(load.Mark.Line, 1), max(load.Mark.Column, 1)
		if strings.Contains(load.Message, "anchor") {
			p.Message, p.Fix = "anchors and aliases are not understood", "write the value out; quote a text that begins with & or *"
		} else if !strings.ContainsAny(load.Message, "`\"") {
			p.Message = "is not YAML: " + load.Message
			if load.ContextMsg != "" {
				p.Message += " " + load.ContextMsg
			}
		}
	}
	return p
}

// decodeDocument reads one object: its kind first, since that decides how the
// rest is read.
func decodeDocument(file string, n *yaml.Node) (Object, Problems) {
	d := &decoder{file: file, at: map[string]position{}}
	if n.Kind != yaml.MappingNode {
		d.fault(n, "", "is "+describe(n)+" where an object is wanted", "begin with apiVersion: "+APIVersion)
		return Object{}, d.problems
	}
	var head envelope
	object, body := newObject(kindOf(n))
	fields := fieldsOf(reflect.ValueOf(&head).Elem())
	if body != nil {
		d.object = string(object.Kind) + "/" + nameOf(n)
		fields = append(fields, fieldsOf(reflect.ValueOf(body).Elem())...)
		d.at[""] = position{n.Line, n.Column}
		d.mapping(n, "", fields)
	} else {
		d.head(n)
	}
	if head.APIVersion != APIVersion && body != nil {
		if at := valueOf(n, "apiVersion"); at != nil && at.Kind == yaml.ScalarNode {
			d.fault(at, "apiVersion", fmt.Sprintf("%q is not known", head.APIVersion), "write "+APIVersion)
		}
	}
	if body == nil {
		return Object{}, d.problems
	}
	object.origin = &origin{file: file, at: d.at}
	problems := append(d.problems, object.validate(d.problems)...)
	object.fillDefaults()
	return object, problems
}

// head reports why the kind of a document is not known; the rest of it is not
// looked at.
func (d *decoder) head(n *yaml.Node) {
	fix := "write one of " + strings.Join(kinds, ", ")
	kind := valueOf(n, "kind")
	switch {
	case kind == nil:
		d.fault(n, "kind", "is missing", fix)
	case kind.Kind != yaml.ScalarNode:
		d.fault(kind, "kind", "is "+describe(kind)+" where a text is wanted", fix)
	default:
		i := slices.IndexFunc(kinds, func(k string) bool { return editDistance(strings.ToLower(k), strings.ToLower(kind.Value)) < 3 })
		if strings.EqualFold(kind.Value, "flow") {
			i = slices.Index(kinds, string(KindReplicationFlow))
		}
		if i >= 0 {
			fix = fmt.Sprintf("did you mean %q?", kinds[i])
		}
		d.fault(kind, "kind", fmt.Sprintf("%q is not known", kind.Value), fix)
	}
	if valueOf(n, "apiVersion") == nil {
		d.fault(n, "apiVersion", "is missing", "write apiVersion: "+APIVersion)
	}
}

func kindOf(n *yaml.Node) Kind {
	if kind := valueOf(n, "kind"); kind != nil && kind.Kind == yaml.ScalarNode {
		return Kind(kind.Value)
	}
	return ""
}

func nameOf(n *yaml.Node) string {
	if meta := valueOf(n, "metadata"); meta != nil && meta.Kind == yaml.MappingNode {
		if name := valueOf(meta, "name"); name != nil && name.Kind == yaml.ScalarNode {
			return name.Value
		}
	}
	return "?"
}

// valueOf is the value of a mapping's first key of that name, or nil.
func valueOf(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
