//go:build chaos && linux

package chaos

import (
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/ledger"
)

// TestCheckers gives the checkers of TestFleet what they must not pass.
func TestCheckers(t *testing.T) {
	t.Run("one writer an epoch", ownersAreChecked)
	t.Run("chains of pages", chainsAreChecked)
	t.Run("linearizable registers", registersAreChecked)
	t.Run("revisions", revisionsAreChecked)
	t.Run("states", statesAreChecked)
	t.Run("groups", groupsAreChecked)
	t.Run("faults that show nothing", rowsAreChecked)
	t.Run("copies that do not move", movesAreChecked)
	t.Run("logs of which nothing is compared", sharedEntriesAreChecked)
	t.Run("disks that are not full", fullDisksAreChecked)
}

func ownersAreChecked(t *testing.T) {
	begin := func(epoch uint64, node string) *ledger.Begin {
		return &ledger.Begin{Epoch: epoch, Fleet: "chaos", Node: node}
	}
	for _, c := range []struct {
		begins []*ledger.Begin
		late   bool // is void
		want   string
	}{
		{[]*ledger.Begin{begin(1, "r1"), begin(2, "r2"), begin(3, "r1")}, false, ""},
		{[]*ledger.Begin{begin(1, "r1"), begin(1, "r1")}, false, ""},
		{[]*ledger.Begin{begin(1, "r1"), begin(1, "r2")}, false, "epoch 1 of chaos/r1 is begun by chaos/r2, too"},
		{[]*ledger.Begin{begin(1, "r1"), begin(2, "r2"), begin(1, "r3")}, true, "epoch 1 of chaos/r1 is begun by chaos/r3, too"},
		{[]*ledger.Begin{begin(2, "r2"), begin(1, "r1")}, false, "epoch 1 begins after epoch 2: its owner was not fenced"},
	} {
		f := &fold{lateIsVoid: c.late}
		for _, b := range c.begins {
			f.begin(b)
		}
		if got := strings.Join(f.faults, "; "); got != c.want {
			t.Errorf("%d begins: got %q, want %q", len(c.begins), got, c.want)
		}
	}
}

func chainsAreChecked(t *testing.T) {
	writer := ledger.NewChain(ledger.WriterID{1})
	var pages [][]byte
	for i := range 4 {
		pages = append(pages, writer.Encode([]ledger.Entry{&ledger.Hop{From: int64(i), Next: int64(i)}}))
	}
	other := ledger.NewChain(ledger.WriterID{1})
	other.Encode(nil)
	forged := other.Encode([]ledger.Entry{&ledger.Hop{From: 1, Next: 1}})
	for name, c := range map[string]struct {
		pages     [][]byte
		mayRepeat bool
		whole     bool
	}{
		"whole":           {pages, false, true},
		"first missing":   {pages[1:], false, false},
		"one missing":     {[][]byte{pages[0], pages[2]}, false, false},
		"twice":           {[][]byte{pages[0], pages[0]}, false, false},
		"sent again":      {[][]byte{pages[0], pages[0], pages[1]}, true, true},
		"an older one":    {[][]byte{pages[0], pages[1], pages[0]}, true, false},
		"exchanged":       {[][]byte{pages[0], forged, pages[2]}, false, false},
		"cut off":         {[][]byte{pages[0][:20]}, false, false},
		"no page at all":  {[][]byte{[]byte("{}")}, false, false},
		"another version": {[][]byte{append([]byte("WL\x02"), pages[0][3:]...)}, false, false},
	} {
		followed := make(chains)
		var err error
		for _, p := range c.pages {
			if err == nil {
				err = followed.follow(p, c.mayRepeat)
			}
		}
		if (err == nil) != c.whole {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func registersAreChecked(t *testing.T) {
	write := registerInput{name: "a", write: "v1"}
	onlyNew := registerInput{name: "a", write: "v2", only: &held{}}
	onlyV1 := registerInput{name: "a", write: "v3", only: &held{"v1", 7}}
	read := registerInput{name: "a"}
	remove := registerInput{name: "a", remove: true}
	done, refused := registerOutput{}, registerOutput{refused: true}
	is := func(value string) registerOutput { return registerOutput{held: held{value: value}} }
	type step struct {
		in  registerInput
		out registerOutput
	}
	for name, c := range map[string]struct {
		steps []step
		legal bool
	}{
		"written and read":                  {[]step{{write, done}, {read, is("v1")}}, true},
		"an acknowledged write is gone":     {[]step{{write, done}, {read, is("")}}, false},
		"the current revision is accepted":  {[]step{{write, done}, {onlyV1, done}, {read, is("v3")}}, true},
		"the current revision is refused":   {[]step{{write, done}, {onlyV1, refused}}, false},
		"a put is answered with another":    {[]step{{write, done}, {onlyV1, is("v4")}}, false},
		"a stale revision is refused":       {[]step{{write, done}, {onlyV1, done}, {onlyV1, refused}}, true},
		"a stale revision is accepted":      {[]step{{write, done}, {onlyNew, done}}, false},
		"a refused write is there":          {[]step{{write, done}, {onlyNew, refused}, {read, is("v2")}}, false},
		"an unclear one may have been done": {[]step{{write, done}, {onlyV1, registerOutput{unclear: true}}, {read, is("v3")}}, true},
		"deleted":                           {[]step{{write, done}, {remove, done}, {read, is("")}}, true},
		"a deleted one is there":            {[]step{{write, done}, {remove, done}, {read, is("v1")}}, false},
		"a deleted one has a revision":      {[]step{{write, done}, {remove, done}, {onlyV1, done}}, false},
		"nothing is deleted":                {[]step{{remove, refused}, {write, done}, {remove, done}, {remove, refused}}, true},
		"nothing is deleted, it says done":  {[]step{{remove, done}}, false},
		"one is not found to be deleted":    {[]step{{write, done}, {remove, refused}}, false},
		"it may have been deleted":          {[]step{{write, done}, {remove, registerOutput{unclear: true}}, {read, is("")}}, true},
		"an unclear one cannot have been":   {[]step{{write, done}, {onlyNew, registerOutput{unclear: true}}, {read, is("v2")}}, false},
	} {
		var history []porcupine.Operation
		for i, s := range c.steps {
			history = append(history, porcupine.Operation{Input: s.in, Call: int64(2 * i), Output: s.out, Return: int64(2*i + 1)})
		}
		if got := porcupine.CheckOperations(registerModel, history); got != c.legal {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func revisionsAreChecked(t *testing.T) {
	read := func(value string, revision uint64) porcupine.Operation {
		return porcupine.Operation{Input: registerInput{name: "a"}, Output: registerOutput{held: held{value, revision}}}
	}
	for name, c := range map[string]struct {
		history []porcupine.Operation
		faults  int
	}{
		"each its own":              {[]porcupine.Operation{read("v1", 1), read("v2", 2), read("v1", 1)}, 0},
		"two values at one":         {[]porcupine.Operation{read("v1", 1), read("v2", 1)}, 1},
		"one value at two":          {[]porcupine.Operation{read("v1", 1), read("v1", 2)}, 1},
		"no object has no revision": {[]porcupine.Operation{read("", 0), read("v1", 1), read("", 0)}, 0},
	} {
		if got := twoAtOneRevision(c.history); len(got) != c.faults {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func statesAreChecked(t *testing.T) {
	at := func(revision uint64, hash string) api.Members { return api.Members{Revision: revision, Hash: hash} }
	for name, c := range map[string]struct {
		all          []api.Members
		same, differ bool
	}{
		"equal":         {[]api.Members{at(3, "a"), at(3, "a"), at(3, "a")}, true, false},
		"one is behind": {[]api.Members{at(3, "a"), at(2, "b"), at(3, "a")}, false, false},
		"one differs":   {[]api.Members{at(3, "a"), at(3, "a"), at(3, "b")}, false, true},
		"no hashes":     {[]api.Members{at(3, ""), at(3, "")}, false, true},
	} {
		differ, err := compareStates(c.all)
		if (differ == "" && err == nil) != c.same || (differ != "") != c.differ {
			t.Errorf("%s: got %q, %v", name, differ, err)
		}
	}
}

func groupsAreChecked(t *testing.T) {
	records := func(offsets ...int64) (all []*kgo.Record) {
		for _, o := range offsets {
			all = append(all, &kgo.Record{Offset: o})
		}
		return all
	}
	from, to := records(0, 1, 3, 4), records(10, 11, 12, 14)
	for _, c := range []struct {
		at, moved    int64
		again, skips int
	}{
		{0, 0, 0, 0},
		{0, 10, 0, 0},
		{3, 12, 0, 0},
		{2, 12, 0, 0},
		{5, 15, 0, 0},
		{5, 16, 0, 0},
		{3, 11, 1, 0},
		{5, 0, 4, 0},
		{1, 12, 0, 1},
		{0, 15, 0, 4},
	} {
		if again, skips := apart(from, c.at, to, c.moved); again != c.again || skips != c.skips {
			t.Errorf("from %d to %d: reads %d again and skips %d, want %d and %d", c.at, c.moved, again, skips, c.again, c.skips)
		}
	}
}

func rowsAreChecked(t *testing.T) {
	row := func(pauses ...time.Duration) *fleetRow {
		r := &fleetRow{injected: len(pauses)}
		for _, p := range pauses {
			r.note(p, takeover.bound(0))
		}
		return r
	}
	for name, c := range map[string]struct {
		row  *fleetRow
		want bool
	}{
		"done and survived":             {row(2*time.Second, 7*time.Second), true},
		"never begun":                   {nil, false},
		"skipped each time":             {&fleetRow{skipped: 3}, false},
		"not awaited":                   {&fleetRow{injected: 1}, false},
		"a pause of many times a bound": {row(2*time.Second, time.Minute), false},
	} {
		if got := c.row.wrong(); (got == "") != c.want {
			t.Errorf("%s: got %q", name, got)
		}
	}
	if got := row(2*time.Second, 7*time.Second, 3*time.Second); got.pause != 7*time.Second || against(got.pause, got.bound) != "beyond" {
		t.Errorf("got %s, %s: want the longest pause, which is beyond its bound", got.pause, against(got.pause, got.bound))
	}
}

func movesAreChecked(t *testing.T) {
	copies := []string{"a/0", "a/1"}
	for name, c := range map[string]struct {
		owners map[string]string
		want   bool
	}{
		"others own them":             {map[string]string{"a/0": "r2", "a/1": "r3", "b/0": "r2"}, true},
		"one is where it was":         {map[string]string{"a/0": "r2", "a/1": "r1"}, false},
		"one is nobody's":             {map[string]string{"a/0": "r2", "a/1": ""}, false},
		"one is gone":                 {map[string]string{"a/0": "r2"}, false},
		"one that came to it since":   {map[string]string{"a/0": "r2", "a/1": "r3", "b/0": "r1"}, false},
		"a status that knows nothing": {nil, false},
	} {
		if err := notTaken(c.owners, "r1", copies); (err == nil) != c.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
	before := map[string]int64{"a/0": 5, "a/1": 0}
	for name, c := range map[string]struct {
		now  map[string]int64
		want bool
	}{
		"both have grown":   {map[string]int64{"a/0": 6, "a/1": 1}, true},
		"one has not":       {map[string]int64{"a/0": 6, "a/1": 0}, false},
		"one is not listed": {map[string]int64{"a/0": 6}, false},
	} {
		if err := notGrown(before, c.now, copies); (err == nil) != c.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if notGrown(nil, map[string]int64{"a/0": 6, "a/1": 1}, copies) == nil {
		t.Error("copies whose ends were not known have grown")
	}
}

func sharedEntriesAreChecked(t *testing.T) {
	nodes := []*node{{name: "r1"}, {name: "r2"}, {name: "r3"}}
	if got := aloneIn(map[string]int{"r1": 4, "r3": 4}, nodes); len(got) != 1 || got[0] != "r2" {
		t.Errorf("got %q", got)
	}
	if got := aloneIn(nil, nodes); len(got) != 3 {
		t.Errorf("got %q", got)
	}
}

func fullDisksAreChecked(t *testing.T) {
	full := []api.Member{{Name: "r1", LogFull: true}, {Name: "r2"}}
	for name, c := range map[string]struct {
		members api.Members
		want    bool
	}{
		"another leads":     {api.Members{Leader: "r2", Nodes: full}, true},
		"nobody leads":      {api.Members{Nodes: full}, false},
		"it leads":          {api.Members{Leader: "r1", Nodes: full}, false},
		"it has room":       {api.Members{Leader: "r2", Nodes: []api.Member{{Name: "r1"}}}, false},
		"another's is full": {api.Members{Leader: "r3", Nodes: []api.Member{{Name: "r1"}, {Name: "r2", LogFull: true}}}, false},
	} {
		if err := notFull(c.members, "r1"); (err == nil) != c.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
