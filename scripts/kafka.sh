#!/usr/bin/env bash
# A real Kafka for the tests: one node (KRaft) on loopback, in a folder (.services/kafka) of this project's own. It needs Java 17 or later
# and takes its jars from Maven Central, each checked against scripts/kafka.jars.
#
#   scripts/kafka.sh start   start it, downloading what is missing
#   scripts/kafka.sh stop    stop exactly that one; its data stays for the next start
#   scripts/kafka.sh kill    kill it as a crash does
#   scripts/kafka.sh wipe    stop it and remove its data
#   scripts/kafka.sh env     print what tells the tests where it is: eval "$(scripts/kafka.sh env)"
#
# The last four work for the one that scripts/kafka.sh started in the same folder alone.
set -euo pipefail
cd "$(dirname "$0")/.."

folder="${TWOSTEP_SERVICES:-$PWD/.services}/kafka"
port="${TWOSTEP_KAFKA_PORT:-26992}"
sasl_port=$((port + 1))
controller_port=$((port + 2))
central="${MAVEN_CENTRAL:-https://repo1.maven.org/maven2}"
patience=90 # seconds until it must answer

say() { echo "kafka: $*" >&2; }

# jars downloads what is missing and checks all of it.
jars() {
	local sum path file
	mkdir -p "$folder/libs"
	while read -r sum path; do
		file="$folder/libs/$(basename "$path")"
		if ! echo "$sum  $file" | sha256sum --check --status 2>/dev/null; then
			say "downloading $(basename "$path")"
			curl --fail --silent --show-error --location --retry 3 --output "$file.part" "$central/$path"
			if ! echo "$sum  $file.part" | sha256sum --check --status; then
				rm -f "$file.part"
				say "$path is not what scripts/kafka.jars says"
				return 1
			fi
			mv "$file.part" "$file"
		fi
	done <scripts/kafka.jars
}

# pid prints the process id of our own server, if it runs.
pid() {
	local pid
	pid="$(cat "$folder/pid" 2>/dev/null)" || return 1
	# A number in a file may be another process's by now.
	if [ -r "/proc/$pid/cmdline" ] && tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qxF -- "$folder/server.properties"; then
		echo "$pid"
	elif [ ! -d /proc/self ] && kill -0 "$pid" 2>/dev/null; then
		echo "$pid"
	else
		return 1
	fi
}

# password of the account twostep on the port with SASL, made once.
password() {
	if [ ! -s "$folder/password" ]; then
		(umask 077 && head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$folder/password")
	fi
	cat "$folder/password"
}

properties() {
	cat <<-CONF
		process.roles=broker,controller
		node.id=1
		controller.quorum.bootstrap.servers=127.0.0.1:$controller_port
		listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$sasl_port,CONTROLLER://127.0.0.1:$controller_port
		advertised.listeners=PLAINTEXT://127.0.0.1:$port,SASL_PLAINTEXT://127.0.0.1:$sasl_port
		controller.listener.names=CONTROLLER
		listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
		sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
		listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_twostep="$(password)";
		listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
		listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
		authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
		super.users=User:ANONYMOUS;User:twostep
		log.dirs=$folder/data
		num.partitions=1
		auto.create.topics.enable=false
		delete.topic.enable=true
		offsets.topic.num.partitions=4
		offsets.topic.replication.factor=1
		transaction.state.log.replication.factor=1
		transaction.state.log.min.isr=1
		transaction.state.log.num.partitions=1
		share.coordinator.state.topic.replication.factor=1
		share.coordinator.state.topic.min.isr=1
		group.initial.rebalance.delay.ms=0
		group.min.session.timeout.ms=500
		log.cleaner.dedupe.buffer.size=8388608
		log.cleaner.threads=1
		num.network.threads=2
		num.io.threads=4
	CONF
}

java_run() { java -cp "$folder/libs/*" -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.showDateTime=true "$@"; }

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

start() {
	if pid >/dev/null; then
		say "runs on 127.0.0.1:$port"
		return 0
	fi
	if ! command -v java >/dev/null; then
		say "there is no Java here: install version 17 or later"
		return 1
	fi
	mkdir -p "$folder"
	jars
	properties >"$folder/server.properties"
	if [ ! -s "$folder/data/meta.properties" ]; then
		say "making a cluster in $folder/data"
		java_run kafka.tools.StorageTool format --standalone -t "$(java_run kafka.tools.StorageTool random-uuid)" -c "$folder/server.properties" \
			--add-scram "SCRAM-SHA-512=[name=twostep,password=$(password)]" --add-scram "SCRAM-SHA-256=[name=twostep,password=$(password)]" >"$folder/format.log" 2>&1 || {
			say "formatting failed: see $folder/format.log"
			return 1
		}
	fi
	(
		cd "$folder"
		exec setsid java -Xms256m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$folder/libs/*" -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
			-Dorg.slf4j.simpleLogger.showDateTime=true kafka.Kafka "$folder/server.properties" </dev/null >>"$folder/log" 2>&1
	) &
	echo $! >"$folder/pid"
	local began=$SECONDS
	until answers; do
		# For a moment the process is not Java yet.
		if [ $((SECONDS - began)) -ge "$patience" ] || ! pid >/dev/null && [ $((SECONDS - began)) -gt 5 ]; then
			say "does not answer: see $folder/log"
			return 1
		fi
		sleep 0.2
	done
	say "$(sed -n 's|.*/kafka_2.13/\([^/]*\)/.*|\1|p' scripts/kafka.jars) on 127.0.0.1:$port"
}

# end SIGNAL
end() {
	local pid until=$((SECONDS + patience))
	if ! pid="$(pid)"; then
		return 0
	fi
	kill -s "$1" "$pid"
	while pid >/dev/null; do
		if [ "$SECONDS" -ge "$until" ]; then
			say "does not end"
			return 1
		fi
		sleep 0.1
	done
	say "stopped"
}

case "${1:-}" in
start) start ;;
stop) end TERM ;;
kill) end KILL ;;
wipe)
	end KILL
	rm -rf "$folder/data"
	;;
env)
	if ! pid >/dev/null; then
		say "does not run: scripts/kafka.sh start"
		exit 1
	fi
	echo "export TWOSTEP_TEST_KAFKA='127.0.0.1:$port'"
	echo "export TWOSTEP_TEST_KAFKA_SASL='127.0.0.1:$sasl_port'"
	echo "export TWOSTEP_TEST_KAFKA_PASSWORD='$(password)'"
	;;
*)
	say "use: scripts/kafka.sh start|stop|kill|wipe|env"
	exit 2
	;;
esac
