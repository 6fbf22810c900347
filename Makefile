# What a developer types; CI calls `make test`.

CARGO ?= cargo

.PHONY: demo dist test test-simulator test-workspace lint prepare simulate failover vm soak fuzz

demo:
	$(CARGO) run --release -- demo

# The binary that is installed, and beside it its symbols, which debuggers and backtraces find by its build id.
dist:
	$(CARGO) build --profile dist -p stint-cli
	cd "$${CARGO_TARGET_DIR:-target}/dist" && objcopy --only-keep-debug stint stint.debug && \
		objcopy --strip-debug --strip-unneeded --add-gnu-debuglink=stint.debug stint

# What the tests need and a fresh machine lacks: nextest, crun, and a cgroup layout that crun accepts.
prepare:
	./.ci/prepare

# In the order of .ci/run, which makes room on the disk between them.
test: prepare lint simulate failover vm test-simulator test-workspace

# The simulator is tested as it is used: optimized.
test-simulator:
	$(CARGO) nextest run --cargo-profile ci -p stint-sim --features mutations --no-fail-fast

# A few seeds run with debug assertions too. The whole workspace is named each time, also where a part of it is meant: for a part
# alone half of the crates would be built once more, with other features.
test-workspace:
	$(CARGO) build --workspace --all-targets
	"$${CARGO_TARGET_DIR:-target}/debug/stint-sim" run --seeds 2 --from 1
	$(CARGO) nextest run --workspace -E 'not package(stint-sim)' --no-fail-fast

# Every seed that once broke a rule, and five minutes of fresh ones.
simulate:
	./.ci/simulate

# A submit is accepted again within a second of the leader's death (median of 20; two at worst).
failover:
	$(CARGO) build --profile ci -p stint-cli
	python3 bench/cluster.py --only failover --check --profile ci

# Cgroup version 2 and the systemd unit, in a virtual machine.
vm:
	$(CARGO) build --profile ci -p stint-cli
	./.ci/vm/run "$${CARGO_TARGET_DIR:-target}/ci/stint"

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny check licenses bans sources; \
	else \
		echo "lint: cargo-deny is not installed (cargo install --locked cargo-deny): a test holds licences and sources, nothing tells of new duplicates" >&2; \
	fi

# What takes too long for each change: the same faults at the size of real life.
soak: prepare
	$(CARGO) nextest run --workspace --run-ignored only --no-fail-fast

# Inputs that nobody wrote, for every decoder of bytes of others: 20 minutes each, or as `make fuzz SECONDS=60 DECODERS="grpc image"` says.
SECONDS ?= 1200
fuzz:
	./.ci/fuzz $(SECONDS) $(DECODERS)
