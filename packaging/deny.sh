#!/bin/sh
# Licences, bans and sources of every dependency; advisories too where their database can be had.
set -eu
cd "$(dirname "$0")/.."
version=0.20.2
tools=$PWD/target/tools
if ! "$tools/bin/cargo-deny" --version 2>/dev/null | grep -q "$version"; then
    echo "deny: building cargo-deny $version, once"
    cargo install --quiet --locked --root "$tools" --target-dir "$tools/build" "cargo-deny@$version"
    rm -rf "$tools/build"
fi
"$tools/bin/cargo-deny" --log-level error check licenses bans sources
if "$tools/bin/cargo-deny" --log-level off fetch db >/dev/null 2>&1; then
    "$tools/bin/cargo-deny" check advisories
else
    echo "deny: advisories skipped: their database cannot be reached from here"
fi
