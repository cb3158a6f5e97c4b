"""Writes a model that batching is measured with: `mlp`, `resnet` or `text`, its weights at random and ever the same.

    python benches/batching_models.py FOLDER NAME

A program of its own, so that TensorFlow is not in the process that measures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

RANDOM = np.random.default_rng(1)
PIXELS = 32
STEM = 32
WORDS, WIDTH, HEADS, BUCKETS = 32, 128, 4, 20_000
STAGES = ((3, 32, 1), (4, 64, 2), (6, 128, 2), (3, 256, 2))
"""Of ResNet-50: blocks, channels inside them, stride of the first."""


class Dense(tf.Module):
    def __init__(self, inputs: int, outputs: int, gain: float = 2.0) -> None:
        super().__init__()
        self.weights = tf.Variable(normal((inputs, outputs), gain / inputs))
        self.bias = tf.Variable(normal((outputs,), 0.01))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.tensordot(x, self.weights, 1) + self.bias


class Convolution(tf.Module):
    """Batch norm is folded into its weights, as it is in a model that is to be served."""

    def __init__(self, size: int, inputs: int, outputs: int, stride: int = 1, gain: float = 2.0) -> None:
        super().__init__()
        self.weights = tf.Variable(normal((size, size, inputs, outputs), gain / (size * size * inputs)))
        self.bias = tf.Variable(normal((outputs,), 0.01))
        self.stride = stride

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.bias_add(tf.nn.conv2d(x, self.weights, self.stride, "SAME"), self.bias)


class Bottleneck(tf.Module):
    def __init__(self, inputs: int, inside: int, stride: int) -> None:
        super().__init__()
        self.reduce = Convolution(1, inputs, inside)
        self.middle = Convolution(3, inside, inside, stride)
        self.expand = Convolution(1, inside, 4 * inside, gain=0.1)
        self.shortcut = Convolution(1, inputs, 4 * inside, stride, gain=1.0) if inputs != 4 * inside else None

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        inside = tf.nn.relu(self.middle(tf.nn.relu(self.reduce(x))))
        return tf.nn.relu(self.expand(inside) + (self.shortcut(x) if self.shortcut else x))


class Mlp(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [Dense(784, 512), Dense(512, 512)]
        self.head = Dense(512, 10)

    @tf.function(input_signature=[tf.TensorSpec([None, 784], tf.float32, "x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        for layer in self.layers:
            x = tf.nn.relu(layer(x))
        return {"logits": self.head(x)}


class Resnet(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(7, 3, STEM, 2)
        self.blocks = []
        channels = STEM
        for count, inside, stride in STAGES:
            for number in range(count):
                self.blocks.append(Bottleneck(channels, inside, stride if number == 0 else 1))
                channels = 4 * inside
        self.head = Dense(channels, 1000)

    @tf.function(input_signature=[tf.TensorSpec([None, PIXELS, PIXELS, 3], tf.float32, "x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.nn.max_pool2d(tf.nn.relu(self.stem(x)), 3, 2, "SAME")
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(tf.reduce_mean(x, [1, 2]))}


class Text(tf.Module):
    """Words of a sentence, hashed, embedded, and looked at by one block of a transformer's encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = tf.Variable(normal((BUCKETS, WIDTH), 1.0))
        self.places = tf.Variable(normal((WORDS, WIDTH), 0.1))
        self.queries, self.keys, self.values, self.mix = (Dense(WIDTH, WIDTH, gain=1.0) for _ in range(4))
        self.wide, self.narrow = Dense(WIDTH, 4 * WIDTH), Dense(4 * WIDTH, WIDTH)
        self.head = Dense(WIDTH, 2)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        words = tf.strings.split(tf.strings.lower(x)).to_tensor("", shape=[None, WORDS])
        is_word = tf.cast(words != "", tf.float32)
        x = tf.gather(self.embedding, tf.strings.to_hash_bucket_fast(words, BUCKETS)) + self.places
        x = normalised(x + self.attention(x, is_word))
        x = normalised(x + self.narrow(tf.nn.relu(self.wide(x))))
        mean = tf.einsum("bwc,bw->bc", x, is_word) / (tf.reduce_sum(is_word, 1, keepdims=True) + 1e-6)
        return {"logits": self.head(mean)}

    def attention(self, x: tf.Tensor, is_word: tf.Tensor) -> tf.Tensor:
        queries, keys, values = (
            tf.transpose(tf.reshape(part(x), [-1, WORDS, HEADS, WIDTH // HEADS]), [0, 2, 1, 3])
            for part in (self.queries, self.keys, self.values)
        )
        scores = tf.matmul(queries, keys, transpose_b=True) / (WIDTH // HEADS) ** 0.5
        weights = tf.nn.softmax(scores - 1e9 * (1 - is_word[:, None, None, :]))
        mixed = tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3])
        return self.mix(tf.reshape(mixed, [-1, WORDS, WIDTH]))


def normal(shape: tuple[int, ...], variance: float) -> np.ndarray:
    return RANDOM.normal(0.0, variance**0.5, shape).astype(np.float32)


def normalised(x: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-6)


MODELS: dict[str, type[Mlp | Resnet | Text]] = {"mlp": Mlp, "resnet": Resnet, "text": Text}


def main(folder: Path, name: str) -> None:
    model = MODELS[name]()
    tf.saved_model.save(model, str(folder / name / "1"), {"serving_default": model.serve})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
