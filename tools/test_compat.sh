#!/usr/bin/env bash
# End-to-end and contract tests with the oldest and the newest TensorFlow that we support, each in an environment of its
# own under .compat/, with the wheel that people would install. Arguments go to pytest.
#
# PYTHON: an interpreter that the oldest TensorFlow has wheels for, 3.10 to 3.12 (default: python3).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1

mkdir -p .compat
exec 9>.compat/lock
flock 9 # a second run waits for the first

"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || {
    echo "$python is no Python 3.10 to 3.12, which TensorFlow 2.16 needs; set PYTHON" >&2
    exit 2
}

make --no-print-directory wheel
wheel=$(find dist -name 'servable-*.whl' -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2-)

# prepare NAME SERVING_API REQUIREMENT...: makes .compat/NAME, anew if what it shall hold has changed.
prepare() {
    local folder=.compat/$1 api=$2
    shift 2
    local wanted
    wanted="$("$python" --version) $api $* pytest pytest-timeout grpcio"
    if [ "$(cat "$folder/holds" 2>/dev/null)" != "$wanted" ]; then
        rm -rf "$folder"
        "$python" -m venv "$folder"
        "$folder/bin/pip" install --quiet "$@" pytest pytest-timeout grpcio
        "$folder/bin/pip" install --quiet --no-deps "$api" # it would bring the large tensorflow along
        echo "$wanted" >"$folder/holds"
    fi
    "$folder/bin/pip" install --quiet --no-deps --force-reinstall "$wheel"
}

# results NAME PYTEST_ARGUMENT...
results() {
    local folder=.compat/$1 status=0
    shift
    printf '\n== %s\n' "$folder"
    "$folder/bin/python" --version
    "$folder/bin/servable" --version
    "$folder/bin/pip" list 2>/dev/null | grep -iE '^(numpy|protobuf|grpcio|tensorflow[-_]serving[-_]api) '
    "$folder/bin/python" -m pytest -p no:cacheprovider tests/e2e tests/contract "$@" || status=$?
    summary+=("$folder: $("$folder/bin/servable" --version | tail -1), pytest ended with $status")
    [ "$status" -eq 0 ] || failed=1
}

prepare 2.16 'tensorflow-serving-api==2.16.1' 'tensorflow-cpu==2.16.2' 'numpy<2' 'protobuf<5'
prepare newest tensorflow-serving-api tensorflow-cpu

summary=()
failed=0
results 2.16 "$@"
results newest "$@"

printf '\n'
printf '%s\n' "${summary[@]}"
exit "$failed"
