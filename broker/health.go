package broker

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/vfs"
)

// healthyFree is the room on the disk below which a broker is not healthy: it may
// have to refuse writes with the next segments that logs begin.
const healthyFree = 64 << 20

// Health says why the broker cannot serve as it should; nothing if it can. A topic
// of clients whose log is damaged is theirs to know (it is in [Broker.Stored]);
// the broker's own topics, its metadata and its disk are everybody's.
func (b *Broker) Health() []string {
	var faults []string
	select {
	case <-b.ready:
	default:
		faults = append(faults, "not serving yet")
	}
	if err := b.ctl.Offline(); err != nil {
		faults = append(faults, err.Error())
	}
	down := b.coordinatorFaults()
	byName := b.topics.Load().byName
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if name != offsetsTopic && name != transactionsTopic && name != ledgerTopic {
			continue
		}
		for _, p := range byName[name].partitions {
			if down[p.String()] != nil {
				continue // said below, with the same reason
			}
			if h, err := p.Health(); h == commitlog.Offline {
				faults = append(faults, fmt.Sprintf("%s is offline: %v", p, err))
			}
		}
	}
	for _, p := range slices.Sorted(maps.Keys(down)) {
		faults = append(faults, down[p].Error())
	}
	if _, real := b.fs.(vfs.OS); real {
		if free, err := diskFree(b.cfg.Dir); err != nil {
			faults = append(faults, fmt.Sprintf("disk: %v", err))
		} else if free < healthyFree {
			faults = append(faults, fmt.Sprintf("disk: %d MiB are free, %d are needed", free>>20, healthyFree>>20))
		}
	}
	return faults
}

// CoordinatorFaults says which coordinators are down, and why: those of groups or
// transactional ids whose partition cannot be used. Others serve.
func (b *Broker) CoordinatorFaults() []error {
	var all []error
	for _, err := range b.coordinatorFaults() {
		all = append(all, err)
	}
	slices.SortFunc(all, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return all
}

// coordinatorFaults are [Broker.CoordinatorFaults] by partition.
func (b *Broker) coordinatorFaults() map[string]error {
	if b.coordinators == nil {
		return nil
	}
	all := map[string]error{}
	for topic, faults := range map[string]map[int32]error{
		offsetsTopic: b.coordinators.groups.Faults(), transactionsTopic: b.coordinators.txns.Faults(),
	} {
		for n, err := range faults {
			p := replica.Identity{Topic: topic, Partition: n}.String()
			all[p] = fmt.Errorf("coordinator of %s is down: %w", p, err)
		}
	}
	return all
}
