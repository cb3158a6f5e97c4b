"""Packages of custom ops: which package an op comes with, and which of its libraries register ops."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["OP_PACKAGES", "OpPackage", "missing_op", "package_of"]


@dataclass(frozen=True)
class OpPackage:
    """A Python package that brings ops along. Its libraries can be loaded in any order, without importing it."""

    pip_name: str
    module: str
    libraries: tuple[str, ...]
    """Patterns relative to the package's folder."""
    prefixes: tuple[str, ...] = ()
    """How the names of its ops begin."""
    names: frozenset[str] = frozenset()
    """Its ops whose names share no prefix."""

    def has(self, op: str) -> bool:
        return op.startswith(self.prefixes) or op in self.names


# The names are what the libraries of tensorflow-text 2.21.1 register, and tensorflow-decision-forests 1.12.0 exports.
OP_PACKAGES = (
    OpPackage(
        pip_name="tensorflow-text",
        module="tensorflow_text",
        libraries=("python/ops/_*.so", "python/metrics/_*.so"),
        prefixes=("TFText>", "Sentencepiece", "FastWordpiece", "FastBert", "SentenceFragments"),
        names=frozenset(
            (
                "CaseFoldUTF8",
                "ConstrainedSequence",
                "FindSourceOffsets",
                "MaxSpanningTree",
                "NormalizeUTF8",
                "NormalizeUTF8WithOffsetsMap",
                "PhraseTokenize",
                "RegexSplitWithOffsets",
                "RougeL",
                "SplitMergeTokenizeWithOffsets",
                "TokenizerFromLogits",
                "UnicodeScriptTokenizeWithOffsets",
                "WhitespaceTokenizeWithOffsets",
                "WordpieceTokenizeWithOffsets",
            )
        ),
    ),
    OpPackage(
        pip_name="tensorflow-decision-forests",
        module="tensorflow_decision_forests",
        libraries=("tensorflow/ops/inference/inference.so",),
        prefixes=("SimpleML",),
    ),
    OpPackage(
        pip_name="tensorflow-io",
        module="tensorflow_io",
        libraries=("python/ops/libtensorflow_io.so",),
        prefixes=("IO>",),
    ),
    OpPackage(
        pip_name="tensorflow-addons",
        module="tensorflow_addons",
        libraries=("custom_ops/*/_*.so",),
        prefixes=("Addons>",),
    ),
    OpPackage(
        pip_name="tensorflow-recommenders-addons",
        module="tensorflow_recommenders_addons",
        libraries=("dynamic_embedding/core/_*.so",),
        prefixes=("TFRA>",),
    ),
    OpPackage(
        pip_name="struct2tensor",
        module="struct2tensor",
        libraries=("ops/_*.so",),
        prefixes=("DecodeProtoSparse", "DecodeProtoMap"),
        names=frozenset(("EquiJoinIndices", "EquiJoinAnyIndices", "RunLengthBefore")),
    ),
)


def missing_op(message: str) -> str | None:
    """The op that a load failed for, according to TensorFlow's error message."""
    found = re.search(r"Op type not registered '([^']+)'", message)
    return found[1] if found else None


def package_of(op: str) -> OpPackage | None:
    """The package that is known to bring `op` along."""
    return next((package for package in OP_PACKAGES if package.has(op)), None)
