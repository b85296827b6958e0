# The entry point: `make` lists what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-down demo-env test test-unit test-lab bench image image-check crds manifests fmt lint deny docs prerequisites

# CLUSTER=current: use the cluster that kubectl points at instead of building one, with ACME_SERVER, EMAIL, DNS_NAME.
CLUSTER ?= lab
# INSTALL=process: `make demo` runs Waxwing as a process, where by default Helm installs it (as root) in pods.
INSTALL =
# BENCH='--lanes traefik --singles 10 -o json': what `make bench` measures, and how it prints.
BENCH ?=
# ARCH=arm64: which processor `make image` builds for.
ARCH ?= amd64
STEP := scripts/step
# `e2e` is the lab: it builds and starts the cluster, the CAs and the ingress controller.
LAB := target/debug/e2e
# Test binaries of the lab run inside it: cargo starts each of them through the lab's own `sandbox`.
TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')
RUNNER = CARGO_TARGET_$(shell tr 'a-z-' 'A-Z_' <<<"$(TRIPLE)")_RUNNER="$(CURDIR)/$(LAB) sandbox --"
TEST_WAXWING := cargo test --workspace --exclude e2e --locked
TEST_LAB := cargo test --package e2e --locked

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r target what; do \
		printf '  make %-11s %s\n' "$$target" "$$what"; done

demo: prerequisites ## Bring up a cluster, a CA and an ingress controller, and get two certificates
	@$(STEP) 'building Waxwing and the lab' cargo build --locked --package waxwing --package e2e
	@$(LAB) demo --cluster $(CLUSTER) $(INSTALL:%=--install %)

demo-down: ## End the demo; nothing of it stays
	@cargo build --quiet --locked --package e2e
	@$(LAB) down

demo-env: ## Print the shell variables that point kubectl at the demo's cluster
	@$(LAB) env

test: prerequisites ## Everything that CI runs: format, lints, unit tests, and the tests in the lab
	@$(MAKE) --no-print-directory lint deny
	@$(MAKE) --no-print-directory test-unit
	@$(MAKE) --no-print-directory test-lab

test-unit: ## The tests that need no lab
	@$(STEP) 'building Waxwing and its tests' $(TEST_WAXWING) --no-run
	@$(STEP) 'unit, property, CRD, architecture and engine tests' $(TEST_WAXWING)

# Waxwing itself is built as test-unit builds it: another selection of packages would compile it once more.
# Root can have a node, whose tests run Waxwing's image.
test-lab: prerequisites $(if $(filter 0,$(shell id -u)),image) ## The tests in the lab
	@$(STEP) 'building Waxwing' $(TEST_WAXWING) --no-run
	@$(STEP) 'building the lab and its tests' $(TEST_LAB) --no-run
	@$(STEP) 'fetching and building what the lab runs' $(LAB) fetch --for test
	@$(STEP) 'tests in the lab' scripts/lab-tests

bench: prerequisites ## Measure speed, API writes and memory in the lab
	@$(STEP) 'building Waxwing and the lab, optimized' cargo build --release --locked --package waxwing --package e2e
	@target/release/e2e bench $(BENCH)

image: ## Build Waxwing's container image into target/image, without a container engine
	@$(STEP) 'building the lab' cargo build --quiet --locked --package e2e
	@$(STEP) 'building Waxwing, static and optimized' scripts/static-build $(ARCH)
	@$(STEP) 'writing the image' scripts/image $(ARCH)

image-check: ## Build the image of the last commit twice, elsewhere, and compare
	@$(STEP) 'building the lab' cargo build --quiet --locked --package e2e
	@$(STEP) 'building the image twice' scripts/image-check

crds: ## Write crds/ from the API types
	@cargo run --quiet --package waxwing -- crds --dir crds

manifests: prerequisites ## Write deploy/ and the chart's kept renders from charts/waxwing
	@$(STEP) 'building Waxwing and the lab' cargo build --quiet --package waxwing --package e2e
	@$(STEP) 'fetching and building Helm and kubeconform' $(LAB) fetch --for chart
	@$(STEP) 'rendering the chart' env WAXWING_WRITE=1 $(RUNNER) cargo test --quiet --package e2e --test chart

fmt: ## Format the code
	@cargo fmt --all

lint: ## Check format and lints
	@$(STEP) 'format' cargo fmt --all --check
	@$(STEP) 'lints' cargo clippy --workspace --all-targets --locked --quiet -- -D warnings

deny: ## Check dependencies: bans, licences, sources
	@$(STEP) 'bans, licences and sources of dependencies' scripts/tool cargo-deny --log-level error --workspace check bans licenses sources

docs: ## Build the book in docs/
	@$(STEP) 'the book, into target/book' scripts/tool mdbook build docs

prerequisites:
	@scripts/prerequisites
