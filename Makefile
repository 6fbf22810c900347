# What a developer types; CI calls `make test`.

CARGO ?= cargo

.PHONY: demo test lint prepare

demo:
	$(CARGO) run --release -- demo

# What the tests need and a fresh machine lacks: nextest, crun, and a cgroup layout that crun accepts.
prepare:
	./.ci/prepare

test: prepare lint
	$(CARGO) build --workspace --all-targets
	$(CARGO) nextest run --workspace --no-fail-fast

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
