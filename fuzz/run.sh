#!/usr/bin/env bash
# Builds the fuzz targets and runs each for a while: fuzz/run.sh [SECONDS [TARGET…]]
#
# Needs stable Rust and g++, nothing else: the compiler counts what is reached by itself. Begins with the kept corpus; what
# is found beyond it goes to a scratch folder. Ends with 1 and the input's path if a check does not hold.
set -euo pipefail
cd "$(dirname "$0")"
export LC_ALL=C # what is printed may be no text

seconds=${1:-${FUZZ_SECONDS:-20}}
targets=("${@:2}")
[ "${#targets[@]}" -gt 0 ] || targets=(fuzz_targets/*.rs)

cache=${XDG_CACHE_HOME:-$HOME/.cache}/servable
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target-fuzz}
scratch=${FUZZ_SCRATCH:-$cache/fuzz}
# The flags must not reach build scripts and macros, which have nobody to count for: hence the target by name.
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    RUSTFLAGS+=" -Cllvm-args=-sanitizer-coverage-$option"
done
cargo build --release --locked --quiet --target "$host"

failed=0
for target in "${targets[@]}"; do
    target=$(basename "$target" .rs)
    found=$scratch/$target/found
    log=$scratch/$target/log
    mkdir -p "$found"
    status=0
    "$CARGO_TARGET_DIR/$host/release/$target" "$found" "corpus/$target" -max_total_time="$seconds" -max_len=20480 \
        -timeout=10 -rss_limit_mb=1024 -reload=0 -print_final_stats=1 \
        -artifact_prefix="$scratch/$target/" >"$log" 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        coverage=$(grep -ao 'DONE .*cov: [0-9]*' "$log" | grep -o '[0-9]*$')
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
        echo "$target: nothing in $runs runs ($speed a second, $coverage edges)"
    else
        failed=1
        grep -a -A 3 -m 1 'panicked at\|ERROR: libFuzzer' "$log" | cut -c1-800 >&2 || tail -20 "$log" >&2
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
        echo "$target: FAILED; the input is ${input:-not known, see $log}" >&2
        echo "again: $CARGO_TARGET_DIR/$host/release/$target $input" >&2
    fi
done
exit "$failed"
