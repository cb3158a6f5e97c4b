#!/usr/bin/env bash
# Checks that every crate in the dependency tree has a licence that deny.toml allows. For machines without cargo-deny.
set -euo pipefail
cd "$(dirname "$0")/.."

metadata=$(mktemp)
trap 'rm -f "$metadata"' EXIT
cargo metadata --format-version 1 --locked >"$metadata"

python=.venv/bin/python
[ -x "$python" ] || python=python3
"$python" - "$metadata" deny.toml <<'PYTHON'
import json
import re
import sys

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib


def is_allowed(expression, allowed):
    """Whether an SPDX expression can be met with allowed licences. `/` is how old crates write OR."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    tokens.reverse()

    def either():
        met = both()
        while tokens and tokens[-1] == "OR":
            tokens.pop()
            met = both() or met
        return met

    def both():
        met = one()
        while tokens and tokens[-1] == "AND":
            tokens.pop()
            met = one() and met
        return met

    def one():
        token = tokens.pop()
        if token == "(":
            met = either()
            if tokens.pop() != ")":
                raise ValueError(expression)
            return met
        if tokens and tokens[-1] == "WITH":
            tokens.pop()
            token = f"{token} WITH {tokens.pop()}"
        return token in allowed

    met = either()
    if tokens:
        raise ValueError(expression)
    return met


with open(sys.argv[1]) as file:
    packages = json.load(file)["packages"]
with open(sys.argv[2], "rb") as file:
    allowed = set(tomllib.load(file)["licenses"]["allow"])

refused = []
for package in packages:
    licence = package["license"]
    try:
        met = licence is not None and is_allowed(licence, allowed)
    except (IndexError, ValueError):
        met = False
    if not met:
        refused.append(f"{package['name']} {package['version']}: {licence or 'names no licence'}")
for line in refused:
    print(line, file=sys.stderr)
if refused:
    sys.exit(f"{len(refused)} of {len(packages)} crates have a licence that deny.toml does not allow")
print(f"licences ok: {len(packages)} crates")
PYTHON
