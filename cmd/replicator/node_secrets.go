package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

// secrets knows what must not leave this node in a support bundle, nor stand in its log.
// Nothing that goes there should hold a secret; this is for what somebody has forgotten.
type secrets struct {
	mu    sync.Mutex
	users []api.User
}

func (s *secrets) replaceUsers(users []api.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users = slices.Clone(users)
}

// shortestSecret is what is looked for: a shorter text is in every word.
const shortestSecret = 4

// tokens are those of the API's users.
func (s *secrets) tokens() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.users {
		all = append(all, u.Token)
	}
	return all
}

// values are all secrets that this node uses now.
func (s *secrets) values(state *cluster.State) []string {
	all := s.tokens()
	declared, err := state.Declared(flow.KindCluster)
	if err != nil {
		return all
	}
	for _, o := range declared {
		if sasl := o.Cluster.Spec.SASL; sasl != nil {
			if password, err := kafka.ResolveSecret(sasl.Password); err == nil {
				all = append(all, password)
			}
		}
	}
	return all
}

const redacted = "[redacted]"

// What looks like a secret, whoever's it is.
var secretLooks = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\z)`), redacted},
	{regexp.MustCompile(`\bwaybill-join-[A-Za-z0-9_-]+`), redacted},
	{regexp.MustCompile(`(?i)\b(bearer|basic) +[A-Za-z0-9+/_.~-]{8,}=*`), "$1 " + redacted},
	{regexp.MustCompile(`\b([a-z][a-z0-9+.-]*://)[^/\s"'@]+@`), "${1}" + redacted + "@"},
	{regexp.MustCompile(`(?i)\b((?:password|passwd|secret|token|api[_-]?key|client[_-]?secret)["']?\s*[=:]\s*["']?)(?:[^\s"'$&,;{}\[\]()][^\s"'&,;{}]*)`), "${1}" + redacted},
}

// scrubber takes secrets out of texts.
type scrubber struct{ forms [][]byte }

// newScrubber looks for values as they are and as they are written in logs, JSON, URLs
// and headers.
func newScrubber(values []string) *scrubber {
	s := new(scrubber)
	for _, v := range values {
		if len(v) < shortestSecret {
			continue
		}
		quoted, _ := json.Marshal(v) // a string always can be
		plain := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(quoted))
		logged := strconv.Quote(v)
		for _, form := range []string{
			v, string(quoted[1 : len(quoted)-1]), plain[1 : len(plain)-1], logged[1 : len(logged)-1], url.QueryEscape(v), url.PathEscape(v),
			base64.StdEncoding.EncodeToString([]byte(v)), base64.RawURLEncoding.EncodeToString([]byte(v)),
		} {
			s.forms = append(s.forms, []byte(form))
		}
	}
	slices.SortFunc(s.forms, func(a, b []byte) int { return len(b) - len(a) }) // one may be part of another
	return s
}

func (s *scrubber) clean(text []byte) []byte {
	for _, form := range s.forms {
		text = bytes.ReplaceAll(text, form, []byte(redacted))
	}
	for _, look := range secretLooks {
		text = look.pattern.ReplaceAll(text, []byte(look.with))
	}
	return text
}

// sameButUsers compares two node files.
func sameButUsers(a, b nodeFile) bool {
	a.API.Users, b.API.Users = nil, nil
	return reflect.DeepEqual(a, b)
}
