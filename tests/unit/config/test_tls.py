from __future__ import annotations

import pytest
from servable.config.flags import FlagValues
from servable.config.server_config import config_from
from servable.errors import InvalidArgumentError, UnimplementedError

BASE: FlagValues = {"model_base_path": "/m"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tls_certificate_file": "c"}, "needs both"),
        ({"tls_key_file": "k"}, "needs both"),
        ({"tls_client_ca_file": "a"}, "needs both"),
        ({"ssl_config_file": "s", "tls_certificate_file": "c"}, "have to be empty"),
        (
            {"ssl_config_file": "s", "use_alts_credentials": True},
            "Either use_alts_credentials must be false or ssl_config_file must be empty.",
        ),
        ({"grpc_socket_mode": "9"}, "octal"),
    ],
)
def test_flags_that_contradict_one_another_are_refused(flags: FlagValues, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        config_from({**BASE, **flags})


def test_alts_is_refused() -> None:
    with pytest.raises(UnimplementedError, match="ALTS is not supported"):
        config_from({**BASE, "use_alts_credentials": True})


def test_the_mode_of_the_socket_is_octal() -> None:
    assert config_from({**BASE, "grpc_socket_mode": "0660"}).server.grpc_socket_mode == 0o660
