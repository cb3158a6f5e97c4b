#!/usr/bin/env bash
# Checks our crates against deny.toml. Advisories need RustSec's database, which is asked for over the network; where it
# cannot be had, that is said, and the rest still counts.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! cargo deny --version >/dev/null 2>&1; then
    tools/check_licences.sh
    echo "advisories SKIPPED, not checked: cargo-deny is not installed (cargo install --locked cargo-deny)"
    [ -z "${AUDIT_REQUIRED:-}" ]
    exit
fi
cargo deny check bans licenses sources
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if cargo deny fetch db >"$log" 2>&1; then
    cargo deny check --disable-fetch advisories
elif [ -n "${AUDIT_REQUIRED:-}" ]; then
    cat "$log" >&2
    exit 1
else
    echo "advisories SKIPPED, not checked: RustSec's database cannot be reached"
fi
