"""SavedModels that are made while the tests run, with the TensorFlow that is installed.

Functions rather than classes and decorators: TensorFlow has no types, and what derives from it would have none either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.e2e.random_tensors import JSON_KINDS, KINDS, Array

v1 = tf.compat.v1

WITHOUT_TRANSPOSE = {"qint8", "qint16", "qint32", "quint8", "quint16", "int4", "uint4"}
WITHOUT_GATHER = {"int4", "uint4"}
"""TensorFlow has no kernels for these on a CPU."""

MOST_TURNED_OF_STRINGS = 8
"""Dimensions: TensorFlow aborts its process when it transposes strings with more."""

WORDS = [b"tensor", b"flow", b"serving", b"gr\xc3\xbc\xc3\x9fe", b"\xff\xfe", b"a", b"b", b"\xf0\x9f\x98\x80", b"7"]
"""What the text model knows; one of them is no text."""

SPECIES = [b"setosa", b"versicolor", b"virginica"]
FLOAT_FEATURES = 4
TREES = 12
DEPTH = 3


def write_all(folder: Path) -> dict[str, Path]:
    """Every model of this module, as base paths with one version each."""
    makers: dict[str, Callable[[Path], None]] = {
        "types": write_types,
        "mixed": write_mixed,
        "image": write_image_classifier,
        "text": write_text_classifier,
        "trees": write_trees,
        "heads": write_heads,
    }
    for name, write in makers.items():
        write(folder / name / "1")
    return {name: folder / name for name in makers}


def write_types(folder: Path) -> None:
    """For each data type a signature with its name, and some with more inputs or for rows; ranks are unknown.

    What comes back depends on the order of the values and on the shape, as far as the type has ops for that.
    """
    with tf.Graph().as_default() as graph:
        signatures = {}
        for name in KINDS:
            suffix = "_bytes" if name == "string" else ""
            signatures[name] = _signature(_layouts(name), suffix)
            signatures[f"{name}_two"] = _signature(_two(name), suffix)
        for name in [*(kind.name for kind in JSON_KINDS), "string"]:
            signatures[f"{name}_rows"] = _signature(_rows(name), "_bytes" if name == "string" else "")
        signatures["text"] = _signature(_layouts("string"))
        signatures["text_rows"] = _signature(_rows("string"))
        _save_graph(graph, folder, signatures)


Tensors = Mapping[str, Any]


def _layouts(name: str) -> tuple[Tensors, Tensors]:
    x = _placeholder(name)
    flat = tf.reshape(x, [-1])
    outputs = {"same": tf.identity(x), "flat": flat}
    if name not in WITHOUT_GATHER:
        outputs["backwards"] = tf.gather(flat, tf.range(tf.size(flat) - 1, -1, -1))
    if name not in WITHOUT_TRANSPOSE:
        axes = tf.range(tf.rank(x))
        is_kept = tf.logical_and(name == "string", tf.rank(x) > MOST_TURNED_OF_STRINGS)
        outputs["turned"] = tf.transpose(x, tf.where(is_kept, axes, axes[::-1]))
    return {"x": x}, outputs


def _two(name: str) -> tuple[Tensors, Tensors]:
    a, b = _placeholder(name), _placeholder(name)
    outputs = {"first": tf.identity(b), "second": tf.identity(a)}
    if name not in WITHOUT_GATHER:
        outputs["joined"] = tf.concat([tf.reshape(a, [-1]), tf.reshape(b, [-1])], 0)
    return {"a": a, "b": b}, outputs


def _rows(name: str) -> tuple[Tensors, Tensors]:
    """All outputs have as many rows as the input."""
    x = _placeholder(name)
    rows = tf.shape(x)[0]
    columns = tf.reduce_prod(tf.shape(x)[1:])
    mirrored = tf.gather(tf.reshape(x, [rows, columns]), tf.range(columns - 1, -1, -1), axis=1)
    return {"x": x}, {"same": tf.identity(x), "mirrored": mirrored}


def write_mixed(folder: Path) -> None:
    """Inputs and outputs of several types and ranks. All the arithmetic is exact, or rounds in one place alone."""
    with tf.Graph().as_default() as graph:
        number, count, word, flag = (_placeholder(name) for name in ("float32", "int64", "string", "bool"))
        inputs = {"number": number, "count": count, "word": word, "flag": flag}
        for_rows = {
            "chosen": tf.where(flag, number, -number),
            "wrapped": count * 3 - 7,
            "named_bytes": tf.strings.join([word, tf.strings.as_string(count)], ":"),
            "length": tf.strings.length(word),
            "either": tf.math.logical_xor(flag, count > 0),
        }
        others = {
            "half": tf.cast(number, tf.half),
            "complex": tf.complex(number, -number),
            "short": tf.cast(count, tf.int16),
            "words": tf.cast(tf.size(word), tf.uint64),
        }
        _save_graph(
            graph,
            folder,
            {"serving_default": _signature((inputs, for_rows)), "wide": _signature((inputs, {**for_rows, **others}))},
        )


def _placeholder(name: str) -> Any:
    return v1.placeholder(tf.as_dtype(name), None)


def _signature(tensors: tuple[Tensors, Tensors], suffix: str = "", method: str = "predict") -> Any:
    inputs, outputs = tensors
    return v1.saved_model.signature_def_utils.build_signature_def(
        {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in inputs.items()},
        {name + suffix: v1.saved_model.build_tensor_info(tensor) for name, tensor in outputs.items()},
        f"tensorflow/serving/{method}",
    )


def _save_graph(graph: Any, folder: Path, signatures: Mapping[str, Any]) -> None:
    """Save a graph of TensorFlow 1: for many small signatures that takes a fraction of the time of functions."""
    builder = v1.saved_model.Builder(str(folder))
    with v1.Session(graph=graph) as session:
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
    builder.save()


def write_image_classifier(folder: Path) -> None:
    """What Keras exports: convolutions, normalisation, softmax."""
    keras = tf.keras  # which is imported when it is first used
    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.DepthwiseConv2D(3, activation="relu")(x)
    x = keras.layers.Flatten()(x)
    keras.Model(image, keras.layers.Dense(10, activation="softmax")(x)).export(folder, verbose=False)


def write_text_classifier(folder: Path) -> None:
    """Words of sentences: split, looked up in a table that an asset fills, padded, embedded and averaged."""
    random = np.random.default_rng(1)
    vocabulary = folder.parent / "words.txt"
    vocabulary.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.write_bytes(b"\n".join(WORDS) + b"\n")
    column = {"key_dtype": tf.string, "key_index": tf.lookup.TextFileIndex.WHOLE_LINE}
    rows = {"value_dtype": tf.int64, "value_index": tf.lookup.TextFileIndex.LINE_NUMBER}
    unknown = 3

    module = tf.Module()
    module.table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(str(vocabulary), **column, **rows), unknown
    )
    module.embedding = tf.Variable(_normal(random, len(WORDS) + unknown, 8))
    module.weights = tf.Variable(_normal(random, 8, 3))

    def classify(sentence: Any) -> Any:
        words = tf.strings.split(tf.strings.lower(sentence))
        rows = tf.ragged.map_flat_values(module.table.lookup, words)
        embedded = tf.ragged.map_flat_values(lambda flat: tf.gather(module.embedding, flat), rows)
        lengths = words.row_lengths()
        mean = tf.reduce_sum(embedded, 1) / tf.cast(tf.maximum(lengths, 1), tf.float32)[:, None]
        scores = tf.nn.softmax(mean @ module.weights)
        return {
            "rows": rows.to_tensor(-1),
            "words_bytes": words.to_tensor(b""),
            "lengths": lengths,
            "scores": scores,
            "label": tf.gather(tf.constant(["good", "bad", "für"]), tf.argmax(scores, 1)),
        }

    module.classify = tf.function(classify, input_signature=[tf.TensorSpec([None], tf.string, "sentence")])
    tf.saved_model.save(module, str(folder), {"serving_default": module.classify})


def write_batch_function(folder: Path, threads: int) -> None:
    """Batches of four in its graph. Each row of the answer is the sum of all rows of its batch."""

    def summed(x: Any) -> Any:
        return x * 0 + tf.reduce_sum(x)

    batched = tf.nondifferentiable_batch_function(
        num_batch_threads=threads,
        max_batch_size=4,
        batch_timeout_micros=60_000_000,
        allowed_batch_sizes=[4],
        max_enqueued_batches=10,
    )(summed)
    module = tf.Module()
    module.serve = tf.function(lambda x: {"y": batched(x)}, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(folder), {"serving_default": module.serve})


def write_trees(folder: Path) -> None:
    """Boosted trees over `tf.Example`, with signatures for Classify and Regress that only TensorFlow 1 can write.

    Leaves are multiples of 1/64: their sums are exact, in whatever order they are made.
    """
    random = np.random.default_rng(1)
    with tf.Graph().as_default() as graph:
        examples = v1.placeholder(tf.string, [None], "examples")
        features = tf.io.parse_example(
            examples,
            {
                "sizes": tf.io.FixedLenFeature([FLOAT_FEATURES], tf.float32),
                "count": tf.io.FixedLenFeature([], tf.int64, 2),
                "colour": tf.io.FixedLenFeature([], tf.string, b"blue"),
                "tags": tf.io.RaggedFeature(tf.int64),
            },
        )
        others = [
            features["count"],
            tf.cast(tf.equal(features["colour"], b"red"), tf.int64),
            tf.reduce_sum(features["tags"], 1),
        ]
        matrix = tf.concat([features["sizes"], tf.cast(tf.stack(others, 1), tf.float32)], 1)
        leaves = _leaves(matrix, random)

        votes = tf.reduce_sum(_chosen(leaves, random, len(SPECIES)), 1)
        total = tf.reduce_sum(_chosen(leaves, random, 1), 1)
        classes = tf.tile([SPECIES], [tf.shape(examples)[0], 1])
        scores = tf.nn.softmax(votes)
        best = {"species": tf.gather(SPECIES, tf.argmax(votes, 1)), "votes": votes, "leaves": leaves}
        classify = _signature(({"inputs": examples}, {"classes": classes, "scores": scores}), method="classify")
        signatures = {
            "serving_default": classify,
            "classify": classify,
            "labels": _signature(({"inputs": examples}, {"classes": classes}), method="classify"),
            "scores": _signature(({"inputs": examples}, {"scores": scores}), method="classify"),
            "regress": _signature(({"inputs": examples}, {"outputs": total}), method="regress"),
            "flat": _signature(({"inputs": examples}, {"outputs": total[:, 0]}), method="regress"),
            "predict": _signature(({"examples": examples}, best)),
        }
        _save_graph(graph, folder, signatures)


def _leaves(matrix: Any, random: np.random.Generator) -> Any:
    """The leaf of each tree that each row of features ends in."""
    inner = 2**DEPTH - 1
    features = tf.constant(random.integers(0, FLOAT_FEATURES + 3, (TREES, inner)), tf.int32)
    thresholds = tf.constant(_normal(random, TREES, inner))
    trees = tf.range(TREES)[None, :]
    node = tf.zeros([tf.shape(matrix)[0], TREES], tf.int32)
    for _ in range(DEPTH):
        place = tf.stack([tf.broadcast_to(trees, tf.shape(node)), node], 2)
        value = tf.gather(matrix, tf.gather_nd(features, place), batch_dims=1)
        node = 2 * node + 1 + tf.cast(value > tf.gather_nd(thresholds, place), tf.int32)
    return node - inner


def _chosen(leaves: Any, random: np.random.Generator, width: int) -> Any:
    """What each tree says about each row."""
    values = tf.constant(random.integers(-64, 65, (TREES, 2**DEPTH, width)) / 64, tf.float32)
    trees = tf.broadcast_to(tf.range(TREES)[None, :], tf.shape(leaves))
    return tf.gather_nd(values, tf.stack([trees, leaves], 2))


def write_heads(folder: Path) -> None:
    """One body, several heads: outputs of many types, and signatures of their own."""
    random = np.random.default_rng(1)
    module = tf.Module()
    module.body = tf.Variable(_normal(random, 8, 4))
    module.head = tf.Variable(_normal(random, 4, 5))

    def embed(image: Any) -> Any:
        return {"embedding": tf.tanh(image @ module.body)}

    def infer(image: Any, allowed: Any, key: Any, name: Any) -> Any:
        logits = embed(image)["embedding"] @ module.head
        scores = tf.sigmoid(tf.where(allowed, logits, -100.0))
        best = tf.math.top_k(scores, 3)
        return {
            "scores": scores,
            "best": best.indices,
            "above": scores > 0.5,
            "label": tf.strings.join([name, tf.strings.as_string(best.indices[:, 0])], "/"),
            "key": key,
            "total": tf.reduce_sum(tf.cast(image, tf.float64), 1),
            "level": tf.cast(tf.reduce_sum(tf.cast(allowed, tf.int32), 1), tf.uint8),
        }

    def describe(x: Any) -> Any:
        return {"twice": x * 2, "text": tf.strings.as_string(x, precision=3), "rank": tf.rank(x)}

    image = tf.TensorSpec([None, 8], tf.float32, "image")
    allowed = tf.TensorSpec([None, 5], tf.bool, "allowed")
    key, name = tf.TensorSpec([None], tf.int64, "key"), tf.TensorSpec([None], tf.string, "name")
    module.embed = tf.function(embed, input_signature=[image])
    module.infer = tf.function(infer, input_signature=[image, allowed, key, name])
    module.describe = tf.function(describe, input_signature=[tf.TensorSpec(None, tf.float64, "x")])
    signatures = {"serving_default": module.infer, "embed": module.embed, "describe": module.describe}
    tf.saved_model.save(module, str(folder), signatures)


def _normal(random: np.random.Generator, *sizes: int) -> Array:
    return random.standard_normal(sizes).astype(np.float32)


class Reference:
    """TensorFlow in the process of the tests, with the models that the servers have: it says what is right."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._models = {name: tf.saved_model.load(str(path / "1")) for name, path in paths.items()}

    def __call__(self, model: str, signature: str, inputs: Tensors) -> dict[str, Any]:
        return dict(self._models[model].signatures[signature](**inputs))

    def signature(self, model: str, name: str) -> Any:
        """A signature, if there is one of that name."""
        return self._models[model].signatures.get(name)
