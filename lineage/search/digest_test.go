package search

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/acl"
)

var secret = []byte("0123456789abcdef")

// drawn is digests as a test states them.
func drawn(rows []Digest, next int64) string {
	var parts []string
	for _, r := range rows {
		if r.Unknown != "" {
			parts = append(parts, fmt.Sprintf("%d-%d %s", r.Offset, r.Last, r.Unknown))
			continue
		}
		parts = append(parts, fmt.Sprint(r.Offset))
	}
	return fmt.Sprintf("%s > %d", strings.Join(parts, " "), next)
}

func TestDigests(t *testing.T) {
	for _, c := range []struct {
		name   string
		query  DigestQuery
		limits Limits
		want   string
	}{
		{"a range", DigestQuery{From: 40, To: 46}, Limits{}, "40 42 44 46 > -1"},
		{"to the end", DigestQuery{From: 95, To: -1}, Limits{}, "96 98 > -1"},
		{"behind the end", DigestQuery{From: 500, To: -1}, Limits{}, " > -1"},
		{"up to so many", DigestQuery{From: 40, To: 90, Limit: 2}, Limits{}, "40 42 > 43"},
		{"up to so many bytes", DigestQuery{From: 40, To: 90}, Limits{Bytes: 1}, "40 42 44 46 48 50 52 54 > 56"},
		{"with a batch that cannot be read", DigestQuery{From: 86, To: 97}, Limits{}, "86 88 90-97 damaged > -1"},
	} {
		l := orders()
		if strings.Contains(c.name, "cannot be read") {
			l.records[0], l.unread = l.records[0][:45], []Unread{{90, 100, errors.New("damaged")}}
		}
		c.query.Cluster, c.query.Topic, c.query.Key = "us", "orders", secret
		rows, next, err := searcher(l, all, c.limits).Digests(t.Context(), Caller{}, c.query)
		if got := drawn(rows, next); err != nil || got != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

// TestDigestIsWhatItSays builds one by hand.
func TestDigestIsWhatItSays(t *testing.T) {
	l := orders()
	q := DigestQuery{Cluster: "us", Topic: "orders", From: 2, To: 2, Key: secret}
	rows, _, err := searcher(l, all, Limits{}).Digests(t.Context(), Caller{}, q)
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("\x00\x00\x00\x00\x00\x00\x03\xea" + "\x00\x00\x00\x02k2" + "\xff\xff\xff\xff" + "\x00\x00\x00\x00"))
	if want := hex.EncodeToString(mac.Sum(nil)); rows[0].Digest != want || rows[0].Time.UnixMilli() != 1002 {
		t.Errorf("got %+v, want %s", rows[0], want)
	}
	q.Key = []byte("another secret key")
	if other, _, _ := searcher(l, all, Limits{}).Digests(t.Context(), Caller{}, q); other[0].Digest == rows[0].Digest {
		t.Error("the key makes no difference")
	}
}

func TestDigestErrors(t *testing.T) {
	ok := DigestQuery{Cluster: "us", Topic: "orders", To: -1, Key: secret}
	for _, c := range []struct {
		name   string
		change func(*DigestQuery)
		rights rights
		want   error
	}{
		{"a short key", func(q *DigestQuery) { q.Key = secret[:15] }, all, ErrInvalid},
		{"a long key", func(q *DigestQuery) { q.Key = make([]byte, MaxDigestKey+1) }, all, ErrInvalid},
		{"offsets in the wrong order", func(q *DigestQuery) { q.From, q.To = 5, 4 }, all, ErrInvalid},
		{"no such partition", func(q *DigestQuery) { q.Partition = 3 }, all, ErrNotFound},
		{"no such cluster", func(q *DigestQuery) { q.Cluster = "mars" }, all, ErrNotFound},
		{"may describe, not read", func(*DigestQuery) {}, rights{acl.Describe}, ErrDenied},
	} {
		l, q := orders(), ok
		c.change(&q)
		if _, _, err := searcher(l, c.rights, Limits{}).Digests(t.Context(), Caller{}, q); !errors.Is(err, c.want) || l.reads > 0 {
			t.Errorf("%s: got %v after %d reads", c.name, err, l.reads)
		}
	}
}
