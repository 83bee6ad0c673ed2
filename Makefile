# Sallyport. `make` alone lists what there is to make. GNU make 3.81 or newer, Go and git are all it needs; the tests need
# Node 20 or newer and npm too.

ifeq ($(filter 3.81% 3.82% 4.% 5.%,$(MAKE_VERSION)),)
$(error GNU make 3.81 or newer is needed; this is "$(MAKE_VERSION)")
endif

GO_LEAST := 1.26
NODE_LEAST := 20
# No other toolchain is fetched behind anyone's back, and no workspace file above this one changes what is built.
export GOTOOLCHAIN := local
export GOWORK := off

# What `sallyport version` says: VERSION=1.2.3, else the tag that git finds, else what the sources say.
VERSION ?= $(patsubst v%,%,$(shell git -c safe.directory="*" describe --tags --match 'v[0-9]*' --dirty 2>/dev/null))
LDFLAGS = $(if $(VERSION),-ldflags "-X main.version=$(VERSION)")

# Where `make pictures` puts them.
PICTURES ?= bin/pictures

.PHONY: help build image release demo test e2e-cluster pictures soak bench lint clean prerequisites npm
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

build: prerequisites ## bin/sallyport, bin/tctl, bin/tsh
	CGO_ENABLED=0 go build -trimpath -buildvcs=false $(LDFLAGS) -o bin/ ./cmd/sallyport ./cmd/tctl ./cmd/tsh

image: prerequisites ## the container image for amd64 and arm64, with and without a shell, into dist/ (needs apt-get)
	@mkdir -p bin && cd e2e && go build -buildvcs=false -o ../bin/release ./cmd/release && exec ../bin/release --out=../dist $(if $(VERSION),--version=$(VERSION)) image

release: prerequisites ## image, archives for linux, darwin and windows, charts, bills of materials, checksums: dist/
	@rm -rf dist
	@mkdir -p bin && cd e2e && go build -buildvcs=false -o ../bin/release ./cmd/release && exec ../bin/release --out=../dist $(if $(VERSION),--version=$(VERSION)) all

demo: prerequisites ## three replicas, a real Kubernetes API (or KUBECONFIG's), a user and kubectl, until Ctrl-C
	@mkdir -p bin && cd e2e && go build -buildvcs=false -o ../bin/demo ./cmd/demo && exec ../bin/demo

test: prerequisites npm ## everything that must pass, end to end too; a table at the end
	@mkdir -p bin && cd e2e && go build -buildvcs=false -o ../bin/check ./cmd/check && exec ../bin/check test

e2e-cluster: prerequisites ## docs/guide.md, typed on real Kubernetes clusters (Linux, root; a part of make test)
	@mkdir -p bin && cd e2e && go build -buildvcs=false -o ../bin/check ./cmd/check && exec ../bin/check test packages e2e-cluster

pictures: prerequisites npm ## every web page on a phone and a laptop, by day and by night, into PICTURES (bin/pictures)
	@mkdir -p $(PICTURES) && cd e2e && PICTURES='$(abspath $(PICTURES))' go test -count=1 -timeout=20m -run='Page|Passkey|App|Tsh|Account|SecondFactor|SSO' ./tests
	@echo "pictures are in $(PICTURES)"

soak: prerequisites npm ## fuzzing for real and the end-to-end tests again and again (SOAK=10m)
	@mkdir -p bin && cd e2e && go build -buildvcs=false -o ../bin/check ./cmd/check && exec ../bin/check soak

lint: prerequisites ## vet, golangci-lint, import rules, shellcheck
	@mkdir -p bin && cd e2e && go build -buildvcs=false -o ../bin/check ./cmd/check && exec ../bin/check lint

bench: prerequisites ## figures against kube-apiserver, haproxy, nginx and etcd, as docs/benchmarks.md has them
	@mkdir -p bin && cd e2e && go build -buildvcs=false -o ../bin/bench ./bench && exec ../bin/bench

docs: prerequisites ## docs/cli.md, docs/man and the list in docs/configuration.md, from the declarations of the programs
	go run ./internal/clidoc

clean: ## what was built here; the cache of the test bed stays (TESTBED_HOME)
	rm -rf bin dist

prerequisites:
	@command -v git >/dev/null || { echo "git is needed" >&2; exit 1; }
	@command -v go >/dev/null || { echo "Go $(GO_LEAST) or newer is needed, and no go is in PATH" >&2; exit 1; }
	@cd / && go env GOVERSION | awk -v least=$(GO_LEAST) '{ v = $$0; sub(/^[^0-9]*/, "", v); split(v, have, /[^0-9]+/); split(least, want, "."); \
	  if (have[1] < want[1] || have[1] == want[1] && have[2] < want[2]) { print "Go " least " or newer is needed; this is " $$0 > "/dev/stderr"; exit 1 } }'

npm: # axe-core, which the tests look at web pages with, and oidc-provider, which they log in by, are in no other registry
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "Node $(NODE_LEAST) or newer and npm are needed for the tests" >&2; exit 1; }
	@have=$$(node --version); major=$${have#v}; major=$${major%%.*}; [ "$$major" -ge $(NODE_LEAST) ] || { echo "Node $(NODE_LEAST) or newer is needed for the tests; this is $$have" >&2; exit 1; }
