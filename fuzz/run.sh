#!/bin/sh
# Builds the fuzz targets and runs each (or those named) for FUZZ_SECONDS; fails with the first finding.
#
# A finding lies in target/fuzz/TARGET-…; `target/release/fuzz_TARGET FILE` shows it again. What was learnt of the input
# is kept in target/fuzz/TARGET/ and goes on from there the next time.
set -eu
cd "$(dirname "$0")"
RUSTC_WRAPPER="$PWD/rustc" cargo build --release --locked --target-dir ../target
cd ..
for target in "${@:-parameter_sets rtsp_request rtsp_headers rtcp clip segment recovery wire config samples}"; do
    for target in $target; do
        mkdir -p "target/fuzz/$target"
        seeds="fuzz/seeds/$target"
        [ -d "$seeds" ] || seeds=
        echo "== $target, ${FUZZ_SECONDS:-60} s"
        log="target/fuzz/$target.log"
        # shellcheck disable=SC2086 # No seeds are no argument.
        if ! "target/release/fuzz_$target" "target/fuzz/$target" $seeds -max_total_time="${FUZZ_SECONDS:-60}" \
            -timeout=20 -rss_limit_mb=2048 -max_len=65536 -artifact_prefix="target/fuzz/$target-" \
            -print_final_stats=1 2>"$log"; then
            tail -n 40 "$log"
            exit 1
        fi
        grep -E '^stat::(number_of_executed_units|peak_rss_mb)|cov:' "$log" | tail -n 3
    done
done
