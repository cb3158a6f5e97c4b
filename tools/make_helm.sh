#!/usr/bin/env bash
# Builds helm from its Go module, for the tests of the chart, unless it is there. Where it cannot be built, that is said
# and the tests are skipped: nothing that is served needs helm.
#   tools/make_helm.sh VERSION TARGET
set -euo pipefail
version=$1 target=$2 seconds=${HELM_SECONDS:-600}

if [ -x "$target" ]; then exit; fi
if ! command -v go >/dev/null; then
    echo "helm SKIPPED, and with it the tests of the chart: Go is not installed"
    exit
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if GOBIN=$folder timeout "$seconds" nice go install "helm.sh/helm/v3/cmd/helm@$version" >"$folder/log" 2>&1; then
    mkdir -p "$(dirname "$target")"
    mv "$folder/helm" "$target"
else
    tail -n 3 "$folder/log"
    echo "helm SKIPPED, and with it the tests of the chart: it could not be built within $seconds s"
fi
