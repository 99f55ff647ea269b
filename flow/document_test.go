package flow

import (
	"reflect"
	"strings"
	"testing"
)

type house struct {
	Name    string            `json:"name"`
	Rooms   []room            `json:"rooms"`
	Garden  *bool             `json:"garden,omitempty"`
	Owner   map[string]string `json:"owner,omitempty"`
	Alarm   Secret            `json:"alarm,omitempty"`
	Heating struct {
		Pause  *Duration `json:"pause,omitempty"`
		Levels int32     `json:"levels"`
	} `json:"heating,omitzero"`
}

type room struct {
	Area int32 `json:"area"`
}

func TestReadDocument(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string // none: the document is right
	}{
		{"the least", "name: h\nrooms: []\n", nil},
		{"everything", "name: h\nrooms: [{area: 12}]\ngarden: false\nowner: {a: b}\nalarm: ${env:X}\nheating: {pause: 5m, levels: 3}\n", nil},
		{"JSON", `{"name": "h", "rooms": [{"area": 12}]}`, nil},
		{"comments around it", "# before\n---\nname: h\nrooms: []\n---\n# after\n", nil},
		{"nothing", "# nothing\n", []string{"h.yaml: has nothing in it"}},
		{"two documents", "name: h\nrooms: []\n---\nname: i\n", []string{"h.yaml:4:1: is a second document; this file holds one; remove what begins here"}},
		{"not YAML", "name: h\nrooms: [\n", []string{"h.yaml:3:1: is not YAML: did not find expected node content while parsing a flow node; check quotes, brackets and indentation here"}},
		{"not a mapping", "- name\n", []string{"h.yaml:1:1: is a list where keys and values are wanted"}},
		{"every fault", "nam: h\nrooms:\n- {area: big}\n- {}\nheating: {level: 3}\nalarm: hunter2\ngarden: yes\nname:\n", []string{
			`h.yaml:1:1: nam: unknown key; did you mean "name"?`,
			`h.yaml:3:10: rooms[0].area: is a text where a plain whole number is wanted; write decimal digits, without quotes and without leading zeros`,
			`h.yaml:4:3: rooms[1].area: is missing`,
			`h.yaml:5:10: heating.levels: is missing`,
			`h.yaml:5:11: heating.level: unknown key; did you mean "levels"?`,
			`h.yaml:6:8: alarm: is not a reference to a secret; write ${env:NAME} or ${file:PATH}, never the secret itself`,
			`h.yaml:7:9: garden: is a text where true or false is wanted; write true or false, without quotes`,
			`h.yaml:8:6: name: has no value; write a value, or remove the key`,
		}},
	} {
		var h house
		d, err := ReadDocument("h.yaml", strings.NewReader(c.text), &h)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		if err := d.Err(); err != nil {
			got = strings.Split(err.Error(), "\n")
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

func TestReadDocumentDecodes(t *testing.T) {
	var got house
	text := "name: 0123\nrooms: [{area: 12}, {area: 2147483647}]\ngarden: true\nowner: {a: b}\nalarm: ${env:X}\nheating: {pause: 5m, levels: -3}\n"
	if _, err := ReadDocument("h.yaml", strings.NewReader(text), &got); err != nil {
		t.Fatal(err)
	}
	yes, pause := true, Duration(5*60*1e9)
	want := house{Name: "0123", Rooms: []room{{12}, {2147483647}}, Garden: &yes, Owner: map[string]string{"a": "b"}, Alarm: "${env:X}"}
	want.Heating.Pause, want.Heating.Levels = &pause, -3
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestDocumentFault(t *testing.T) {
	var h house
	d, err := ReadDocument("h.yaml", strings.NewReader("name: h\nrooms:\n- {area: 0}\n- {area: x}\n"), &h)
	if err != nil {
		t.Fatal(err)
	}
	d.Fault("rooms[1].area", "is too small", "") // could not be read: one fault is enough
	d.Fault("rooms[0].area", "is too small", "build on")
	d.Fault("heating.levels", "is missing here", "") // stands nowhere: the document does
	d.Fault("name", "is taken", "")
	want := `h.yaml:1:1: heating.levels: is missing here
h.yaml:1:7: name: is taken
h.yaml:3:10: rooms[0].area: is too small; build on
h.yaml:4:10: rooms[1].area: is a text where a plain whole number is wanted; write decimal digits, without quotes and without leading zeros`
	if got := d.Err().Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func FuzzReadDocument(f *testing.F) {
	f.Add("name: h\nrooms: [{area: 12}]\nheating: {pause: 5m, levels: 3}\n")
	f.Add("&a [*a]\n---\n{")
	f.Fuzz(func(t *testing.T, text string) {
		var h house
		d, err := ReadDocument("h.yaml", strings.NewReader(text), &h)
		if err != nil {
			return
		}
		d.Fault("rooms[0]", "is looked at", "")
		if d.Err() == nil {
			t.Error("a fault was lost")
		}
	})
}
