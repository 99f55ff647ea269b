package flow

import "cmp"

// Heartbeats is the topic of MirrorMaker's heartbeats in the cluster that they are of
// (KIP-382).
const Heartbeats = "heartbeats"

// MirrorMaker is what spec.mirrorMaker2 says, with what it leaves out filled in; nil
// if there is none.
func (f *ReplicationFlow) MirrorMaker() *MirrorMaker2 {
	m := f.Spec.MirrorMaker2
	if m == nil {
		return nil
	}
	return &MirrorMaker2{
		SourceAlias:      cmp.Or(m.SourceAlias, f.Spec.Source),
		DestinationAlias: cmp.Or(m.DestinationAlias, f.Spec.Destination),
		OffsetSyncs:      cmp.Or(m.OffsetSyncs, DefaultOffsetSyncs),
	}
}

// CheckpointsTopic is the topic of checkpoints, at the destination.
func (m *MirrorMaker2) CheckpointsTopic() string { return m.SourceAlias + ".checkpoints.internal" }

// RemoteHeartbeats is what the source's heartbeats are called at the destination.
func (m *MirrorMaker2) RemoteHeartbeats() string { return m.SourceAlias + "." + Heartbeats }

// OffsetSyncsTopic has the alias of the cluster that it is not in.
func (m *MirrorMaker2) OffsetSyncsTopic() string {
	alias := m.SourceAlias
	if m.OffsetSyncs == OffsetSyncsSource {
		alias = m.DestinationAlias
	}
	return "mm2-offset-syncs." + alias + ".internal"
}

// Topics are those that are written at the source and at the destination.
func (m *MirrorMaker2) Topics() (source, destination []string) {
	source, destination = []string{Heartbeats}, []string{Heartbeats, m.RemoteHeartbeats(), m.CheckpointsTopic()}
	switch m.OffsetSyncs {
	case OffsetSyncsSource:
		source = append(source, m.OffsetSyncsTopic())
	case OffsetSyncsDestination:
		destination = append(destination, m.OffsetSyncsTopic())
	}
	return source, destination
}
