#!/usr/bin/env bash
# Runs govulncheck on every module. Where the tool or its database cannot be had it says NOT CHECKED and why: that is no failure of the code.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=golang.org/x/vuln/cmd/govulncheck@v1.9.0
database=https://vuln.go.dev

bin="$(mktemp -d)"
trap 'rm -rf "$bin"' EXIT
if ! output="$(GOBIN="$bin" go install "$tool" 2>&1)"; then
	echo "govulncheck: NOT CHECKED, $tool cannot be installed here:"
	tail -n 3 <<<"$output"
	exit 0
fi
failed=0
while read -r module; do
	status=0
	output="$(cd "$module" && "$bin/govulncheck" -db "$database" ./... 2>&1)" || status=$?
	# 3 means vulnerabilities; any other failure that is about reaching the database is the network's.
	if [ "$status" -ne 0 ] && [ "$status" -ne 3 ] && grep -qE "vuln\.go\.dev|fetching vulnerabilities" <<<"$output"; then
		echo "govulncheck: NOT CHECKED, the vulnerability database at $database cannot be reached:"
		tail -n 1 <<<"$output"
		exit "$failed"
	fi
	echo "== $module"
	echo "$output"
	[ "$status" -eq 0 ] || failed="$status"
done < <(find . -name go.mod -not -path './.*/*' -printf '%h\n' | sort)
exit "$failed"
