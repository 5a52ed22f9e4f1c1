# What each target does: make help. Longer recipes are scripts in .ci and deploy.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PACKAGES ?= ./...
VERSIONS ?= 13 15 17 18
ROWS ?= 5000000
SECONDS ?= 60
SEED ?=
STATE ?=
TIMEOUT ?= 20m
FUZZTIME ?= 30s
BENCH ?= .
BENCHTIME ?= 1s
TARGETS ?=
DIST ?= dist
ARGS ?=

GOBUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'

.DEFAULT_GOAL := help
.PHONY: help build dist test test-matrix race lint docs man fuzz bench soak chaos backfills chaos-proves demo screenshots test-image image clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/tuzhan-cdc and bin/platformsim: static, with the version of git
	$(GOBUILD) -o bin/ ./cmd/...

dist: ## dist/: an archive for each of TARGETS (linux and darwin, amd64 and arm64) and SHA256SUMS; the same source gives the same bytes
	@VERSION='$(VERSION)' TARGETS='$(TARGETS)' DIST='$(DIST)' deploy/dist.sh

test: ## everything that must pass, on a real PostgreSQL; installs what it needs as root on Debian or Ubuntu (PACKAGES, TIMEOUT)
	@.ci/prepare test
	@.ci/lint
	@CGO_ENABLED=0 .ci/gotest -timeout $(TIMEOUT) $(PACKAGES)

test-matrix: ## the integration tests on each of VERSIONS ("13 15 17 18"; local: this machine's own), a line each; builds missing images
	@.ci/matrix '$(VERSIONS)' -timeout $(TIMEOUT)

race: ## the tests under the race detector (PACKAGES); needs a C compiler
	@.ci/prepare race
	@CGO_ENABLED=1 .ci/gotest -race -timeout 20m $(PACKAGES)

lint: ## formatting, vet, staticcheck, go.mod
	@.ci/lint

docs: ## the README's tables of keys and examples/tuzhan-cdc.schema.json, from the decoder's own
	@go test -count=1 -run '^TestGenerated$$' ./cmd/tuzhan-cdc/config -update

man: build ## man pages in dist/man
	@bin/tuzhan-cdc man dist/man
	@bin/platformsim man dist/man

fuzz: ## every fuzz target for FUZZTIME (30s)
	@.ci/fuzz $(FUZZTIME)

bench: ## benchmarks, and a table of the whole program beside pg_recvlogical (ROWS, else 500000; BENCH, BENCHTIME, PACKAGES)
	@.ci/prepare test
	$(if $(filter command% environment%,$(origin ROWS)),BENCH_ROWS=$(ROWS) )go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem -timeout 60m $(PACKAGES)

soak: ## the memory of the connector over a transaction of ROWS/5, a backlog and a backfill of ROWS (5000000), whatever the platform; takes its time
	@.ci/prepare test
	SOAK_ROWS=$(ROWS) CGO_ENABLED=0 go test -count=1 -run '^Test(Memory|Backfill)Soak$$' -v -timeout 4h ./cmd/tuzhan-cdc

chaos: ## everything fails at once for SECONDS (60), by SEED (random), then what was applied is compared with what was committed; STATE=file|same|other
	@.ci/prepare test
	CHAOS_SECONDS=$(SECONDS) CHAOS_SEED=$(SEED) CHAOS_STATE=$(STATE) CGO_ENABLED=0 go test -count=1 -run '^TestChaos$$' -v -timeout 4h ./cmd/tuzhan-cdc

backfills: ## backfills under random writes with kills, for SECONDS (60) from SEED (random) on, then what was applied is compared with the database
	@.ci/prepare test
	FILL_SECONDS=$(SECONDS) FILL_SEED=$(SEED) CGO_ENABLED=0 go test -count=1 -run '^TestBackfillProperty$$' -v -timeout 4h ./cmd/tuzhan-cdc

chaos-proves: ## the chaos test finds a bug that is put in for it (build tag chaosbug)
	@.ci/prepare test
	CHAOS_PROVES=1 CGO_ENABLED=0 go test -count=1 -run '^TestChaosProves$$' -v -timeout 10m ./cmd/tuzhan-cdc

demo: build ## a whole CRM, platform and connector on this machine for 20 s, with a reconciliation (ARGS="--seconds 60")
	@.ci/prepare demo
	bin/tuzhan-cdc demo $(ARGS)

screenshots: ## the pictures of the page in deploy/screenshots, taken anew from a real run (four minutes)
	@.ci/prepare test
	SCREENSHOTS=$(CURDIR)/deploy/screenshots CGO_ENABLED=0 go test -count=1 -run '^TestScreenshots$$' -v -timeout 15m ./cmd/tuzhan-cdc

test-image: ## the PostgreSQL image for the tests, from Debian packages (root on Debian or Ubuntu; SUITE, FORCE=1)
	@deploy/test-image/build.sh

image: ## the container images tuzhan-cdc:VERSION and tuzhan-cdc-platformsim:VERSION, also as latest
	@VERSION='$(VERSION)' deploy/image.sh

clean: ## removes what was built
	rm -rf bin dist
