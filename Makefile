# Liuta. `make run` shows it, `make test` proves it; both install what is missing first.
.DEFAULT_GOAL := help
.PHONY: help setup run test lint bench soak fuzz models clips install

help:            ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup:           ## install what is missing and build (Debian packages, ONNX Runtime, release build)
	@packaging/setup.sh
	cargo build --release --locked --bins

run: setup       ## the demo: four simulated cameras, watched, recorded, relayed; alerts as they come
	target/release/liuta demo

test:            ## every test, with real cameras and clients on loopback
	@packaging/setup.sh test
	cargo test --release --locked --no-fail-fast

lint:            ## formatting, clippy, licences
	cargo fmt --check
	cargo clippy --release --locked --all-targets -- -D warnings
	packaging/deny.sh
	cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml > /dev/null

bench:           ## cost of each part beside a limit measured in the same run; writes target/bench.json
	@packaging/setup.sh test
	cargo build --release --locked --bins
	cargo bench --locked --bench bench --profile release

soak:            ## many kills, restarts and hostile cameras; minutes
	@packaging/setup.sh test
	cargo test --release --locked -- --ignored --test-threads=1

fuzz:            ## hostile bytes for every parser, FUZZ_SECONDS (60) each; see fuzz/README.md
	@packaging/setup.sh fuzz
	fuzz/run.sh

clips:           ## render the demo's clips again
	/usr/bin/python3 demo/render.py

install:         ## install binaries, unit and data files below DESTDIR
	@packaging/install.sh "$(DESTDIR)"
