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
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny check licenses bans sources; \
	else \
		echo "lint: cargo-deny is not installed (cargo install --locked cargo-deny): a test holds licences and sources, nothing tells of new duplicates" >&2; \
	fi
