#!/usr/bin/env bash
# run.sh [SECONDS [TARGET...]]: seeds each fuzzer from the shared vectors beside the repository, then runs it for so long.
# Needs a nightly toolchain and cargo-fuzz. CARGO_TARGET_DIR counts if it is set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

seconds="${1:-60}"
shift || true
targets=("$@")
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(cargo +nightly fuzz list)
fi

shared="../../shared"
if [[ -d "$shared" ]]; then
    cargo +nightly run --quiet --release --bin seeds -- "$shared" corpus
else
    echo "no shared vectors at $shared: the fuzzers begin with nothing" >&2
fi
for target in "${targets[@]}"; do
    cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -max_len=65536
done
