"""What connections are secured with: `tensorflow.serving.SSLConfig`, or PEM files. Nothing is looked at inside PEM."""

from __future__ import annotations

import json
from dataclasses import dataclass

from servable.config.codec import Codec
from servable.errors import InvalidArgumentError, MalformedFileError, reading
from servable.types import Pem, TlsSpec, TlsSpecs

__all__ = ["TlsOptions", "read_pem", "read_tls"]

MESSAGE = "tensorflow.serving.SSLConfig"


@dataclass(frozen=True)
class TlsOptions:
    """The files that the flags name; `ssl_config_file` or the others, never both."""

    ssl_config_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    client_ca_file: str | None = None

    def __post_init__(self) -> None:
        own = (self.certificate_file, self.key_file, self.client_ca_file)
        if self.ssl_config_file and any(own):
            raise InvalidArgumentError("Either ssl_config_file or the flags that begin with tls_ have to be empty.")
        if any(own) and not (self.certificate_file and self.key_file):
            raise InvalidArgumentError("TLS needs both --tls_certificate_file and --tls_key_file.")

    @property
    def is_on(self) -> bool:
        return bool(self.ssl_config_file or self.certificate_file)


def read_tls(options: TlsOptions, codec: Codec, default_roots: str | None = None) -> TlsSpecs:
    """What the files say. `ServableError` if one cannot be read, or is no text of its message.

    `default_roots` is a file with the authorities that this machine trusts, for an `SSLConfig` that names none.
    """
    if options.ssl_config_file:
        spec = _from_ssl_config(options.ssl_config_file, codec, default_roots)
        return TlsSpecs(grpc=spec, grpc_socket=spec)
    if options.certificate_file and options.key_file:
        client_ca = read_pem(options.client_ca_file) if options.client_ca_file else None
        spec = TlsSpec(read_pem(options.certificate_file), read_pem(options.key_file), client_ca)
        return TlsSpecs(grpc=spec, rest=spec, admin=spec)
    return TlsSpecs()


def read_pem(path: str) -> Pem:
    try:
        with open(path, "rb") as file:
            return Pem(path, file.read())
    except OSError as error:
        raise reading(path, error) from error


def _from_ssl_config(path: str, codec: Codec, default_roots: str | None) -> TlsSpec:
    try:
        text = read_pem(path).content.decode()
        config = json.loads(codec.decode_message(MESSAGE, codec.encode_text(MESSAGE, text)))
    except ValueError as error:
        raise MalformedFileError(path, MESSAGE, str(error)) from error

    def part(name: str) -> Pem:
        return Pem(f"{name} in {path}", config.get(name, "").encode())

    client_ca = None
    if config.get("client_verify", False):
        if config.get("custom_ca"):
            client_ca = part("custom_ca")
        elif default_roots:
            client_ca = read_pem(default_roots)
        else:
            raise InvalidArgumentError(
                f"{path}: client_verify needs custom_ca: this machine has no authorities of its own"
            )
    return TlsSpec(part("server_cert"), part("server_key"), client_ca)
