package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
)

// options are what is measured.
type options struct {
	between, what, who []string
	match              string
	runs               int
	part               float64
}

// What there is to choose from. That of interop needs the tag of that name.
var (
	allKinds  = []string{standIns, "bundled", "kafka"}
	allNames  = []string{"waybill", "waybill-alo", "preserve", "naive", "tuned", "mm2", "relay"}
	allParts  = []string{"copy", "latency", "idle", "lineage"}
	ofInterop = []string{"kafka", "mm2"}
)

// standIns is the kind of clusters that are none.
const standIns = "stand-ins"

// readOptions reads the command line. Wrong values are refused before anything runs,
// which takes long, with those that there are.
func readOptions(set *flag.FlagSet, args []string) (options, error) {
	var o options
	set.StringVar(&o.match, "cells", "", "run the cells whose name contains this `text`")
	between := set.String("between", strings.Join(allKinds, ","), "`kinds` of clusters to copy between; kafka needs -tags interop, Java 17 and Maven")
	what := set.String("what", "copy,latency,idle", "`names` of the measurements; lineage is one more")
	who := set.String("who", strings.Join(allNames, ","), "`names` of those who copy; mm2 needs -tags interop")
	set.Float64Var(&o.part, "part", 1, "copy this `part` of each cell's records: above 0, and 1 at most")
	set.IntVar(&o.runs, "runs", 3, "how often each cell is run")
	if err := set.Parse(args); err != nil {
		return o, err
	}
	given := map[string]bool{}
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var errs []error
	pick := func(name, list string, all []string) []string {
		got, err := pickFrom(strings.Split(list, ","), all, given[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("-%s: %w", name, err))
		}
		return got
	}
	o.between, o.what, o.who = pick("between", *between, allKinds), pick("what", *what, allParts), pick("who", *who, allNames)
	if !(o.part > 0 && o.part <= 1) { // nor NaN
		errs = append(errs, fmt.Errorf("-part: %v is no part of a cell: give a number above 0, and 1 at most", o.part))
	}
	if o.runs < 1 {
		errs = append(errs, fmt.Errorf("-runs: %d is too few: 1 or more", o.runs))
	}
	if all := cellNames(); !slices.ContainsFunc(all, func(name string) bool { return strings.Contains(name, o.match) }) {
		errs = append(errs, fmt.Errorf("-cells: no cell has %q in its name: there are %q", o.match, all))
	}
	if set.NArg() > 0 {
		errs = append(errs, fmt.Errorf("%q is no option", set.Args()))
	}
	return o, errors.Join(errs...)
}

// pickFrom checks names of a list. What this program was built without is left out,
// unless somebody asks for it.
func pickFrom(names, all []string, given bool) ([]string, error) {
	var out []string
	for _, name := range names {
		_, kind := kinds[name]
		_, copier := copiers[name]
		switch {
		case !slices.Contains(all, name):
			return nil, fmt.Errorf("there is no %q: there are %s", name, strings.Join(all, ", "))
		case slices.Contains(ofInterop, name) && !kind && !copier:
			if given {
				return nil, fmt.Errorf("%s needs -tags interop, Java 17 and Maven", name)
			}
		default:
			out = append(out, name)
		}
	}
	return out, nil
}

func cellNames() (names []string) {
	for _, c := range append(cells(), smallCells()...) {
		if !slices.Contains(names, c.Name) {
			names = append(names, c.Name)
		}
	}
	return names
}
