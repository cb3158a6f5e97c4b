"""Write the kept corpus: small valid messages, and the attacks that decoders of protobuf, JSON and URLs have to expect.

Run it in the environment of the checkout: `.venv/bin/python fuzz/make_corpus.py`. The files of `corpus/` that it names
are written anew; others are left alone.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from google.protobuf.message import Message
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.session_service_pb2 import SessionRunRequest

CORPUS = Path(__file__).parent / "corpus"

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)

# Numbers of fields, for messages that no library would write.
DTYPE, SHAPE, CONTENT = 1, 2, 4
FLOAT_VAL, INT_VAL, STRING_VAL, INT64_VAL, BOOL_VAL, FLOAT8_VAL = 5, 7, 8, 10, 11, 18
INPUTS, OUTPUT_FILTER = 2, 3

Inputs = Iterator[tuple[str, bytes]]


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def key(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def whole(number: int, value: int) -> bytes:
    """A varint field."""
    return key(number, VARINT) + varint(value)


def part(number: int, value: bytes) -> bytes:
    """A field with a length: bytes, text or a message."""
    return key(number, BYTES) + varint(len(value)) + value


def shape(*sizes: int) -> bytes:
    return part(SHAPE, b"".join(part(2, whole(1, size)) for size in sizes))


def plain(message: Message) -> bytes:
    text: bytes = message.SerializeToString(deterministic=True)
    return text


# Names of the types whose values numpy has, and one value more than a byte is long.
DTYPES = [
    *("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"),
    *("complex64", "complex128", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn", "int4", "uint4"),
]


def values(dtype: str) -> np.ndarray:
    return np.array([[0, 1, 2], [3, 1, 1]]).astype(tf.as_dtype(dtype).as_numpy_dtype)


def typed(dtype: str) -> TensorProto:
    """The values in their own field."""
    proto = tf.make_tensor_proto(values(dtype))
    if proto.tensor_content:
        flat = [tf.make_tensor_proto(value) for value in values(dtype).flatten()]
        proto.ClearField("tensor_content")
        for one in flat:
            one.ClearField("tensor_shape")
            proto.MergeFrom(one)
    return proto


def in_content(dtype: str) -> TensorProto:
    proto = tf.make_tensor_proto(values(dtype))
    return TensorProto(dtype=proto.dtype, tensor_shape=proto.tensor_shape, tensor_content=values(dtype).tobytes())


def tensors() -> Inputs:
    for dtype in DTYPES:
        yield f"typed_{dtype}", plain(typed(dtype))
        yield f"content_{dtype}", plain(in_content(dtype))
    yield "empty", b""
    yield "scalar", plain(tf.make_tensor_proto(2.5))
    yield "no_elements", plain(tf.make_tensor_proto(np.zeros((3, 0, 2), np.float32)))
    yield "typed_string", plain(tf.make_tensor_proto([b"a", b"", b"\xff\0\xf0"]))
    yield "content_string", whole(DTYPE, 7) + shape(3) + part(CONTENT, b"\x01\x00\x03a\xff\0\xf0")
    for name, number in [("qint8", 11), ("quint8", 12), ("qint32", 13), ("qint16", 15), ("quint16", 16)]:
        yield f"typed_{name}", whole(DTYPE, number) + shape(2) + part(INT_VAL, varint(1) + varint(-2))
    yield "nan_and_infinity", plain(tf.make_tensor_proto(np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)))
    unpacked = b"".join(key(FLOAT_VAL, FIXED32) + np.float32(number).tobytes() for number in range(3))
    yield "floats_one_by_one", whole(DTYPE, 1) + shape(3) + unpacked
    yield (
        "integers_in_packs_and_one_by_one",
        whole(DTYPE, 9)
        + shape(4)
        + whole(INT64_VAL, -1)
        + part(INT64_VAL, varint(5) + varint(-(1 << 63)))
        + whole(INT64_VAL, 7),
    )
    yield "fields_of_other_types_too", plain(TensorProto(dtype=1, float_val=[1], int_val=[2], string_val=[b"x"]))
    yield "last_value_repeats", whole(DTYPE, 1) + shape(2, 3) + part(FLOAT_VAL, np.array([1, 2], np.float32).tobytes())
    yield "more_values_than_elements", whole(DTYPE, 3) + shape(1) + part(INT_VAL, bytes(range(9)))
    yield "odd_half_of_a_complex", whole(DTYPE, 8) + shape(2) + part(9, np.array([1, 2, 3], np.float32).tobytes())
    yield "truth_beyond_one", whole(DTYPE, 10) + shape(3) + part(BOOL_VAL, varint(2) + varint(256) + varint(-1))
    yield "truth_beyond_one_in_content", whole(DTYPE, 10) + shape(2) + part(CONTENT, b"\1\2")
    yield "bytes_of_float8_twice", whole(DTYPE, 24) + shape(2) + part(FLOAT8_VAL, b"\1\2") + part(FLOAT8_VAL, b"\3")
    yield "shape_in_two_parts", whole(DTYPE, 6) + shape(2) + shape(3) + part(CONTENT, bytes(6))
    yield "content_twice", whole(DTYPE, 4) + shape(2) + part(CONTENT, b"\1\2") + part(CONTENT, b"\3\4")
    yield "content_and_then_none", whole(DTYPE, 4) + shape(2) + part(CONTENT, b"\1\2") + part(CONTENT, b"")

    # Sizes that lie.
    for name, sizes in {
        "negative_dimension": [-1],
        "lowest_dimension": [-(1 << 63)],
        "dimensions_overflow": [1 << 32, 1 << 31],
        "dimensions_overflow_to_zero": [1 << 32, 1 << 32],
        "dimensions_overflow_beside_zero": [0, 1 << 62, 4],
        "extent_without_elements": [0, 1 << 40],
        "rank_254": [1] * 254,
        "rank_255": [1] * 255,
        "rank_1000": [1] * 1000,
        "elements_beyond_all": [1 << 62],
        "elements_at_the_limit": [1024],
        "elements_beyond_the_limit": [1025],
    }.items():
        yield name, whole(DTYPE, 4) + shape(*sizes)
    for name, length in [("content_too_short", 23), ("content_too_long", 25), ("content_of_one_byte", 1)]:
        yield name, whole(DTYPE, 1) + shape(2, 3) + part(CONTENT, bytes(length))
    yield "repeated_double_bomb", whole(DTYPE, 2) + shape(1000) + part(6, np.float64(1.5).tobytes())
    yield "repeated_string_bomb", whole(DTYPE, 7) + shape(1000) + part(STRING_VAL, b"boom" * 100)
    yield "repeated_string_within_limits", whole(DTYPE, 7) + shape(100) + part(STRING_VAL, b"boom")
    yield "repeated_zeros_bomb", whole(DTYPE, 18) + shape(1024)
    yield "values_of_two_bytes", whole(DTYPE, 3) + shape(1024) + whole(INT_VAL, 0) * 3000
    yield "strings_of_two_bytes", whole(DTYPE, 7) + shape(1024) + part(STRING_VAL, b"") * 1024
    yield "string_content_too_many", whole(DTYPE, 7) + shape(1000) + part(CONTENT, b"\0" * 999)
    yield "string_content_overflow", whole(DTYPE, 7) + shape(2) + part(CONTENT, varint(-1) + varint(2) + b"x")
    yield "string_content_too_long", whole(DTYPE, 7) + shape(1) + part(CONTENT, b"\1ab")

    # Types that are none, or are not for the wire.
    for number in (0, 20, 21, 26, 31, 77, 101, -1, 1 << 31, 1 << 40):
        yield f"type_{number}".replace("-", "minus_"), whole(DTYPE, number) + shape(1) + part(CONTENT, bytes(4))

    for name, broken in malformed():
        yield name, whole(DTYPE, 3) + broken
    yield "value_of_another_wire_type", whole(DTYPE, 1) + shape(1) + whole(FLOAT_VAL, 3)
    yield "packed_floats_cut", whole(DTYPE, 1) + shape(2) + part(FLOAT_VAL, bytes(7))
    yield "packed_integers_cut", whole(DTYPE, 3) + shape(2) + part(INT_VAL, b"\1\xff")
    yield "field_zero", b"\0\0"
    yield "largest_field", key((1 << 29) - 1, VARINT) + b"\1"


def malformed() -> Inputs:
    """Ends of messages of any kind."""
    yield "varint_of_10_bytes", b"\x38" + b"\xff" * 9 + b"\1"
    yield "varint_of_10_bytes_overflow", b"\x38" + b"\xff" * 9 + b"\2"
    yield "varint_of_11_bytes", b"\x38" + b"\xff" * 10 + b"\1"
    yield "varint_without_end", b"\x38\xff\xff"
    yield "overlong_zero", b"\x38\x80\x80\x80\0"
    yield "length_beyond_the_end", b"\x22\x7f12"
    yield "length_of_2_to_63", key(CONTENT, BYTES) + varint(1 << 63)
    yield "length_of_2_to_64", key(CONTENT, BYTES) + varint(-1)
    yield "length_without_value", b"\x22"
    yield "groups_20_deep", (key(30, GROUP) * 20) + (key(30, END_GROUP) * 20)
    yield "groups_99_deep", (key(30, GROUP) * 99) + (key(30, END_GROUP) * 99)
    yield "groups_500_deep", (key(30, GROUP) * 500) + (key(30, END_GROUP) * 500)
    yield "group_that_never_ends", key(30, GROUP) + whole(1, 1)
    yield "group_with_another_end", key(30, GROUP) + key(31, END_GROUP)
    yield "end_without_group", key(30, END_GROUP)
    yield "wire_type_6", b"\x3e\0"
    yield "wire_type_7", b"\x3f\0"


def predict_requests() -> Inputs:
    request = PredictRequest(output_filter=["y", "z"])
    request.model_spec.name = "half_plus_two"
    request.model_spec.version.value = 7
    request.model_spec.signature_name = "serving_default"
    request.inputs["x"].CopyFrom(typed("float32"))
    yield "usual", plain(request)
    request.inputs["a"].CopyFrom(in_content("int64"))
    request.inputs["t"].CopyFrom(tf.make_tensor_proto([b"hello", b""]))
    request.model_spec.version_label = "stable"
    yield "three_inputs_and_a_label", plain(request)
    yield "empty", b""

    def entry(name: bytes, tensor: bytes) -> bytes:
        return part(INPUTS, part(1, name) + part(2, tensor))

    one, two = plain(typed("float32")), plain(typed("int32"))
    yield "name_twice", entry(b"x", one) + entry(b"x", two)
    yield "value_before_name", part(INPUTS, part(2, one) + part(1, b"x"))
    yield "tensor_in_two_parts", part(INPUTS, part(1, b"x") + part(2, one[:2]) + part(2, one[2:]))
    scalar = whole(DTYPE, 3) + part(INT_VAL, b"\1")
    yield "tensor_in_17_parts", part(INPUTS, part(1, b"x") + part(2, scalar) * 17)
    yield "entry_without_name", part(INPUTS, part(2, one))
    yield "entry_without_value", part(INPUTS, part(1, b"x"))
    yield "spec_in_two_parts", part(1, part(1, b"m")) + part(1, part(3, b"s"))
    yield "version_and_label", part(1, part(2, whole(1, 3)) + part(4, b"l"))
    yield "label_and_version", part(1, part(4, b"l") + part(2, whole(1, 3)))
    yield "version_in_two_parts", part(1, part(2, whole(1, 3)) + part(2, b""))
    yield "version_zero", part(1, part(2, b""))
    yield "name_of_broken_text", entry(b"\xff\xfe", one)
    yield "name_of_a_surrogate", entry(b"\xed\xa0\x80", one)
    yield "name_with_a_nul", entry(b"x\0y", one)
    yield "model_of_broken_text", part(1, part(1, b"\xc3"))
    yield "filter_of_broken_text", part(OUTPUT_FILTER, b"\xff")
    yield "long_name", part(1, part(1, b"n" * 2000)) + entry(b"x" * 2000, one)
    yield "names_at_the_limit", (part(INPUTS, b"") + part(OUTPUT_FILTER, b"")) * 2048
    yield "names_beyond_the_limit", part(OUTPUT_FILTER, b"") * 4097
    many = b"".join(entry(str(number).encode(), scalar) for number in range(300))
    yield "three_hundred_inputs", many
    yield (
        "bombs_in_each_of_many_inputs",
        b"".join(entry(bytes([97 + number]), whole(DTYPE, 2) + shape(512)) for number in range(26)),
    )
    yield "options_that_are_stepped_over", plain(request) + part(5, whole(1, 1)) + part(6, b"me") + part(7, whole(4, 9))
    for name, broken in malformed():
        yield name, plain(request) + broken
        yield f"{name}_in_an_entry", part(INPUTS, part(1, b"x") + part(2, broken))


def example(**features: list[bytes] | list[float] | list[int]) -> Example:
    message = Example()
    for name, items in features.items():
        feature = message.features.feature[name]
        if all(isinstance(item, bytes) for item in items):
            feature.bytes_list.value.extend(items)
        elif all(isinstance(item, int) for item in items):
            feature.int64_list.value.extend(items)
        else:
            feature.float_list.value.extend(items)
    return message


def example_requests() -> Inputs:
    first = example(age=[80, -1], score=[0.5, float("nan")], text=[b"hi", b"\xff\0"])
    second = example(age=[7], none=[])
    request = ClassificationRequest()
    request.model_spec.name = "census"
    request.input.example_list.examples.extend([first, second])
    yield "usual", plain(request)
    request.input.example_list_with_context.examples.extend([first, second])
    request.input.example_list_with_context.context.CopyFrom(example(country=[b"at"], age=[1]))
    request.model_spec.version_label = "canary"
    yield "with_context", plain(request)
    multi = MultiInferenceRequest()
    for method in ("classify", "regress"):
        task = multi.tasks.add()
        task.model_spec.name = "census"
        task.model_spec.signature_name = method
        task.method_name = f"tensorflow/serving/{method}"
    multi.input.example_list.examples.extend([first, second])
    yield "two_tasks", plain(multi)
    yield "empty", b""

    def request_of(kind: int, *lists: bytes) -> bytes:
        return part(2, b"".join(part(kind, one) for one in lists))

    one, two = part(1, plain(first)), part(1, plain(second))
    yield "list_twice", request_of(1, one, two)
    yield "list_and_then_one_with_context", part(2, part(1, one) + part(2, two))
    yield "input_in_two_parts", request_of(1, one) + request_of(1, two)
    yield "context_in_two_parts", request_of(2, part(2, plain(first)) + two + part(2, plain(second)))
    yield "contexts_of_two_bytes", request_of(2, part(2, b"") * 2000)
    yield "context_in_a_plain_list", request_of(1, one + part(2, plain(second)))
    yield "example_of_nothing", request_of(1, part(1, b""))
    yield "example_in_two_parts", request_of(1, part(1, plain(first) + plain(second)))
    floats = part(1, part(1, part(1, b"x") + part(2, part(2, key(1, FIXED32) + bytes(4)))))
    yield "floats_one_by_one", request_of(1, part(1, floats))
    integers = part(1, part(1, part(1, b"x") + part(2, part(3, whole(1, -1) + part(1, b"\1\2")))))
    yield "integers_in_packs_and_one_by_one", request_of(1, part(1, integers))
    kinds = part(1, part(1, part(1, b"x") + part(2, part(1, part(1, b"y")) + part(3, whole(1, 1)))))
    yield "feature_of_two_kinds", request_of(1, part(1, kinds))
    twice = part(1, part(1, part(1, b"x") + part(2, part(3, whole(1, 1))) + part(2, part(3, whole(1, 2)))))
    yield "feature_in_two_parts", request_of(1, part(1, twice))
    wrong = part(1, part(1, part(1, b"x") + part(2, part(2, part(1, bytes(3))))))
    yield "floats_cut", request_of(1, part(1, wrong))
    text = part(1, part(1, part(1, b"\xff") + part(2, b"")))
    yield "feature_name_of_broken_text", request_of(1, part(1, text))
    yield "examples_of_two_bytes", request_of(1, part(1, b"") * 1024)
    yield "examples_beyond_the_limit", request_of(1, part(1, b"") * 1025)
    unknown = part(30, b"c" * 1000)
    yield "context_bomb", request_of(2, part(1, b"") * 1000 + part(2, unknown))
    yield "context_within_the_limit", request_of(2, part(1, b"") * 4 + part(2, unknown))
    yield "tasks_at_the_limit", part(1, b"") * 4096
    yield "tasks_beyond_the_limit", part(1, b"") * 4097
    for name, broken in malformed():
        yield name, plain(request) + broken
        yield f"{name}_in_an_example", request_of(1, part(1, broken))
        yield f"{name}_in_a_feature", request_of(1, part(1, part(1, part(1, part(1, b"x") + part(2, broken)))))


def bodies() -> Inputs:
    """What is odd in any body."""
    yield "empty", b""
    yield "blank", b" \n\t\r"
    yield "empty_object", b"{}"
    yield "no_object", b"[1]"
    yield "null", b"null"
    yield "byte_order_mark", b'\xef\xbb\xbf{"inputs":1}'
    yield "nul_inside", b'{"inputs":\0 1}'
    yield "nul_after", b'{"inputs":1}\0}{'
    yield "text_after", b'{"inputs":1} {"inputs":2}'
    yield "name_without_quotes", b"{inputs:1}"
    yield "single_quotes", b"{'inputs':1}"
    yield "comma_at_the_end", b'{"inputs":[1,],}'
    yield "no_colon", b'{"inputs" 1}'
    yield "not_closed", b'{"inputs":[1,2'
    yield "comment", b'{"inputs":/* one */1}'
    yield "lists_5001_deep", b'{"inputs":' + b"[" * 5001
    yield "lists_255_deep", b'{"inputs":' + b"[" * 255 + b"]" * 255 + b"}"
    yield "lists_254_deep", b'{"inputs":' + b"[" * 254 + b"1" + b"]" * 254 + b"}"
    yield "lists_3000_deep", b'{"inputs":' + b"[" * 3000 + b"]" * 3000 + b"}"
    yield "objects_1000_deep", b'{"inputs":' + b'{"a":' * 1000 + b"1" + b"}" * 1001
    yield "rows_of_deep_lists", b'{"instances":[' + b",".join([b"[" * 300 + b"]" * 300] * 4) + b"]}"
    yield "deep_members_that_nobody_wants", b'{"other":' + b"[" * 2000 + b"]" * 2000 + b',"inputs":1}'
    for name, text in {
        "lone_high_surrogate": r"\ud83d",
        "lone_low_surrogate": r"\ude00",
        "surrogates_in_wrong_order": r"\ude00\ud83d",
        "high_surrogate_and_letter": r"\ud83d\u0041",
        "escaped_nul": r"a\u0000b",
        "unknown_escape": r"\x41",
        "escape_cut": r"\u00",
        "escape_of_no_digits": r"\u00g0",
        "backslash_at_the_end": "\\",
    }.items():
        yield f"string_with_{name}", f'{{"inputs":"{text}"}}'.encode()
        yield f"name_with_{name}", f'{{"{text}":1}}'.encode()
    for name, raw in {
        "broken_text": b"\xff\xfe",
        "overlong_text": b"\xc0\x80",
        "surrogate_bytes": b"\xed\xa0\x80",
        "control_characters": b"\x01\x1f",
        "raw_newline": b"\n",
    }.items():
        yield f"string_with_{name}", b'{"inputs":"' + raw + b'","signature_name":"' + raw + b'"}'
    for name, number in {
        "huge_exponent": b"1e999999999999999999999",
        "huge_negative_exponent": b"1e-999999999999999999999",
        "just_too_large": b"1.7976931348623159e308",
        "nearly_too_large": b"1.7976931348623158e308",
        "largest_double": b"-1.7976931348623157e+308",
        "smallest_double": b"5e-324",
        "400_digits": b"1" * 400,
        "308_digits": b"1" * 308,
        "400_digits_of_a_fraction": b"0." + b"0" * 399 + b"1",
        "zeros_with_a_huge_exponent": b"0e99999999999",
        "leading_zero": b"01",
        "leading_plus": b"+1",
        "no_digits": b"-",
        "no_fraction": b"1.",
        "no_exponent": b"1e",
        "word_cut": b"-Infin",
        "hexadecimal": b"0x10",
    }.items():
        yield f"number_{name}", b'{"inputs":[' + number + b"]}"
    yield "signature_name", b'{"signature_name":"serving_default","inputs":1}'
    yield "signature_name_of_no_text", b'{"signature_name":7,"inputs":1}'
    yield "long_string_in_an_error", b'{"inputs":{"x":"' + b"long" * 1500 + b'"}}'
    yield "broken_text_in_an_error", b'["' + b"\xff" * 6000 + b'"]'
    yield "long_name_in_an_error", b'{"instances":[{"' + b"\xff" * 9000 + b'":1}]}'


def json_predict() -> Inputs:
    yield from bodies()
    for name, body in {
        "row_of_floats": {"instances": [1.0, 2.5, -3]},
        "row_of_lists": {"instances": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]},
        "column_of_floats": {"inputs": [1.0, 0.1, 1e-7, 3.4028235677973366e38, 123456.7]},
        "column_scalar": {"inputs": 7},
        "column_named": {"inputs": {"x": [[1, 2], [3, 4]]}},
        "column_truths": {"inputs": [True, False]},
        "column_strings": {"inputs": ["a", "", "ä€😀", '\\"/\b\f\n\r\t']},
        "column_base64": {"inputs": [{"b64": base64.b64encode(b"\xff\0hello").decode()}, {"b64": ""}]},
        "scalar_base64": {"inputs": {"b64": "aGk="}},
        "row_base64": {"instances": [{"b64": "aGk="}, {"b64": "aGk"}]},
        "row_named": {"instances": [{"x": 1}, {"x": 2}]},
        "row_of_two": {"instances": [{"a": [1.5], "b": "p"}, {"b": {"b64": "cQ=="}, "a": [2.5]}]},
        "row_of_three": {"instances": [{"a": 1, "b": True, "c": 1.5}, {"a": 2, "b": False, "c": 2.5}]},
        "column_of_two": {"inputs": {"a": [1, 2], "b": ["x", "y"]}},
        "column_of_three": {"inputs": {"a": 1, "b": [], "c": [[1.5]]}},
        "no_rows": {"instances": []},
        "empty_lists": {"instances": [[], []]},
        "both_formats": {"instances": [1], "inputs": [1]},
        "edges_of_int8": {"inputs": [-128, 127, 0]},
        "beyond_int8": {"inputs": [-129]},
        "edges_of_uint8": {"inputs": [0, 255]},
        "edges_of_int32": {"inputs": [-(1 << 31), (1 << 31) - 1]},
        "edges_of_int64": {"inputs": [-(1 << 63), (1 << 63) - 1]},
        "edges_of_uint64": {"inputs": [(1 << 64) - 1]},
        "beyond_uint64": {"inputs": [1 << 64]},
        "ragged_rows": {"instances": [[1], [1, 2]]},
        "ragged_columns": {"inputs": [[1, 2], [3]]},
        "list_beside_scalar": {"inputs": [[1], 2]},
        "scalar_beside_list": {"inputs": [1, [2]]},
        "mixed_types": {"inputs": [1, "a", None, True]},
        "missing_input": {"inputs": {"a": 1}},
        "missing_input_in_a_row": {"instances": [{"a": 1, "b": "x"}, {"a": 1}]},
        "unknown_input": {"inputs": {"a": 1, "b": "x", "c": 2, "y": 3}},
        "unknown_input_in_a_row": {"instances": [{"a": 1, "b": "x", "z": 1}]},
        "object_beside_list": {"instances": [{"a": 1, "b": "x"}, [1]]},
        "list_beside_object": {"instances": [[1], {"a": 1}]},
        "object_for_a_number": {"inputs": {"a": {"z": 1}, "b": "x"}},
        "bad_base64": {"inputs": [{"b64": "a"}, {"b64": "===="}]},
        "base64_of_a_number": {"inputs": {"b64": 5}},
        "base64_with_blanks": {"inputs": {"b64": " a G\nk="}},
        "elements_beyond_the_limit": {"inputs": [1] * 1025},
        "strings_beyond_the_limit": {"instances": [""] * 1025},
    }.items():
        yield name, json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    yield "words", b'{"inputs":[NaN,Infinity,-Infinity,Inf,-Inf,-NaN]}'
    yield "zeros", b'{"inputs":[0,-0,0.0,-0.0,0e5,-0e-5,-0.00000000000000000000000001]}'
    yield "nearly_halfway", b'{"inputs":[9007199254740993,9007199254740993.0,0.50000002980232238769531251]}'
    yield (
        "many_digits",
        b'{"inputs":[0.1000000000000000055511151231257827,12345678901234567890,1.00000000000000000000]}',
    )
    yield "blanks", b' { "inputs" : [ [ 1 , 2 ] ,\n[ 3 , 4 ]\t] } '
    yield "escaped_names", rb'{"in\u0070uts":{"\u0061":[1],"b":["x"]}}'
    yield "members_twice", b'{"inputs":{"a":1,"a":2,"b":"x","b":3},"inputs":7}'
    yield "members_twice_in_a_row", b'{"instances":[{"a":1,"a":[2],"b":"x"}]}'
    yield "rows_of_little", b'{"instances":[' + b"{}," * 300 + b"{}]}"
    yield "lists_of_nothing", b'{"inputs":[' + b"[]," * 1500 + b"[]]}"
    yield "lists_of_nothing_and_a_misfit", b'{"inputs":[' + b"[]," * 1500 + b"1]}"


def json_examples() -> Inputs:
    for name, text in bodies():
        if len(text) < 1000:  # what is long is read by the same code as in predict requests
            yield name, text.replace(b'"inputs":', b'"examples":')
    yield "lists_3000_deep", b'{"examples":[{"x":' + b"[" * 3000 + b"]" * 3000 + b"}]}"
    yield "long_name_in_an_error", b'{"examples":[{"' + b"\xff" * 18000 + b'":null}]}'
    for name, body in {
        "usual": {
            "signature_name": "s",
            "examples": [{"age": 80, "score": [0.5, 1.5]}, {"name": "x", "raw": ["a", ""]}],
        },
        "with_context": {"context": {"country": "at", "n": [1, 2]}, "examples": [{"age": 80.0}, {}]},
        "base64": {"examples": [{"image": {"b64": "aGk="}, "images": [{"b64": "aGk"}, "plain"]}]},
        "truths": {"examples": [{"old": True, "flags": [True, False]}]},
        "no_values": {"examples": [{"none": []}]},
        "no_examples": {"examples": []},
        "example_of_a_number": {"examples": [1]},
        "examples_of_an_object": {"examples": {}},
        "null_context": {"context": None, "examples": [{}]},
        "mixed_kinds": {"examples": [{"x": [1, 2.5]}]},
        "list_in_a_list": {"examples": [{"x": [[1]]}]},
        "null_value": {"examples": [{"x": None}]},
        "object_value": {"examples": [{"x": {"y": 1}}]},
        "bad_base64": {"examples": [{"x": {"b64": "%"}}]},
        "edges_of_int64": {"examples": [{"x": [-(1 << 63), (1 << 63) - 1]}]},
        "beyond_int64": {"examples": [{"x": 1 << 63}]},
        "beyond_float": {"examples": [{"x": [1e39, -1e300, 1e-50]}]},
        "context_bomb": {"context": {"x": "c" * 500}, "examples": [{}] * 500},
        "examples_beyond_the_limit": {"examples": [{}] * 1025},
    }.items():
        yield name, json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    yield "words", b'{"examples":[{"x":[NaN,-Infinity,Inf]}]}'
    yield "feature_twice", b'{"examples":[{"x":1,"x":"a"}],"examples":1}'
    yield "escaped_names", rb'{"ex\u0061mples":[{"\ud83d\ude00\u0000":"\u00e9"}]}'
    yield "features_of_little", b'{"examples":[{' + b'"":[],' * 500 + b'"":[]}]}'


def targets() -> Inputs:
    for name, text in {
        "predict": "/v1/models/half_plus_two:predict",
        "classify_version": "/v1/models/m/versions/007:classify",
        "regress_label": "/v1/models/m/labels/stable:regress",
        "any_case": "/V1/Models/M/Versions/1:predict",
        "status": "/v1/models/m",
        "status_version": "/v1/models/m/versions/3",
        "metadata": "/v1/models/m/metadata",
        "metadata_version": "/v1/models/m/versions/3/metadata",
        "metadata_label": "/v1/models/m/labels/metadata/metadata",
        "no_model": "/v1/models",
        "version_of_no_model": "/v1/models/versions/3",
        "model_called_versions": "/v1/models/versions:predict",
        "model_called_labels": "/v1/models/labels/labels/labels",
        "encoded_slash": "/v1/models/a%2Fb:predict",
        "encoded_name": "/v1/models/%6D%2e%2E%00%ff:predict",
        "encoded_twice": "/v1/models/a%252Fb:predict",
        "encoded_broken_text": "/v1/models/%c3%28:predict",
        "encoded_overlong": "/v1/models/%c0%af..%c0%af:predict",
        "encoded_surrogate": "/v1/models/%ed%a0%80:predict",
        "encoded_label": "/v1/models/m/labels/a%3Ab%20c:predict",
        "encoded_colon": "/v1/models/m%3Apredict",
        "percent_cut": "/v1/models/m%2",
        "percent_of_no_digits": "/v1/models/%zz:predict",
        "percent_of_percent": "/v1/models/%%32%35:predict",
        "climbing": "/v1/models/../../../etc/passwd:predict",
        "climbing_encoded": "/v1/models/%2e%2e%2f%2e%2e%2fetc:predict",
        "double_slash": "//v1//models//m:predict",
        "query": "/v1/models/m?x=1&y=[2]",
        "fragment": "/v1/models/m#x:predict",
        "version_too_large": "/v1/models/m/versions/9223372036854775808",
        "largest_version": "/v1/models/m/versions/9223372036854775807/metadata",
        "version_of_2000_digits": "/v1/models/m/versions/" + "9" * 2000,
        "negative_version": "/v1/models/m/versions/-1",
        "colons": "/v1/models/a:b:c::predict",
        "slashes": "/v1/models/" + "/" * 300,
        "raw_letters": "/v1/models/mö€😀:predict",
        "absolute": "http://host/v1/models/m:predict",
        "nul": "/v1/models/m\0:predict",
        "newline": "/v1/models/m\r\nX: y:predict",
        "long_name": "/v1/models/" + "%41" * 2000 + ":predict",
        "empty": "",
    }.items():
        yield name, text.encode()
    yield "broken_text", b"/v1/models/\xff:predict"


def messages() -> Inputs:
    metadata = GetModelMetadataRequest(metadata_field=["signature_def", "other"])
    metadata.model_spec.name = "m"
    metadata.model_spec.version.value = 1
    yield "metadata", plain(metadata)
    status = GetModelStatusRequest()
    status.model_spec.name = "m"
    status.model_spec.version_label = "stable"
    yield "status", plain(status)
    yield "health", part(1, b"PredictionService")
    reload = ReloadConfigRequest()
    for name in ("first", "second"):
        model = reload.config.model_config_list.config.add(name=name, base_path=f"/models/{name}")
        model.model_platform = "tensorflow"
        model.model_version_policy.specific.versions.extend([1, 2, -3])
        model.version_labels["stable"] = 1
        model.version_labels["canary"] = 2
        model.logging_config.sampling_config.sampling_rate = float("nan")
        model.logging_config.log_collector_config.filename_prefix = "/tmp/log"
    yield "reload", plain(reload)
    reload.config.model_config_list.config[0].model_version_policy.latest.num_versions = 3
    reload.config.model_config_list.config[1].model_version_policy.all.SetInParent()
    yield "reload_policies", plain(reload)
    reload.config.custom_model_config.type_url = "type.googleapis.com/unknown"
    yield "reload_any", plain(reload)
    known = ReloadConfigRequest()
    known.config.custom_model_config.Pack(status)
    yield "reload_any_that_is_known", plain(known)
    yield "empty", b""
    yield "models_of_two_bytes", part(1, part(1, part(1, b"") * 4000))
    yield "fields_of_two_bytes", part(2, b"") * 4000
    yield "labels_of_two_bytes", part(1, part(1, part(1, part(8, b"") * 2000)))
    yield "unknown_enumerator", part(1, part(1, part(1, whole(3, 77))))
    yield "list_in_two_parts", part(1, part(1, part(1, b""))) * 2
    yield "group_in_place_of_a_label", part(1, part(1, part(1, key(8, GROUP) + key(8, END_GROUP))))
    yield "text_in_place_of_a_message", part(1, b"tensorflow")
    yield "broken_text", part(1, part(1, part(1, part(1, b"\xff"))))
    for name, broken in malformed():
        yield name, plain(status) + broken
        yield f"{name}_in_a_model", part(1, part(1, part(1, broken)))


def saved_models() -> Inputs:
    model = SavedModel(saved_model_schema_version=1)
    graph = model.meta_graphs.add()
    graph.meta_info_def.tags.append("serve")
    graph.meta_info_def.tensorflow_version = "2.16.1"
    signature = graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for name, dtype in [("x", 1), ("y", 7)]:
        signature.inputs[name].name = f"{name}:0"
        signature.inputs[name].dtype = dtype
        signature.inputs[name].tensor_shape.dim.add(size=-1)
    signature.outputs["z"].coo_sparse.values_tensor_name = "values:0"
    signature.outputs["u"].tensor_shape.unknown_rank = True
    signature.defaults["x"].CopyFrom(tf.make_tensor_proto([2.5]))
    graph.signature_def["train"].SetInParent()
    yield "usual", plain(model)
    yield "empty", b""
    yield (
        "default_of_no_type",
        part(2, part(5, part(1, b"s") + part(2, part(1, part(1, b"x")) + part(4, part(1, b"x"))))),
    )
    for depth in (30, 60):
        nested = b""
        for _ in range(depth):
            nested = part(5, part(2, nested))
        entry = part(1, part(1, b"x") + part(2, nested))
        yield f"components_{depth}_deep", part(2, part(5, part(1, b"s") + part(2, entry)))
    yield "unknown_type", part(2, part(5, part(2, part(1, part(2, whole(2, 77))))))
    for name, broken in malformed():
        yield name, plain(model) + broken


def session_runs() -> Inputs:
    request = SessionRunRequest(fetch=["y:0", "z"], target=["init"], tensor_name_is_alias=True)
    request.model_spec.name = "m"
    request.model_spec.version.value = 3
    for name in ("x:0", "y:0"):
        request.feed.add(name=name).tensor.CopyFrom(typed("float32"))
    request.options.timeout_in_ms = 5
    yield "usual", plain(request)
    yield "empty", b""
    yield "feed_twice", part(2, part(1, b"x") + part(2, whole(DTYPE, 1))) * 2
    yield "feed_without_tensor", part(2, part(1, b"x"))
    yield "fetch_of_broken_text", part(3, b"\xff")
    yield "names_beyond_the_limit", (part(2, b"") + part(3, b"") + part(4, b"")) * 1366
    yield "alias_as_text", part(6, b"x")
    for name, broken in malformed():
        yield name, plain(request) + broken


def encoded(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def tokens() -> Inputs:
    header = b'{"alg":"HS256","typ":"JWT","kid":"one"}'
    claims = {"iss": "us", "aud": "servable", "exp": 1000, "sub": "me"}
    usual = b".".join([encoded(header), encoded(json.dumps(claims).encode()), encoded(bytes(range(32)))])
    yield "usual", usual
    yield "header_and_claims", header + b"\n" + json.dumps(claims).encode()
    for name, changes in {
        "many_audiences": {"aud": ["other", "servable"]},
        "audience_of_numbers": {"aud": [1, {"servable": 1}]},
        "audience_of_no_text": {"aud": {"servable": True}},
        "begun": {"nbf": 899.5},
        "not_begun": {"nbf": 1e300},
        "begin_of_text": {"nbf": "1"},
        "ended": {"exp": 890},
        "end_of_text": {"exp": "1000"},
        "end_beyond_all": {"exp": 10**400},
        "no_caller": {"sub": ""},
        "caller_of_no_text": {"sub": ["me"]},
        "another_issuer": {"iss": "them"},
    }.items():
        yield f"claims_{name}", header + b"\n" + json.dumps({**claims, **changes}).encode()
    for name, odd in {
        "empty": b"",
        "of_nothing": b"{}",
        "no_object": b"[1]",
        "none": b'{"alg":"none"}',
        "algorithm_of_no_text": b'{"alg":1}',
        "algorithm_twice": b'{"alg":"none","alg":"HS256"}',
        "critical": b'{"alg":"HS256","crit":["x"]}',
        "critical_of_nothing": b'{"alg":"HS256","crit":null}',
        "lists_128_deep": b'{"alg":"HS256","x":' + b"[" * 127 + b"]" * 127 + b"}",
        "objects_126_deep": b'{"":' * 126 + b"1" + b"}" * 126,
        "small_objects": b'{"alg":"HS256","x":[' + b",".join([b'{"":0}'] * 500) + b"]}",
        "broken_text": b'{"alg":"\xff"}',
    }.items():
        yield f"header_{name}", odd + b"\n" + json.dumps(claims).encode()
    yield "claims_broken", header + b'\n{"iss":'
    yield "claims_no_object", header + b"\n[]"
    yield "dots", b"..."
    yield "one_part", encoded(header)
    yield "two_parts", usual.rpartition(b".")[0]
    yield "four_parts", usual + b".e30"
    yield "no_signature", usual.rpartition(b".")[0] + b"."
    yield "padding", usual + b"="
    yield "bits_left_over", usual[:-1] + b"9"
    yield "other_alphabet", usual.replace(b"_", b"/").replace(b"-", b"+")
    yield "at_the_limit", usual + b"A" * ((16 << 10) - len(usual))
    yield "beyond_the_limit", usual + b"A" * ((16 << 10) + 4 - len(usual))


WRITERS = {
    "tensor_proto": tensors,
    "predict_request": predict_requests,
    "session_run": session_runs,
    "example_requests": example_requests,
    "json_predict": json_predict,
    "json_examples": json_examples,
    "target": targets,
    "messages": messages,
    "saved_model": saved_models,
    "token": tokens,
}


def main() -> None:
    for target, inputs in WRITERS.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        names = set()
        for name, data in inputs():
            if name in names:
                raise ValueError(f"{target} has two inputs called {name}")
            names.add(name)
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
