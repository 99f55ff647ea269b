#!/usr/bin/env bash
# Java's clients and Apache Kafka's own tools, from the jars that Maven fetches.
#   ./java-tools.sh             clients and tools of both versions
#   VERSIONS=4.1.1 ./java-tools.sh quick    the clients of one, over PLAINTEXT
#   PARTS="console hanging" ./java-tools.sh picks; later parts need the topics and groups of console
# Clients run over PLAINTEXT and over TLS with SCRAM-SHA-512; tools over PLAINTEXT,
# and once each of the common ones over TLS.
. "$(dirname "$0")/suite.sh"
versions=${VERSIONS:-3.9.1 4.1.1}
mode=${1:-all}
every_part="clients console verifiable copier performance group_tools live_groups admin_tools hanging resource_tools rolled"
parts=${PARTS:-$every_part}
need java openjdk-17-jdk-headless
need javac openjdk-17-jdk-headless
need unzip unzip
for v in $versions; do jars "$v" >/dev/null; done
prepare_target

printf 'bootstrap.servers=%s\n' "$BROKERS" >"$WORK/plain.properties"
cat >"$WORK/secure.properties" <<PROPERTIES
bootstrap.servers=$SECURE_BROKERS
security.protocol=SASL_SSL
sasl.mechanism=SCRAM-SHA-512
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="$SUITE_USER" password="$SUITE_PASSWORD";
ssl.truststore.type=PEM
ssl.truststore.location=$CA
PROPERTIES

# tool NAME ARGUMENT ... runs the class of that name, wherever this version has it.
tool() {
	local class
	class=$(class_of "$1")
	shift
	archive=$WORK/tools.jsa limit=120 jvm "$libs" "$class" "$@"
}
class_of() { grep -m1 -E "(^|\.)$1\$" "$WORK/tools-$version"; }
# at NAME ARGUMENT ... is the tool with the broker it is for.
at() {
	local name=$1
	shift
	tool "$name" --bootstrap-server "$BROKERS" "$@"
}
# background NAME ARGUMENT ... leaves its process id in $!.
background() {
	local class
	class=$(class_of "$1")
	shift
	exec=exec jvm "$libs" "$class" "$@" >"$WORK/background.log" 2>&1 & disown
	others+=($!)
}
# finds PATTERN COMMAND ... is whether the command succeeds and prints a line like that.
finds() {
	local pattern=$1
	shift
	"$@" >"$WORK/found.log" 2>&1 || { cat "$WORK/found.log"; return 1; }
	grep -qE -- "$pattern" "$WORK/found.log" || { echo "nothing like '$pattern' in:"; cat "$WORK/found.log"; return 1; }
}
lacks() {
	local pattern=$1
	shift
	"$@" >"$WORK/found.log" 2>&1 || { cat "$WORK/found.log"; return 1; }
	! grep -E -- "$pattern" "$WORK/found.log"
}
eventually() { # a command may have to be asked again, until what it looks for has happened
	local i
	for i in 1 2 3 4 5; do
		"$@" && return
		sleep 1
	done
	return 1
}

clients() {
	rm -rf "$WORK/classes" && mkdir "$WORK/classes"
	javac -nowarn -d "$WORK/classes" -cp "$libs/*" "$interop/java/Clients.java" 2>&1 | grep -v '^Note:' || true
	local connection
	for connection in ${1:-plain secure}; do
		limit=400 jvm "$libs" Clients "$WORK/$connection.properties" "$version/clients/$connection" >>"$RESULTS" 2>"$WORK/clients-$version-$connection.log" ||
			{ note FAIL "$version/clients/$connection/ended"; tail -30 "$WORK/clients-$version-$connection.log"; }
		grep -A4 "^$version/clients/$connection/" "$WORK/clients-$version-$connection.log" | head -60 || true
	done
}

console() {
	local sent=$WORK/sent got=$WORK/got
	seq 1 5000 | sed 's/.*/k&:v&/' >"$sent"
	check "$version/topic-create" tool TopicCommand --bootstrap-server "$BROKERS" --create --topic "$t" --partitions 3 --replication-factor 1
	check "$version/console-producer" tool ConsoleProducer --bootstrap-server "$BROKERS" --topic "$t" --property parse.key=true --property key.separator=: --compression-codec lz4 <"$sent"
	local protocol
	for protocol in classic consumer; do
		tool ConsoleConsumer --bootstrap-server "$BROKERS" --topic "$t" --group "$t-console-$protocol" --consumer-property "group.protocol=$protocol" --from-beginning \
			--max-messages 5000 --timeout-ms 30000 --property print.key=true --property key.separator=: >"$got" 2>"$WORK/console.log" || cat "$WORK/console.log"
		same "$version/console-consumer-$protocol" "$(sort "$sent" | md5sum)" "$(sort "$got" | md5sum)"
	done
	check "$version/console-producer-secure" tool ConsoleProducer --bootstrap-server "$SECURE_BROKERS" --producer.config "$WORK/secure.properties" --topic "$t-secure" <"$sent"
	tool ConsoleConsumer --bootstrap-server "$SECURE_BROKERS" --consumer.config "$WORK/secure.properties" --topic "$t-secure" --from-beginning --max-messages 5000 --timeout-ms 30000 >"$got" 2>"$WORK/console.log" || cat "$WORK/console.log"
	same "$version/console-consumer-secure" "$(md5sum <"$sent")" "$(md5sum <"$got")"
	# The tool decodes the records itself. 3.9 does not know what 4.x writes.
	[ "$version" != 3.9.1 ] || return 0
	check "$version/consumer-offsets-are-readable" finds "$t-console-classic.*$t" tool ConsoleConsumer --bootstrap-server "$BROKERS" --topic __consumer_offsets --from-beginning --timeout-ms 8000 \
		--formatter org.apache.kafka.tools.consumer.OffsetsMessageFormatter
	check "$version/group-metadata-is-readable" finds "$t-console-classic" at ConsoleConsumer --topic __consumer_offsets --from-beginning --timeout-ms 8000 \
		--formatter org.apache.kafka.tools.consumer.GroupMetadataMessageFormatter
}

verifiable() {
	finds '"name":"tool_data".*"sent":20000.*"acked":20000|"acked":20000.*"sent":20000|"sent":20000' tool VerifiableProducer --bootstrap-server "$BROKERS" --topic "$t-verifiable" --max-messages 20000 --acks -1 >"$WORK/check.log" 2>&1 &&
		note PASS "$version/verifiable-producer" || { note FAIL "$version/verifiable-producer"; tail -5 "$WORK/check.log"; }
	local protocol
	for protocol in classic consumer; do
		tool VerifiableConsumer --bootstrap-server "$BROKERS" --topic "$t-verifiable" --group-id "$t-verifiable-$protocol" --group-protocol "$protocol" --max-messages 20000 --reset-policy earliest >"$WORK/verifiable.log" 2>&1 || true
		same "$version/verifiable-consumer-$protocol" 20000 "$(sed -nE 's/.*"name":"records_consumed".*"count":([0-9]+).*/\1/p; s/.*"count":([0-9]+).*"name":"records_consumed".*/\1/p' "$WORK/verifiable.log" | awk '{n += $1} END {print n + 0}')"
		same "$version/verifiable-consumer-$protocol-commits" 20000 "$(committed "$t-verifiable-$protocol")"
	done
}
committed() { tool ConsumerGroupCommand --bootstrap-server "$BROKERS" --describe --group "$1" --offsets 2>/dev/null | awk -v g="$1" '$1 == g {n += $4} END {print n + 0}'; }

copier() {
	# Copies each record once, though half of its transactions are aborted at random.
	tool TopicCommand --bootstrap-server "$BROKERS" --create --topic "$t-copy" --partitions 1 --replication-factor 1 >/dev/null 2>&1
	tool TopicCommand --bootstrap-server "$BROKERS" --create --topic "$t-copied" --partitions 1 --replication-factor 1 >/dev/null 2>&1
	seq 1 6000 | tool ConsoleProducer --bootstrap-server "$BROKERS" --topic "$t-copy" 2>/dev/null
	local half
	for half in first second; do # the second goes on where the first ended: max-messages are those of one run
		limit=120 jvm "$libs" org.apache.kafka.tools.TransactionalMessageCopier --broker-list "$BROKERS" --input-topic "$t-copy" --input-partition 0 --output-topic "$t-copied" \
			--transactional-id "$t-copier" --consumer-group "$t-copier" --transaction-size 300 --max-messages 3000 --group-mode --use-group-metadata --enable-random-aborts >"$WORK/copier-$half.log" 2>&1 || true
	done
	echo end | at ConsoleProducer --topic "$t-copied" >/dev/null 2>&1
	check "$version/transaction-log-is-readable" finds "$t-copier.*\"transactionStatus\":[45]" at ConsoleConsumer --topic __transaction_state --from-beginning --timeout-ms 8000 \
		--formatter org.apache.kafka.tools.consumer.TransactionLogMessageFormatter
	same "$version/transactional-message-copier" "$({ seq 1 6000; echo end; } | md5sum)" "$(committed_values "$t-copied" 6001 | md5sum)"
}

performance() {
	check "$version/producer-performance" finds '100000 records sent' tool ProducerPerformance --topic "$t-perf" --num-records 100000 --record-size 200 --throughput -1 --producer-props bootstrap.servers="$BROKERS" acks=all
	check "$version/producer-performance-transactional" finds '20000 records sent' tool ProducerPerformance --topic "$t-perf" --num-records 20000 --record-size 200 --throughput -1 --transaction-duration-ms 200 --transactional-id "$t-perf" --producer-props bootstrap.servers="$BROKERS"
	check "$version/consumer-performance" finds '^20[0-9-]+ .*, 1[0-9]{5},' tool ConsumerPerformance --bootstrap-server "$BROKERS" --topic "$t-perf" --messages 100000
	check "$version/end-to-end-latency" finds 'Avg latency: [0-9]' tool EndToEndLatency "$BROKERS" "$t-latency" 500 all 100
	# The tool waits ten seconds for what it wrote, however slow the machine is.
	check "$version/client-compatibility" eventually tool ClientCompatibilityTest --bootstrap-server "$BROKERS" --topic "$t-compatible" --offsets-for-times-supported true --cluster-id-supported true --expect-record-too-large-exception false \
		--num-cluster-nodes 1 --create-topics-supported true --describe-acls-supported true --describe-configs-supported true --idempotent-producer-supported true
}

group_tools() {
	local g=$t-console-classic
	check "$version/groups-list" finds "^$g" tool ConsumerGroupCommand --bootstrap-server "$BROKERS" --list
	check "$version/groups-list-secure" finds "^$g" tool ConsumerGroupCommand --bootstrap-server "$SECURE_BROKERS" --command-config "$WORK/secure.properties" --list
	check "$version/groups-list-states" finds "^$g .*Empty" tool ConsumerGroupCommand --bootstrap-server "$BROKERS" --list --state
	check "$version/groups-describe" finds "^$g +$t +[0-2] +[0-9]+ +[0-9]+ +0" tool ConsumerGroupCommand --bootstrap-server "$BROKERS" --describe --group "$g"
	check "$version/groups-describe-consumer" finds "^$t-console-consumer +$t +[0-2] +[0-9]+ +[0-9]+ +0" tool ConsumerGroupCommand --bootstrap-server "$BROKERS" --describe --group "$t-console-consumer"
	check "$version/groups-describe-state" finds "$g .*Empty" tool ConsumerGroupCommand --bootstrap-server "$BROKERS" --describe --group "$g" --state
	check "$version/groups-describe-all" finds "$t-console-consumer" tool ConsumerGroupCommand --bootstrap-server "$BROKERS" --describe --all-groups
	check "$version/groups-reset" finds "$t +[0-2] +0" tool ConsumerGroupCommand --bootstrap-server "$BROKERS" --reset-offsets --group "$g" --to-earliest --topic "$t" --execute
	same "$version/groups-are-reset" 0 "$(committed "$g")"
	check "$version/groups-reset-by" finds "$t +1 +7" tool ConsumerGroupCommand --bootstrap-server "$BROKERS" --reset-offsets --group "$g" --shift-by 7 --topic "$t:1" --execute
	check "$version/groups-delete-offsets" tool ConsumerGroupCommand --bootstrap-server "$BROKERS" --delete-offsets --group "$g" --topic "$t:1"
	check "$version/groups-offsets-are-deleted" lacks "^$g +$t +1 +[0-9]" at ConsumerGroupCommand --describe --group "$g" --offsets
	check "$version/groups-reset-export" finds "^\"?$t\"?,2,3" at ConsumerGroupCommand --reset-offsets --group "$g" --to-offset 3 --topic "$t" --export --dry-run
	printf '%s,0,5\n%s,2,6\n' "$t" "$t" >"$WORK/reset.csv"
	check "$version/groups-reset-from-file" at ConsumerGroupCommand --reset-offsets --group "$g" --from-file "$WORK/reset.csv" --execute
	same "$version/groups-are-reset-from-file" 11 "$(committed "$g")"
	check "$version/groups-reset-to-a-time" at ConsumerGroupCommand --reset-offsets --group "$g" --to-datetime 2100-01-01T00:00:00.000 --topic "$t" --execute
	same "$version/groups-are-reset-to-a-time" 5000 "$(committed "$g")"
	check "$version/groups-reset-by-duration" at ConsumerGroupCommand --reset-offsets --group "$g" --by-duration P1D --topic "$t" --execute
	same "$version/groups-are-reset-by-duration" 0 "$(committed "$g")"
	if [ "$version" != 3.9.1 ]; then
		check "$version/groups-of-all-kinds" finds "^$g +Classic +consumer" at GroupsCommand --list
		check "$version/groups-of-one-kind" lacks "^$g " at GroupsCommand --list --group-type consumer
	fi
	check "$version/groups-delete" finds 'successful' tool ConsumerGroupCommand --bootstrap-server "$BROKERS" --delete --group "$g" --group "$t-console-consumer"
	check "$version/groups-are-deleted" lacks "^$t-console" tool ConsumerGroupCommand --bootstrap-server "$BROKERS" --list
}

# What the tools show of a group with a member, and what they may not do to it.
live_groups() {
	local protocol g
	for protocol in classic consumer; do
		g=$t-live-$protocol
		background ConsoleConsumer --bootstrap-server "$BROKERS" --topic "$t" --group "$g" --consumer-property "group.protocol=$protocol"
		check "$version/live-$protocol/listed" eventually finds "^$g " at ConsumerGroupCommand --list --state Stable
		check "$version/live-$protocol/members" finds "^$g +[^ ]+ +/127[^ ]+ +[^ ]+ +3 .*[(:]0,1,2" at ConsumerGroupCommand --describe --group "$g" --members --verbose
		check "$version/live-$protocol/offsets" eventually finds "^$g +$t +[0-2] +[0-9]+ +[0-9]+ +0 +[^ ]+ +/127" at ConsumerGroupCommand --describe --group "$g"
		check "$version/live-$protocol/reset-is-refused" refuses 'reset if the group .* is inactive' at ConsumerGroupCommand --reset-offsets --group "$g" --to-earliest --topic "$t" --execute
		check "$version/live-$protocol/delete-is-refused" refuses 'GroupNotEmpty' at ConsumerGroupCommand --delete --group "$g"
		check "$version/live-$protocol/delete-offsets-is-refused" refuses 'GroupSubscribedToTopic|subscribed' at ConsumerGroupCommand --delete-offsets --group "$g" --topic "$t"
		end $!
		check "$version/live-$protocol/leaves" eventually finds "^$g " at ConsumerGroupCommand --list --state Empty
	done
}

admin_tools() {
	check "$version/topic-list" finds "^$t\$" tool TopicCommand --bootstrap-server "$BROKERS" --list
	check "$version/topic-describe" finds "PartitionCount: 3.*ReplicationFactor: 1" tool TopicCommand --bootstrap-server "$BROKERS" --describe --topic "$t"
	check "$version/topic-describe-secure" finds "PartitionCount: 3" tool TopicCommand --bootstrap-server "$SECURE_BROKERS" --command-config "$WORK/secure.properties" --describe --topic "$t"
	check "$version/topic-alter" tool TopicCommand --bootstrap-server "$BROKERS" --alter --topic "$t" --partitions 4
	check "$version/topic-is-altered" eventually finds "PartitionCount: 4" tool TopicCommand --bootstrap-server "$BROKERS" --describe --topic "$t"
	check "$version/topic-under-replicated" lacks "$t" tool TopicCommand --bootstrap-server "$BROKERS" --describe --under-replicated-partitions
	check "$version/config-topic" tool ConfigCommand --bootstrap-server "$BROKERS" --alter --entity-type topics --entity-name "$t" --add-config retention.ms=123456789,cleanup.policy=[compact,delete]
	check "$version/config-topic-describe" eventually finds 'retention.ms=123456789' tool ConfigCommand --bootstrap-server "$BROKERS" --describe --entity-type topics --entity-name "$t"
	check "$version/config-topic-delete" tool ConfigCommand --bootstrap-server "$BROKERS" --alter --entity-type topics --entity-name "$t" --delete-config retention.ms,cleanup.policy
	check "$version/config-broker-describe" finds 'node.id=1|broker.id=1' tool ConfigCommand --bootstrap-server "$BROKERS" --describe --entity-type brokers --entity-name 1 --all
	check "$version/config-quota" tool ConfigCommand --bootstrap-server "$BROKERS" --alter --entity-type clients --entity-name "$t" --add-config producer_byte_rate=100000000
	check "$version/config-quota-describe" eventually finds 'producer_byte_rate=1' tool ConfigCommand --bootstrap-server "$BROKERS" --describe --entity-type clients --entity-name "$t"
	check "$version/config-user-quota" tool ConfigCommand --bootstrap-server "$BROKERS" --alter --entity-type users --entity-name "$t" --entity-type clients --entity-default --add-config request_percentage=200
	check "$version/config-scram" tool ConfigCommand --bootstrap-server "$BROKERS" --alter --entity-type users --entity-name "$t" --add-config 'SCRAM-SHA-512=[iterations=8192,password=secret]'
	check "$version/config-scram-describe" eventually finds 'SCRAM-SHA-512=iterations=8192' tool ConfigCommand --bootstrap-server "$BROKERS" --describe --entity-type users --entity-name "$t"
	check "$version/config-scram-delete" tool ConfigCommand --bootstrap-server "$BROKERS" --alter --entity-type users --entity-name "$t" --delete-config SCRAM-SHA-512
	check "$version/config-refuses" refuses 'InvalidConfiguration|INVALID_CONFIG|Invalid value|Unknown topic config' tool ConfigCommand --bootstrap-server "$BROKERS" --alter --entity-type topics --entity-name "$t" --add-config retention.ms=soon
	check "$version/acl-add" tool AclCommand --bootstrap-server "$BROKERS" --add --allow-principal User:somebody --operation Read --topic "$t" --resource-pattern-type prefixed
	check "$version/acl-list" eventually finds 'principal=User:somebody, host=\*, operation=READ, permissionType=ALLOW' tool AclCommand --bootstrap-server "$BROKERS" --list --topic "$t" --resource-pattern-type match
	check "$version/acl-remove" tool AclCommand --bootstrap-server "$BROKERS" --remove --force --allow-principal User:somebody --operation Read --topic "$t" --resource-pattern-type prefixed
	check "$version/get-offsets-latest" finds "^$t:0:[1-9]" tool GetOffsetShell --bootstrap-server "$BROKERS" --topic "$t" --time -1
	check "$version/get-offsets-earliest" finds "^$t:1:0" tool GetOffsetShell --bootstrap-server "$BROKERS" --topic "$t" --time -2
	check "$version/get-offsets-max-timestamp" finds "^$t:0:[0-9]" tool GetOffsetShell --bootstrap-server "$BROKERS" --topic "$t" --time -3
	check "$version/get-offsets-time" finds "^$t:0:0" tool GetOffsetShell --bootstrap-server "$BROKERS" --topic "$t" --time 1000
	printf '{"version":1,"partitions":[{"topic":"%s","partition":0,"offset":100}]}' "$t" >"$WORK/delete.json"
	check "$version/delete-records" finds 'low_watermark: 100' tool DeleteRecordsCommand --bootstrap-server "$BROKERS" --offset-json-file "$WORK/delete.json"
	check "$version/log-dirs" finds "\"partition\":\"$t-0\",\"size\":[1-9]" tool LogDirsCommand --bootstrap-server "$BROKERS" --describe --topic-list "$t"
	check "$version/reassign-execute" finds 'Successfully started partition reassignment' tool ReassignPartitionsCommand --bootstrap-server "$BROKERS" --reassignment-json-file "$WORK/move.json" --execute
	check "$version/reassign-verify" eventually finds "Reassignment of partition $t-0 is completed" tool ReassignPartitionsCommand --bootstrap-server "$BROKERS" --reassignment-json-file "$WORK/move.json" --verify
	check "$version/reassign-list" finds 'No partition reassignments found' tool ReassignPartitionsCommand --bootstrap-server "$BROKERS" --list
	check "$version/leader-election" tool LeaderElectionCommand --bootstrap-server "$BROKERS" --election-type preferred --all-topic-partitions
	check "$version/features" finds 'transaction.version.*FinalizedVersionLevel: 2' tool FeatureCommand --bootstrap-server "$BROKERS" describe
	check "$version/quorum-status" finds 'LeaderId: +1' tool MetadataQuorumCommand --bootstrap-server "$BROKERS" describe --status
	check "$version/quorum-replication" finds '^1.*Leader' tool MetadataQuorumCommand --bootstrap-server "$BROKERS" describe --replication
	check "$version/cluster-id" finds 'Cluster ID: .{22}' tool ClusterTool cluster-id --bootstrap-server "$BROKERS"
	check "$version/broker-api-versions" finds 'Produce\(0\): ' tool BrokerApiVersionsCommand --bootstrap-server "$BROKERS"
	check "$version/transactions-list" finds "$t-copier.*(CompleteCommit|CompleteAbort|Empty)" tool TransactionsCommand --bootstrap-server "$BROKERS" list
	check "$version/transactions-describe" finds "$t-copier" tool TransactionsCommand --bootstrap-server "$BROKERS" describe --transactional-id "$t-copier"
	check "$version/transactions-producers" finds '^[0-9]+' tool TransactionsCommand --bootstrap-server "$BROKERS" describe-producers --topic "$t-copied" --partition 0
	check "$version/transactions-hanging" tool TransactionsCommand --bootstrap-server "$BROKERS" find-hanging --broker-id 1
	check "$version/topic-delete" tool TopicCommand --bootstrap-server "$BROKERS" --delete --topic "$t-perf"
	check "$version/topic-is-deleted" eventually lacks "^$t-perf\$" tool TopicCommand --bootstrap-server "$BROKERS" --list
}
# More of the same tools: what they make, refuse and change.
resource_tools() {
	check "$version/topic-create-assigned" at TopicCommand --create --topic "$t-assigned" --replica-assignment 1,1 --config retention.ms=123456789
	check "$version/topic-is-assigned" finds 'PartitionCount: 2' at TopicCommand --describe --topic "$t-assigned"
	check "$version/topic-create-if-not-exists" at TopicCommand --create --topic "$t-assigned" --if-not-exists --partitions 9
	check "$version/topic-create-refuses-replicas" refuses 'InvalidReplicationFactor' at TopicCommand --create --topic "$t-three" --replication-factor 3
	check "$version/topic-create-refuses-a-broker" refuses 'InvalidReplicaAssignment' at TopicCommand --create --topic "$t-elsewhere" --replica-assignment 7
	check "$version/topic-overrides" finds "Topic: $t-assigned\s.*retention.ms=123456789" at TopicCommand --describe --topics-with-overrides
	check "$version/topic-at-min-isr" finds "$t-assigned" at TopicCommand --describe --at-min-isr-partitions
	check "$version/topic-unavailable" lacks "$t" at TopicCommand --describe --unavailable-partitions
	check "$version/config-broker" at ConfigCommand --alter --entity-type brokers --entity-name 1 --add-config log.retention.ms=86400000
	check "$version/config-broker-is-set" eventually finds 'log.retention.ms=86400000' at ConfigCommand --describe --entity-type brokers --entity-name 1
	check "$version/config-broker-delete" at ConfigCommand --alter --entity-type brokers --entity-name 1 --delete-config log.retention.ms
	check "$version/config-brokers" at ConfigCommand --alter --entity-type brokers --entity-default --add-config message.max.bytes=2000000
	check "$version/config-brokers-is-set" eventually finds 'message.max.bytes=2000000' at ConfigCommand --describe --entity-type brokers --entity-default
	check "$version/config-brokers-delete" at ConfigCommand --alter --entity-type brokers --entity-default --delete-config message.max.bytes
	check "$version/config-broker-refuses" refuses 'InvalidRequest|InvalidConfiguration|read-only|Cannot update' at ConfigCommand --alter --entity-type brokers --entity-name 1 --add-config node.id=7
	check "$version/config-ip" at ConfigCommand --alter --entity-type ips --entity-name 127.0.0.9 --add-config connection_creation_rate=1000
	check "$version/config-ip-describe" eventually finds 'connection_creation_rate=1000' at ConfigCommand --describe --entity-type ips --entity-name 127.0.0.9
	if [ "$version" != 3.9.1 ]; then
		check "$version/config-group" at ConfigCommand --alter --entity-type groups --entity-name "$t" --add-config consumer.session.timeout.ms=46000
		check "$version/config-group-describe" eventually finds 'consumer.session.timeout.ms=46000' at ConfigCommand --describe --entity-type groups --entity-name "$t"
		check "$version/cluster-endpoints" finds '^1 +127.0.0.1 ' tool ClusterTool list-endpoints --bootstrap-server "$BROKERS"
	fi
	check "$version/client-metrics-list" at ClientMetricsCommand --list
	check "$version/acl-reader" at AclCommand --add --allow-principal User:reader --consumer --topic "$t" --group "$t"
	check "$version/acl-writer" at AclCommand --add --allow-principal User:writer --producer --topic "$t" --transactional-id "$t"
	check "$version/acl-deny" at AclCommand --add --deny-principal User:stranger --deny-host 10.1.2.3 --operation All --cluster
	check "$version/acl-list-reader" eventually finds 'principal=User:reader, host=\*, operation=READ' at AclCommand --list --principal User:reader --group "$t"
	check "$version/acl-list-denied" eventually finds 'principal=User:stranger, host=10.1.2.3, operation=ALL, permissionType=DENY' at AclCommand --list --cluster
	check "$version/acl-remove-all" at AclCommand --remove --force --topic "$t"
	check "$version/acl-all-are-removed" eventually lacks 'User:(reader|writer)' at AclCommand --list --topic "$t"
	check "$version/get-offsets-local" finds "^$t:1:0" at GetOffsetShell --topic "$t" --time -4
	check "$version/get-offsets-tiered" lacks "^$t:1:[0-9]" at GetOffsetShell --topic "$t" --time -5
	check "$version/get-offsets-partitions" finds "^$t:2:[0-9]" at GetOffsetShell --topic-partitions "$t:1-3" --exclude-internal-topics
	printf '{"version":1,"topics":[{"topic":"%s"}]}' "$t" >"$WORK/topics.json"
	check "$version/reassign-generate" finds '"topic":"'"$t"'","partition":2,"replicas":\[1\]' at ReassignPartitionsCommand --topics-to-move-json-file "$WORK/topics.json" --broker-list 1 --generate
	check "$version/reassign-refuses" refuses 'InvalidReplicaAssignment|Unknown broker id' at ReassignPartitionsCommand --reassignment-json-file <(sed 's/\[1\]/[7]/' "$WORK/move.json") --execute
	check "$version/reassign-throttled" finds 'Successfully started partition reassignment' at ReassignPartitionsCommand --reassignment-json-file "$WORK/move.json" --throttle 10000000 --execute
	check "$version/reassign-unthrottles" eventually finds 'Clearing (broker|topic)-level throttles' at ReassignPartitionsCommand --reassignment-json-file "$WORK/move.json" --verify
	check "$version/reassign-cancel" finds 'None of the specified partition moves are active' at ReassignPartitionsCommand --reassignment-json-file "$WORK/move.json" --cancel
	check "$version/leader-election-of-one" at LeaderElectionCommand --election-type unclean --topic "$t" --partition 0
	check "$version/features-refuse" refuses 'Could not upgrade|InvalidUpdateVersion|Invalid update version' at FeatureCommand upgrade --feature transaction.version=9
	check "$version/log-dirs-of-all" finds '"broker":1,"logDirs"' at LogDirsCommand --describe
}

# A hanging transaction is one that a partition has and no coordinator knows. Brokers
# that ask the coordinator before a transaction's first batch let nobody write one; this
# is the other way to get it: a partition with an open transaction whose files are put
# back under another topic's name. It comes before resource_tools: Apache Kafka 4.1.1
# does not start again after the older tool changed the settings of all brokers.
hanging() {
	local open=$t-open torn=$t-hanging topic writer
	for topic in "$open" "$torn"; do at TopicCommand --create --topic "$topic" --partitions 1 --replication-factor 1 >/dev/null 2>&1; done
	background ProducerPerformance --topic "$open" --num-records 1000000 --record-size 100 --throughput 1000 --transactional-id "$open" --transaction-duration-ms 600000 \
		--producer-props bootstrap.servers="$BROKERS" transaction.timeout.ms=800000
	writer=$!
	check "$version/transactions-open" eventually finds '^[0-9]+.*\s0\s*$' at TransactionsCommand describe-producers --topic "$open" --partition 0
	end "$writer" KILL
	local from to
	from=$(partition_directory "$open") to=$(partition_directory "$torn")
	stop_target
	find "$from" -type f ! -name partition.metadata -exec cp -t "$to" {} +
	start_target
	# The open one is not hanging: its coordinator will end it.
	check "$version/transactions-find-hanging" finds "^$torn\s+0\s" at TransactionsCommand find-hanging --broker-id 1 --max-transaction-timeout 0
	check "$version/transactions-find-only-hanging" lacks "^$open\s" at TransactionsCommand find-hanging --broker-id 1 --max-transaction-timeout 0
	check "$version/transactions-find-in-topic" finds "^$torn\s+0\s" at TransactionsCommand find-hanging --topic "$torn" --max-transaction-timeout 0
	check "$version/transactions-find-old-ones" lacks "^$torn\s" at TransactionsCommand find-hanging --topic "$torn"
	echo after-it | at ConsoleProducer --topic "$torn" >/dev/null 2>&1
	check "$version/transactions-hanging-is-open" finds '^[0-9]+.*\s0\s*$' at TransactionsCommand describe-producers --topic "$torn" --partition 0
	same "$version/transactions-hanging-holds-readers" "" "$(committed_values "$torn" 1 10000)"
	check "$version/transactions-abort-refuses" refuses 'Could not find any open transactions' at TransactionsCommand abort --topic "$torn" --partition 0 --start-offset 5
	check "$version/transactions-abort" at TransactionsCommand abort --topic "$torn" --partition 0 --start-offset 0
	check "$version/transactions-is-aborted" lacks "^$torn\s" at TransactionsCommand find-hanging --broker-id 1 --max-transaction-timeout 0
	same "$version/transactions-aborted-frees-readers" after-it "$(committed_values "$torn" 1)"
	check "$version/transactions-open-is-described" finds "Ongoing.*$open-0" at TransactionsCommand describe --transactional-id "$open"
	[ "$version" = 3.9.1 ] && return
	check "$version/transactions-terminate" at TransactionsCommand forceTerminateTransaction --transactionalId "$open"
	check "$version/transactions-is-terminated" eventually finds 'CompleteAbort|Empty' at TransactionsCommand describe --transactional-id "$open"
	echo after-it | at ConsoleProducer --topic "$open" >/dev/null 2>&1
	same "$version/transactions-terminated-frees-readers" after-it "$(committed_values "$open" 1)"
}
# committed_values TOPIC COUNT [MILLISECONDS] prints the first ones, as far as there are so many within the time.
committed_values() { at ConsoleConsumer --topic "$1" --from-beginning --max-messages "$2" --timeout-ms "${3:-60000}" --isolation-level read_committed 2>/dev/null || true; }
refuses() { # a command that must fail, saying something like the pattern
	local pattern=$1
	shift
	if "$@" >"$WORK/found.log" 2>&1 && ! grep -qE -- "$pattern" "$WORK/found.log"; then return 1; fi
	grep -qE -- "$pattern" "$WORK/found.log" || { cat "$WORK/found.log"; return 1; }
}

# The files of partition 0 of a topic that was rolled, the closed segments and, after a
# clean stop, the active one.
dump() {
	local files
	files=$(find "$1" -name '*.log' | sort)
	same "$version/dump-has-segments" yes "$([ "$(wc -l <<<"$files")" -ge 3 ] && echo yes || echo "no: $files")"
	tool DumpLogSegments --deep-iteration --print-data-log --files "$(xargs <<<"$files" | tr ' ' ,)" >"$WORK/dump.log" 2>&1 || true
	same "$version/dump-log" "$(kilobytes | md5sum)" "$(sed -n 's/.* payload: //p' "$WORK/dump.log" | md5sum)"
	same "$version/dump-log-faults" "" "$(grep -iE 'isvalid: false|exception|corrupt' "$WORK/dump.log" | head -3)"
	tool DumpLogSegments --index-sanity-check --files "$(find "$1" \( -name '*.index' -o -name '*.timeindex' \) -size +0 | sort | xargs | tr ' ' ,)" >"$WORK/dump.log" 2>&1 || true
	same "$version/dump-index" yes "$(grep -q 'passed sanity check' "$WORK/dump.log" && ! grep -qiE 'mismatch|exception|found timestamp' "$WORK/dump.log" && echo yes || head -5 "$WORK/dump.log")"
}
kilobytes() { seq 1 3000 | sed "s/\$/ $(printf '%01000d' 0)/"; }
partition_directory() {
	[ "$TARGET" = kafka ] && { echo "$DATA/$1-0"; return; }
	echo "$DATA/logs/$(tool TopicCommand --bootstrap-server "$BROKERS" --describe --topic "$1" 2>/dev/null | sed -nE 's/.*TopicId: ([^ \t]+).*/\1/p' | head -1)/0"
}
rolled() {
	tool TopicCommand --bootstrap-server "$BROKERS" --create --topic "$t-dump" --partitions 1 --replication-factor 1 --config segment.bytes=1048576 >/dev/null 2>&1
	kilobytes | tool ConsoleProducer --bootstrap-server "$BROKERS" --topic "$t-dump" 2>/dev/null
	partition=$(partition_directory "$t-dump")
}

for version in $versions; do
	libs=$(jars "$version")
	start_target
	if [ "$mode" = quick ]; then
		clients plain
		stop_target
		continue
	fi
	for jar in kafka-tools kafka_2.13; do unzip -l "$libs/$jar-$version.jar"; done | sed -nE 's!.* (([a-z]+/)+[A-Za-z]+)\.class$!\1!p' | tr / . >"$WORK/tools-$version"
	t=tools-$version
	printf '{"version":1,"partitions":[{"topic":"%s","partition":0,"replicas":[1],"log_dirs":["any"]}]}' "$t" >"$WORK/move.json"
	partition=
	rm -rf "$WORK/classes" # an archive is of jars only
	limit=120 jvm "$libs" -XX:ArchiveClassesAtExit="$WORK/tools.jsa" -Xlog:disable "$(class_of TopicCommand)" --bootstrap-server "$BROKERS" --list >/dev/null
	for part in $parts; do $part; done
	stop_target # the active segment is to be readable, too
	[ -z "$partition" ] || dump "$partition"
	format_target # for the next version
done
verdict java-tools $([ "$mode$versions$parts" = "all3.9.1 4.1.1$every_part" ] || echo partial)
