"""Writes a model that the reference table is measured with, its weights at random and ever the same.

    python benches/reference_models.py FOLDER NAME

Names: `image_mean` (the mean of an image's pixels), `sum` (of any number of floats), `mobilenet` (MobileNetV2),
`resnet` (ResNet-50). A program of its own, so that TensorFlow is not in the process that measures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf

IMAGE = (224, 224, 3)


class ImageMean(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, *IMAGE], tf.float32, "x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.reduce_mean(x, [1, 2, 3])}


class Sum(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.reduce_sum(x, keepdims=True)}


NETWORKS = {"mobilenet": tf.keras.applications.MobileNetV2, "resnet": tf.keras.applications.ResNet50}


def save_network(name: str, folder: str) -> None:
    """One of Keras' networks for classification. Its variables are written once: `ExportArchive` writes them twice."""
    tf.keras.utils.set_random_seed(1)
    network = NETWORKS[name](weights=None)

    @tf.function(input_signature=[tf.TensorSpec([None, *IMAGE], tf.float32, "x")])
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": network(x, training=False)}

    module = tf.Module()
    module.variables_of_network = [variable.value for variable in network.variables]
    tf.saved_model.save(module, folder, {"serving_default": serve})


def main(folder: str, name: str) -> None:
    if name in NETWORKS:
        save_network(name, folder)
    else:
        model = ImageMean() if name == "image_mean" else Sum()
        tf.saved_model.save(model, folder, {"serving_default": model.serve})


if __name__ == "__main__":
    main(str(Path(sys.argv[1]) / sys.argv[2] / "1"), sys.argv[2])
