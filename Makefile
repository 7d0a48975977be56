# `make demo` and `make test` are all that a newcomer needs; both install what they need on Debian and
# Ubuntu, or say what is missing.

CARGO ?= cargo
KAFKA_LIB := .cache/kafka/lib
REGISTRY := .cache/registry

.PHONY: demo test setup services clean-services

# `make demo ARGS=--redis` keeps the replica in a redis-server of its own.
demo:
	@tests/setup cc make perl
	$(CARGO) run --quiet -- demo $(ARGS)

# The same as CI: format, lints, unit and integration tests (a real Kafka, a real schema registry and a real Redis in temporary directories),
# documentation.
test: setup services
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) test
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps

setup:
	@tests/setup

services: $(KAFKA_LIB)/.complete $(REGISTRY)/.complete

$(KAFKA_LIB)/.complete: tests/kafka/pom.xml
	@tests/setup java mvn
	rm -rf $(KAFKA_LIB)
	mvn -q -B -f tests/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$(KAFKA_LIB)
	touch $@

# Its archive holds all that it needs to run; what Maven lists as its dependencies is not fetched.
$(REGISTRY)/.complete: tests/registry/pom.xml
	@tests/setup java mvn
	rm -rf $(REGISTRY)
	mvn -q -B -f tests/registry/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$(REGISTRY)/archive
	tar -xzf $(REGISTRY)/archive/*.tar.gz -C $(REGISTRY)
	rm -rf $(REGISTRY)/archive
	touch $@

clean-services:
	rm -rf .cache/kafka .cache/registry
