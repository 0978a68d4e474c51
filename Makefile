# Everything that is built, tested and shown; 'make help' lists it.
# Needs Go, git, make and npm. What else a Debian machine lacks is installed
# when make runs as root, and named otherwise.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

export CGO_ENABLED ?= 0
# One installation of the engine serves the demo, the tests, the benchmarks and
# the programs themselves.
RBEE_HOME ?= $(HOME)/.rbee
export RBEE_ENGINE_DIR ?= $(RBEE_HOME)/engines

PREFIX ?= /usr/local
# Of 'go test': check and test use the same, so the second finds the results of
# the first in Go's cache.
TESTFLAGS ?= -race -p 2 -timeout 20m
# The race detector needs cgo; the programs do not.
RACE := CGO_ENABLED=1

UNIT = $(shell go list ./... | grep -v /e2e$$)
TOOLS := bin/tools/.built

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## the four programs, into bin/
	@mkdir -p bin
	go build -trimpath -o bin/ ./cmd/...

.PHONY: engine
engine: build
	@tools/system.sh libffi
	bin/rbee engine install

.PHONY: demo
demo: engine ## a story from the builtin model, from nothing to nothing left
	@tools/demo.sh

.PHONY: demo-models
demo-models: build ## a model pulled from a hub of its own, resumed, verified, and what it takes
	go build -trimpath -o bin/ ./internal/hub/hubtest/fakehub
	@tools/demo-models.sh

.PHONY: demo-colony
demo-colony: engine ## a queen and two hives on this machine, a story from each, and nothing left
	@tools/demo-colony.sh

.PHONY: check
check: lint generated race ## format, vet, lint, dead code, other systems, generated files, race tests

.PHONY: lint
lint: $(TOOLS)
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "not formatted: $$unformatted"; exit 1; }
	go vet ./...
	bin/tools/golangci-lint run ./...
	@dead=$$(bin/tools/deadcode -test ./...); test -z "$$dead" || { echo "dead code:"; echo "$$dead"; exit 1; }
	GOOS=darwin GOARCH=arm64 go build ./...
	GOOS=windows GOARCH=amd64 go build ./...

.PHONY: test
test: engine ## all tests; those of the packages come from Go's cache after 'make check'
	@tools/system.sh gcc sshd
	@failed=; \
	$(RACE) go test $(TESTFLAGS) $(UNIT) || failed=yes; \
	$(RACE) go test $(TESTFLAGS) ./e2e || failed=yes; \
	test -z "$$failed"

.PHONY: race
race: engine
	@tools/system.sh gcc
	$(RACE) go test $(TESTFLAGS) $(UNIT)

.PHONY: e2e
e2e: engine ## the tests of the four real programs, killed in every way
	@tools/system.sh gcc sshd
	$(RACE) go test $(TESTFLAGS) ./e2e

.PHONY: bench
bench: engine ## measure against the engine alone, and print ratios
	go run ./bench -bin bin all

.PHONY: generate
generate: ## write docs/cli.md, docs/openapi-*.json and packaging/ anew, from what the code says
	$(RACE) go test -race ./hive ./worker ./queen ./keeper ./internal/service -run '^(TestTheOpenAPIDocumentIsCheckedIn|TestDocs|TestThePackagingIsWhatInstallWrites)$$' -count 1 -update

.PHONY: generated
generated: generate
	@changed=$$(git status --porcelain -- docs packaging); test -z "$$changed" || { echo "commit what 'make generate' made:"; echo "$$changed"; git --no-pager diff -- docs packaging; exit 1; }

.PHONY: install
install: build ## the programs, into $(DESTDIR)$(PREFIX)/bin
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 bin/rbee bin/queen-rbee bin/rbee-hive bin/llm-worker-rbee $(DESTDIR)$(PREFIX)/bin

.PHONY: vuln
vuln: $(TOOLS) ## known vulnerabilities; needs the database of the Go project
	bin/tools/govulncheck ./...

.PHONY: clean
clean: ## remove what was built; models and the engine stay
	rm -rf bin

$(TOOLS): tools/go.mod tools/go.sum
	@mkdir -p $(@D)
	cd tools && go build -trimpath -o ../$(@D)/ tool
	@touch $@
