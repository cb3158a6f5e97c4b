"""Random tensors, from the extremes of their types to plain noise, and the messages that carry them.

The values of a tensor are kept flat, as the cells of its memory: numpy knows 64 dimensions at most, TensorFlow 254.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

Array = np.ndarray[Any, Any]
Generator = np.random.Generator
Shape = tuple[int, ...]

SEED = int(os.environ.get("SERVABLE_TEST_SEED", "1"))
"""Another seed makes other values, shapes and mistakes; a failure shows it, so that it can be repeated."""

MOST_ELEMENTS = 300
"""Of the tensors that are many."""


@dataclass(frozen=True)
class Kind:
    """A data type: the field of `TensorProto` for its values, and what one of them is in memory."""

    name: str
    field: str
    cell: type[np.generic] = np.uint8
    bits_of_float: tuple[int, int] | None = None
    """Exponent and mantissa, where the cells are IEEE numbers or two of them."""
    values: range | None = None
    """Where not every cell is a value."""

    @property
    def dtype(self) -> Any:
        return tf.as_dtype(self.name)

    def __str__(self) -> str:
        return self.name

    @property
    def parts(self) -> int:
        """Numbers in one value."""
        return 2 if self.name.startswith("complex") else 1


KINDS = {
    kind.name: kind
    for kind in (
        Kind("float32", "float_val", np.float32, (8, 23)),
        Kind("float64", "double_val", np.float64, (11, 52)),
        Kind("int8", "int_val", np.int8),
        Kind("int16", "int_val", np.int16),
        Kind("int32", "int_val", np.int32),
        Kind("int64", "int64_val", np.int64),
        Kind("uint8", "int_val", np.uint8),
        Kind("uint16", "int_val", np.uint16),
        Kind("uint32", "uint32_val", np.uint32),
        Kind("uint64", "uint64_val", np.uint64),
        Kind("bool", "bool_val", np.bool_, values=range(2)),
        Kind("half", "half_val", np.uint16, (5, 10)),
        Kind("bfloat16", "half_val", np.uint16, (8, 7)),
        Kind("complex64", "scomplex_val", np.complex64, (8, 23)),
        Kind("complex128", "dcomplex_val", np.complex128, (11, 52)),
        Kind("string", "string_val", np.object_),
        Kind("qint8", "int_val", np.int8),
        Kind("qint16", "int_val", np.int16),
        Kind("qint32", "int_val", np.int32),
        Kind("quint8", "int_val", np.uint8),
        Kind("quint16", "int_val", np.uint16),
        Kind("float8_e5m2", "float8_val"),
        Kind("float8_e4m3fn", "float8_val"),
        Kind("int4", "int_val", np.int8, values=range(-8, 8)),
        Kind("uint4", "int_val", np.uint8, values=range(16)),
    )
}
"""What TensorFlow since 2.16 can carry: out of a message, through an op and into a message again.

TensorFlow 2.21 can carry three more types of float8, one of float4, and int2 and uint2; the server knows none of them.
"""

NO_JSON = {"uint16", "half", "bfloat16", "complex64", "complex128", "string"}
JSON_KINDS = [kind for kind in list(KINDS.values())[:16] if kind.name not in NO_JSON]
"""Numbers that REST can carry. Strings can be carried too, but look different."""


def random_cells(kind: Kind, count: int, random: Generator) -> Array:
    """Noise of all bits, mixed with the extremes of the type."""
    if kind.name == "string":
        return random_strings(count, random)
    if kind.values is not None:
        return random.choice(np.array(kind.values).astype(kind.cell), count)
    parts = count * kind.parts
    unit = np.dtype(f"u{np.dtype(kind.cell).itemsize // kind.parts}")
    noise = np.frombuffer(random.bytes(parts * unit.itemsize), unit)
    extremes = random.choice(_extremes(kind, unit), parts)
    return np.where(random.random(parts) < 0.5, noise, extremes).view(kind.cell)


def _extremes(kind: Kind, unit: np.dtype[Any]) -> Array:
    """Bits of the numbers that are most often got wrong."""
    sign = 1 << (unit.itemsize * 8 - 1)
    if kind.bits_of_float is None:
        return np.array([0, 1, sign - 1, sign, 2 * sign - 1], unit)
    exponent, mantissa = kind.bits_of_float
    infinity = ((1 << exponent) - 1) << mantissa
    subnormal, normal = ((1, (1 << mantissa) - 1), (1 << mantissa, infinity - 1))
    signalling, quiet = infinity + 1, infinity + (1 << (mantissa - 1))
    numbers = (0, *subnormal, *normal, infinity, signalling, quiet)
    return np.array([bits + minus for bits, minus in product(numbers, (0, sign))], unit)


def random_strings(count: int, random: Generator) -> Array:
    """Bytes of all sorts; lengths about which TensorFlow (22) or a varint (127) change what they do."""
    special = [b"", b"\x00", b"a\x00b", b"\xff\xfe", b"\xed\xa0\x80", b'"\\\n', "grüße 😀".encode()]
    lengths = (0, 1, 21, 22, 23, 24, 127, 128, 300, 5000)
    weights = np.array([4] * 8 + [2, 1]) / 35
    return objects(
        [
            special[random.integers(len(special))]
            if random.random() < 0.5
            else random.bytes(random.choice(lengths, p=weights))
            for _ in range(count)
        ]
    )


def random_texts(count: int, random: Generator) -> Array:
    """Strings that are UTF-8, of one to four bytes a character."""
    characters = [*map(chr, range(128)), *'äßéあ漢€😀\U0010ffff\ufffd\u2028/\\"']
    lengths = random.integers(0, 40, count)
    return objects(["".join(random.choice(characters, length)).encode() for length in lengths])


def objects(values: Sequence[bytes]) -> Array:
    """An array of byte strings; numpy's own conversion would cut trailing NULs off."""
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


def random_shape(rank: int, random: Generator, *, smallest: int = 0) -> Shape:
    """Small sizes, zero and one among them, in a product of bounded size."""
    sizes: list[int] = []
    for _ in range(rank):
        room = MOST_ELEMENTS // max(1, elements(tuple(sizes)))
        sizes.append(min(int(random.choice([0, 1, 1, 2, 2, 3, 5])), room))
    sizes = [max(size, smallest) for size in sizes]
    return tuple(sizes[index] for index in random.permutation(rank))


def random_shapes(rank: int, random: Generator) -> list[Shape]:
    """One that has elements, one that may have none."""
    return [random_shape(rank, random, smallest=1), random_shape(rank, random)]


def elements(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))


@dataclass(frozen=True)
class Values:
    """A tensor that nobody has put into a message yet."""

    kind: Kind
    cells: Array
    shape: Shape

    @property
    def tensor(self) -> Any:
        """The same for TensorFlow in this process."""
        return tensor_of(content(self))


def random_values(kind: Kind, shape: Shape, random: Generator) -> Values:
    """The last few values are the same."""
    cells = random_cells(kind, elements(shape), random)
    if len(cells) > 0:
        last = random.integers(len(cells))
        cells[last:] = cells[last]
    return Values(kind, cells, shape)


def content(values: Values) -> Any:
    """A tensor as one run of bytes; strings as TensorFlow lays them out: all lengths, then all bytes."""
    proto, cells = described(values), values.cells
    if values.kind.name == "string":
        proto.tensor_content = b"".join([varint(len(string)) for string in cells] + list(cells))
    else:
        proto.tensor_content = cells.tobytes()
    return proto


def typed(values: Values) -> Any:
    """A tensor in its typed field, bit by bit: Python's numbers would make signalling NaNs quiet."""
    proto, cells, field = described(values), values.cells, values.kind.field
    if field in ("float_val", "double_val", "scomplex_val", "dcomplex_val"):
        proto.MergeFromString(delimited(_field_number(values), cells.tobytes()))
    elif field == "float8_val":
        proto.float8_val = cells.tobytes()
    else:
        getattr(proto, field).extend(cells.tolist())
    return proto


def shortened(values: Values) -> Any:
    """A tensor in its typed field, in which the last value stands for all that follow: TensorFlow compresses so."""
    cells = values.cells
    count = len(cells)
    while count > 1 and cells[count - 1 : count].tobytes() == cells[count - 2 : count - 1].tobytes():
        count -= 1
    return typed(replace(values, cells=cells[:count]))


def described(values: Values) -> Any:
    """A tensor without its values."""
    proto = TensorProto(dtype=values.kind.dtype.as_datatype_enum)
    proto.tensor_shape.SetInParent()
    for size in values.shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def scattered(values: Values, random: Generator) -> bytes:
    """A tensor in its typed field as encoders may write it: in pieces, packed or one by one, and the rest in between.

    Integers have random bits where the type has none, which readers drop.
    """
    number = _field_number(values)
    wire_type, numbers = _encoded(values, random)
    pieces = []
    while numbers:
        size = int(random.integers(1, 8))
        piece, numbers = numbers[:size], numbers[size:]
        is_packed = wire_type != LENGTH_DELIMITED and random.random() < 0.5
        key = varint(number << 3 | wire_type)
        pieces.append(delimited(number, b"".join(piece)) if is_packed else b"".join(key + one for one in piece))
    whole = described(values)
    for part in (TensorProto(dtype=whole.dtype), TensorProto(tensor_shape=whole.tensor_shape)):
        pieces.insert(int(random.integers(len(pieces) + 1)), part.SerializeToString())
    return b"".join(pieces)


def _field_number(values: Values) -> int:
    number: int = TensorProto.DESCRIPTOR.fields_by_name[values.kind.field].number
    return number


VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


def _encoded(values: Values, random: Generator) -> tuple[int, list[bytes]]:
    """The wire type of a value on its own, and each of them without its key."""
    kind, cells = values.kind, values.cells
    if kind.field == "float8_val":
        return LENGTH_DELIMITED, [varint(len(cells)) + cells.tobytes()]
    if kind.name == "string":
        return LENGTH_DELIMITED, [varint(len(one)) + one for one in cells]
    if kind.field in ("int_val", "int64_val", "bool_val", "half_val", "uint32_val", "uint64_val"):
        width = 8 * cells.itemsize
        if kind.name == "bool":
            return VARINT, [varint(int(random.integers(1, 2**63)) if one else 0) for one in cells]
        high = random.integers(2 ** (64 - width), size=len(cells)) if width < 64 else np.zeros(len(cells), int)
        low = cells.view(f"u{cells.itemsize}")
        return VARINT, [varint(int(one) | int(more) << width) for one, more in zip(low, high, strict=True)]
    size = cells.itemsize // kind.parts
    wire_type = FIXED32 if size == 4 else FIXED64
    packed = cells.tobytes()
    return wire_type, [packed[start : start + size] for start in range(0, len(packed), size)]


def delimited(number: int, value: bytes) -> bytes:
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(value)) + value


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def tensor_of(proto: Any) -> Any:
    """What TensorFlow itself makes of a message."""
    return tf.io.parse_tensor(proto.SerializeToString(), proto.dtype)


def values_of(tensor: Any) -> Values:
    """The bits of a tensor that TensorFlow has."""
    kind = next(kind for kind in KINDS.values() if kind.dtype == tensor.dtype)
    return Values(kind, tf.reshape(tensor, [-1]).numpy().view(kind.cell), tuple(tensor.shape))


class Expected:
    """A tensor that TensorFlow has, as the only two messages that a server may write about it."""

    def __init__(self, tensor: Any) -> None:
        values = values_of(tensor)
        self._forms = (typed(values), content(values))

    def check(self, answer: Any, *, is_content: bool = False) -> None:
        """Compares bytes, since NaN is not equal to itself; if they differ, shows what can be read first."""
        expected = self._forms[is_content]
        if answer.SerializeToString() != expected.SerializeToString():
            assert str(answer) == str(expected)
            assert answer.SerializeToString().hex() == expected.SerializeToString().hex()


def nested(flat: Sequence[Any], shape: Shape) -> Any:
    """Values as the lists of lists that JSON has."""
    if not shape:
        return flat[0]
    step = elements(shape[1:])
    return [nested(flat[index * step : (index + 1) * step], shape[1:]) for index in range(shape[0])]


def fits_json(shape: Shape) -> bool:
    """Whether lists can have this shape: of what is in an empty list they say nothing."""
    return 0 not in shape[:-1]


def to_json(values: Values, random: Generator) -> Any:
    """What a client sends; a string goes as text or, if it is none, as base64."""
    if values.kind.name == "string":
        return nested([_text_or_base64(value, random) for value in values.cells], values.shape)
    return nested(values.cells.tolist(), values.shape)


def _text_or_base64(value: bytes, random: Generator) -> Any:
    if random.random() < 0.5:
        with suppress(UnicodeDecodeError):
            return value.decode()
    return {"b64": base64.b64encode(value).decode()}


def json_of(name: str, tensor: Any) -> Any:
    """What REST has to say about an output, after parsing."""
    flat = tf.reshape(tensor, [-1]).numpy().tolist()
    if name.endswith("_bytes"):
        flat = [{"b64": base64.b64encode(value).decode()} for value in flat]
    elif tensor.dtype == tf.string:
        flat = [value.decode() for value in flat]
    return nested(flat, tuple(tensor.shape))


def assert_same_json(answer: Any, name: str, tensor: Any) -> None:
    """Digits that are printed lead back to the number, in the precision of its type; NaN is NaN."""
    came = _narrowed(answer) if tensor.dtype == tf.float32 else answer
    assert repr(came) == repr(json_of(name, tensor)), name  # tells 1 from 1.0 and True, and 0.0 from -0.0


def _narrowed(value: Any) -> Any:
    if isinstance(value, list):
        is_flat = set(map(type, value)) == {float}
        return np.array(value, np.float32).tolist() if is_flat else [_narrowed(one) for one in value]
    return float(np.float32(value)) if isinstance(value, float) else value
