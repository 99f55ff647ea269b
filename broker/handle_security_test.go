package broker

import (
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// asker is a request of a client on the plain listener, from no connection.
func (b *testBroker) asker(row kmsg.Key) *request {
	return &request{api: b.table[int16(row)], version: b.table[int16(row)].max, client: &Client{Principal: "User:alice", Host: "10.0.0.1", Listener: "plain"}, broker: b.Broker}
}

func manyUsers(n int) *kmsg.AlterUserSCRAMCredentialsRequest {
	q := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	for i := range n {
		u := kmsg.NewAlterUserSCRAMCredentialsRequestUpsertion()
		u.Name, u.Mechanism, u.Iterations, u.Salt, u.SaltedPassword = "u"+strconv.Itoa(i), 1, 4096, make([]byte, 16), make([]byte, 32)
		q.Upsertions = append(q.Upsertions, u)
	}
	return q
}

// TestUsersAreNotPlannedWithoutRights: keys are made of what is sent only for who
// may change users.
func TestUsersAreNotPlannedWithoutRights(t *testing.T) {
	asked := &recorder{}
	b := startPrepared(t, func(c *Config) { c.Authorizer = true }, asked.install)
	const users = 20_000
	q, r := manyUsers(users), b.asker(kmsg.AlterUserSCRAMCredentials)
	perUser := func() float64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		resp := b.alterSCRAM(t.Context(), r, q)
		runtime.ReadMemStats(&after)
		if len(resp.Results) != users || resp.Results[0].ErrorCode != kerr.ClusterAuthorizationFailed.Code {
			t.Fatalf("%d results, the first %+v", len(resp.Results), resp.Results[0])
		}
		return float64(after.Mallocs-before.Mallocs) / users
	}
	// The answer takes 9 for each; the hashes of a plan take 18 more.
	if n := perUser(); n > 15 {
		t.Errorf("%.1f allocations for each user that is refused", n)
	}
}

// TestUsersAreFoundAmongMany fails by its deadline if each name of a request is
// compared with all before it: a hundred billion times.
func TestUsersAreFoundAmongMany(t *testing.T) {
	const users = 500_000
	q := manyUsers(users)
	for i := range 10 {
		q.Upsertions = append(q.Upsertions, q.Upsertions[i])
	}
	done := make(chan []string, 1)
	go func() { done <- scramUsers(q) }()
	select {
	case names := <-done:
		if len(names) != users || names[users-1] != "u"+strconv.Itoa(users-1) {
			t.Errorf("%d users", len(names))
		}
	case <-time.After(20 * time.Second):
		t.Fatal("names are compared one with another")
	}
}

// TestElectionsTellNoNamesToWhoMayNot: all topics is a list of them.
func TestElectionsTellNoNamesToWhoMayNot(t *testing.T) {
	asked := &recorder{}
	b := startPrepared(t, func(c *Config) { c.Authorizer = true }, asked.install)
	q := kmsg.NewPtrElectLeadersRequest()
	q.Topics = nil
	resp := b.electLeaders(t.Context(), b.asker(kmsg.ElectLeaders), q)
	if resp.ErrorCode != kerr.ClusterAuthorizationFailed.Code || len(resp.Topics) != 0 {
		var names []string
		for _, topic := range resp.Topics {
			names = append(names, topic.Topic)
		}
		t.Errorf("error %d, topics %s", resp.ErrorCode, strings.Join(names, ", "))
	}
}
