package controller

import (
	"reflect"
	"testing"
)

func TestMirrorsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Bootstrap{})
	topic := Topic{Name: "orders", ID: NewTopicID(), Partitions: 2, EpochOffset: 50, Mirror: &Mirror{
		Source: "cluster/topic", State: MirrorRestoring, Cuts: []int64{7, 9},
	}}
	update := func(r ...Record) error {
		return c.Update(func(*Image) ([]Record, error) { return r, nil })
	}
	if err := update(Record{Topic: &topic}); err != nil {
		t.Fatal(err)
	}
	c = open(t, dir, Bootstrap{})
	if got := c.Image().Topic("orders"); !reflect.DeepEqual(*got, topic) {
		t.Fatalf("got %+v, want %+v", got, topic)
	}
	if got := c.Image().TopicByID(topic.ID); got == nil || got.Mirror == nil {
		t.Errorf("by id: %+v", got)
	}
	back := topic
	back.EpochOffset--
	if err := update(Record{Topic: &back}); err == nil {
		t.Error("leader epochs may go back")
	}
	nowhere := topic
	nowhere.Mirror = &Mirror{State: MirrorActive}
	if err := update(Record{Topic: &nowhere}); err == nil {
		t.Error("a mirror of nothing is taken")
	}
	if err := update(Record{Mirror: &MirrorRecord{TopicID: NewTopicID(), Mirror: *topic.Mirror}}); err == nil {
		t.Error("a mirror without its topic is taken")
	}
}

func TestAProducerIDThatIsPassedIsNotReturned(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Bootstrap{ClusterID: "here"})
	next := func() int64 {
		t.Helper()
		id, err := c.NextProducerID()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := next()
	if first != FirstProducerID("here") || !OwnProducerID("here", first) || OwnProducerID("here", first-1) {
		t.Fatalf("first id %d", first)
	}
	for _, pass := range []int64{first, first + 10, first + 5, first + 999, first + 12_345} {
		before := next()
		if err := c.PassProducerID(pass); err != nil {
			t.Fatal(err)
		}
		if got := next(); got <= pass || got <= before {
			t.Errorf("%d after %d, passed was %d", got, before, pass)
		}
	}
	c = open(t, dir, Bootstrap{})
	if got := next(); got <= first+12_345 {
		t.Errorf("%d after a restart", got)
	}
}
