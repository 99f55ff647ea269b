package flow

import (
	"fmt"
	"strings"
)

// synonyms are what users of other tools write.
var synonyms = map[string]string{
	"target":             "destination",
	"dest":               "destination",
	"to":                 "destination",
	"from":               "source",
	"servers":            "bootstrapServers",
	"brokers":            "bootstrapServers",
	"bootstrap.servers":  "bootstrapServers",
	"bootstrap":          "bootstrapServers",
	"user":               "username",
	"pass":               "password",
	"topic":              "topics",
	"group":              "groups",
	"ca":                 "caFile",
	"cert":               "certFile",
	"key":                "keyFile",
	"whitelist":          "include",
	"allowlist":          "include",
	"blacklist":          "exclude",
	"denylist":           "exclude",
	"transform":          "records",
	"transforms":         "records",
	"dlq":                "quarantine",
	"deadLetter":         "quarantine",
	"onError":            "poison",
	"path":               "field",
	"with":               "replace",
	"codec":              "compression",
	"lag":                "lagRecords",
	"maxLag":             "lagRecords",
	"flowRef":            "flow",
	"topicsPattern":      "topics",
	"replication.factor": "replicationFactor",
}

// suggest says what an unknown key may have been meant as.
func suggest(key, path string, fields []field) string {
	if key == "status" && path == "" {
		return "status is written by the fleet; remove it"
	}
	best, distance := "", 3 // at most two slips
	for _, f := range fields {
		if strings.EqualFold(f.key, key) || f.key == synonyms[key] {
			return fmt.Sprintf("did you mean %q?", f.key)
		}
		if d := editDistance(key, f.key); d < distance && d < len(f.key)-1 {
			best, distance = f.key, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	if len(fields) == 0 {
		return "there are no keys here"
	}
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	return "known here: " + strings.Join(keys, ", ")
}

// editDistance is Levenshtein's, with a swap of neighbours as one edit; texts of
// very different length are far apart without being compared.
func editDistance(a, b string) int {
	if len(a) > len(b)+3 || len(b) > len(a)+3 {
		return max(len(a), len(b))
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
