#!/usr/bin/env bash
# Runs the test suites and says which ran, which tests were skipped, and why.
#
#   scripts/test.sh        vet, build, all suites; under the race detector where that is affordable
#   scripts/test.sh race   all suites under the race detector
#   scripts/test.sh long   all suites with TWOSTEP_LONG=1: all seeds, every crash point
set -euo pipefail
cd "$(dirname "$0")/.."
mode="${1:-test}"

# Suites that start many processes or measure: under the race detector they would take several times as long.
no_race='/cmd/twostep$|/cmd/bank$'

suites() { # suites LABEL FLAGS... -- PACKAGES...
	local label="$1" flags=()
	shift
	while [ "$1" != "--" ]; do
		flags+=("$1")
		shift
	done
	shift
	if [ "$#" -eq 0 ]; then
		return 0
	fi
	# A failing suite fails the pipe through the reader's exit code; go test's own says the same.
	go test -json "${flags[@]}" "$@" | go run ./cmd/suites "$label"
}

# Real servers for the suites that need them. Where they cannot run, those suites are skipped, and the summary says so.
services() {
	if [ "${TWOSTEP_SERVERS:-start}" = off ]; then
		echo "== database servers: not started (TWOSTEP_SERVERS=off)"
		return 0
	fi
	echo "== database servers"
	if ! scripts/services.sh start; then
		echo "not every server runs: what needs the missing one is skipped (see above for what to do)"
	fi
	local settings
	settings="$(scripts/services.sh env)" && eval "$settings"
	trap 'scripts/services.sh stop' EXIT
}

mapfile -t all < <(go list ./...)
services
case "$mode" in
test)
	echo "== go vet"
	go vet ./...
	echo "== go build"
	go build ./...
	mapfile -t raced < <(printf '%s\n' "${all[@]}" | grep -vE "$no_race" || true)
	mapfile -t plain < <(printf '%s\n' "${all[@]}" | grep -E "$no_race" || true)
	status=0
	# One package at a time: the suites start processes and servers of their own, and two cores are soon busy.
	suites "race detector on" -race -p 1 -timeout 10m -- "${raced[@]}" || status=1
	suites "race detector off" -p 1 -timeout 10m -- "${plain[@]}" || status=1
	exit "$status"
	;;
race)
	suites "race detector on" -race -p 1 -timeout 20m -- "${all[@]}"
	;;
long)
	export TWOSTEP_LONG=1
	suites "long" -p 1 -timeout 3h -count=1 -- "${all[@]}"
	;;
*)
	echo "scripts/test.sh: unknown mode $mode: use test, race or long" >&2
	exit 2
	;;
esac
