package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestGroupVersions takes one member through its life in every version of every
// group request: what one client library sends no other may.
func TestGroupVersions(t *testing.T) {
	b := startBroker(t, nil)
	highest := map[int16]int16{10: 6, 11: 9, 12: 4, 13: 5, 14: 5, 15: 6, 16: 5, 42: 2}
	for v := range int16(10) {
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) {
			pins := map[int16]int16{}
			for key, high := range highest {
				pins[key] = min(v, high)
			}
			lifeOfMember(t, b.client(t, kgo.MaxVersions(versionsWith(pins))), fmt.Sprintf("g%d", v), v)
		})
	}
}

// ask sends a request and fails the test if there is no response.
func ask[S kmsg.Response](t *testing.T, cl *kgo.Client, q kmsg.Request) S {
	t.Helper()
	resp, err := cl.Request(within(t, 30*time.Second), q)
	if err != nil {
		t.Fatalf("%T: %v", q, err)
	}
	return resp.(S)
}

// TestSyncGroupNamesItsProtocol: from version 5 on it must (KIP-559).
func TestSyncGroupNamesItsProtocol(t *testing.T) {
	b := startBroker(t, fastGroups)
	consumer, ranged := kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	for _, c := range []struct {
		version        int16
		kind, protocol *string
		want           *kerr.Error
	}{
		{5, nil, ranged, kerr.InconsistentGroupProtocol},
		{5, consumer, nil, kerr.InconsistentGroupProtocol},
		{5, consumer, ranged, kerr.UnknownMemberID},
		{4, nil, nil, kerr.UnknownMemberID},
	} {
		q := kmsg.NewPtrSyncGroupRequest()
		q.Group, q.MemberID, q.ProtocolType, q.Protocol = "g", "m", c.kind, c.protocol
		cl := b.client(t, kgo.MaxVersions(versionsWith(map[int16]int16{kmsg.SyncGroup.Int16(): c.version})))
		wantCode(t, fmt.Sprintf("version %d", c.version), ask[*kmsg.SyncGroupResponse](t, cl, q).ErrorCode, c.want)
	}
}

func TestDescribeClusterIsAskedForBrokers(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t)
	for kind, want := range map[int8]*kerr.Error{1: nil, 2: kerr.MismatchedEndpointType, 9: kerr.UnsupportedEndpointType} {
		q := kmsg.NewPtrDescribeClusterRequest()
		q.EndpointType = kind
		r := ask[*kmsg.DescribeClusterResponse](t, cl, q)
		wantCode(t, fmt.Sprintf("type %d", kind), r.ErrorCode, want)
		if (len(r.Brokers) == 1) != (want == nil) {
			t.Errorf("type %d: brokers %+v", kind, r.Brokers)
		}
	}
}

func wantCode(t *testing.T, what string, got int16, want *kerr.Error) {
	t.Helper()
	var code int16
	if want != nil {
		code = want.Code
	}
	if got != code {
		t.Fatalf("%s: got %v, want %v", what, kerr.ErrorForCode(got), want)
	}
}

func lifeOfMember(t *testing.T, cl *kgo.Client, name string, v int16) {
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.ProtocolType = name, "sr" // any type: here a schema registry's
	join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = 10_000, 10_000
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "v0", []byte("meta")
	join.Protocols = append(join.Protocols, p)
	joined := ask[*kmsg.JoinGroupResponse](t, cl, join)
	if v >= 4 {
		wantCode(t, "first join", joined.ErrorCode, kerr.MemberIDRequired)
		join.MemberID = joined.MemberID
		joined = ask[*kmsg.JoinGroupResponse](t, cl, join)
	}
	wantCode(t, "join", joined.ErrorCode, nil)
	if joined.Generation != 1 || joined.LeaderID != joined.MemberID || len(joined.Members) != 1 || *joined.Protocol != "v0" {
		t.Fatalf("join: got %+v", joined)
	}

	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.Generation, sync.MemberID = name, 1, joined.MemberID
	sync.ProtocolType, sync.Protocol = kmsg.StringPtr("sr"), kmsg.StringPtr("v0")
	a := kmsg.NewSyncGroupRequestGroupAssignment()
	a.MemberID, a.MemberAssignment = joined.MemberID, []byte("all")
	sync.GroupAssignment = append(sync.GroupAssignment, a)
	synced := ask[*kmsg.SyncGroupResponse](t, cl, sync)
	wantCode(t, "sync", synced.ErrorCode, nil)
	if string(synced.MemberAssignment) != "all" {
		t.Errorf("assignment: got %q", synced.MemberAssignment)
	}

	beat := kmsg.NewPtrHeartbeatRequest()
	beat.Group, beat.Generation, beat.MemberID = name, 1, joined.MemberID
	wantCode(t, "heartbeat", ask[*kmsg.HeartbeatResponse](t, cl, beat).ErrorCode, nil)
	beat.Generation = 2
	wantCode(t, "heartbeat of another generation", ask[*kmsg.HeartbeatResponse](t, cl, beat).ErrorCode, kerr.IllegalGeneration)

	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = []string{name}
	d := ask[*kmsg.DescribeGroupsResponse](t, cl, describe).Groups[0]
	if d.State != "Stable" || d.ProtocolType != "sr" || d.Protocol != "v0" || len(d.Members) != 1 ||
		string(d.Members[0].ProtocolMetadata) != "meta" || string(d.Members[0].MemberAssignment) != "all" {
		t.Errorf("describe: got %+v", d)
	}

	list := kmsg.NewPtrListGroupsRequest()
	if v >= 4 {
		list.StatesFilter = []string{"stable"}
	}
	found := false
	for _, g := range ask[*kmsg.ListGroupsResponse](t, cl, list).Groups {
		found = found || g.Group == name && g.ProtocolType == "sr" && (v < 4 || g.GroupState == "Stable") && (v < 5 || g.GroupType == "classic")
	}
	if !found {
		t.Error("the group is not listed")
	}

	deletion := kmsg.NewPtrDeleteGroupsRequest()
	deletion.Groups = []string{name}
	wantCode(t, "delete a live group", ask[*kmsg.DeleteGroupsResponse](t, cl, deletion).Groups[0].ErrorCode, kerr.NonEmptyGroup)

	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group, leave.MemberID = name, joined.MemberID
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = joined.MemberID
	stranger := kmsg.NewLeaveGroupRequestMember()
	stranger.MemberID = "stranger"
	leave.Members = append(leave.Members, m, stranger)
	left := ask[*kmsg.LeaveGroupResponse](t, cl, leave)
	wantCode(t, "leave", left.ErrorCode, nil)
	if v >= 3 {
		wantCode(t, "leave", left.Members[0].ErrorCode, nil)
		wantCode(t, "leave of a stranger", left.Members[1].ErrorCode, kerr.UnknownMemberID)
	}
	wantCode(t, "delete", ask[*kmsg.DeleteGroupsResponse](t, cl, deletion).Groups[0].ErrorCode, nil)
	left = ask[*kmsg.LeaveGroupResponse](t, cl, leave)
	if v >= 3 {
		wantCode(t, "leave a group that is gone", left.Members[0].ErrorCode, kerr.UnknownMemberID)
	} else {
		wantCode(t, "leave a group that is gone", left.ErrorCode, kerr.UnknownMemberID)
	}

	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey, find.CoordinatorKeys = name, []string{name, "other"}
	f := ask[*kmsg.FindCoordinatorResponse](t, cl, find)
	if v >= 4 && (len(f.Coordinators) != 2 || f.Coordinators[0].NodeID != 1) || v < 4 && f.NodeID != 1 {
		t.Errorf("find coordinator: got %+v", f)
	}
}
