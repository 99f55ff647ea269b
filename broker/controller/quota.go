package controller

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// QuotaName is one part of who a quota is for: not part of it (the zero value), a
// name, or everybody who has no quota by name.
type QuotaName struct {
	Part    bool   `json:"part,omitempty"`
	Default bool   `json:"default,omitempty"`
	Name    string `json:"name,omitempty"`
}

// QuotaFor is the part with a name.
func QuotaFor(name string) QuotaName { return QuotaName{Part: true, Name: name} }

// QuotaDefault is the part that stands for everybody else.
var QuotaDefault = QuotaName{Part: true, Default: true}

// QuotaEntity is who a quota is for (KIP-257, KIP-546, KIP-612).
type QuotaEntity struct {
	User     QuotaName `json:"user,omitzero"`
	ClientID QuotaName `json:"clientId,omitzero"`
	IP       QuotaName `json:"ip,omitzero"`
}

// Quota is all limits of one entity by their names; without limits it removes the
// entity. It is immutable, its map included.
type Quota struct {
	Entity QuotaEntity        `json:"entity"`
	Limits map[string]float64 `json:"limits,omitempty"`
}

func (i *Image) applyQuota(q *Quota, owned map[any]bool) error {
	if (q.Entity == QuotaEntity{}) {
		return fmt.Errorf("quota of nobody")
	}
	quotas := own(&i.Quotas, owned)
	if len(q.Limits) == 0 {
		delete(quotas, q.Entity)
		return nil
	}
	quotas[q.Entity] = q.Limits
	return nil
}

// quotaRecords are the records that make the image's quotas.
func (i *Image) quotaRecords() []Record {
	order := func(a, b QuotaName) int {
		flag := func(v bool) int {
			if v {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(flag(a.Part), flag(b.Part)), cmp.Compare(flag(a.Default), flag(b.Default)), strings.Compare(a.Name, b.Name))
	}
	var out []Record
	entities := slices.SortedStableFunc(maps.Keys(i.Quotas), func(a, b QuotaEntity) int {
		return cmp.Or(order(a.User, b.User), order(a.ClientID, b.ClientID), order(a.IP, b.IP))
	})
	for _, e := range entities {
		out = append(out, Record{Quota: &Quota{Entity: e, Limits: i.Quotas[e]}})
	}
	return out
}
