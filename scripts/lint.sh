#!/usr/bin/env bash
# Runs golangci-lint in the version the configuration was written for; builds it with the go command if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
version=2.15.0

for candidate in "$(command -v golangci-lint || true)" "$(go env GOPATH)/bin/golangci-lint"; do
	if [ -x "$candidate" ] && "$candidate" version 2>/dev/null | grep -q "version v\?$version "; then
		exec "$candidate" run ./...
	fi
done
echo "golangci-lint $version is not there: installing it with go install"
go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$version"
exec "$(go env GOPATH)/bin/golangci-lint" run ./...
