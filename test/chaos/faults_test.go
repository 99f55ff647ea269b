//go:build chaos && unix

package chaos

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// fault is one thing that is done. It may leave something broken, which a later
// one or restore puts right.
type fault struct {
	name   string
	weight int
	do     func(*chaos)
}

var faults = []fault{
	{"node-kill", 4, func(c *chaos) {
		n := c.someNode()
		c.say("%s is killed", n.name)
		n.process.kill()
		c.pause(0, 4000)
		n.start()
	}},
	{"node-stop", 2, func(c *chaos) {
		n := c.someNode()
		c.say("%s stops", n.name)
		n.process.stop(c.t)
		n.start()
	}},
	{"node-sleep", 4, func(c *chaos) {
		n := c.someNode()
		c.say("%s sleeps", n.name)
		n.process.suspend(c.t)
		c.pause(300, 7000)
		c.say("%s wakes up", n.name)
		n.process.resume(c.t)
	}},
	{"two-nodes-sleep", 1, func(c *chaos) {
		c.say("two nodes sleep")
		for _, n := range c.nodes[:2] {
			n.process.suspend(c.t)
		}
		c.pause(500, 5000)
		for _, n := range c.nodes[:2] {
			n.process.resume(c.t)
			c.pause(0, 2000)
		}
	}},
	{"broker-kill", 4, func(c *chaos) {
		b := c.someBroker()
		c.say("%s is killed", b.name)
		b.process.kill()
		c.pause(0, 3000)
		b.start()
	}},
	{"broker-stop", 1, func(c *chaos) {
		b := c.someBroker()
		c.say("%s stops", b.name)
		b.process.stop(c.t)
		c.pause(0, 1000)
		b.start()
	}},
	{"broker-sleep", 3, func(c *chaos) {
		b := c.someBroker()
		c.say("%s sleeps", b.name)
		b.process.suspend(c.t)
		c.pause(300, 6000)
		c.say("%s wakes up", b.name)
		b.process.resume(c.t)
	}},
	{"broker-and-node", 2, func(c *chaos) {
		b, n := c.someBroker(), c.someNode()
		c.say("%s and %s are killed", b.name, n.name)
		b.process.kill()
		n.process.kill()
		c.pause(0, 2000)
		n.start()
		c.pause(0, 2000)
		b.start()
	}},
	{"cut", 2, func(c *chaos) {
		b := c.someBroker()
		c.say("connections of %s are cut", b.name)
		b.proxy.Load().cut()
	}},
	{"late", 3, func(c *chaos) {
		b := c.someBroker()
		c.say("answers of %s are late", b.name)
		b.proxy.Load().hold()
		c.pause(200, 4000)
		b.proxy.Load().pass()
	}},
	{"unanswered", 4, func(c *chaos) {
		b := c.someBroker()
		c.say("%s does not answer", b.name)
		b.proxy.Load().hold()
		c.pause(10, 2000)
		b.proxy.Load().cut()
		b.proxy.Load().pass()
	}},
	{"unanswered-kill", 3, func(c *chaos) {
		b, n := c.someBroker(), c.someNode()
		c.say("%s does not answer, and %s is killed", b.name, n.name)
		b.proxy.Load().hold()
		c.pause(10, 1000)
		n.process.kill()
		c.pause(0, 3000)
		b.proxy.Load().pass()
		n.start()
	}},
	{"very-late", 1, func(c *chaos) {
		b := c.someBroker()
		c.say("answers of %s are very late", b.name)
		b.proxy.Load().hold()
		c.pause(12000, 35000)
		b.proxy.Load().pass()
	}},
	{"slow", 2, func(c *chaos) {
		b := c.someBroker()
		c.say("%s is far away", b.name)
		b.proxy.Load().slow(time.Duration(5+c.rng.IntN(200)) * time.Millisecond)
		c.pause(1000, 5000)
		b.proxy.Load().slow(0)
	}},
	{"pause", 3, func(c *chaos) {
		c.say("the flow is paused")
		c.declared.paused = true
		c.apply()
		c.pause(0, 3000)
		c.say("the flow is resumed")
		c.declared.paused = false
		c.apply()
	}},
	{"password", 3, func(c *chaos) {
		c.declared.user = other(c.declared.user, users[1:])
		c.say("the fleet is %s now", c.declared.user)
		c.apply()
	}},
	{"password-while-down", 2, func(c *chaos) {
		b := c.someBroker()
		c.declared.user = other(c.declared.user, users[1:])
		c.say("%s is killed, the fleet is %s now", b.name, c.declared.user)
		b.process.kill()
		c.apply()
		c.pause(0, 3000)
		b.start()
	}},
	{"address", 2, func(c *chaos) {
		c.declared.host = other(c.declared.host, []string{"127.0.0.1", "localhost"})
		c.say("the clusters are at %s now", c.declared.host)
		c.apply()
	}},
	{"move", 2, func(c *chaos) {
		b := c.someBroker()
		c.say("%s moves to another address", b.name)
		b.proxy.Load().close()
		c.pause(0, 1500)
		b.process.kill()
		b.proxy.Store(newProxy(c.t, b.address))
		b.start()
		c.apply()
	}},
	{"label", 1, func(c *chaos) {
		c.declared.label++
		c.say("labels change")
		c.apply()
	}},
	{"selector", 2, func(c *chaos) {
		topics := sortedTopics(c.topics)
		c.declared.exclude = topics[c.rng.IntN(len(topics))]
		c.say("%s is excluded", c.declared.exclude)
		c.apply()
		c.pause(0, 4000)
		c.say("%s is included", c.declared.exclude)
		c.declared.exclude = ""
		c.apply()
	}},
	{"delete", 2, func(c *chaos) {
		c.say("the flow is deleted")
		c.deleteFlow()
		c.pause(0, 3000)
		c.say("the flow is declared again")
		c.declared.gone = false
		c.apply()
	}},
	{"topic", 1, func(c *chaos) {
		if len(c.topics) < 6 {
			name := fmt.Sprintf("new-%d", len(c.topics))
			c.say("topic %s", name)
			c.addTopic(name, 1+c.rng.Int32N(3), c.rng.IntN(2) == 0, kgo.SnappyCompression())
		}
	}},
	{"grow", 1, func(c *chaos) {
		topics := sortedTopics(c.topics)
		name := topics[c.rng.IntN(len(topics))]
		partitions := c.topics[name].Load() + 1
		if partitions > 6 {
			return
		}
		c.say("%s grows to %d partitions", name, partitions)
		c.us.admin("grow "+name, func(adm *kadm.Client) error {
			resp, err := adm.UpdatePartitions(c.t.Context(), int(partitions), name)
			if err == nil {
				err = resp[name].Err
			}
			if err != nil && strings.Contains(err.Error(), "INVALID_PARTITIONS") {
				return nil // an attempt before this one was not answered
			}
			return err
		})
		c.topics[name].Store(partitions)
	}},
}

// breakSomething does one thing and leaves the world alone for a while.
func (c *chaos) breakSomething() {
	only := strings.Split(*onlyFlag, ",")
	total := 0
	var pick []fault
	for _, f := range faults {
		if *onlyFlag == "" || slices.Contains(only, f.name) {
			pick = append(pick, f)
			total += f.weight
		}
	}
	if total == 0 {
		c.t.Fatalf("there is no fault %q", *onlyFlag)
	}
	n := c.rng.IntN(total)
	for _, f := range pick {
		if n -= f.weight; n < 0 {
			f.do(c)
			break
		}
	}
	// Often the next thing comes before the last one is over.
	if c.rng.IntN(3) == 0 {
		c.pause(0, 200)
	} else {
		c.pause(500, 4000)
	}
}

func (c *chaos) pause(least, most int) {
	time.Sleep(time.Duration(least+c.rng.IntN(most-least)) * time.Millisecond)
}

func (c *chaos) someNode() *node { return c.nodes[c.rng.IntN(len(c.nodes))] }

// someBroker is eu more often: most can go wrong there.
func (c *chaos) someBroker() *broker {
	if c.rng.IntN(3) == 0 {
		return c.us
	}
	return c.eu
}

func other(have string, of []string) string {
	return of[(slices.Index(of, have)+1)%len(of)]
}

func sortedTopics[V any](m map[string]V) []string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
