#!/usr/bin/env bash
# Writes what a release is made of, as CycloneDX: the crates in the engine, and what the wheel asks pip for (nothing but
# extras) with the packages of the environment that it was tested in.
#   tools/make_sbom.sh FOLDER-OF-PYTHON-PROGRAMS TARGET-FOLDER
set -euo pipefail
programs=$(realpath "$1") target=$(realpath -m "$2")
cd "$(dirname "$0")/.."

cargo cyclonedx --version >/dev/null 2>&1 || { echo 'missing: cargo install --locked cargo-cyclonedx' >&2; exit 1; }
mkdir -p "$target"
find crates -name 'servable-rust.cdx.json' -delete
trap 'find crates -name servable-rust.cdx.json -delete' EXIT
cargo cyclonedx --manifest-path crates/engine/Cargo.toml --format json --spec-version 1.5 --override-filename servable-rust.cdx
mv crates/engine/servable-rust.cdx.json "$target/"
"$programs/cyclonedx-py" environment --pyproject pyproject.toml --output-reproducible --of JSON \
    --output-file "$target/servable-python.cdx.json" "$programs/python"
ls -l "$target"/*.cdx.json
