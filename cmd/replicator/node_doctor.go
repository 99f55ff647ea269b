package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/doctor"
)

// machineFindings are what a node's file names: certificates, the data folder, the
// nodes to join.
func machineFindings(ctx context.Context, f nodeFile, now time.Time) (all []doctor.Finding) {
	where := "node " + f.Name
	all = append(all, doctor.CertificateFile(where+": peer certificate", f.Peer.CertFile, f.Peer.KeyFile, f.Name, now)...)
	all = append(all, doctor.CertificateFile(where+": authority of the fleet", f.Peer.CAFile, "", "", now)...)
	all = append(all, doctor.CertificateFile(where+": certificate of the API", f.API.CertFile, f.API.KeyFile, "", now)...)
	for _, addr := range append(f.Peer.Join, f.Peer.Advertise) {
		if addr != "" {
			all = append(all, doctor.Host(ctx, where+": peer "+addr, addr))
		}
	}
	return append(all, doctor.Folder(f.DataDir)...)
}

// fleetFindings are about raft and the nodes.
func (o *operations) fleetFindings(ctx context.Context) []doctor.Finding {
	raft := o.fleet.Raft()
	s, revision := o.fleet.Current()
	all := []doctor.Finding{raftFinding("node "+o.fleet.Name(), raft.Leader, raft.Leads, raft.SinceContact, raft.Term, revision)}
	ctx, cancel := context.WithTimeout(ctx, leaderSilence)
	defer cancel()
	seen, err := o.fleet.FleetStatus(ctx)
	if err != nil {
		return append(all, doctor.Finding{Check: doctor.Raft, Where: "fleet", Level: doctor.Error, Found: err.Error(), ToDo: "start the nodes that are missing: a majority is needed"})
	}
	return append(all, memberFindings(s, seen)...)
}

func raftFinding(where, leader string, leads bool, silence time.Duration, term, revision uint64) doctor.Finding {
	f := doctor.Finding{Check: doctor.Raft, Where: where, Level: doctor.OK, Found: fmt.Sprintf("follows %s in term %d, at revision %d, last heard of it %s ago", leader, term, revision, silence.Round(time.Millisecond))}
	switch {
	case leads:
		f.Found = fmt.Sprintf("leads in term %d, at revision %d", term, revision)
	case leader == "":
		f.Level, f.Found = doctor.Error, fmt.Sprintf("knows no leader, in term %d", term)
		f.ToDo = "see whether a majority of the nodes runs, and whether their peer addresses are reachable from each other"
	case silence > leaderSilence:
		f.Level, f.ToDo = doctor.Error, "this node is cut off: see whether the leader's peer address is reachable"
	}
	return f
}

// memberFindings judge the nodes by what the leader knows of them.
func memberFindings(s *cluster.State, seen cluster.FleetStatus) (all []doctor.Finding) {
	versions := map[string]bool{}
	for _, n := range seen.Nodes {
		versions[n.Version] = true
		f := doctor.Finding{Check: doctor.Raft, Where: "node " + n.Name, Level: doctor.OK, Found: fmt.Sprintf("heard by the leader; does %d pieces of work", n.Works)}
		switch {
		case !n.Alive:
			f.Level, f.Found = doctor.Error, "the leader does not hear it"
			f.ToDo = "start it, or remove it from the fleet if it does not come back"
		case n.Problem != "":
			f.Level, f.Found, f.ToDo = doctor.Warning, "does not say how its work is doing: "+n.Problem, "see its log, and whether its peer address is reachable"
		case n.Draining:
			f.Level, f.Found, f.ToDo = doctor.Warning, "is drained: it owns nothing", "'replicator fleet undrain "+n.Name+"' when the maintenance is over"
		}
		all = append(all, f)
	}
	if len(versions) > 1 {
		all = append(all, doctor.Finding{Check: doctor.Versions, Where: "fleet", Level: doctor.Warning, Found: "the nodes run " + strings.Join(sortedNames(versions), " and "), ToDo: "finish the upgrade"})
	}
	f := doctor.Finding{Check: doctor.Raft, Where: "fleet", Level: doctor.OK, Found: fmt.Sprintf("%d nodes", len(s.Members))}
	switch n := len(s.Members); {
	case n == 1:
		f.Level, f.Found, f.ToDo = doctor.Warning, "one node: nobody takes over when it dies", "join two more"
	case n == 2: // of four or six, one stands by
		f.Level, f.Found, f.ToDo = doctor.Warning, "two nodes: nobody takes over when one dies", "join a third"
	}
	return append(all, f)
}

// clockFindings compare the clocks of the other nodes with this one's.
func (o *operations) clockFindings(ctx context.Context) []doctor.Finding {
	ctx, cancel := context.WithTimeout(ctx, leaderSilence)
	defer cancel()
	var mu sync.Mutex
	var all []doctor.Finding
	var asking sync.WaitGroup
	for _, name := range sortedNames(o.fleet.State().Members) {
		if name == o.fleet.Name() {
			continue
		}
		asking.Go(func() {
			var f doctor.Finding
			asked := time.Now()
			b, err := askPeer(ctx, o.fleet, name, peerClock, url.Values{}, 1<<10)
			answered := time.Now()
			var said time.Time
			if err == nil {
				err = json.Unmarshal(b, &said)
			}
			if err != nil {
				f = doctor.Finding{Check: doctor.Clock, Where: "node " + name, Level: doctor.Unknown, Found: err.Error()}
			} else {
				f = doctor.ClockOf("node "+name, asked, answered, said)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, f)
		})
	}
	asking.Wait()
	return all
}

// auditLook is how many of the newest entries are checked.
const auditLook = 10_000

// auditFindings look at the end of this node's audit trail.
func (o *operations) auditFindings() []doctor.Finding {
	a := o.audits
	where := "node " + a.name + ": audit trail"
	changes, err := a.changeEntries(api.AuditQuery{Limit: auditLook}, a.changes.Last()-min(a.changes.Last(), auditLook))
	own, err2 := a.ownEntries(api.AuditQuery{Limit: auditLook}, a.own.Last()-min(a.own.Last(), auditLook))
	for _, err := range []error{err, err2} {
		if err != nil {
			return []doctor.Finding{{Check: doctor.Audit, Where: where, Level: doctor.Error, Found: err.Error(), ToDo: "see that the files in the data folder's audit are readable"}}
		}
	}
	if damage := append(changes.Damage, own.Damage...); len(damage) > 0 {
		d := damage[0]
		return []doctor.Finding{{
			Check: doctor.Audit, Where: where, Level: doctor.Error, Found: fmt.Sprintf("%d places are not as they were written, the first is %s:%d: %s", len(damage), d.File, d.Line, d.Reason),
			ToDo: "find out who has written to the files; other nodes have the accepted changes too ('replicator audit' shows all places)",
		}}
	}
	return []doctor.Finding{{Check: doctor.Audit, Where: where, Level: doctor.OK, Found: fmt.Sprintf("%d accepted changes and %d entries of this node, the newest %d are as they were written", a.changes.Last(), a.own.Last(), auditLook)}}
}
