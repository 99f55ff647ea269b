package controller

import "fmt"

// MirrorState is what a mirror topic is doing.
type MirrorState string

// The states of a mirror topic. Active, paused and failed ones are read-only;
// Promoting and Restoring are intents, which a restart carries on.
const (
	MirrorActive    MirrorState = "active"
	MirrorPaused    MirrorState = "paused"
	MirrorFailed    MirrorState = "failed"
	MirrorPromoting MirrorState = "promoting"
	MirrorPromoted  MirrorState = "promoted"
	MirrorRestoring MirrorState = "restoring"
)

// Mirror is a topic as the mirror of another. It is immutable.
type Mirror struct {
	// Source is "cluster id/topic id", and what its owner adds to it.
	Source string      `json:"source"`
	State  MirrorState `json:"state"`
	Reason string      `json:"reason,omitempty"` // of MirrorFailed
	// Cuts are where MirrorRestoring truncates each partition.
	Cuts []int64 `json:"cuts,omitempty"`
}

// MirrorRecord says what a topic is as a mirror. It follows the topic's record.
type MirrorRecord struct {
	TopicID TopicID `json:"topicId"`
	Mirror
}

func (m *Mirror) valid() bool {
	switch m.State {
	case MirrorActive, MirrorPaused, MirrorFailed, MirrorPromoting, MirrorPromoted, MirrorRestoring:
		return m.Source != ""
	}
	return false
}

// ReadOnly says that nobody but the mirror's writer adds to the topic, and that
// its settings do not delete from it. It is false for nil.
func (m *Mirror) ReadOnly() bool { return m != nil && m.State != MirrorPromoted }

// PassProducerID sees to it that no producer id up to id is returned any more,
// those of the block in use included.
func (c *Controller) PassProducerID(id int64) error {
	c.ids.Lock()
	defer c.ids.Unlock()
	if id >= c.Image().NextProducerID { // which only grows
		err := c.Update(func(i *Image) ([]Record, error) {
			return []Record{{ProducerIDs: &ProducerIDs{Next: max(i.NextProducerID, id+1)}}}, nil
		})
		if err != nil {
			return fmt.Errorf("pass producer id %d: %w", id, err)
		}
	}
	c.ids.next = min(max(c.ids.next, id+1), c.ids.end)
	return nil
}

// OwnProducerID says whether an id is of the range of a cluster: see
// [FirstProducerID].
func OwnProducerID(clusterID string, id int64) bool {
	first := FirstProducerID(clusterID)
	return id >= first && id < first+1<<producerIDBits
}
