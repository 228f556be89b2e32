#!/usr/bin/env bash
# Runs golangci-lint on every module, in the version the configuration was written for; builds it with the go command if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
version=2.15.0

# lint PROGRAM
lint() {
	local module status=0
	while read -r module; do
		(cd "$module" && "$1" run ./...) || status=1
	done < <(find . -name go.mod -not -path './.*/*' -printf '%h\n' | sort)
	exit "$status"
}

for candidate in "$(command -v golangci-lint || true)" "$(go env GOPATH)/bin/golangci-lint"; do
	if [ -x "$candidate" ] && "$candidate" version 2>/dev/null | grep -q "version v\?$version "; then
		lint "$candidate"
	fi
done
echo "golangci-lint $version is not there: installing it with go install"
go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$version"
lint "$(go env GOPATH)/bin/golangci-lint"
