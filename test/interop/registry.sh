#!/usr/bin/env bash
# A schema registry, Apicurio Registry, that keeps its schemas on the broker (kafkasql):
# schemas are registered, by its own API and by Confluent's; registry and broker are
# killed (SIGKILL); a registry that starts from nothing finds them all again, with the
# same ids, and two registries on one journal agree. 3.0 is the last for Java 17.
. "$(dirname "$0")/suite.sh"
version=${VERSION:-3.0.9}
need java openjdk-17-jre-headless
need mvn maven
need curl curl
app=$cache/apicurio-$version
if [ ! -d "$app" ]; then
	mkdir -p "$cache"
	fetch=$(mktemp -d "$cache/fetch-XXXX")
	# The distribution has its libraries in it; its parents in Maven's repository are not all there.
	artifact=io.apicurio:apicurio-registry-app:$version:tar.gz:all
	(cd "$fetch" && retry timeout 900 mvn -q -B dependency:get -Dtransitive=false "-Dartifact=$artifact" >&2 &&
		mvn -q -B dependency:copy "-Dartifact=$artifact" -DoutputDirectory=lib >&2)
	mkdir "$fetch/app" && tar xzf "$fetch"/lib/*.tar.gz -C "$fetch/app"
	mv -T "$fetch/app" "$app" 2>/dev/null || true # somebody else may have been first
	rm -rf "$fetch"
fi
start_target

declare -A registry port
start_registry() {
	port[$1]=${port[$1]:-$(free_port)}
	rm -rf "$WORK/registry-$1" && mkdir "$WORK/registry-$1"
	# Its state is a database in memory, filled from the journal.
	(
		cd "$WORK/registry-$1"
		exec env APICURIO_STORAGE_KIND=kafkasql APICURIO_KAFKASQL_BOOTSTRAP_SERVERS="$BROKERS" QUARKUS_HTTP_HOST=127.0.0.1 QUARKUS_HTTP_PORT="${port[$1]}" \
			QUARKUS_LOG_LEVEL=WARN APICURIO_REST_DELETION_ARTIFACT_ENABLED=true APICURIO_REST_DELETION_ARTIFACT_VERSION_ENABLED=true \
			java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -jar "$app/apicurio-registry-app-$version-runner.jar"
	) >>"$WORK/registry-$1.log" 2>&1 & disown
	registry[$1]=$!
	others+=($!)
	local deadline=$((SECONDS + 120))
	until curl -sf --max-time 5 "http://127.0.0.1:${port[$1]}/health/ready" >/dev/null; do
		[ $SECONDS -lt $deadline ] && [ -d "/proc/${registry[$1]}" ] || { tail -20 "$WORK/registry-$1.log"; return 1; }
		sleep 0.5
	done
}
call() { # registry method path [body]
	curl -sS --fail-with-body --max-time 30 -X "$2" -H "Content-Type: ${type:-application/json}" ${4:+-d "$4"} "http://127.0.0.1:${port[$1]}/apis/$3"
}
avro() { printf '{"type":"record","name":"r%s","fields":[{"name":"a","type":"string"}%s]}' "$1" "${2:-}"; }
confluent() { printf '{"schema":"%s"}' "$(sed 's/"/\\"/g' <<<"$1")"; }
# everything a registry knows: subjects, versions, ids, schemas
dump() {
	local s v
	for s in $(call "$1" GET ccompat/v7/subjects | tr -d '[]"' | tr , '\n' | sort); do
		for v in $(call "$1" GET "ccompat/v7/subjects/$s/versions" | tr -d '[]' | tr , ' '); do
			call "$1" GET "ccompat/v7/subjects/$s/versions/$v"
			echo
		done
	done
}

check starts start_registry a
check register-many eval 'for i in $(seq 100); do call a POST "ccompat/v7/subjects/subject-$i/versions" "$(confluent "$(avro "$i")")" || exit 1; done'
check register-a-version call a POST ccompat/v7/subjects/subject-1/versions "$(confluent "$(avro 1 ',{"name":"b","type":"string","default":""}')")"
check compatibility-rule call a PUT ccompat/v7/config/subject-1 '{"compatibility":"BACKWARD"}'
same incompatible-is-refused 409 "$(curl -s -o /dev/null -w '%{http_code}' -X POST -H 'Content-Type: application/json' -d "$(confluent "$(avro 1 ',{"name":"c","type":"string"}')")" "http://127.0.0.1:${port[a]}/apis/ccompat/v7/subjects/subject-1/versions")"
check own-api call a POST 'registry/v3/groups/default/artifacts' '{"artifactId":"json","artifactType":"JSON","firstVersion":{"content":{"content":"{\"type\":\"object\"}","contentType":"application/json"}}}'
check delete call a DELETE ccompat/v7/subjects/subject-100
before=$(dump a)
same knows-them 101 "$(wc -l <<<"$before")"

end "${registry[a]}" KILL
kill_target
check broker-comes-back start_target
check starts-from-the-journal start_registry a
same same-after-kill "$(md5sum <<<"$before")" "$(dump a | md5sum)"
check second-registry start_registry b
same second-agrees "$(md5sum <<<"$before")" "$(dump b | md5sum)"
check register-at-the-second call b POST ccompat/v7/subjects/late/versions "$(confluent "$(avro late)")"
sleep 2
same first-hears-of-it "$(dump b | md5sum)" "$(dump a | md5sum)"
echo "Apicurio Registry $version"
verdict registry
