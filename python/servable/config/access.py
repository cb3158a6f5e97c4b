"""Who may do what: `servable.AccessConfig`. Keys of tokens are read from their files, and not looked at."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from servable.config.codec import Codec
from servable.config.tls import read_pem
from servable.errors import InvalidArgumentError, MalformedFileError
from servable.types import AccessSpec, RuleSpec, TokenSpec

__all__ = ["read_access"]

MESSAGE = "servable.AccessConfig"
SERVER_WIDE = ("RELOAD", "PROFILE", "ADMIN")
"""Rights that are about no model in particular."""
SPECIAL = ("*", "anonymous")
KEYS = {"public_key_file": "public_key", "jwks_file": "jwks", "secret_file": "secret"}


def read_access(path: str, codec: Codec) -> AccessSpec:
    """What a file says. `ServableError` if it, or a file that it names, cannot be read or is not right."""
    try:
        text = read_pem(path).content.decode()
        config = json.loads(codec.decode_message(MESSAGE, codec.encode_text(MESSAGE, text)))
    except ValueError as error:
        raise MalformedFileError(path, MESSAGE, str(error)) from error
    try:
        return _access(config, os.path.dirname(os.path.abspath(path)))
    except _RuleError as wrong:
        raise InvalidArgumentError(f"{path}: {wrong}") from None


class _RuleError(Exception):
    pass


def _access(config: Mapping[str, Any], folder: str) -> AccessSpec:
    api_keys = [(_hash(entry), _caller(entry, "api_key")) for entry in config.get("api_key", ())]
    certificates = [(_certificate(entry), _caller(entry, "certificate")) for entry in config.get("certificate", ())]
    for what, entries in (("sha256", api_keys), ("certificate name", certificates)):
        names = [name for name, _ in entries]
        for name in {name for name in names if names.count(name) > 1}:
            raise _RuleError(f"the {what} {name} is there twice")
    tokens = [_token(entry, folder) for entry in config.get("jwt", ())]
    known = None if tokens else {caller for _, caller in (*api_keys, *certificates)}
    rules = [_rule(entry, known) for entry in config.get("rule", ())]
    return AccessSpec(tuple(api_keys), tuple(certificates), tuple(tokens), tuple(rules))


def _caller(entry: Mapping[str, Any], kind: str) -> str:
    caller = str(entry.get("caller", ""))
    if not caller or caller in SPECIAL:
        raise _RuleError(f"{kind} needs a caller, which may not be * or anonymous")
    return caller


def _hash(entry: Mapping[str, Any]) -> str:
    text = str(entry.get("sha256", "")).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise _RuleError(f"sha256 of the api_key of {entry.get('caller', '')!r} has to be 64 hex digits")
    return text


def _certificate(entry: Mapping[str, Any]) -> str:
    for field, prefix in (("common_name", "CN="), ("dns_name", "DNS=")):
        if entry.get(field):
            return prefix + str(entry[field])
    raise _RuleError(f"certificate of {entry.get('caller', '')!r} needs a common_name or a dns_name")


def _token(entry: Mapping[str, Any], folder: str) -> TokenSpec:
    algorithm = entry.get("algorithm", "")
    if not algorithm or algorithm == "ALGORITHM_UNSPECIFIED":
        raise _RuleError("jwt needs an algorithm")
    files = [field for field in KEYS if entry.get(field)]
    if not files:
        raise _RuleError(f"jwt needs one of {', '.join(KEYS)}")
    for field in ("issuer", "audience"):
        if not entry.get(field):
            raise _RuleError(f"jwt needs an {field}")
    leeway = entry.get("leeway_seconds", 0)
    if leeway < 0:
        raise _RuleError("leeway_seconds has to be 0 or more")
    return TokenSpec(
        algorithm=algorithm,
        key_kind=KEYS[files[0]],
        key=read_pem(os.path.join(folder, entry[files[0]])),
        issuer=entry["issuer"],
        audience=entry["audience"],
        caller_claim=entry.get("caller_claim") or "sub",
        caller_prefix=entry.get("caller_prefix", ""),
        leeway_s=float(leeway or 60),
    )


def _rule(entry: Mapping[str, Any], known: set[str] | None) -> RuleSpec:
    callers: Sequence[str] = entry.get("caller", ())
    rights: Sequence[str] = entry.get("may", ())
    models: Sequence[str] = entry.get("model", ())
    if not callers or not rights or not models or "RIGHT_UNSPECIFIED" in rights:
        raise _RuleError("a rule needs caller, may and model")
    for caller in callers:
        if known is not None and caller not in SPECIAL and caller not in known:
            raise _RuleError(f"a rule names the caller {caller!r}, whom no key and no certificate makes known")
    for model in models:
        if "*" in model[:-1]:
            raise _RuleError(f"model {model!r} of a rule: a * may only be the last character")
    for right in rights:
        if right in SERVER_WIDE and "*" not in models:
            raise _RuleError(f'the right {right} is about all models: its rule needs model: "*"')
    return RuleSpec(tuple(callers), tuple(rights), tuple(models))
