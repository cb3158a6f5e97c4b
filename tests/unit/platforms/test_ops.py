from __future__ import annotations

import pytest
from servable.platforms.ops import missing_op, package_of


@pytest.mark.parametrize(
    ("op", "package"),
    [
        ("WordpieceTokenizeWithOffsets", "tensorflow-text"),
        ("SentencepieceOp", "tensorflow-text"),
        ("SentencepieceTokenizeWithOffsetsOp", "tensorflow-text"),
        ("RegexSplitWithOffsets", "tensorflow-text"),
        ("CaseFoldUTF8", "tensorflow-text"),
        ("NormalizeUTF8WithOffsetsMap", "tensorflow-text"),
        ("FastWordpieceTokenizeWithOffsets", "tensorflow-text"),
        ("TFText>WhitespaceTokenizeWithOffsetsV2", "tensorflow-text"),
        ("SimpleMLInferenceOpWithHandle", "tensorflow-decision-forests"),
        ("SimpleMLLoadModelFromPathWithHandle", "tensorflow-decision-forests"),
        ("SimpleMLCreateModelResource", "tensorflow-decision-forests"),
        ("IO>DecodeJSON", "tensorflow-io"),
        ("Addons>MaxUnpooling2D", "tensorflow-addons"),
        ("TFRA>CuckooHashTableOfTensors", "tensorflow-recommenders-addons"),
        ("DecodeProtoSparseV4", "struct2tensor"),
        ("DecodeProtoV2", None),
        ("MyOp", None),
    ],
)
def test_which_package_an_op_comes_with(op: str, package: str | None) -> None:
    found = package_of(op)
    assert (found.pip_name if found else None) == package


@pytest.mark.parametrize(
    ("message", "op"),
    [
        ("Op type not registered 'TFText>X' in binary running on host. Make sure", "TFText>X"),
        ("Could not find SavedModel .pb", None),
    ],
)
def test_the_missing_op_is_read_out_of_the_error(message: str, op: str | None) -> None:
    assert missing_op(message) == op
