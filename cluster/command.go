package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Command changes the state. Its implementations are in this package.
type Command interface {
	// kind names the command in the log, for all time.
	kind() string
	// apply changes the draft, or refuses with one of the package's errors; then
	// the draft is thrown away. It must be deterministic, and must take any value
	// of its fields.
	apply(d *draft, index uint64) (number uint64, err error)
	// repeatable reports whether applying it twice does the same as once.
	repeatable() bool
}

// Result is what a command did.
type Result struct {
	// Revision is the raft index of the command.
	Revision uint64
	// Number is the incarnation that BeginIncarnation granted, the revision that
	// ApplyObjects and PutExecution left; 0 for others.
	Number uint64
}

// commandVersion is that of the envelope.
const commandVersion = 1

// envelope is a command in the log.
type envelope struct {
	Version int             `json:"v"`
	Kind    string          `json:"kind"`
	Data    json.RawMessage `json:"data"`
}

// commands makes an empty command of each kind.
var commands = func() map[string]func() Command {
	m := make(map[string]func() Command)
	for _, f := range []func() Command{
		func() Command { return new(InitFleet) },
		func() Command { return new(ApplyObjects) },
		func() Command { return new(SetMember) },
		func() Command { return new(RemoveMember) },
		func() Command { return new(DrainMember) },
		func() Command { return new(StopMember) },
		func() Command { return new(BeginIncarnation) },
		func() Command { return new(EndIncarnation) },
		func() Command { return new(SetTopics) },
		func() Command { return new(MoveGroup) },
		func() Command { return new(StartVerification) },
		func() Command { return new(PutVerification) },
		func() Command { return new(StopVerification) },
		func() Command { return new(Assign) },
		func() Command { return new(Release) },
		func() Command { return new(RegisterLane) },
		func() Command { return new(FencedLanes) },
		func() Command { return new(RecallLanes) },
		func() Command { return new(CloseLanes) },
		func() Command { return new(PutExecution) },
		func() Command { return new(DeleteExecution) },
		func() Command { return new(PinLedger) },
		func() Command { return new(WaiveDamage) },
		func() Command { return new(BeginFold) },
		func() Command { return new(EndFold) },
		func() Command { return new(Audited) },
		func() Command { return new(CreateToken) },
		func() Command { return new(DeleteToken) },
		func() Command { return new(RedeemToken) },
		func() Command { return new(Noted) },
	} {
		m[f().kind()] = f
	}
	return m
}()

func encodeCommand(c Command) ([]byte, error) {
	data, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", c.kind(), err)
	}
	return json.Marshal(envelope{Version: commandVersion, Kind: c.kind(), Data: data})
}

// errUnknownCommand says that a newer node wrote a command.
var errUnknownCommand = errors.New("command is not known to this version")

// vocabulary is the commands that a version knows. A fleet is upgraded node by node,
// and a node halts at a command that it does not know; so every kind has a level,
// every node says up to which it knows them, and a leader appends none above what all
// members know (State.Level). Whoever adds a command, or a field to one, gives it the
// next level:
//
//   - a new kind goes into commands and, with its level, into since;
//   - a new field counts as a new kind for as long as it is set: leave it out of the
//     JSON while State.Level is below, as SetMember must for ever (see Node.register);
//   - ours.level grows by one per release that adds anything;
//   - what nodes write elsewhere that all members have to understand has a level, too
//     (LevelProgress).
type vocabulary struct {
	level    uint32
	commands map[string]func() Command
	since    map[string]uint32 // by kind; 1 for those that are not in it
}

// ours is this version's vocabulary.
var ours = vocabulary{level: 2, since: map[string]uint32{"lane.recall": 2, "ledger.fold": LevelFolds, "ledger.folded": LevelFolds, "fleet.noted": LevelNotes}}

// LevelFolds is from which level on all members can read ledgers that were folded.
const LevelFolds = 2

// LevelProgress is from which level on all members know how to keep entries about the
// progress of groups when they read a ledger.
const LevelProgress = 2

// LevelRemovals is from which level on all members tell the drain of a removal from an
// operator's, and a node from another one of its name on another disk.
const LevelRemovals = 2

// LevelNotes is from which level on all members know [Noted].
const LevelNotes = 2

// Knows says that all members know what has a level.
func (s *State) Knows(level uint32) bool { return s.level() >= level }

func (v *vocabulary) orOurs() *vocabulary {
	if v == nil {
		return &ours
	}
	return v
}

// decode is strict: a field that it does not know may change what the command means.
func (v *vocabulary) decode(b []byte) (Command, error) {
	known := v.orOurs().commands
	if known == nil {
		known = commands
	}
	return decodeKnown(b, known)
}

// levelOf is what all members must know before a command is used; one that wraps
// another needs the levels of both.
func (v *vocabulary) levelOf(c Command) uint32 {
	level := max(v.orOurs().since[c.kind()], 1)
	if drain, ok := c.(*DrainMember); ok && drain.Removal {
		level = max(level, LevelRemovals)
	}
	if set, ok := c.(*SetMember); ok && set.Disk != "" {
		level = max(level, LevelRemovals)
	}
	if remove, ok := c.(*RemoveMember); ok && remove.Disk != "" {
		level = max(level, LevelRemovals)
	}
	if audited, ok := c.(*Audited); ok && audited.Command != nil {
		return max(level, v.levelOf(audited.Command))
	}
	return level
}

// level is State.Level with its default.
func (s *State) level() uint32 { return max(s.Level, 1) }

func decodeCommand(b []byte) (Command, error) { return decodeKnown(b, commands) }

func decodeKnown(b []byte, commands map[string]func() Command) (Command, error) {
	var e envelope
	if err := strictJSON(b, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnknownCommand, err)
	}
	empty, ok := commands[e.Kind]
	if !ok || e.Version != commandVersion {
		return nil, fmt.Errorf("%w: kind %q, version %d", errUnknownCommand, e.Kind, e.Version)
	}
	c := empty()
	var err error
	if audited, ok := c.(*Audited); ok {
		err = audited.decode(e.Data, commands)
	} else {
		err = strictJSON(e.Data, c)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errUnknownCommand, e.Kind, err)
	}
	return c, nil
}

func strictJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more follows the value")
	}
	return nil
}

// result is a Result as it travels from the leader, and a refusal.
type result struct {
	Number  uint64   `json:"number,omitempty"`
	Refusal *refusal `json:"refusal,omitempty"`
}

// apply is the state machine: the state after a command, and its result. It does
// not change s.
func (s *State) apply(index uint64, c Command) (*State, result) {
	d := newDraft(s)
	number, err := c.apply(d, index)
	if err != nil {
		return s, result{Refusal: refusalOf(err)}
	}
	return d.done(), result{Number: number}
}

// machine is the State for raft.
type machine struct{ words *vocabulary }

// Initial implements raftnode.Machine.
func (machine) Initial() *State { return new(State) }

// Check implements raftnode.Machine: a leader does not append what it, or another
// member, would not understand. The state may be an older one: its level only grows.
func (m machine) Check(s *State, command []byte) error {
	c, err := m.words.decode(command)
	if err != nil {
		return err
	}
	need := m.words.levelOf(c)
	if need <= s.level() {
		return nil
	}
	for _, name := range sortedKeys(s.Members) {
		if old := s.Members[name]; max(old.Level, 1) < need {
			return fmt.Errorf("%s needs commands of level %d, %s (version %q) knows them up to %d: upgrade it first", c.kind(), need, name, old.Version, max(old.Level, 1))
		}
	}
	return fmt.Errorf("%s needs commands of level %d, the fleet is at %d", c.kind(), need, s.level())
}

// Apply implements raftnode.Machine.
func (m machine) Apply(s *State, index uint64, command []byte) (*State, []byte, error) {
	c, err := m.words.decode(command)
	if err != nil {
		return s, nil, err
	}
	next, res := s.apply(index, c)
	b, err := json.Marshal(res)
	if err != nil {
		return s, nil, fmt.Errorf("encode result: %w", err)
	}
	return next, b, nil
}

// Encode implements raftnode.Machine.
func (machine) Encode(s *State) ([]byte, error) { return s.encode() }

// Decode implements raftnode.Machine.
func (machine) Decode(b []byte) (*State, error) { return decodeState(b) }
