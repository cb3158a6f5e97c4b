"""Runs a SavedModel with TensorFlow alone, on several threads: the yardstick of models that take their time.

    python benches/bare_tensorflow.py FOLDER INPUT

INPUT is the shape of a tensor of floats, as `1,224,224,3`, or a file whose bytes are the one string of a batch. For
each line `COUNT THREADS` on standard input it runs the model that often, as a client in the same process would, and
prints a line of JSON: runs per second, user and system time and latencies in µs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import tensorflow as tf


def main(folder: str, source: str) -> None:
    loaded = tf.saved_model.load(folder)
    run = loaded.signatures["serving_default"]
    (name,) = run.structured_input_signature[1]
    inputs = {name: read(source)}
    for line in sys.stdin:
        count, threads = map(int, line.split())
        print(json.dumps(measure(run, inputs, count, threads)), flush=True)


def read(source: str) -> tf.Tensor:
    if Path(source).is_file():
        return tf.constant([Path(source).read_bytes()])
    sizes = [int(size) for size in source.split(",")]
    return tf.reshape(tf.constant(np.arange(np.prod(sizes), dtype=np.float32) % 256 / 256), sizes)


def measure(run: object, inputs: dict[str, tf.Tensor], count: int, threads: int) -> dict[str, float]:
    latencies: list[float] = []

    def work() -> None:
        for _ in range(count // threads):
            begin = time.perf_counter()
            for output in run(**inputs).values():  # type: ignore[operator]
                output.numpy()
            latencies.append((time.perf_counter() - begin) * 1e6)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    before, begin = os.times(), time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    after, took = os.times(), time.perf_counter() - begin
    latencies.sort()
    done = len(latencies)
    return {
        "requests_per_s": done / took,
        "user_us": (after.user - before.user) / done * 1e6,
        "system_us": (after.system - before.system) / done * 1e6,
        "p50_us": latencies[done // 2],
        "p99_us": latencies[done * 99 // 100],
        "p999_us": latencies[done * 999 // 1000],
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
