package cluster

import (
	"slices"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

// departures are the members that the raft group does not have, and since when. Their
// removal was interrupted between the group and the state: by the end of who asked
// for it, or because a node that is asked to remove itself can propose nothing after
// that.
type departures map[string]time.Time

// departureGrace is how long who asked for a removal has to end it himself: then it
// is in the audit trail under his name.
const departureGrace = time.Second

// due takes the state's members and the group's at now, and returns those that are to
// be removed from the state.
func (d departures) due(known map[string]Member, group []raftnode.Member, now time.Time) (names []string) {
	for name := range d {
		if _, ok := known[name]; !ok {
			delete(d, name)
		}
	}
	for _, name := range sortedKeys(known) {
		if slices.ContainsFunc(group, func(m raftnode.Member) bool { return m.ID == name }) {
			delete(d, name)
			continue
		}
		if since, ok := d[name]; !ok {
			d[name] = now
		} else if now.Sub(since) >= departureGrace {
			names = append(names, name)
		}
	}
	return names
}
