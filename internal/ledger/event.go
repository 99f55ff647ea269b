package ledger

import (
	"fmt"
	"time"
)

// Event is something that happened to the copy of a topic and moved no offset: what
// was done about a change at the source, or seen at the destination.
type Event struct {
	Source, Destination Life // Destination is zero where there is no topic
	What                EventKind
	At                  time.Time
	Text                string // for people: values, names

	// Labels for people.
	SourceTopic, DestinationTopic, Flow, Fleet string
}

// EventKind is what happened.
type EventKind uint8

// The kinds of event.
const (
	TopicCreated   EventKind = 1  // the destination topic was made
	TopicGrown     EventKind = 2  // it was given partitions
	TopicGone      EventKind = 3  // the source topic was deleted
	TopicRecreated EventKind = 4  // and another one made under its name
	CopyDeleted    EventKind = 5  // the destination topic was deleted: the text says by whom
	ConfigSet      EventKind = 6  // a setting of the destination topic follows the source's
	ConfigDrift    EventKind = 7  // somebody has set the destination topic otherwise, or it refuses a setting
	CopyStalled    EventKind = 8  // a copy goes on that had stood still: the text says since when and why
	TopicFound     EventKind = 9  // the flow copies into a topic that was there when it looked
	CopyHeld       EventKind = 10 // a copy stands still, for a transaction at the source: the text says since when and whose
)

var eventNames = [...]string{"", "topic-created", "topic-grown", "topic-gone", "topic-recreated", "copy-deleted", "config-set", "config-drift", "copy-stalled", "topic-found", "copy-held"}

func (k EventKind) String() string {
	if int(k) < len(eventNames) && k != 0 {
		return eventNames[k]
	}
	return fmt.Sprintf("event(%d)", uint8(k))
}

func (*Event) kind() kind { return kindEvent }

func (e *Event) append(b []byte) []byte {
	b = appendLife(appendLife(b, e.Source), e.Destination)
	b = appendTime(append(b, byte(e.What)), e.At)
	return appendStrings(b, e.Text, e.SourceTopic, e.DestinationTopic, e.Flow, e.Fleet)
}

func (e *Event) read(r *reader) {
	e.Source, e.Destination = r.life(), r.life()
	e.What = EventKind(r.byte())
	e.At = r.time()
	r.strings(&e.Text, &e.SourceTopic, &e.DestinationTopic, &e.Flow, &e.Fleet)
}

func appendLife(b []byte, l Life) []byte {
	return append(appendStrings(b, l.Cluster), l.TopicID[:]...)
}

func (r *reader) life() Life {
	var l Life
	r.strings(&l.Cluster)
	copy(l.TopicID[:], r.take(len(l.TopicID)))
	return l
}
