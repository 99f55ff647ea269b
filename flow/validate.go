package flow

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Validate returns every fault of the object by itself as [Problems], or nil.
// Objects from [Parse] and [Decode] are valid; it is for those built in Go.
func (o Object) Validate() error {
	if o.body() == nil {
		return Problems{{Object: o.Key(), Message: fmt.Sprintf("kind %q without its body", o.Kind)}}
	}
	return o.validate(nil).err()
}

// validator collects faults, except where decoding has found one already.
type validator struct {
	object   Object
	known    Problems
	problems Problems
}

func (o Object) validate(known Problems) Problems {
	v := &validator{object: o, known: known}
	v.metadata(o.Metadata())
	switch {
	case o.Cluster != nil:
		v.cluster(&o.Cluster.Spec)
	case o.Flow != nil:
		v.flow(&o.Flow.Spec)
	case o.Runbook != nil:
		v.runbook(&o.Runbook.Spec)
	}
	return v.problems
}

// fault adds a problem unless the value, or one around it, could not be read.
func (v *validator) fault(path, message, fix string) {
	for _, p := range v.known {
		if p.Path == path || strings.HasPrefix(path, p.Path+".") || strings.HasPrefix(path, p.Path+"[") {
			return
		}
	}
	v.problems = append(v.problems, v.object.problem(path, message, fix))
}

// written reports whether the path stands in the file: an empty value that is
// written out is a mistake where one that is absent means the default.
func (v *validator) written(path string) bool {
	if v.object.origin == nil {
		return false
	}
	_, ok := v.object.origin.at[path]
	return ok
}

// oneOf wants one of the allowed texts; absent is fine unless required.
func (v *validator) oneOf(path, value string, required bool, allowed ...string) {
	if slices.Contains(allowed, value) || value == "" && !required && !v.written(path) {
		return
	}
	fix := "write " + allowed[0]
	if len(allowed) > 1 {
		fix = "write one of " + strings.Join(allowed, ", ")
	}
	v.fault(path, fmt.Sprintf("%q is not known here", value), fix)
}

func (v *validator) positive(path string, d Duration) {
	if d < 0 || d == 0 && v.written(path) {
		v.fault(path, fmt.Sprintf("%s is not a span of time", d), "write one like 30s, or remove the key for the default")
	}
}

var (
	objectName  = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
	notInName   = regexp.MustCompile(`[^a-z0-9.-]+`)
	topicName   = regexp.MustCompile(`^[a-zA-Z0-9._-]*$`)
	topicGlob   = regexp.MustCompile(`^[a-zA-Z0-9._*?-]+$`)
	stepID      = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	clusterID   = regexp.MustCompile(`^[!-~]{1,255}$`)
	principalID = regexp.MustCompile(`^[A-Za-z]+:.+$`)
)

func (v *validator) metadata(m Metadata) {
	if !objectName.MatchString(m.Name) {
		fix := `use lower case letters, digits, "-" and "."`
		if s := strings.Trim(notInName.ReplaceAllString(strings.ToLower(m.Name), "-"), "-."); objectName.MatchString(s) {
			fix += fmt.Sprintf(`, like %q`, s)
		}
		v.fault("metadata.name", fmt.Sprintf("%q is not a name", m.Name), fix)
	}
	for _, set := range []struct {
		path   string
		values map[string]string
	}{{"metadata.labels", m.Labels}, {"metadata.annotations", m.Annotations}} {
		for key := range set.values {
			if key == "" || len(key) > 253 {
				v.fault(set.path, "has a key that is empty or longer than 253 bytes", "")
			}
		}
	}
}

// reference wants the name of another object; whether there is one is for Check.
func (v *validator) reference(path, name, kind string) {
	if !objectName.MatchString(name) {
		v.fault(path, fmt.Sprintf("%q is not a name", name), "write the name of a "+kind)
	}
}

func (v *validator) cluster(s *ClusterSpec) {
	if len(s.BootstrapServers) == 0 {
		v.fault("spec.bootstrapServers", "is empty", "write at least one host:port")
	}
	for i, server := range s.BootstrapServers {
		path := fmt.Sprintf("spec.bootstrapServers[%d]", i)
		if why := checkServer(server); why != "" {
			v.fault(path, why, "write host:port, like kafka-0.example.com:9093")
		} else if slices.Index(s.BootstrapServers, server) < i {
			v.fault(path, fmt.Sprintf("%q is listed twice", server), "remove one")
		}
	}
	if (s.ClusterID != "" || v.written("spec.clusterId")) && !clusterID.MatchString(s.ClusterID) {
		v.fault("spec.clusterId", "is not a cluster.id", "write what the cluster reports, or remove the key")
	}
	v.location("spec.region", s.Region)
	v.location("spec.rack", s.Rack)
	if t := s.TLS; t != nil && (t.CertFile == "") != (t.KeyFile == "") {
		missing := "spec.tls.keyFile"
		if t.CertFile == "" {
			missing = "spec.tls.certFile"
		}
		v.fault(missing, "is missing", "a client certificate needs both certFile and keyFile")
	}
	if s.SASL != nil {
		v.sasl(s)
	}
}

func (v *validator) sasl(s *ClusterSpec) {
	v.oneOf("spec.sasl.mechanism", s.SASL.Mechanism, true, "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
	if s.SASL.Username == "" {
		v.fault("spec.sasl.username", "is empty", "write the user's name")
	}
	if _, err := ParseSecret(string(s.SASL.Password)); err != nil {
		m := asMistake(err)
		v.fault("spec.sasl.password", m.message, m.fix)
	}
	remote := slices.ContainsFunc(s.BootstrapServers, func(server string) bool { return !isLoopback(server) })
	if s.SASL.Mechanism == "PLAIN" && s.TLS == nil && remote {
		v.fault("spec.sasl.mechanism", "PLAIN without TLS shows the password to the network", "add tls: {} to the spec, or use SCRAM-SHA-512")
	}
}

// checkServer says what is wrong with an address. It does not show one that may
// hold a password.
func checkServer(server string) string {
	if strings.Contains(server, "@") {
		return "holds an @, and an address has no user"
	}
	shown := strconv.Quote(server)
	if strings.Contains(server, "://") {
		return shown + " is a URL"
	}
	host, port, err := net.SplitHostPort(server)
	if err != nil || host == "" || strings.ContainsAny(host, " /,") {
		return shown + " is not an address with a port"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return shown + " has no port between 1 and 65535"
	}
	return ""
}

func isLoopback(server string) bool {
	host, _, _ := net.SplitHostPort(server)
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func (v *validator) flow(s *FlowSpec) {
	v.reference("spec.source", s.Source, "Cluster")
	v.reference("spec.destination", s.Destination, "Cluster")
	if s.Source != "" && s.Source == s.Destination {
		v.fault("spec.destination", fmt.Sprintf("%q is the source too", s.Destination), "name another Cluster")
	}
	v.selector("spec.topics", s.Topics.Selector, true)
	v.naming(s.Topics.Rename, "spec.topics.rename")
	v.create(&s.Topics.Create)
	v.configSync(&s.Topics.Configs)
	v.patterns("spec.topics.paused", s.Topics.Paused, topicGlob, "topic")
	v.policies(&s.Policies)
	if s.Records != nil {
		v.records(s.Records)
	}
	if s.Groups != nil {
		v.selector("spec.groups", s.Groups.Selector, false)
		v.positive("spec.groups.interval", s.Groups.Interval)
	}
	v.oneOf("spec.offsets", s.Offsets, false, OffsetsTranslate, OffsetsPreserve, OffsetsAuto)
	if s.Offsets == OffsetsPreserve || s.Offsets == OffsetsAuto {
		v.preserve(s)
	}
	_, timed := s.Start.Timestamp()
	if _, grouped := s.Start.Group(); s.Start != "" && s.Start != StartEarliest && s.Start != StartLatest && !timed && !grouped {
		v.fault("spec.start", fmt.Sprintf("%q is not known here", string(s.Start)), startFix)
	}
	v.oneOf("spec.delivery", s.Delivery, false, DeliveryExactlyOnce, DeliveryAtLeastOnce)
	v.oneOf("spec.origin", s.Origin, false, OriginAny, OriginLocal)
	if s.Placement != nil {
		v.placement(s.Placement)
	}
	path := "spec.limits.bytesPerSecond"
	if limit := s.Limits.BytesPerSecond; limit < MinBytesPerSecond && (limit != 0 || v.written(path)) {
		v.fault(path, fmt.Sprintf("%s is too little to copy with", limit), fmt.Sprintf("write %s or more, pause the flow, or remove the key for no limit", MinBytesPerSecond))
	}
	path = "spec.limits.lanes"
	if n := s.Limits.Lanes; n < 0 || n > MaxLanes || n == 0 && v.written(path) {
		v.fault(path, fmt.Sprintf("%d transactions at once are not possible", n), fmt.Sprintf("write 1 to %d, or remove the key for the default of the nodes", MaxLanes))
	}
	path = "spec.limits.commitInterval"
	if d := s.Limits.CommitInterval; (d != 0 || v.written(path)) && (d < MinCommitInterval || d > MaxCommitInterval) {
		v.fault(path, fmt.Sprintf("%s is not possible between commits", d), fmt.Sprintf("write %s to %s, or remove the key for the default of the nodes", MinCommitInterval, MaxCommitInterval))
	}
	if s.Verify != nil {
		v.verify(s.Verify)
	}
	if s.MirrorMaker2 != nil {
		v.mirrorMaker2(s)
	}
}

// alias is what can be a part of the names of topics. Longer ones leave no room.
var alias = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,100}$`)

func (v *validator) mirrorMaker2(s *FlowSpec) {
	m := s.MirrorMaker2
	for path, name := range map[string]string{"spec.mirrorMaker2.sourceAlias": m.SourceAlias, "spec.mirrorMaker2.destinationAlias": m.DestinationAlias} {
		if (name != "" || v.written(path)) && !alias.MatchString(name) {
			v.fault(path, fmt.Sprintf("%q cannot be a part of a topic's name", name), "write letters, digits, dots, dashes and underscores, at most 100, or remove the key for the name of the Cluster")
		}
	}
	switch source, destination := cmp.Or(m.SourceAlias, s.Source), cmp.Or(m.DestinationAlias, s.Destination); {
	case source != destination:
	case m.DestinationAlias != "":
		v.fault("spec.mirrorMaker2.destinationAlias", fmt.Sprintf("%q is the source's alias too", source), "write another")
	case m.SourceAlias != "":
		v.fault("spec.mirrorMaker2.sourceAlias", fmt.Sprintf("%q is the destination's alias too, which is the name of its Cluster", source), "write another")
	}
	v.oneOf("spec.mirrorMaker2.offsetSyncs", m.OffsetSyncs, false, OffsetSyncsSource, OffsetSyncsDestination, OffsetSyncsNone)
}

// preserve refuses what cannot be had where batches pass as a whole.
func (v *validator) preserve(s *FlowSpec) {
	if s.Origin == OriginLocal {
		v.fault("spec.origin", fmt.Sprintf("offsets: %s copies everything, whatever it is from", s.Offsets), "write "+OriginAny+", or set offsets to "+OffsetsTranslate)
	}
	if s.Records != nil {
		v.fault("spec.records", fmt.Sprintf("offsets: %s copies every record as it is", s.Offsets), "remove it, or set offsets to "+OffsetsTranslate)
	}
}

func (v *validator) verify(f *FlowVerify) {
	v.positive("spec.verify.interval", f.Interval)
	path := "spec.verify.bytesPerSecond"
	if rate := f.BytesPerSecond; rate < MinBytesPerSecond && (rate != 0 || v.written(path)) {
		v.fault(path, fmt.Sprintf("%s is too little to read with", rate), fmt.Sprintf("write %s or more, or remove the key for %s", MinBytesPerSecond, DefaultVerifyBytesPerSecond))
	}
	v.oneOf("spec.verify.from", f.From, false, VerifyFromStart, VerifyFromVerified)
}

// configKey is what Kafka's keys of topics look like, and configGlob a pattern of
// such.
var (
	configKey  = regexp.MustCompile(`^[a-z0-9._-]+$`)
	configGlob = regexp.MustCompile(`^[a-z0-9._*?-]+$`)
)

// fixedConfigs are what a copy decides by itself: with another value it would not
// be one.
var fixedConfigs = map[string]string{
	"message.timestamp.type": "records keep their timestamps",
	"compression.type":       "batches keep their codec",
}

func (v *validator) create(c *TopicCreate) {
	if rf := c.ReplicationFactor; rf < SourceReplicas {
		v.fault("spec.topics.create.replicationFactor", fmt.Sprintf("%d is not a replication factor", rf), "write 1 or more, or remove the key for the destination's default")
	}
	for key, value := range c.Configs {
		path := "spec.topics.create.configs." + key
		switch why, fixed := fixedConfigs[key]; {
		case !configKey.MatchString(key):
			v.fault(path, fmt.Sprintf("%q is not a key of a topic's configuration", key), "write it like retention.ms")
		case fixed:
			v.fault(path, "is not to be chosen: "+why, "remove it")
		case value == "":
			v.fault(path, "is empty", "write a value, or remove the key for the source's")
		}
	}
}

func (v *validator) configSync(c *ConfigSync) {
	path := "spec.topics.configs"
	v.patterns(path+".include", c.Include, configGlob, "configuration")
	v.patterns(path+".exclude", c.Exclude, configGlob, "configuration")
	for i, key := range c.Include {
		if why, fixed := fixedConfigs[key]; fixed {
			v.fault(fmt.Sprintf("%s.include[%d]", path, i), fmt.Sprintf("%s does not follow: %s", key, why), "remove it")
		}
	}
	v.oneOf(path+".onDrift", c.OnDrift, false, DriftReport, DriftOverwrite)
}

// patterns wants globs or, of topics, regular expressions.
func (v *validator) patterns(path string, list []string, glob *regexp.Regexp, of string) {
	for i, text := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		p, err := compilePattern(text)
		switch {
		case err != nil:
			m := asMistake(err)
			v.fault(at, m.message, m.fix)
		case p.re == nil && !glob.MatchString(text):
			v.fault(at, fmt.Sprintf("%q matches no %s", text, of), "")
		}
	}
}

func (v *validator) policies(p *FlowPolicies) {
	v.oneOf("spec.policies.onDelete", p.OnDelete, false, DeleteKeep, DeleteCopy)
	v.positive("spec.policies.deleteAfter", p.DeleteAfter)
	v.oneOf("spec.policies.onRecreate", p.OnRecreate, false, RecreateStop, RecreateNewGeneration)
	v.oneOf("spec.policies.onGap", p.OnGap, false, GapContinue, GapStop)
	v.oneOf("spec.policies.onTruncate", p.OnTruncate, false, TruncateStop, TruncateRetract)
	v.oneOf("spec.policies.onLoss", p.OnLoss, false, LossRecopy, LossStop)
	v.oneOf("spec.policies.onRefusal", p.OnRefusal, false, RefusalWait, RefusalStop)
	v.positive("spec.policies.refusalAfter", p.RefusalAfter)
}

func (v *validator) naming(n Naming, path string) {
	key, written := path+".prefix", n.Prefix
	if n.Template != "" || v.written(path+".template") {
		key, written = path+".template", n.Template
		if n.Prefix != "" {
			v.fault(key, "stands beside a prefix", "put the prefix into the template, or remove one of them")
		}
		if strings.Count(n.Template, NamePlace) != 1 {
			v.fault(key, fmt.Sprintf("%q has not one place for the name", n.Template), fmt.Sprintf("write %s once, like dr.%s", NamePlace, NamePlace))
			return
		}
	}
	a := n.affix()
	switch {
	case !topicName.MatchString(a.prefix+a.suffix) || len(a.prefix+a.suffix) >= MaxTopicName:
		v.fault(key, fmt.Sprintf("%q cannot be part of a topic's name", written), "use letters, digits, dot, underscore and dash")
	case strings.HasPrefix(a.prefix, InternalPrefix) || a.prefix == "_": // "_" makes one of "_x"
		v.fault(key, fmt.Sprintf("%q would make internal topics", written), "choose one after which no name begins with "+InternalPrefix)
	}
}

func (v *validator) selector(path string, s Selector, topics bool) {
	if len(s.Include) == 0 {
		v.fault(path+".include", "is empty", `write ["*"] for everything`)
	}
	for _, side := range []struct {
		path     string
		patterns []string
	}{{path + ".include", s.Include}, {path + ".exclude", s.Exclude}} {
		for i, text := range side.patterns {
			at := fmt.Sprintf("%s[%d]", side.path, i)
			if _, err := compilePattern(text); err != nil {
				m := asMistake(err)
				v.fault(at, m.message, m.fix)
				continue
			}
			if topics && text[0] != '/' && !topicGlob.MatchString(text) {
				v.fault(at, fmt.Sprintf("%q matches no topic: names have letters, digits, dot, underscore and dash", text), "write one pattern for each item of the list")
			} else if strings.HasPrefix(text, InternalPrefix) && side.path == path+".include" {
				v.fault(at, fmt.Sprintf("%q is internal; names that begin with %s are never copied", text, InternalPrefix), "remove it")
			}
		}
	}
}

func (v *validator) runbook(s *RunbookSpec) {
	v.reference("spec.flow", s.Flow, "ReplicationFlow")
	if len(s.Steps) == 0 {
		v.fault("spec.steps", "is empty", "write at least one step")
	}
	first := map[string]int{}
	for i := range s.Steps {
		step, path := &s.Steps[i], fmt.Sprintf("spec.steps[%d]", i)
		if !stepID.MatchString(step.ID) {
			v.fault(path+".id", fmt.Sprintf("%q is not an id", step.ID), `use lower case letters, digits and "-"`)
		} else if other, ok := first[step.ID]; ok {
			v.fault(path+".id", fmt.Sprintf("%q is the id of spec.steps[%d] too", step.ID, other), "choose another")
		} else {
			first[step.ID] = i
		}
		v.step(step, path)
	}
}

func (v *validator) step(s *Step, path string) {
	below := slices.ContainsFunc(v.known, func(p Problem) bool { return strings.HasPrefix(p.Path, path+".") })
	switch verbs := s.Verbs(); {
	case len(verbs) == 0 && !below && !v.written(path+".check") && !v.written(path+".apply"):
		v.fault(path, "has no verb", "write one of check, wait, fence, apply, gate, switch, report")
	case len(verbs) > 1:
		v.fault(path, fmt.Sprintf("has the verbs %s and %s", verbs[0], verbs[1]), "make a step of each")
	}
	v.oneOf(path+".check", s.Check, false, CheckPreflight, CheckGroups, CheckVerify)
	v.oneOf(path+".apply", s.Apply, false, ApplyGroupOffsets)
	if s.Wait != nil {
		if s.Wait.LagRecords < 0 {
			v.fault(path+".wait.lagRecords", fmt.Sprintf("%d records cannot be waited for", s.Wait.LagRecords), "write 0 or more")
		}
		if s.Wait.StableFor < 0 {
			v.positive(path+".wait.stableFor", s.Wait.StableFor)
		}
	}
	if s.Fence != nil {
		v.fence(s.Fence, path+".fence")
	}
	if s.Gate != nil && s.Gate.Approvals < 1 {
		v.fault(path+".gate.approvals", fmt.Sprintf("%d approvals are no gate", s.Gate.Approvals), "write 1 or more")
	}
	v.positive(path+".timeout", s.Timeout)
	v.oneOf(path+".onFailure", s.OnFailure, false, FailureStop, FailureRollback)
}

func (v *validator) fence(f *FenceStep, path string) {
	if len(f.Principals) == 0 {
		v.fault(path+".principals", "is empty", `write the producers' principals, like User:orders-app, or "User:*" for everybody`)
	}
	for i, p := range f.Principals {
		if !principalID.MatchString(p) || !utf8.ValidString(p) {
			v.fault(fmt.Sprintf("%s.principals[%d]", path, i), fmt.Sprintf("%q is not a principal", p), `write it like User:orders-app, or "User:*" for everybody`)
		}
	}
	v.positive(path+".watch", f.Watch)
}
