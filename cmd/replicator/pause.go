package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/flow"
)

func newPause() *cobra.Command {
	return pauseCommand("pause", true, "Stop copying a flow, or topics of it, after the transactions that are under way",
		"  replicator pause us-eu\n  replicator pause us-eu --topic 'payments.*'")
}

func newResume() *cobra.Command {
	return pauseCommand("resume", false, "Go on copying where a paused flow, or topics of it, stopped",
		"  replicator resume us-eu\n  replicator resume us-eu --topic 'payments.*'")
}

func pauseCommand(verb string, pause bool, short, example string) *cobra.Command {
	var fleet server
	var out output
	var topics []string
	cmd := &cobra.Command{
		Use: verb + " FLOW", Short: short, Example: example, Args: cobra.ExactArgs(1),
		Long: short + ".\n\nThe declaration is changed (spec.paused, spec.topics.paused), so files that are\napplied later should say the same.",
		RunE: func(cmd *cobra.Command, args []string) error {
			applied, err := declarePaused(cmd.Context(), &fleet, args[0], topics, pause)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), applied, func(t *table) { drawChanges(t, applied, "") })
		},
	}
	cmd.Flags().StringArrayVar(&topics, "topic", nil, "pattern of topics, as in spec.topics.paused (repeatable); without it the whole flow")
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

// declarePaused changes what a flow declares, unless somebody else changes the flow
// meanwhile.
func declarePaused(ctx context.Context, fleet *server, name string, topics []string, pause bool) (api.Applied, error) {
	var applied api.Applied
	var list api.ObjectList
	if err := fleet.call(ctx, http.MethodGet, "/api/v1/objects?kind="+string(flow.KindReplicationFlow), nil, &list); err != nil {
		return applied, err
	}
	i := slices.IndexFunc(list.Objects, func(o api.Object) bool { return o.Name == name })
	if i < 0 {
		return applied, withCode(exitInvalid, fmt.Errorf("there is no flow %q: see 'replicator get flows'", name))
	}
	have := list.Objects[i]
	var before, o flow.Object // twice, so that they share nothing
	if err := errors.Join(json.Unmarshal(have.Object, &before), json.Unmarshal(have.Object, &o)); err != nil || o.Flow == nil {
		return applied, fmt.Errorf("read flow %s: %w", name, errors.Join(err, errNotAFlow))
	}
	setPaused(&o.Flow.Spec, topics, pause)
	if err := o.Validate(); err != nil {
		return applied, withCode(exitInvalid, invalid(err))
	}
	yaml, err := flow.MarshalYAML(o)
	if err != nil {
		return applied, err
	}
	var put api.Object
	path := "/api/v1/objects/" + have.Kind + "/" + url.PathEscape(name)
	if err := fleet.callAt(ctx, http.MethodPut, path, yaml, decimal(have.Revision), &put); err != nil {
		return applied, err
	}
	return api.Applied{Revision: put.Revision, Changes: []api.Change{change([]flow.Object{before}, &o)}}, nil
}

var errNotAFlow = errors.New("the answer is not what this version expects")

// setPaused pauses or resumes the topics of patterns, or the whole flow if there
// are none.
func setPaused(spec *flow.FlowSpec, topics []string, pause bool) {
	if len(topics) == 0 {
		spec.Paused = pause
		return
	}
	paused := slices.DeleteFunc(slices.Clone(spec.Topics.Paused), func(p string) bool { return slices.Contains(topics, p) })
	if pause {
		paused = append(paused, topics...)
	}
	spec.Topics.Paused = paused
}
