# What a change must pass: `make check` at the desk, `make test` in CI. With TWOSTEP_SERVERS=off everything runs with Go and a C
# compiler alone; the table at the end then says what was not tried.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
GO ?= go
# How long each fuzz target of `make fuzz` runs.
FUZZTIME ?= 10s
# SQLite is C.
export CGO_ENABLED := 1
# The modules: the one that services import, and those of their own below it.
MODULES := $(shell find . -name go.mod -not -path './.*/*' -printf '%h ')

.PHONY: help build fmt check format vet lint race vuln tidy test test-all fuzz services services-stop

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | column -t -s "$$(printf '\t')"

build: ## bin/twostep
	$(GO) build -o bin/twostep ./cmd/twostep

fmt: ## format the code
	gofmt -w -s .

check: format vet lint tidy race vuln ## everything a change must pass

format: ## fail where the code is not formatted
	@unformatted="$$(gofmt -l -s .)"; if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; fi

vet: ## go vet
	for module in $(MODULES); do $(GO) -C "$$module" vet ./...; done

lint: ## golangci-lint, installed if it is not there
	scripts/lint.sh

tidy: ## fail where a go.mod or go.sum is not tidy
	for module in $(MODULES); do $(GO) -C "$$module" mod tidy -diff; done

race: ## all tests under the race detector
	scripts/test.sh race

vuln: ## known vulnerabilities that the code can reach
	scripts/vuln.sh

test: ## what CI runs: vet, build, all suites, a table of what ran on what; at most 15 minutes on 2 cores
	scripts/test.sh

test-all: ## the long matrix: all seeds, every crash point
	scripts/test.sh long

fuzz: ## every fuzz target for FUZZTIME
	FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

services: ## PostgreSQL, MariaDB, MySQL and Redis for the tests, on loopback, in .services/; then: eval "$$(scripts/services.sh env)"
	scripts/services.sh start

services-stop: ## stop exactly those
	scripts/services.sh stop
