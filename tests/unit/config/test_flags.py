from __future__ import annotations

import pytest
from servable.config.flags import help_text, misdashed, parse
from servable.config.options import OPTIONS, Support, Value
from servable.errors import FlagError


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ([], {}),
        (["--port=1"], {"port": 1}),
        (["--port", "1"], {"port": 1}),
        (["--port= +7 "], {"port": 7}),
        (["--port=1", "--port=2"], {"port": 2}),
        (["--rest-api-port=1", "--rest_api-port=2"], {"rest_api_port": 2}),
        (["--model_name=a=b"], {"model_name": "a=b"}),
        (["--model_name="], {"model_name": ""}),
        (["--model_name", "-x"], {"model_name": "-x"}),
        (["--load_retry_interval_micros", "-1"], {"load_retry_interval_micros": -1}),
        (["--load_retry_interval_micros=9223372036854775807"], {"load_retry_interval_micros": 2**63 - 1}),
        (["--per_process_gpu_memory_fraction=.5"], {"per_process_gpu_memory_fraction": 0.5}),
        (["--per_process_gpu_memory_fraction=5e-1"], {"per_process_gpu_memory_fraction": 0.5}),
        (["--version"], {"version": True}),
        (["--version=TRUE"], {"version": True}),
        (["--version=0"], {"version": False}),
        (["--version", "False"], {"version": False}),
        (["--version", "--port", "1"], {"version": True, "port": 1}),
        (["--custom_op_library=a", "--custom_op_library", "b"], {"custom_op_library": ("a", "b")}),
    ],
)
def test_flags_become_values(arguments: list[str], values: dict[str, Value]) -> None:
    assert parse(arguments) == values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port=x"], "Couldn't interpret value x for flag port. It takes a whole number of 32 bits."),
        (["--port="], "Couldn't interpret value  for flag port."),
        (["--port=1_0"], "Couldn't interpret value 1_0 for flag port."),
        (["--rest_api_timeout_in_ms=2147483648"], "Couldn't interpret value 2147483648 for flag"),
        (["--per_process_gpu_memory_fraction=nan"], "Couldn't interpret value nan for flag"),
        (["--version=yes"], "Couldn't interpret value yes for flag version. It takes true, false, 1 or 0."),
        (["--version="], "Couldn't interpret value  for flag version."),
        (["--port=65536"], "Value 65536 for flag port is out of range. It takes 0 to 65535."),
        (["--per_process_gpu_memory_fraction=1.5"], "It takes 0 to 1."),
        (["--num_load_threads=-1"], "It takes 0 or more."),
        (["--port"], "Flag --port needs a value"),
        (["--port", "--version"], "Flag --port needs a value"),
        (["--prot=1"], "unknown argument: --prot=1. Did you mean --port?"),
        (["--noversion"], "To switch it off: --version=false"),
        (["--no-version"], "To switch it off: --version=false"),
        (["--Port=1"], "unknown argument: --Port=1"),
        (["--qqqqqqqq"], "--help lists the flags."),
        (["-prot=1"], "Flags begin with two dashes: --prot=1"),
        (["--version", "yes"], "unexpected argument: yes"),
        (["8500"], "unexpected argument: 8500"),
        (["--"], "unexpected argument: --"),
    ],
)
def test_what_cannot_be_understood_is_an_error(arguments: list[str], message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(arguments)
    assert message in caught.value.message


@pytest.mark.parametrize(
    "argument",
    ["--enable_batching=false", "--ssl_config_file=", "--enable_profiler=false", "--flush_filesystem_caches=0"],
)
def test_a_flag_that_asks_for_what_is_the_case_is_accepted(argument: str) -> None:
    parse([argument])


def test_every_option_is_declared_once() -> None:
    names = [option.name for option in OPTIONS]
    assert len(names) == len(set(names))


def test_the_help_names_every_flag() -> None:
    text = help_text("server")
    for option in OPTIONS:
        assert f"--{option.name}" in text
        assert option.support is not Support.FULL or option.sentence.split()[0] in text


def test_a_flag_with_one_dash_is_told_of_and_left_out() -> None:
    arguments = ["-enable_batching", "--port=1", "-port=2", "-odd"]
    assert misdashed(arguments) == ["-enable_batching", "-port=2"]
    assert parse(arguments[:-1]) == {"port": 1}
