//go:build chaos && linux

package chaos

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// registers are clients that declare, delete and read objects at whichever node, while
// faults happen, and write down what they were told and when. Each object is a
// register, and all of it must be as if one thing had happened after the other.
type registers struct {
	f     *fleet
	began time.Time
	stop  chan struct{}
	wg    sync.WaitGroup
	nodes atomic.Pointer[[]*node] // that may be asked
	value atomic.Int64

	mu      sync.Mutex
	names   []string        // of the registers in use
	seen    map[string]held // what somebody read last in each
	made    int
	history []porcupine.Operation
	unclear int
}

const (
	registerClients = 5
	registersInUse  = 3
)

// held is a value and the revision that the object had with it; "" and 0 are no object.
type held struct {
	value    string
	revision uint64
}

// registerInput is a request: a value to write, an object to delete, or else to read. A
// write may be on condition that nobody has been faster: that the object is at the
// revision that it had with another value.
type registerInput struct {
	name, write string
	remove      bool
	only        *held
}

func (in registerInput) reads() bool { return in.write == "" && !in.remove }

// registerOutput is what was read, that a condition did not hold or there was nothing to
// delete, or that nobody knows whether something was changed.
type registerOutput struct {
	held
	refused bool
	unclear bool
	err     error // of a request that has no answer
}

// registerModel is a register by name. Its state is the value: no value is written
// twice, so a revision stands for the value that it was read with.
var registerModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := make(map[string][]porcupine.Operation)
		for _, op := range history {
			name := op.Input.(registerInput).name
			by[name] = append(by[name], op)
		}
		var all [][]porcupine.Operation
		for _, part := range by {
			all = append(all, part)
		}
		return all
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out, now := input.(registerInput), output.(registerOutput), state.(string)
		holds := in.only == nil || in.only.value == now
		switch {
		case in.reads():
			return out.value == now, now
		case in.remove && out.unclear:
			return true, ""
		case in.remove:
			return out.refused == (now == ""), ""
		case out.unclear && !holds:
			return true, now // refused, if it was carried out
		case out.unclear:
			return true, in.write
		case holds: // who has put something is told of that, and of nobody's change since
			return !out.refused && (out.value == "" || out.value == in.write), in.write
		default:
			return out.refused, now
		}
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(registerInput), output.(registerOutput)
		condition := ""
		if in.only != nil {
			condition = fmt.Sprintf(" if it is still %q", in.only.value)
		}
		if !in.reads() {
			return fmt.Sprintf("%s := %q%s (refused: %v, unclear: %v)", in.name, in.write, condition, out.refused, out.unclear)
		}
		return fmt.Sprintf("%s is %q", in.name, out.value)
	},
}

func (f *fleet) beginRegisters(seed uint64) *registers {
	r := &registers{f: f, began: time.Now(), stop: make(chan struct{}), seen: make(map[string]held)}
	r.listen()
	for range registersInUse {
		r.names = append(r.names, r.name())
	}
	for i := range registerClients {
		rng := rand.New(rand.NewPCG(seed, uint64(100+i)))
		r.wg.Go(func() {
			for {
				r.one(i, rng)
				select {
				case <-time.After(time.Duration(rng.IntN(60)) * time.Millisecond):
				case <-r.stop:
					return
				}
			}
		})
	}
	return r
}

// listen asks the nodes that there are now.
func (r *registers) listen() {
	nodes := append([]*node(nil), r.f.nodes...)
	r.nodes.Store(&nodes)
}

func (r *registers) end() {
	close(r.stop)
	r.wg.Wait()
}

// last reads every register that there ever was, also those that are used no more: what
// was acknowledged is there, after whatever has happened since.
func (r *registers) last(t *testing.T) {
	t.Helper()
	for i := range r.made {
		in := registerInput{name: fmt.Sprintf("register-%d", i+1)}
		eventually(t, recovery, "the last value of "+in.name, func() error {
			call := time.Since(r.began).Nanoseconds()
			out, known := r.ask(r.f.nodes[i%len(r.f.nodes)], in)
			if !known {
				return fmt.Errorf("no answer: %w", out.err)
			}
			r.history = append(r.history, porcupine.Operation{Input: in, Call: call, Output: out, Return: time.Since(r.began).Nanoseconds()})
			return nil
		})
	}
}

func (r *registers) name() string {
	r.made++
	return fmt.Sprintf("register-%d", r.made)
}

// one is one request of one client.
func (r *registers) one(client int, rng *rand.Rand) {
	nodes := *r.nodes.Load()
	n := nodes[rng.IntN(len(nodes))]
	r.mu.Lock()
	slot := rng.IntN(len(r.names))
	in := registerInput{name: r.names[slot]}
	last := r.seen[in.name]
	r.mu.Unlock()
	switch rng.IntN(16) {
	case 0, 1, 2:
		in.write = fmt.Sprintf("v%d", r.value.Add(1))
	case 3, 4, 5, 6: // others may have been faster
		in.write, in.only = fmt.Sprintf("v%d", r.value.Add(1)), &last
	case 7:
		in.remove = true
	}
	call := time.Since(r.began).Nanoseconds()
	out, known := r.ask(n, in)
	back := time.Since(r.began).Nanoseconds()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case in.reads() && !known:
		return // a read that was not answered says nothing
	case errors.Is(out.err, syscall.ECONNREFUSED), out.err != nil && strings.Contains(out.err.Error(), "read barrier"):
		return // nothing was sent, or nothing proposed
	case !known:
		// It may be carried out at any time from now on. Few of those may be open at
		// once for the history to be checked: the register is not used any more.
		out.unclear, back = true, int64(1)<<62
		r.unclear++
		if r.names[slot] == in.name {
			r.names[slot] = r.name()
		}
	}
	if in.reads() || out.value != "" {
		r.seen[in.name] = out.held
	}
	r.history = append(r.history, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: back})
}

// ask carries a request out; known says that it was, or for a read, what there is.
func (r *registers) ask(n *node, in registerInput) (out registerOutput, known bool) {
	path := "/api/v1/objects/Cluster/" + in.name
	if in.write != "" {
		yaml := fmt.Sprintf("apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: %s, labels: {value: %s}}\nspec: {bootstrapServers: [\"%s:9\"]}\n", in.name, in.write, home)
		if in.only == nil {
			_, out.err = r.f.call(n, http.MethodPost, "/api/v1/apply", yaml)
			return out, out.err == nil
		}
		condition := []string{"If-Match", fmt.Sprintf("%q", fmt.Sprint(in.only.revision))}
		if in.only.value == "" {
			condition = []string{"If-None-Match", "*"}
		}
		b, err := r.f.call(n, http.MethodPut, path, yaml, condition...)
		if err == nil {
			out.held, out.err = heldIn(b)
			return out, true
		}
		out.err, out.refused = err, hasStatus(err, http.StatusPreconditionFailed)
		return out, out.refused
	}
	if in.remove {
		_, out.err = r.f.call(n, http.MethodDelete, path, "")
		out.refused = hasStatus(out.err, http.StatusNotFound)
		return out, out.err == nil || out.refused
	}
	b, err := r.f.call(n, http.MethodGet, path, "")
	if err != nil {
		out.err = err
		return out, hasStatus(err, http.StatusNotFound)
	}
	out.held, out.err = heldIn(b)
	return out, out.err == nil
}

// heldIn is what an answer says of an object.
func heldIn(answer []byte) (held, error) {
	var found struct {
		Revision uint64
		Object   struct {
			Metadata struct{ Labels map[string]string }
		}
	}
	if err := json.Unmarshal(answer, &found); err != nil || found.Object.Metadata.Labels["value"] == "" {
		return held{}, fmt.Errorf("an object without a value: %s: %w", answer, err)
	}
	return held{found.Object.Metadata.Labels["value"], found.Revision}, nil
}

// hasStatus says that an error is an answer of a status.
func hasStatus(err error, status int) bool {
	return err != nil && strings.Contains(err.Error(), fmt.Sprintf(": %d ", status))
}

// check says whether the history is linearizable. A client has one request after
// the other, but for those that nobody answered: each of them is a client of its own.
func (r *registers) check(t *testing.T) {
	t.Helper()
	for i := range r.history {
		if r.history[i].Output.(registerOutput).unclear {
			r.history[i].ClientId = registerClients + i
		}
	}
	var reads, writes, removed, accepted, refused int
	for _, op := range r.history {
		switch in, out := op.Input.(registerInput), op.Output.(registerOutput); {
		case in.reads():
			reads++
		case in.remove:
			if !out.refused && !out.unclear {
				removed++
			}
		case in.only == nil || out.unclear:
			writes++
		case out.refused:
			refused++
		default:
			accepted++
		}
	}
	t.Logf("the API's history: %d reads, %d writes and %d deletions of %d registers, %d changes unclear; of those on condition %d were accepted and %d refused",
		reads, writes, removed, r.made, r.unclear, accepted, refused)
	if reads < 100 || writes < 50 || removed < 10 || accepted < 20 || refused < 20 {
		t.Error("that is too little to show anything")
	}
	for _, fault := range twoAtOneRevision(r.history) {
		t.Error(fault)
	}
	for _, part := range registerModel.Partition(r.history) {
		if result := porcupine.CheckOperationsTimeout(registerModel, part, time.Minute); result != porcupine.Ok {
			t.Errorf("the history of a register is not linearizable: %s\n%s", result, describeHistory(part))
		}
	}
}

// twoAtOneRevision finds objects that were answered with two values at one revision, or
// one value at two.
func twoAtOneRevision(history []porcupine.Operation) (faults []string) {
	type at struct {
		name     string
		revision uint64
	}
	values, revisions := make(map[at]string), make(map[string]uint64)
	for _, op := range history {
		in, out := op.Input.(registerInput), op.Output.(registerOutput)
		if out.value == "" {
			continue
		}
		place := at{in.name, out.revision}
		if other, ok := values[place]; ok && other != out.value {
			faults = append(faults, fmt.Sprintf("%s is %s and %s at revision %d", in.name, other, out.value, out.revision))
		}
		if other, ok := revisions[out.value]; ok && other != out.revision {
			faults = append(faults, fmt.Sprintf("%s is %s at revisions %d and %d", in.name, out.value, other, out.revision))
		}
		values[place], revisions[out.value] = out.value, out.revision
	}
	return faults
}

// describeHistory is a history in the order in which requests were sent.
func describeHistory(history []porcupine.Operation) string {
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var out strings.Builder
	for _, op := range history {
		fmt.Fprintf(&out, "%9.3fs to %9.3fs by %d: %s", float64(op.Call)/1e9, float64(op.Return)/1e9, op.ClientId, registerModel.DescribeOperation(op.Input, op.Output))
		if err := op.Output.(registerOutput).err; err != nil {
			fmt.Fprintf(&out, ": %v", err)
		}
		out.WriteByte('\n')
	}
	return out.String()
}
