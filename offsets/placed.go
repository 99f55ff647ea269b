package offsets

import (
	"fmt"
	"sync"

	"github.com/waybillhq/waybill/flow"
)

// placeKey is a position of a group at the destination.
type placeKey struct {
	group string
	at    flow.TopicPartition
}

// placed remembers where groups stood at the source when they were set where they stand. A
// destination that has lost the end of its log has the records again, and maybe at lower
// offsets: what stands there then skips some. A group that went back looks the same but for
// where it had been.
type placed struct {
	mu sync.Mutex
	at map[placeKey]placing
}

type placing struct {
	stands Commit
	source int64
}

// follow has those positions written, although they go backwards, whose groups have not.
func (p *placed) follow(rows []Row) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range rows {
		row := &rows[i]
		was, ok := p.at[placeKey{row.Group, row.Destination}]
		if row.below && ok && was.stands == row.stands && row.SourceOffset >= was.source {
			row.Action = Write
			row.Why = fmt.Sprintf("the destination has lost what offset %d stood for, and has it again from offset %d on", row.Present, row.Result.Offset)
		}
	}
}

// remember takes in what a round has left standing.
func (p *placed) remember(rows []Row) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.at
	p.at = make(map[placeKey]placing, len(rows))
	unread := map[string]bool{}
	for _, row := range rows {
		key := placeKey{row.Group, row.Destination}
		was, ok := before[key]
		switch {
		case row.Written && row.commit.Offset == row.Result.Offset:
			p.at[key] = placing{row.commit, row.SourceOffset}
		case row.Action == Keep && row.Present == row.Result.Offset:
			p.at[key] = placing{row.stands, row.SourceOffset}
		case ok && was.stands == row.stands && !row.Written:
			p.at[key] = was
		}
		unread[row.Group] = unread[row.Group] || row.Source.Topic == ""
	}
	for key, was := range before {
		if unread[key.group] {
			p.at[key] = was
		}
	}
}
