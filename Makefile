# Thin: the logic is in xtask. `make help` lists the targets.
KEEP ?=
ARGS ?=

.PHONY: help demo demo-down test e2e bench-plugin bench-scheduling bench-placement bench-webhook bench-interposer soak clean toolchain

help:
	@echo "demo [KEEP=1]     show it: vnpu run, then a real cluster"
	@echo "demo-down         remove the cluster that KEEP=1 left"
	@echo "test              everything that must pass"
	@echo "e2e [ARGS=...]    end-to-end cases; ARGS=--list lists them"
	@echo "bench-plugin      the node plugin's figures"
	@echo "bench-scheduling  how fast pods with claims are bound, without and with the planner"
	@echo "bench-placement   decisions of the planner, and the simulator's table"
	@echo "bench-webhook     how long the webhooks take"
	@echo "bench-interposer  the interposer's figures"
	@echo "soak [ARGS=...]   1000 kills of the node plugin, then the end-to-end cases for an hour"
	@echo "clean             remove builds and standing clusters"

demo: toolchain
	@cargo xtask demo $(if $(KEEP),--keep)

demo-down: toolchain
	@cargo xtask demo-down

test: toolchain
	@cargo xtask test $(ARGS)

e2e: toolchain
	@cargo xtask e2e $(ARGS)

bench-plugin: toolchain
	@cargo xtask bench plugin $(ARGS)

bench-scheduling: toolchain
	@cargo xtask bench scheduling $(ARGS)

bench-placement: toolchain
	@cargo xtask bench placement $(ARGS)

bench-webhook: toolchain
	@cargo xtask bench webhook $(ARGS)

bench-interposer: toolchain
	@cargo xtask bench interposer $(ARGS)

soak: toolchain
	@cargo xtask soak $(ARGS)

clean: toolchain
	@cargo xtask clean $(ARGS)

# xtask is Rust and needs a linker: what is missing for it must be said before it can run.
toolchain:
	@command -v cargo >/dev/null || { echo "Rust is missing: install it from https://rustup.rs, then run make again" >&2; exit 1; }
	@command -v cc >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev; \
		else echo "a C compiler is missing; on Debian and Ubuntu: sudo apt-get install -y gcc libc6-dev" >&2; exit 1; fi; }
	@command -v go >/dev/null || { echo "Go 1.26 or later is missing: install it from https://go.dev/dl/, then run make again" >&2; exit 1; }
