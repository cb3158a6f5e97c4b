"""What a command shows of who it is, and by what it knows the server."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from servable.errors import InvalidArgumentError

if TYPE_CHECKING:
    import ssl

    import grpc

__all__ = ["Credentials"]


@dataclass(frozen=True)
class Credentials:
    """Names of files. With `ca_file`, connections are made over TLS, to servers whose certificates it has signed."""

    api_key_file: str | None = None
    """A key or a token."""
    ca_file: str | None = None
    certificate_file: str | None = None
    """For mutual TLS: a certificate, and what is between it and its root."""
    key_file: str | None = None
    """The key of the certificate, if that is in a file of its own."""

    def __post_init__(self) -> None:
        if self.key_file and not self.certificate_file:
            raise InvalidArgumentError("--key_file needs --certificate_file")
        if self.certificate_file and not self.ca_file:
            raise InvalidArgumentError("--certificate_file needs --ca_file: a certificate is shown over TLS")

    @classmethod
    def of(cls, options: argparse.Namespace) -> Credentials:
        """Those that arguments of `Parser.add_credentials` name."""
        return cls(options.api_key_file, options.ca_file, options.certificate_file, options.key_file)

    @property
    def headers(self) -> Mapping[str, str]:
        if not self.api_key_file:
            return {}
        try:
            secret = _content("api_key_file", self.api_key_file).decode("ascii").strip()
        except ValueError as error:
            raise InvalidArgumentError(f"--api_key_file={self.api_key_file}: it cannot be read: {error}") from error
        return {"authorization": f"Bearer {secret}"}

    def tls(self) -> ssl.SSLContext | None:
        """For HTTP; `None` without TLS."""
        if not self.ca_file:
            return None
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise InvalidArgumentError(f"--ca_file={self.ca_file}: no certificates can be read: {error}") from error
        if self.certificate_file:
            try:
                context.load_cert_chain(self.certificate_file, self.key_file, password=lambda: "")  # nobody is asked
            except OSError as error:
                files = f"--certificate_file={self.certificate_file}, --key_file={self.key_file or ''}"
                raise InvalidArgumentError(f"{files}: no certificate with its key can be read: {error}") from error
        return context

    def grpc(self) -> grpc.ChannelCredentials | None:
        """For gRPC; `None` without TLS."""
        if not self.ca_file:
            return None
        import grpc

        self.tls()  # which says what is wrong with the files; gRPC does not
        authorities = _content("ca_file", self.ca_file)
        if not self.certificate_file:
            return grpc.ssl_channel_credentials(authorities)
        certificate = _content("certificate_file", self.certificate_file)
        key = _content("key_file", self.key_file) if self.key_file else certificate
        return grpc.ssl_channel_credentials(authorities, key, certificate)


def _content(flag: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InvalidArgumentError(f"--{flag}={path}: it cannot be read: {error}") from error
