#!/usr/bin/env bash
# Runs the test suites and says which ran, which tests were skipped, and why; at the end, in a table, on which database and with which
# broker.
#
#   scripts/test.sh        vet, build, all suites; under the race detector where that is affordable
#   scripts/test.sh race   all suites under the race detector
#   scripts/test.sh long   all suites with TWOSTEP_LONG=1: all seeds, every crash point
#
# CI is set: what did not run fails the run, unless scripts/not-run.txt names it. TWOSTEP_SERVERS=off: no servers are started.
# TWOSTEP_TABLE=FILE: the table goes to that file, too, as JSON.
set -euo pipefail
cd "$(dirname "$0")/.."
mode="${1:-test}"
case "$mode" in
test | race | long) ;;
*)
	echo "scripts/test.sh: unknown mode $mode: use test, race or long" >&2
	exit 2
	;;
esac

# Suites that start many processes or measure: under the race detector they would take several times as long.
no_race='/cmd/twostep$|/cmd/bank$'

# Modules of their own, so that nobody else links what they need: examples, clients of other systems.
mapfile -t nested < <(find . -mindepth 2 -name go.mod -not -path './.*' -printf '%h\n' | sort)

scratch="$(mktemp -d)"
started=
finish() {
	rm -rf "$scratch"
	[ -z "$started" ] || scripts/services.sh stop
}
trap finish EXIT
go build -o "$scratch/suites" ./cmd/suites

suites() { # suites LABEL FOLDER FLAGS... -- PACKAGES...
	local label="$1" folder="$2" flags=()
	shift 2
	while [ "$1" != "--" ]; do
		flags+=("$1")
		shift
	done
	shift
	if [ "$#" -eq 0 ]; then
		return 0
	fi
	# A failing suite fails the pipe through the reader's exit code; go test's own says the same.
	go -C "$folder" test -json "${flags[@]}" "$@" | tee -a "$scratch/events" | "$scratch/suites" summary "$label"
}

nested_suites() { # nested_suites LABEL FLAGS...
	local label="$1" folder status=0
	shift
	for folder in "${nested[@]}"; do
		suites "$label, $folder" "$folder" "$@" -- ./... || status=1
	done
	return "$status"
}

# What ran on which database and with which broker.
table() {
	local flags=(--not-run scripts/not-run.txt)
	[ -z "${CI:-}" ] || flags+=(--strict)
	if [ -n "${TWOSTEP_TABLE:-}" ]; then
		"$scratch/suites" table "${flags[@]}" --json <"$scratch/events" >"$TWOSTEP_TABLE" || true # the one below says the same
	fi
	"$scratch/suites" table "${flags[@]}" <"$scratch/events"
}

# Real servers for the suites that need them. Where they cannot run, those suites are skipped, and the table says so.
services() {
	if [ "${TWOSTEP_SERVERS:-start}" = off ]; then
		echo "== servers: not started (TWOSTEP_SERVERS=off)"
		return 0
	fi
	echo "== servers"
	local settings
	# Those of `make services` are used as they run, and go on running.
	if ! settings="$(scripts/services.sh env 2>/dev/null)"; then
		started=yes
		if ! scripts/services.sh start; then
			echo "not every server runs: what needs the missing one is skipped (see above for what to do)"
		fi
		settings="$(scripts/services.sh env)" || true
	fi
	eval "$settings"
}

mapfile -t all < <(go list ./...)
services
status=0
case "$mode" in
test)
	echo "== go vet, go build"
	go vet ./...
	go build ./...
	for folder in "${nested[@]}"; do
		go -C "$folder" vet ./...
	done
	mapfile -t raced < <(printf '%s\n' "${all[@]}" | grep -vE "$no_race" || true)
	mapfile -t plain < <(printf '%s\n' "${all[@]}" | grep -E "$no_race" || true)
	# One package at a time: the suites start processes and servers of their own, and two cores are soon busy.
	suites "race detector on" . -race -p 1 -timeout 15m -- "${raced[@]}" || status=1
	suites "race detector off" . -p 1 -timeout 15m -- "${plain[@]}" || status=1
	nested_suites "race detector off" -p 1 -timeout 15m || status=1
	;;
race)
	suites "race detector on" . -race -p 1 -timeout 20m -- "${all[@]}" || status=1
	nested_suites "race detector on" -race -p 1 -timeout 20m || status=1
	;;
long)
	export TWOSTEP_LONG=1
	suites "long" . -p 1 -timeout 3h -count=1 -- "${all[@]}" || status=1
	nested_suites "long" -p 1 -timeout 3h -count=1 || status=1
	;;
esac
table || status=1
exit "$status"
