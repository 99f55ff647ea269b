package export

import (
	"cmp"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/waybillhq/waybill/lineage"
)

// The schemas of OpenLineage that the events follow.
const (
	runEventSchema         = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
	jobTypeSchema          = "https://openlineage.io/spec/facets/2-0-4/JobTypeJobFacet.json#/$defs/JobTypeJobFacet"
	symlinksSchema         = "https://openlineage.io/spec/facets/1-0-1/SymlinksDatasetFacet.json#/$defs/SymlinksDatasetFacet"
	inputStatisticsSchema  = "https://openlineage.io/spec/facets/1-0-0/InputStatisticsInputDatasetFacet.json#/$defs/InputStatisticsInputDatasetFacet"
	outputStatisticsSchema = "https://openlineage.io/spec/facets/1-0-2/OutputStatisticsOutputDatasetFacet.json#/$defs/OutputStatisticsOutputDatasetFacet"
)

// Producer is the URI by which OpenLineage events name this program.
const Producer = "https://github.com/waybillhq/waybill"

// RunEvent says how the copying of one topic to another stands.
type RunEvent struct {
	EventType string    `json:"eventType"`
	EventTime time.Time `json:"eventTime"`
	Run       Run       `json:"run"`
	Job       Job       `json:"job"`
	Inputs    []Dataset `json:"inputs"`
	Outputs   []Dataset `json:"outputs"`
	Producer  string    `json:"producer"`
	SchemaURL string    `json:"schemaURL"`
}

// Run is the copying of one life of a topic to one life of another.
type Run struct {
	RunID string `json:"runId"`
}

// Job is what a flow does about one topic.
type Job struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Facets    JobFacets `json:"facets"`
}

// JobFacets are the facets of a job.
type JobFacets struct {
	JobType JobType `json:"jobType"`
}

// Facet is what all facets have.
type Facet struct {
	Producer  string `json:"_producer"`
	SchemaURL string `json:"_schemaURL"`
}

// JobType is OpenLineage's JobTypeJobFacet.
type JobType struct {
	Facet
	ProcessingType string `json:"processingType"`
	Integration    string `json:"integration"`
	JobType        string `json:"jobType"`
}

// Dataset is a topic.
type Dataset struct {
	Namespace    string        `json:"namespace"`
	Name         string        `json:"name"`
	Facets       DatasetFacets `json:"facets"`
	InputFacets  *InputFacets  `json:"inputFacets,omitempty"`
	OutputFacets *OutputFacets `json:"outputFacets,omitempty"`
}

// DatasetFacets are the facets of a topic.
type DatasetFacets struct {
	Symlinks Symlinks `json:"symlinks"`
}

// Symlinks is OpenLineage's SymlinksDatasetFacet: by what else the topic is known.
type Symlinks struct {
	Facet
	Identifiers []Identifier `json:"identifiers"`
}

// Identifier is another name of a topic.
type Identifier struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Type      string `json:"type"`
}

// InputFacets are the facets of a topic as a source.
type InputFacets struct {
	InputStatistics Statistics `json:"inputStatistics"`
}

// OutputFacets are the facets of a topic as a destination.
type OutputFacets struct {
	OutputStatistics Statistics `json:"outputStatistics"`
}

// Statistics are OpenLineage's InputStatistics and OutputStatistics facets, of all
// that was copied so far.
type Statistics struct {
	Facet
	RowCount int64  `json:"rowCount"`
	Size     *int64 `json:"size,omitempty"`
}

// OpenLineage returns an event for each copying of a graph that is not redacted: what
// is copied from topic to topic so far. server is the host:port by which a cluster.id
// is reached, "" if it is not declared.
//
// A topic is the dataset kafka://host:port, topic, as OpenLineage names those of Kafka;
// since addresses change, its ids are a symlink. A job is a flow's work on one topic, so
// that no topic seems to come from another that the flow copies too.
func OpenLineage(g *lineage.Graph, server func(clusterID string) string) []RunEvent {
	events := []RunEvent{}
	for _, c := range g.Copies {
		from, to := g.Topics[c.From], g.Topics[c.To]
		if from.Redacted || to.Redacted || len(c.Partitions) == 0 {
			continue
		}
		e := RunEvent{EventType: "RUNNING", Producer: Producer, SchemaURL: runEventSchema}
		var records, size int64
		for _, p := range c.Partitions {
			records, size = records+p.Records, size+p.Bytes
			if p.LastAt.After(e.EventTime) {
				e.EventTime = p.LastAt.UTC()
			}
		}
		if e.EventTime.IsZero() {
			continue // nothing was copied yet
		}
		id := cmp.Or(c.Fleet, "-") + "\x00" + c.Flow + "\x00" + from.ClusterID + "\x00" + from.TopicID + "\x00" + to.ClusterID + "\x00" + to.TopicID
		e.Run.RunID = uuid.NewSHA1(uuid.NameSpaceURL, []byte(Producer+"\x00"+id)).String()
		e.Job = Job{Namespace: "waybill://" + c.Fleet, Name: c.Flow + "." + from.Topic, Facets: JobFacets{JobType{
			Facet: facet(jobTypeSchema), ProcessingType: "STREAMING", Integration: "WAYBILL", JobType: "FLOW",
		}}}
		input, output := dataset(from, server), dataset(to, server)
		input.InputFacets = &InputFacets{Statistics{Facet: facet(inputStatisticsSchema), RowCount: records}}
		output.OutputFacets = &OutputFacets{Statistics{Facet: facet(outputStatisticsSchema), RowCount: records, Size: &size}}
		e.Inputs, e.Outputs = []Dataset{input}, []Dataset{output}
		events = append(events, e)
	}
	slices.SortStableFunc(events, func(a, b RunEvent) int { return a.EventTime.Compare(b.EventTime) })
	return events
}

func dataset(t lineage.TopicNode, server func(string) string) Dataset {
	at := server(t.ClusterID)
	if at == "" {
		at = t.ClusterID // nobody here knows where it is
	}
	return Dataset{Namespace: "kafka://" + at, Name: t.Topic, Facets: DatasetFacets{Symlinks{
		Facet: facet(symlinksSchema), Identifiers: []Identifier{{"kafka-cluster://" + t.ClusterID, t.TopicID, "TOPIC"}},
	}}}
}

func facet(schema string) Facet { return Facet{Producer, schema} }
