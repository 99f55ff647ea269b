package flow

import "fmt"

// Object is one declared object. Exactly the pointer that Kind names is set.
type Object struct {
	Kind    Kind
	Cluster *Cluster
	Flow    *ReplicationFlow
	Runbook *Runbook

	// origin is where the object was read; nil for one that was stored.
	origin *origin
}

// origin remembers where each value of an object stood in its file.
type origin struct {
	file string
	at   map[string]position // by path: "spec.topics.include[0]"
}

type position struct{ line, column int }

// Metadata is the object's; the zero Metadata if the object is empty.
func (o Object) Metadata() Metadata {
	switch {
	case o.Cluster != nil:
		return o.Cluster.Metadata
	case o.Flow != nil:
		return o.Flow.Metadata
	case o.Runbook != nil:
		return o.Runbook.Metadata
	}
	return Metadata{}
}

// Name is the object's name.
func (o Object) Name() string { return o.Metadata().Name }

// Key identifies the object among all: "ReplicationFlow/orders".
func (o Object) Key() string { return string(o.Kind) + "/" + o.Name() }

// body is the pointer that Kind names, or nil.
func (o Object) body() any {
	switch {
	case o.Kind == KindCluster && o.Cluster != nil:
		return o.Cluster
	case o.Kind == KindReplicationFlow && o.Flow != nil:
		return o.Flow
	case o.Kind == KindRunbook && o.Runbook != nil:
		return o.Runbook
	}
	return nil
}

// newObject returns an empty object of a kind, and the value to decode into.
func newObject(kind Kind) (Object, any) {
	o := Object{Kind: kind}
	switch kind {
	case KindCluster:
		o.Cluster = &Cluster{}
		return o, o.Cluster
	case KindReplicationFlow:
		o.Flow = &ReplicationFlow{}
		return o, o.Flow
	case KindRunbook:
		o.Runbook = &Runbook{}
		return o, o.Runbook
	}
	return o, nil
}

// problem places a fault at a path of the object.
func (o Object) problem(path, message, fix string) Problem {
	p := Problem{Path: path, Message: message, Fix: fix}
	if o.origin != nil {
		p = o.origin.problem(path, message, fix)
	}
	p.Object = o.Key()
	return p
}

// problem places a fault at the value of a path itself, or at the nearest one
// around it.
func (o *origin) problem(path, message, fix string) Problem {
	p := Problem{File: o.file, Path: path, Message: message, Fix: fix}
	for around := path; ; around = parent(around) {
		if at, ok := o.at[around]; ok {
			p.Line, p.Column = at.line, at.column
			return p
		}
		if around == "" {
			return p
		}
	}
}

// Origin is where the object was declared, as "file:line"; "" if it was not read
// from a file.
func (o Object) Origin() string {
	if o.origin == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d", o.origin.file, o.origin.at[""].line)
}
