# Every target installs what it needs, prints its own time and fails rather than
# skips. `make` alone says what there is.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
GO ?= go
timed = start=$$SECONDS; trap 'echo "make $@: $$((SECONDS-start)) s"' EXIT;

.PHONY: help build size test race lint fuzz damage frames chaos-mirror sim interop-mirror mutants lineage-model offsets-model bench-lineage bench-mirror bench-broker hostile-broker full-disk handover demo schema interop interop-offsets interop-spike interop-dump kcat suite-franz-go suite-franz-go-chaos suite-franz-go-crash suite-node suite-python suite-java-tools suite-streams suite-connect suite-registry suite-openlineage clean chaos-fleet

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | column -t -s$$'\t'

# The binary speaks HTTP/1.1 only, and is shipped without the rest of net/http.
build: ## the static binary bin/replicator
	@$(timed) CGO_ENABLED=0 $(GO) build -tags nethttpomithttp2 -trimpath -ldflags='-s -w' -o bin/replicator ./cmd/replicator

size: ## the stripped binary for linux/amd64 built anew: fails above 35,000,000 bytes or 109 linked modules
	@$(timed) test/size.sh

test: ## every test that needs only Go
	@$(timed) $(GO) test ./...

race: ## the packages in which goroutines meet, under the race detector
	@$(timed) $(GO) test -race ./broker/... ./cluster/... ./internal/... ./mirror/... ./offsets/... ./lineage/export/... ./lineage/search/... ./api/... && \
		$(GO) test -race ./lineage -histories 40 # in which one goroutine plays: all of them are in make test

lint: ## vet and the linters of .golangci.yml
	@$(timed) $(GO) vet ./... && $(GO) tool -modfile=tools/go.mod golangci-lint run ./...

FUZZTIME ?= 10s
fuzz: ## every fuzz target, FUZZTIME each (default 10s)
	@$(timed) test/fuzz.sh $(FUZZTIME)

DAMAGED ?= 5000000
SEED ?= 1
damage: ## DAMAGED recorded requests with faults (default 5 million) against whole bundled brokers, from SEED
	@$(timed) $(GO) test ./broker -count=1 -timeout 60m -v -run TestDamagedFrames -frames $(DAMAGED) -seed $(SEED)

frames: ## broker/testdata/frames.gz anew: requests of every version as clients send them (needs Node, Python 3, Java 17 and Maven)
	@$(timed) test/interop/wiretap/record.sh

BENCH_RUNS ?= 3
BENCH_PART ?= 1
bench-mirror: ## the mirror against a franz-go loop, MirrorMaker 2 and a plain relay: throughput, processor time, latency, idle partitions (needs Java 17 and Maven; about 40 minutes)
	@$(timed) $(GO) run -tags interop ./test/bench/mirror -runs $(BENCH_RUNS)

bench-lineage: ## lineage queries out of indexes of up to a million hops, and beside a mirror at full speed; the size and the cost of the ledger (BENCH_RUNS; BENCH_PART=0.01 for a look)
	@$(timed) $(GO) run ./test/bench/mirror -what lineage -between stand-ins -runs $(BENCH_RUNS) -part $(BENCH_PART)

bench-broker: ## the bundled broker beside Apache Kafka: throughput, latency, processor time, memory, starts (needs Java 17 and Maven; about 20 minutes)
	@$(timed) $(GO) run -tags interop ./test/bench/broker -runs $(BENCH_RUNS)

hostile-broker: ## 2,000 slow, silent, greedy and deaf clients against the bundled broker for a minute, beside honest ones
	@$(timed) $(GO) test ./broker -count=1 -timeout 10m -v -run TestHostileClients -hostile 2000 -hostile-for 60s

# A network and mounts of their own, which end with the command.
apart = unshare $(if $(filter 0,$(shell id -u)),,--user --map-root-user) --net --mount
FLEET_TIME ?= 10m
chaos-fleet: ## a fleet of real nodes for FLEET_TIME (default 10m) and each fault once: killed, suspended, cut off in all shapes, full disks, damaged logs, clocks set, rolling restarts, 3 to 5 to 3 nodes, while it copies and is changed; needs Linux with iproute2 and root, or user namespaces (CHAOS_SEED)
	@$(timed) $(GO) mod download && $(GO) test -tags chaos -count=1 -timeout 60m -v -exec '$(apart)' -run 'TestCheckers$$|TestFleet$$' ./test/chaos -clock -fleet-time $(FLEET_TIME) -seed $(CHAOS_SEED)

SCHEDULES ?= 5000
sim: ## the control plane in virtual time: SCHEDULES seeds (default 5000) from SEED of lost leaders, dead, slow and paused nodes, partitions, jumping clocks; SEED=n SCHEDULES=1 plays one again
	@$(timed) $(GO) test ./cluster -count=1 -timeout 120m -v -run 'TestSimulation$$' -sim.seed $(SEED) -sim.schedules $(SCHEDULES)

HISTORIES ?= 20000
TIMES ?= 20
offsets-model: ## TIMES as many (default 20) random histories as make test, from SEED, in the maps of offsets and in folds of the ledger: every offset translated, both ways
	@$(timed) $(GO) test ./offsets -count=1 -timeout 120m -run 'Model|Histories|FoldOf|Origin' -histories $(TIMES) -history-seed $(SEED)

lineage-model: ## HISTORIES random histories (default 20000) from SEED of produces, transactions, compactions, truncations, crashes and flows: every offset asked for in the lineage index, both ways
	@$(timed) $(GO) test ./lineage -count=1 -timeout 120m -v -run TestAgainstModel -histories $(HISTORIES) -history-seed $(SEED)

CHAOS_KILLS ?= 210
CHAOS_RATE ?= 20
CHAOS_PAIRS ?=
CHAOS_SEED ?= 0
chaos-mirror: ## CHAOS_KILLS owners of copies killed under CHAOS_RATE MB/s, zombies, cuts, lost answers, between bundled brokers and Apache Kafkas, every record compared (needs Java 17 and Maven; about 25 minutes; CHAOS_PAIRS, CHAOS_SEED)
	@$(timed) $(GO) test -tags chaos,interop -count=1 -timeout 60m -v -run 'TestMirror$$' ./test/chaos -kills $(CHAOS_KILLS) -rate $(CHAOS_RATE) -pairs '$(CHAOS_PAIRS)' -seed $(CHAOS_SEED)

interop-mirror: ## flows between Apache Kafka 3.9, 4.1 and bundled brokers, both ways and round three clusters: codecs, transactions, compaction, old records and formats, groups, compared field by field; sources that delete, expire and recreate; quarantine; kills without transactions (needs Java 17 and Maven)
	@$(timed) $(GO) test -tags chaos,interop -count=1 -timeout 40m -v -run 'TestFlows$$|TestRing$$|TestWhatChangesAtTheSource$$|TestOldFormats$$|TestAtLeastOnce$$' ./test/chaos

handover: ## how long a reader of the destination gets nothing while nodes come and go, are drained, stopped and killed; each record once and in order (about 6 minutes)
	@$(timed) $(GO) test -tags chaos -count=1 -timeout 30m -v -run 'TestHandover$$' ./test/chaos -rounds 3

MUTANTS ?= 5
mutants: ## the fixes of MUTANTS classes of faults that others had (default 5; 0 is all fixes), drawn at random (SEED draws the same again), are taken out of a copy of the tree, each must turn its test red
	@$(timed) $(GO) run ./test/mutants -n $(MUTANTS) -seed $(if $(filter file,$(origin SEED)),0,$(SEED))

full-disk: ## the bundled broker on a disk of 24 MB that fills up, killed and started there, until a topic is deleted (needs Linux and root)
	@$(timed) $(GO) test -tags fulldisk -count=1 -timeout 10m -v ./test/fulldisk

demo: ## the whole job, checking itself, then it ends
	@$(timed) $(GO) run ./cmd/replicator demo --exit

# The suites run on the bundled broker, and with TARGET=kafka on an Apache Kafka, whose
# outcomes are in test/interop/baseline: whoever differs fails. docs/clients.md has them.
kcat: ## kcat (librdkafka) against the bundled broker, and against what the demo claims; installs kcat with apt-get if it is missing
	@$(timed) test/interop/kcat.sh && test/interop/kcat-demo.sh

SUITE_RUN ?=
SUITE_RECORDS ?= 500000
suite-franz-go: ## franz-go's own integration tests against the bundled broker (SUITE_RUN, SUITE_RECORDS)
	@$(timed) RUN='$(SUITE_RUN)' RECORDS=$(SUITE_RECORDS) test/interop/franz-go.sh

suite-franz-go-chaos: ## franz-go's tests of groups and transactions with its own disturbances
	@$(timed) test/interop/franz-go.sh chaos

suite-franz-go-crash: ## franz-go's tests while the broker is killed (SIGKILL) every ten seconds
	@$(timed) test/interop/franz-go.sh crash

suite-node: ## kafkajs and @platformatic/kafka (needs npm)
	@$(timed) test/interop/node.sh

suite-python: ## confluent-kafka and kafka-python (needs Python 3)
	@$(timed) test/interop/python.sh

suite-java-tools: ## Java's clients and Apache Kafka's tools, 3.9 and 4.1 (needs Java 17 and Maven, as all below)
	@$(timed) test/interop/java-tools.sh

suite-streams: ## Kafka Streams, exactly once, with instances killed
	@$(timed) test/interop/streams.sh

suite-connect: ## Kafka Connect, two workers of which one is killed
	@$(timed) test/interop/connect.sh

suite-registry: ## Apicurio Registry with its schemas on the broker, which is killed
	@$(timed) test/interop/registry.sh

suite-openlineage: ## our OpenLineage events against the official client's classes, which are made from the official JSON Schemas (needs Python 3)
	@$(timed) test/interop/openlineage.sh

interop-spike: ## raw batches, lanes and takeovers against Apache Kafka 3.9 and 4.x (needs Java 17 and Maven)
	@$(timed) $(GO) test -tags interop -count=1 -timeout 20m -v -run Spike ./test/interop/...

interop: ## the same flow between the bundled broker and Apache Kafka 4.x, both ways (needs Java 17 and Maven)
	@$(timed) $(GO) test -tags interop -count=1 -timeout 20m -v -run Flow ./test/interop/...

interop-offsets: ## groups after a failover, records read again and skipped, beside MirrorMaker 2 in one run (fails if ours are not 0); its clients on our topics; groups of KIP-848; what groups read, by their commits; share groups of 4.1 to 4.4 (needs Java 17 and Maven)
	@$(timed) $(GO) test -tags interop -count=1 -timeout 50m -v -run Offsets ./test/interop

interop-dump: ## Apache Kafka's DumpLogSegments, 3.9 and 4.1, on the files that the broker leaves (needs Java 17 and Maven)
	@$(timed) test/interop/dump.sh

clean: ## what building leaves behind
	rm -rf bin
