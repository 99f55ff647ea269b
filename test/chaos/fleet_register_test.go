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

// registers are clients that declare and read objects at whichever node, while
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
	names   []string // of the registers in use
	made    int
	history []porcupine.Operation
	unclear int
}

const (
	registerClients = 5
	registersInUse  = 3
)

// registerInput is a request: a value to write, or "" to read.
type registerInput struct{ name, write string }

// registerOutput is what was read, or that nobody knows whether it was written.
type registerOutput struct {
	value   string
	unclear bool
	err     error // of a request that has no answer
}

// registerModel is a register by name.
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
		in, out := input.(registerInput), output.(registerOutput)
		if in.write != "" {
			return true, in.write
		}
		return out.value == state.(string), state
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(registerInput), output.(registerOutput)
		if in.write != "" {
			return fmt.Sprintf("%s := %s (unclear: %v)", in.name, in.write, out.unclear)
		}
		return fmt.Sprintf("%s is %q", in.name, out.value)
	},
}

func (f *fleet) beginRegisters(seed uint64) *registers {
	r := &registers{f: f, began: time.Now(), stop: make(chan struct{})}
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
	r.mu.Unlock()
	if rng.IntN(2) == 0 {
		in.write = fmt.Sprintf("v%d", r.value.Add(1))
	}
	call := time.Since(r.began).Nanoseconds()
	out, known := r.ask(n, in)
	back := time.Since(r.began).Nanoseconds()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case in.write == "" && !known:
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
	r.history = append(r.history, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: back})
}

// ask carries a request out; known says that it was, or for a read, what there is.
func (r *registers) ask(n *node, in registerInput) (out registerOutput, known bool) {
	if in.write != "" {
		yaml := fmt.Sprintf("apiVersion: waybill/v1\nkind: Cluster\nmetadata: {name: %s, labels: {value: %s}}\nspec: {bootstrapServers: [\"%s:9\"]}\n", in.name, in.write, home)
		_, err := r.f.call(n, http.MethodPost, "/api/v1/apply", yaml)
		out.err = err
		return out, err == nil
	}
	b, err := r.f.call(n, http.MethodGet, "/api/v1/objects/Cluster/"+in.name, "")
	if err != nil {
		out.err = err
		return out, strings.Contains(err.Error(), ": 404 ")
	}
	var found struct {
		Object struct {
			Metadata struct{ Labels map[string]string }
		}
	}
	if err := json.Unmarshal(b, &found); err != nil || found.Object.Metadata.Labels["value"] == "" {
		out.err = fmt.Errorf("an object without a value: %s: %w", b, err)
		return out, false
	}
	out.value = found.Object.Metadata.Labels["value"]
	return out, true
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
	reads := 0
	for _, op := range r.history {
		if op.Input.(registerInput).write == "" {
			reads++
		}
	}
	if reads < 100 || len(r.history)-reads < 100 {
		t.Errorf("there were only %d reads and %d writes", reads, len(r.history)-reads)
	}
	t.Logf("the API's history: %d reads and %d writes of %d registers, %d writes unclear", reads, len(r.history)-reads, r.made, r.unclear)
	for _, part := range registerModel.Partition(r.history) {
		if result := porcupine.CheckOperationsTimeout(registerModel, part, time.Minute); result != porcupine.Ok {
			t.Errorf("the history of a register is not linearizable: %s\n%s", result, describeHistory(part))
		}
	}
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
