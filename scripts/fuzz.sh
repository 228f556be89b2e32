#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME each (default 10s; or a number of executions, as 100000x). A finding is kept
# below testdata/fuzz of its package, and fails.
set -euo pipefail
cd "$(dirname "$0")/.."
time="${FUZZTIME:-10s}"

fuzz() { # fuzz PACKAGE TARGET
	local log status=0
	log="$(mktemp)"
	go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" "$1" >"$log" 2>&1 || status=$?
	tail -n 4 "$log"
	# The go command reports its own deadline as a failure when it hits an execution at the end of FUZZTIME; a finding
	# always names the input it wrote.
	if [ "$status" -ne 0 ] && grep -q 'context deadline exceeded' "$log" && ! grep -qE 'Failing input written|panic:|fuzzing process hung' "$log"; then
		echo "   ended by its deadline, without a finding"
		status=0
	elif [ "$status" -ne 0 ]; then
		cat "$log"
	fi
	rm -f "$log"
	return "$status"
}

count=0
failed=()
for package in $(go list ./...); do
	targets="$(go test -list '^Fuzz' "$package")"
	for target in $(grep '^Fuzz' <<<"$targets" || true); do
		echo "== $package $target ($time)"
		fuzz "$package" "$target" || failed+=("$package $target")
		count=$((count + 1))
	done
done
echo "== $count fuzz targets, $time each, ${#failed[@]} failed"
if [ "${#failed[@]}" -gt 0 ]; then
	printf '   FAILED: %s\n' "${failed[@]}"
	exit 1
fi
