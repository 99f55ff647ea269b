package cluster

import (
	"math"
	"time"
)

// Loads are how many bytes per second copies move, as far as known: by flow,
// source topic and partition.
type Loads map[string]map[string][]float32

// of returns the rates of a topic's partitions. There may be fewer than
// partitions.
func (l Loads) of(flow, topic string) []float32 { return l[flow][topic] }

// Set notes the rate of one copy.
func (l Loads) Set(flow, topic string, partition int32, bytesPerSecond float32) {
	topics := l[flow]
	if topics == nil {
		topics = make(map[string][]float32)
		l[flow] = topics
	}
	rates := topics[topic]
	for int(partition) >= len(rates) {
		rates = append(rates, 0)
	}
	rates[partition] = bytesPerSecond
	topics[topic] = rates
}

// prune forgets what a state has no copies for.
func (l Loads) prune(s *State) {
	for name, topics := range l {
		f := s.Flows[name]
		if f == nil {
			delete(l, name)
			continue
		}
		for topic := range topics {
			if f.Topics[topic] == nil {
				delete(topics, topic)
			}
		}
	}
}

// Measured rates are sent to the leader as levels, of which eight are a doubling:
// level n > 0 is levelUnit * 2^((n-1)/8). What is below levelUnit is 0.
const (
	levelUnit     = 16 << 10 // bytes per second: a sixteenth of idleWeight
	levelsDoubled = 8
	maxLevel      = 255 // 58 TB/s
)

// levelOf is the level of a rate, rounded.
func levelOf(bytesPerSecond float64) int {
	if !(bytesPerSecond >= levelUnit) { // NaN too
		return 0
	}
	return int(min(maxLevel, 1+math.Round(levelsDoubled*math.Log2(bytesPerSecond/levelUnit))))
}

// rateOf is the rate of a level.
func rateOf(level int) float32 {
	if level <= 0 {
		return 0
	}
	return float32(levelUnit * math.Exp2(float64(min(level, maxLevel)-1)/levelsDoubled))
}

// How a node measures its copies.
const (
	// loadMemory is over how long a rate is averaged (the time constant of an
	// exponentially weighted mean): a burst of seconds is no reason to move a copy.
	loadMemory = time.Minute
	// loadKnown is for how long a copy must have run here before its rate is told.
	// Until then the leader goes by what the owner before has told.
	loadKnown = 30 * time.Second
	// loadChange is by how many levels a rate must change before it is told again:
	// 2 are 19 %.
	loadChange = 2
)

// meter averages the rates of a node's copies and says which have changed by so
// much that the leader should know. It has no clock.
type meter struct {
	at     time.Time // of the last look
	copies map[Work]*measured
}

type measured struct {
	since time.Time
	rate  float64 // averaged
	told  int     // level, unknownLevel if none was told
	seen  bool
}

const unknownLevel = -1

// look takes the present rates of all copies.
func (m *meter) look(now time.Time, each func(yield func(w Work, bytesPerSecond float64))) {
	if m.copies == nil {
		m.copies = make(map[Work]*measured)
	}
	weight := 1 - math.Exp(-now.Sub(m.at).Seconds()/loadMemory.Seconds())
	m.at = now
	for _, c := range m.copies {
		c.seen = false
	}
	each(func(w Work, rate float64) {
		c := m.copies[w]
		if c == nil {
			c = &measured{since: now, rate: rate, told: unknownLevel}
			m.copies[w] = c
		}
		c.rate += weight * (rate - c.rate)
		c.seen = true
	})
	for w, c := range m.copies {
		if !c.seen {
			delete(m.copies, w)
		}
	}
}

// changes returns what the leader does not know, or everything if it is another
// leader. What is returned counts as told; see forget.
func (m *meter) changes(everything bool) []topicLoads {
	byTopic := make(map[[2]string]int)
	var all []topicLoads
	for w, c := range m.copies {
		if m.at.Sub(c.since) < loadKnown {
			continue
		}
		level := levelOf(c.rate)
		if !everything && c.told != unknownLevel && !changed(c.told, level) {
			continue
		}
		c.told = level
		key := [2]string{w.Name, w.Topic}
		i, ok := byTopic[key]
		if !ok {
			i = len(all)
			byTopic[key] = i
			all = append(all, topicLoads{Flow: w.Name, Topic: w.Topic})
		}
		all[i].Partitions = append(all[i].Partitions, w.Partition)
		all[i].Levels = append(all[i].Levels, level)
	}
	return all
}

// changed reports whether a level is another by enough. Between nothing and
// something it always is.
func changed(told, level int) bool {
	if (told == 0) != (level == 0) {
		return max(told, level) > loadChange
	}
	return level-told >= loadChange || told-level >= loadChange
}

// topicLoads are the levels of copies of one topic, as they travel.
type topicLoads struct {
	Flow       string  `json:"f"`
	Topic      string  `json:"t"`
	Partitions []int32 `json:"p"`
	Levels     []int   `json:"l"`
}
