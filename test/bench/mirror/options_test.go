package main

import (
	"flag"
	"io"
	"strings"
	"testing"
)

func TestWrongOptionsAreRefusedWithThoseThatThereAre(t *testing.T) {
	read := func(args ...string) (options, error) {
		set := flag.NewFlagSet("mirror", flag.ContinueOnError)
		set.SetOutput(io.Discard)
		return readOptions(set, args)
	}
	for args, want := range map[string]string{
		"-part 0":                 "above 0, and 1 at most",
		"-part 2":                 "above 0, and 1 at most",
		"-part NaN":               "above 0, and 1 at most",
		"-part copy":              "invalid value",
		"-what copies":            `there is no "copies": there are copy, latency, idle`,
		"-what copy,":             `there is no "": there are copy`,
		"-who waybill,mm3":        "there are waybill, waybill-alo, preserve, naive, tuned, mm2, relay",
		"-between brokers":        "there are stand-ins, bundled, kafka",
		"-cells 2KB":              `there are ["1KB, 64 a batch"`,
		"-runs 0":                 "1 or more",
		"copy":                    "is no option",
		"-what x -part 3 -runs 0": "1 or more",
	} {
		if _, err := read(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", args, err, want)
		}
	}
	o, err := read("-part", "0.01", "-what", "copy", "-between", standIns, "-who", "waybill,relay", "-cells", "lz4")
	if err != nil || o.part != 0.01 || len(o.what) != 1 || len(o.who) != 2 || len(o.between) != 1 || o.match != "lz4" {
		t.Errorf("got %+v %v", o, err)
	}
	if kinds["kafka"] == nil {
		if _, err := read("-between", "kafka"); err == nil || !strings.Contains(err.Error(), "-tags interop") {
			t.Errorf("a kind that this was built without: got %v", err)
		}
	}
	if o, err := read(); err != nil || len(o.what) != 3 || len(o.between) < 2 || len(o.who) < 6 {
		t.Errorf("by default: got %+v %v", o, err)
	}
}
