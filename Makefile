# make run, make test and make check are all that is needed from day to day; the rest are their parts.

CACHE   := $(CURDIR)/.cache
BIN     := $(CACHE)/bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/prometheus/common/version.Version=$(VERSION) -X github.com/prometheus/common/version.Revision=$(REVISION)
GOFLAGS_BUILD := -trimpath -ldflags '$(LDFLAGS)'
FUZZTIME ?= 30s

export CGO_ENABLED ?= 0

.PHONY: build run test check unit race lint vuln servers e2e e2e-puppet e2e-choria chaos hour hour-small fidelity backlog bench bench-corpus fuzz fuzzseeds debs clean help

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## bin/prometheus-streams, static
	go build $(GOFLAGS_BUILD) -o bin/prometheus-streams ./cmd/prometheus-streams

run: build ## the whole thing on this machine: poller, embedded JetStream, receiver and gateway
	./bin/prometheus-streams standalone --config examples/quickstart.yaml

check: lint unit ## the daily round: format, vet, lint, unit tests

unit: ## unit tests
	go test ./...

test: export CHAOS_SEED ?= 1
test: debs lint race servers e2e e2e-puppet e2e-choria chaos hour-small fidelity fuzzseeds vuln ## everything; what CI runs

debs: ## the Debian packages that tests need
	@./tools/debs

race: ## unit tests under the race detector
	CGO_ENABLED=1 go test -race ./...

lint: $(BIN)/staticcheck ## gofmt, go vet, staticcheck, go mod tidy
	@out=$$(git ls-files '*.go' | xargs gofmt -l); [ -z "$$out" ] || { echo "gofmt -w these:"; echo "$$out"; exit 1; }
	go vet ./...
	go vet -tags nochoria ./cmd/...
	cd e2e && go vet -tags chaos,fidelity,puppet,choria ./...
	cd bench && go vet ./...
	$(BIN)/staticcheck ./...
	cd e2e && $(BIN)/staticcheck -tags chaos,fidelity,puppet,choria ./...
	cd bench && $(BIN)/staticcheck ./...
	go mod tidy -diff

$(BIN)/staticcheck: tools/go.mod tools/go.sum
	@mkdir -p $(BIN)
	cd tools && go build -o $@ honnef.co/go/tools/cmd/staticcheck

$(BIN)/govulncheck: tools/go.mod tools/go.sum
	@mkdir -p $(BIN)
	cd tools && go build -o $@ golang.org/x/vuln/cmd/govulncheck

vuln: $(BIN)/govulncheck ## known vulnerabilities, where the database can be reached
	@$(BIN)/govulncheck ./... >$(CACHE)/govulncheck.txt 2>&1; rc=$$?; \
	if [ $$rc -eq 0 ]; then echo "govulncheck: nothing known"; \
	elif [ $$rc -eq 3 ]; then cat $(CACHE)/govulncheck.txt; exit 1; \
	else echo "govulncheck: the vulnerability database cannot be reached from here; NOT CHECKED"; fi

servers: ## the real servers that e2e talks to, built once under .cache/bin
	./e2e/servers/build

e2e: servers ## end-to-end tests against real servers
	cd e2e && go test -count=1 -timeout 40m ./...

e2e-puppet: servers ## enrolment and mutual TLS with a real Puppet CA, Debian's puppetserver
	cd e2e && go test -tags puppet -count=1 -v -timeout 25m ./puppet

e2e-choria: ## management through a real Choria broker and the choria command, which it builds once
	./e2e/servers/build nats-server choria
	cd e2e && go test -tags choria -count=1 -v -timeout 15m ./choria

chaos: servers ## kill, freeze and cut off the parts of a site, then account for every sample (CHAOS_SEED, CHAOS_ROUNDS)
	@if [ "$$(id -u)" -ne 0 ]; then skip='-skip ^(TestChaosIsland|TestChaosParted|TestPowerLoss)$$'; \
		echo "NOT RUN without root, which network namespaces and mounts need: TestChaosIsland, TestChaosParted, TestPowerLoss"; fi; \
	cd e2e && go test -tags chaos -count=1 -v -timeout 60m $$skip ./chaos

hour: servers ## an hour without a hub in simulated time, a start with a spool of 1 GB (HOUR_TARGETS, HOUR_SERIES, HOUR_SPOOL_MB)
	cd bench && HOUR_TARGETS=$${HOUR_TARGETS:-200} HOUR_SERIES=$${HOUR_SERIES:-1000} HOUR_SPOOL_MB=$${HOUR_SPOOL_MB:-1024} \
		go test -count=1 -v -timeout 30m ./hour

hour-small: servers ## the same with little load
	cd bench && go test -count=1 -v -timeout 5m ./hour

fidelity: servers ## what a Prometheus holds that was fed by us, compared with one that scraped the same (FIDELITY_SEED, FIDELITY_SCRAPES)
	cd e2e && go test -tags fidelity -count=1 -v -timeout 15m ./fidelity

backlog: servers ## half an hour of 200 targets with 1000 series each, written into a server that counts and into a Prometheus
	cd e2e && BACKLOG_FULL=1 go test -count=1 -v -timeout 40m -run '^TestBacklog$$' .

bench: ## CPU, memory and wire bytes beside other programs, printed as a table
	./e2e/servers/build nats-server prometheus vmagent
	./bench/run

bench-corpus: ## bytes per sample of real targets on the wire, all in, and their geometric mean
	go test -count=1 -run '^TestCorpusSize$$' -v ./internal/exposition

fuzz: ## every fuzz test for FUZZTIME (30s), FUZZJOBS (2) at a time
	./tools/fuzz $(FUZZTIME)

fuzzseeds: ## every fuzz test for ten seconds, two at a time
	./tools/fuzz 10s

clean: ## remove what was built
	rm -rf bin .cache data
