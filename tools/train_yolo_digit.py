"""Trains the bundled demo model yolo_digit, a small one-pass detector of handwritten digits.

    python tools/train_yolo_digit.py              # train, export, write the example picture, measure
    python tools/train_yolo_digit.py --evaluate   # only measure the exported model on freshly pasted test digits
    python tools/train_yolo_digit.py --example    # only write the example picture again

The digits are scikit-learn's `load_digits` (8x8 pixels). They are split into training and test digits first and then
pasted into pictures at random places, sizes and contrasts, so that no digit used for measuring was ever trained on.

The network sees a grey picture of 128x128 and predicts, for every cell of a 16x16 grid, whether a digit's centre is
there, its box and its class. The exported SavedModel holds everything around that too: decoding JPEG or PNG, resizing
(the longer side becomes 128, the rest is padded) and non-maximum suppression.

Writes python/servable/demo/models/yolo_digit/1/ and python/servable/demo/digits.{png,json}; see docs/demo-models.md.

Requirements: pip install tensorflow-cpu scikit-learn pillow
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

DEMO_DIRECTORY = Path(__file__).resolve().parents[1] / "python/servable/demo"
MODEL_DIRECTORY = DEMO_DIRECTORY / "models/yolo_digit/1"

SIDE = 128  # of the square picture that the network sees
STRIDE = 8  # pixels of that picture per grid cell
GRID = SIDE // STRIDE
TYPICAL_SIZE = 24.0  # box sizes are predicted relative to this many pixels
CLASSES = 10
SCORE_THRESHOLD = 0.5
OVERLAP_THRESHOLD = 0.25  # of two boxes that overlap more than this, only the better one is kept
SMALLEST_DEVIATION = 0.02  # keeps the noise of an empty picture from being blown up to full contrast

TRAINING_SEED, TEST_SEED, EXAMPLE_SEED = 1, 2, 4


class Digits(NamedTuple):
    images: np.ndarray  # [count, 8, 8], 0..16
    labels: np.ndarray  # [count]


class Picture(NamedTuple):
    pixels: np.ndarray  # [height, width] uint8
    boxes: np.ndarray  # [count, 4] as y1, x1, y2, x2, each 0..1 of the picture's height or width
    digits: np.ndarray  # [count]


# --- pictures -------------------------------------------------------------------------------------------------------


def split_digits() -> tuple[Digits, Digits]:
    """Returns the training digits and the test digits (a quarter of all)."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images.reshape(-1, 8, 8), labels, test_size=0.25, stratify=labels, random_state=0)
    return Digits(parts[0], parts[2]), Digits(parts[1], parts[3])


def draw_digit(image: np.ndarray, size: float, random: np.random.Generator) -> np.ndarray:
    """Enlarges one 8x8 digit to about `size` pixels, slightly turned, and returns its ink (0..1), tightly cropped."""
    angle = math.radians(random.uniform(-12, 12))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = np.diag([8 / size, 8 / (size * random.uniform(0.8, 1.25))]) @ turn
    side = int(size * 1.6) + 2
    padded = np.pad(image, 2)
    offset = (padded.shape[0] - 1) / 2 - matrix @ np.full(2, (side - 1) / 2)
    ink = affine_transform(padded, matrix, offset, (side, side), order=int(random.choice([1, 3])))
    thinness, softness = random.uniform(0.2, 0.4), random.uniform(0.2, 0.5)
    ink = np.clip((ink / ink.max() - thinness) / softness, 0, 1)
    rows, columns = np.nonzero((ink > 0.4).any(1))[0], np.nonzero((ink > 0.4).any(0))[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def place_digits(shapes: list[tuple[int, int]], height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """Finds places at which boxes of these shapes do not overlap: y1, x1, y2, x2, or -1 for a box without a place."""
    places = np.full((len(shapes), 4), -1)
    for index, (box_height, box_width) in enumerate(shapes):
        if box_height > height or box_width > width:
            continue
        for _ in range(30):
            top, left = random.integers(height - box_height + 1), random.integers(width - box_width + 1)
            box = np.array([top, left, top + box_height, left + box_width])
            others = places[places[:, 0] >= 0]
            if not np.any(np.all((box[:2] < others[:, 2:]) & (others[:, :2] < box[2:]), axis=1)):
                places[index] = box
                break
    return places


def place_in_row(shapes: list[tuple[int, int]], height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """As place_digits, but writes the boxes from left to right like a number."""
    places = np.full((len(shapes), 4), -1)
    tallest = max((shape[0] for shape in shapes), default=0)
    top, left = random.integers(max(1, height - tallest)), random.integers(max(1, width // 3))
    for index, (box_height, box_width) in enumerate(shapes):
        slack = max(0, height - top - box_height)
        box_top = top + min(slack, (tallest - box_height) // 2 + random.integers(0, 1 + tallest // 8))
        if box_top + box_height > height or left + box_width > width:
            break
        places[index] = box_top, left, box_top + box_height, left + box_width
        left += box_width + random.integers(1, 2 + tallest // 3)
    return places


def make_picture(source: Digits, height: int, width: int, random: np.random.Generator) -> Picture:
    """Pastes up to six digits, light on dark or dark on light, on a noisy and unevenly lit background."""
    unit = max(height, width) / SIDE
    large, in_row = random.random() < 0.2, random.random() < 0.3
    count = 0 if random.random() < 0.05 else int(random.integers(1, 3 if large else 7))
    chosen = random.integers(len(source.labels), size=count)
    smallest, largest = (44, 100) if large else (16, 48)
    sizes = unit * np.exp(random.uniform(np.log(smallest), np.log(largest), size=count))
    if in_row and count:
        sizes = sizes[0] * random.uniform(0.9, 1.1, size=count)
    inks = [draw_digit(source.images[index], size, random) for index, size in zip(chosen, sizes, strict=True)]
    places = (place_in_row if in_row else place_digits)([ink.shape for ink in inks], height, width, random)

    dark, contrast = random.uniform(0.05, 0.4), random.uniform(0.3, 0.6)
    background, foreground = (dark, dark + contrast) if random.random() < 0.5 else (1 - dark, 1 - dark - contrast)
    slope = random.uniform(-0.1, 0.1, size=2)
    light = slope[0] * np.linspace(-1, 1, height)[:, None] + slope[1] * np.linspace(-1, 1, width)
    canvas = np.full((height, width), background)
    for ink, (top, left, bottom, right) in zip(inks, places, strict=True):
        if top >= 0:
            shade = foreground + random.uniform(-0.05, 0.05)
            canvas[top:bottom, left:right] += ink * (shade - canvas[top:bottom, left:right])
    canvas += light + random.normal(0, random.uniform(0, 0.05), canvas.shape)
    pixels = np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
    placed = places[:, 0] >= 0
    return Picture(pixels, places[placed] / np.array([height, width, height, width]), source.labels[chosen[placed]])


def random_shape(longer: int, random: np.random.Generator) -> tuple[int, int]:
    """Returns a height and a width: a square in half of the cases, else anything up to 2:1."""
    shorter = longer if random.random() < 0.5 else int(longer * random.uniform(0.5, 1))
    return (longer, shorter) if random.random() < 0.5 else (shorter, longer)


# --- network --------------------------------------------------------------------------------------------------------


class Convolution(tf.Module):
    """A convolution; its batch normalisation exists in training only and is folded into the kernel for export."""

    def __init__(self, name: str, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__(name=name)
        self.stride = stride
        deviation = math.sqrt(2 / (size * size * inputs))
        self.kernel = tf.Variable(tf.random.normal([size, size, inputs, outputs], stddev=deviation), name="kernel")
        self.bias = tf.Variable(tf.zeros([outputs]), name="bias")
        self.scale = tf.Variable(tf.ones([outputs]), name="scale")
        self.mean = tf.Variable(tf.zeros([outputs]), trainable=False, name="mean")
        self.variance = tf.Variable(tf.ones([outputs]), trainable=False, name="variance")

    def __call__(self, features: tf.Tensor, training: bool = False) -> tf.Tensor:
        features = tf.nn.conv2d(features, self.kernel, self.stride, "SAME")
        if training:
            mean, variance = tf.nn.moments(features, [0, 1, 2])
            self.mean.assign(0.98 * self.mean + 0.02 * mean)
            self.variance.assign(0.98 * self.variance + 0.02 * variance)
            return tf.nn.relu(tf.nn.batch_normalization(features, mean, variance, self.bias, self.scale, 1e-3))
        return tf.nn.relu(features + self.bias)

    def fold(self) -> None:
        factor = self.scale * tf.math.rsqrt(self.variance + 1e-3)
        self.kernel.assign(self.kernel * factor)
        self.bias.assign_sub(self.mean * factor)
        del self.scale, self.mean, self.variance


class Network(tf.Module):
    """From [n, 128, 128, 1] to [n, 16, 16, 15]: centre y and x, log height and width, presence, ten classes."""

    def __init__(self) -> None:
        super().__init__(name="network")
        self.fine = [
            Convolution("half", 1, 12, size=5, stride=2),
            Convolution("quarter", 12, 24, stride=2),
            Convolution("eighth", 24, 40, stride=2),
            Convolution("eighth_more", 40, 40),
        ]
        self.coarse = [Convolution("sixteenth", 40, 56, stride=2), Convolution("sixteenth_more", 56, 56)]
        self.joined = [Convolution("joined", 96, 48, size=1), Convolution("joined_more", 48, 48)]
        self.head_kernel = tf.Variable(tf.random.normal([1, 1, 48, 5 + CLASSES], stddev=0.05), name="head_kernel")
        self.head_bias = tf.Variable([0.0] * 4 + [-4.0] + [0.0] * CLASSES, name="head_bias")

    def __call__(self, frames: tf.Tensor, training: bool = False) -> tf.Tensor:
        fine = frames
        for layer in self.fine:
            fine = layer(fine, training)
        coarse = fine
        for layer in self.coarse:
            coarse = layer(coarse, training)
        enlarged = tf.repeat(tf.repeat(coarse, 2, axis=1), 2, axis=2)
        joined = tf.concat([fine, enlarged], axis=-1)
        for layer in self.joined:
            joined = layer(joined, training)
        return tf.nn.conv2d(joined, self.head_kernel, 1, "VALID") + self.head_bias

    def fold(self) -> None:
        for layer in self.fine + self.coarse + self.joined:
            layer.fold()


def boxes_of(raw: tf.Tensor) -> tf.Tensor:
    """Turns the network's output into boxes y1, x1, y2, x2 in pixels of the 128x128 picture: [n, 16, 16, 4]."""
    centres = (np.arange(GRID, dtype=np.float32) + 0.5) * STRIDE
    cells = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1)
    middle = cells + raw[..., 0:2] * STRIDE
    half = tf.exp(tf.clip_by_value(raw[..., 2:4], -3.0, 3.0)) * (TYPICAL_SIZE / 2)
    return tf.concat([middle - half, middle + half], axis=-1)


def overlap_of(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Returns intersection over union of boxes [..., 4]."""
    shared = tf.minimum(first[..., 2:], second[..., 2:]) - tf.maximum(first[..., :2], second[..., :2])
    shared = tf.reduce_prod(tf.maximum(shared, 0.0), axis=-1)
    areas = [tf.reduce_prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (first, second)]
    return shared / (areas[0] + areas[1] - shared)


# --- training -------------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    frame: np.ndarray  # [128, 128, 1], normalised
    boxes: np.ndarray  # [16, 16, 4] in pixels; of the cell's digit, where it has one
    classes: np.ndarray  # [16, 16]
    present: np.ndarray  # [16, 16]: 1 where a digit's centre is near, 0 where not
    counted: np.ndarray  # [16, 16]: 0 where it may go either way


def make_target(picture: Picture) -> Target:
    """Gives the cells around each digit's centre that digit as their target. The longer side must be SIDE."""
    height, width = picture.pixels.shape
    frame = np.zeros((SIDE, SIDE, 1), np.float32)
    values = picture.pixels / np.float32(255)
    frame[:height, :width, 0] = (values - values.mean()) / max(values.std(), SMALLEST_DEVIATION)
    if not len(picture.digits):
        nothing = np.zeros((GRID, GRID), np.float32)
        boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (GRID, GRID, 1))
        return Target(frame, boxes, nothing.astype(np.int32), nothing, np.ones_like(nothing))
    boxes = (picture.boxes * [height, width, height, width]).astype(np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / STRIDE - 0.5
    cells = np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID), indexing="ij"), axis=-1)
    distances = np.abs(cells[:, :, None] - centres).max(-1)
    owners, nearest = distances.argmin(-1), distances.min(-1)
    present = (nearest < 0.75).astype(np.float32)
    counted = ((nearest < 0.75) | (nearest > 1.25)).astype(np.float32)
    return Target(frame, boxes[owners], picture.digits[owners].astype(np.int32), present, counted)


def training_batches(source: Digits, size: int) -> Iterator[Target]:
    random = np.random.default_rng(TRAINING_SEED)
    while True:
        targets = [make_target(make_picture(source, *random_shape(SIDE, random), random)) for _ in range(size)]
        yield Target(*(np.stack(arrays) for arrays in zip(*targets, strict=True)))


def loss_of(raw: tf.Tensor, target: Target) -> tf.Tensor:
    positives = tf.reduce_sum(target.present) + 1.0
    presence = tf.nn.sigmoid_cross_entropy_with_logits(target.present, raw[..., 4]) * target.counted
    classes = tf.nn.sparse_softmax_cross_entropy_with_logits(target.classes, raw[..., 5:]) * target.present
    boxes = boxes_of(raw)
    sides = tf.tile(target.boxes[..., 2:] - target.boxes[..., :2], [1, 1, 1, 2])
    edges = tf.reduce_sum(tf.abs(boxes - target.boxes) / sides, axis=-1)
    shape = (1.0 - overlap_of(boxes, target.boxes) + edges) * target.present
    return tf.reduce_sum(presence + classes + shape) / positives


def train(source: Digits, steps: int, batch_size: int) -> Network:
    tf.random.set_seed(TRAINING_SEED)
    network = Network()
    rate = tf.keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=3e-3, warmup_steps=100)
    optimizer = tf.keras.optimizers.AdamW(rate, weight_decay=1e-2)
    optimizer.build(network.trainable_variables)

    @tf.function
    def step(target: Target) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = loss_of(network(target.frame, training=True), target)
        variables = network.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    started, losses = time.monotonic(), []
    for number, target in zip(range(1, steps + 1), training_batches(source, batch_size), strict=False):
        losses.append(float(step(Target(*map(tf.constant, target)))))
        if number % 100 == 0:
            print(f"step {number}: loss {np.mean(losses[-100:]):.3f}, {time.monotonic() - started:.0f} s", flush=True)
    network.fold()
    return network


# --- export ---------------------------------------------------------------------------------------------------------


class Detector(tf.Module):
    """What is exported: the network with decoding, resizing and non-maximum suppression around it."""

    def __init__(self, network: Network) -> None:
        super().__init__(name="yolo_digit")
        self.network = network

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
    def detect_files(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        def decode(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            pixels = tf.io.decode_image(contents, channels=3, expand_animations=False)
            frames, extent = self.frame(tf.ensure_shape(pixels, [None, None, 3])[None])
            return frames[0], extent

        kinds = (tf.TensorSpec([SIDE, SIDE, 1], tf.float32), tf.TensorSpec([2], tf.float32))
        return self.detect(*tf.map_fn(decode, image, fn_output_signature=kinds))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, None], tf.uint8, name="image")])
    def detect_pixels(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        channels = tf.shape(image)[3]
        allowed = tf.debugging.Assert((channels == 1) | (channels == 3), ["image must have 1 or 3 channels", channels])
        with tf.control_dependencies([allowed]):
            frames, extent = self.frame(tf.identity(image))
        return self.detect(frames, tf.repeat(extent[None], tf.shape(frames)[0], axis=0))

    def frame(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns grey, normalised 128x128 pictures, and the height and width in them that the originals fill."""
        grey = tf.reduce_mean(tf.cast(pixels, tf.float32), axis=3, keepdims=True) / 255.0
        size = tf.cast(tf.shape(grey)[1:3], tf.float32)
        extent = tf.maximum(tf.round(size * (SIDE / tf.reduce_max(size))), 1.0)
        grey = tf.image.resize(grey, tf.cast(extent, tf.int32), antialias=True)
        mean, variance = tf.nn.moments(grey, [1, 2, 3], keepdims=True)
        grey = (grey - mean) / tf.maximum(tf.sqrt(variance), SMALLEST_DEVIATION)
        missing = SIDE - tf.cast(extent, tf.int32)
        padded = tf.pad(grey, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])
        return tf.ensure_shape(padded, [None, SIDE, SIDE, 1]), extent

    def detect(self, frames: tf.Tensor, extents: tf.Tensor) -> dict[str, tf.Tensor]:
        count = tf.shape(frames)[0]
        # Convolutions cannot do without any picture, so an empty batch is given an empty picture.
        raw = self.network(tf.pad(frames, [[0, tf.maximum(1 - count, 0)], [0, 0], [0, 0], [0, 0]]))
        probabilities = tf.nn.softmax(raw[..., 5:])
        scores = tf.sigmoid(raw[..., 4]) * tf.reduce_max(probabilities, axis=-1)
        cells = tf.where(scores > SCORE_THRESHOLD)
        rows, scores = cells[:, 0], tf.gather_nd(scores, cells)
        classes = tf.gather_nd(tf.argmax(probabilities, axis=-1), cells)
        boxes = tf.gather_nd(boxes_of(raw), cells)

        # One suppression serves the whole batch: boxes of different pictures are moved apart, so they never overlap.
        apart = boxes + tf.cast(rows, tf.float32)[:, None] * (4.0 * SIDE)
        kept = tf.image.non_max_suppression(apart, scores, tf.size(scores), OVERLAP_THRESHOLD)
        kept = tf.gather(kept, tf.argsort(tf.gather(rows, kept), stable=True))
        rows = tf.gather(rows, kept)
        relative = boxes / tf.gather(tf.tile(extents, [1, 2]), cells[:, 0])

        def by_picture(values: tf.Tensor, padding: float) -> tf.Tensor:
            kept_values, nrows = tf.gather(values, kept), tf.cast(count, tf.int64)
            ragged = tf.RaggedTensor.from_value_rowids(kept_values, rows, nrows, validate=False)
            return ragged.to_tensor(default_value=tf.cast(padding, values.dtype))

        return {
            "detection_boxes": by_picture(tf.clip_by_value(relative, 0.0, 1.0), 0.0),
            "detection_classes": by_picture(classes, -1),
            "detection_scores": by_picture(scores, 0.0),
        }


def export(network: Network) -> None:
    detector = Detector(network)
    signatures = {"serving_default": detector.detect_files, "pixels": detector.detect_pixels}
    options = tf.saved_model.SaveOptions(save_debug_info=False)
    tf.saved_model.save(detector, str(MODEL_DIRECTORY), signatures=signatures, options=options)


# --- measuring ------------------------------------------------------------------------------------------------------


def detections_of(signature: tf.types.experimental.ConcreteFunction, pixels: np.ndarray) -> list[np.ndarray]:
    """Sends one picture as a PNG file and returns its boxes, classes and scores."""
    contents = tf.io.encode_png(pixels[:, :, None])
    outputs = signature(image=contents[None])
    return [outputs[f"detection_{name}"].numpy()[0] for name in ("boxes", "classes", "scores")]


def count_right(picture: Picture, boxes: np.ndarray, classes: np.ndarray) -> int:
    """Returns how many digits of the picture have a detection of the same class with an overlap of 0.5 or more."""
    if not len(boxes) or not len(picture.digits):
        return 0
    overlaps = overlap_of(boxes[:, None].astype(np.float64), picture.boxes[None]).numpy()
    fits = (overlaps >= 0.5) & (classes[:, None] == picture.digits[None])
    right = 0
    for row in fits:  # the best score first; each digit is found once
        if row.any():
            right += 1
            fits[:, row.argmax()] = False
    return right


def evaluate(source: Digits, pictures: int) -> None:
    """Prints how well the exported model does on new pictures of test digits, 128 to 384 pixels on the longer side."""
    signature = tf.saved_model.load(str(MODEL_DIRECTORY)).signatures["serving_default"]
    random = np.random.default_rng(TEST_SEED)
    digits = found = right = perfect = 0
    seconds = []
    for _ in range(pictures):
        picture = make_picture(source, *random_shape(int(random.integers(128, 385)), random), random)
        started = time.perf_counter()
        boxes, classes, _ = detections_of(signature, picture.pixels)
        seconds.append(time.perf_counter() - started)
        hits = count_right(picture, boxes, classes)
        digits, found, right = digits + len(picture.digits), found + len(classes), right + hits
        perfect += hits == len(picture.digits) == len(classes)
    print(f"{pictures} pictures with {digits} test digits; a detection is right with the right class and IoU >= 0.5")
    print(f"precision {right / found:.4f}")
    print(f"recall {right / digits:.4f}")
    print(f"pictures with every digit right and nothing extra {perfect / pictures:.4f}")
    print(f"median time of one picture, PNG encoding included {1000 * np.median(seconds):.1f} ms")


def write_example(source: Digits) -> None:
    """Writes the first easily seen picture of five test digits that the exported model gets right, and the truth."""
    signature = tf.saved_model.load(str(MODEL_DIRECTORY)).signatures["serving_default"]
    random = np.random.default_rng(EXAMPLE_SEED)
    for _ in range(2000):
        picture = make_picture(source, 192, 256, random)
        heights = picture.boxes[:, 2] - picture.boxes[:, 0]
        if len(picture.digits) != 5 or len(set(picture.digits)) != 5:
            continue
        if picture.pixels.std() < 25 or heights.min() < 0.18:  # hard to see
            continue
        boxes, classes, scores = detections_of(signature, picture.pixels)
        if count_right(picture, boxes, classes) == len(classes) == 5 and scores.min() > 0.9:
            break
    else:
        raise SystemExit("the model got no candidate for the example picture right: train it for longer")
    Image.fromarray(picture.pixels).save(DEMO_DIRECTORY / "digits.png", optimize=True)
    truth = {"digits": picture.digits.tolist(), "boxes": picture.boxes.round(4).tolist()}
    (DEMO_DIRECTORY / "digits.json").write_text(json.dumps(truth) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains, exports and measures the demo model yolo_digit.")
    parser.add_argument("--evaluate", action="store_true", help="only measure the exported model")
    parser.add_argument("--example", action="store_true", help="only write the example picture again")
    parser.add_argument("--steps", type=int, default=3500, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures per step (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=2000, help="pictures to measure on (default: %(default)s)")
    arguments = parser.parse_args()

    training_digits, test_digits = split_digits()
    if not (arguments.evaluate or arguments.example):
        tf.config.experimental.enable_op_determinism()
        export(train(training_digits, arguments.steps, arguments.batch_size))
    if not arguments.evaluate:
        write_example(test_digits)
    if not arguments.example:
        evaluate(test_digits, arguments.pictures)


if __name__ == "__main__":
    main()
