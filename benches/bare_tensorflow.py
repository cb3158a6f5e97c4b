"""Runs a SavedModel with TensorFlow alone, on several threads: the yardstick of models that take their time.

    python benches/bare_tensorflow.py FOLDER SHAPE

For each line `COUNT THREADS` on standard input it runs the model that often on a tensor of floats, as a client in the
same process would, and prints a line of JSON: runs per second, user and system time and latencies in µs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import numpy as np
import tensorflow as tf


def main(folder: str, shape: str) -> None:
    loaded = tf.saved_model.load(folder)
    run = loaded.signatures["serving_default"]
    x = tf.constant(np.arange(np.prod(sizes := [int(size) for size in shape.split(",")]), dtype=np.float32) % 256 / 256)
    x = tf.reshape(x, sizes)
    for line in sys.stdin:
        count, threads = map(int, line.split())
        print(json.dumps(measure(run, x, count, threads)), flush=True)


def measure(run: object, x: tf.Tensor, count: int, threads: int) -> dict[str, float]:
    latencies: list[float] = []

    def work() -> None:
        for _ in range(count // threads):
            begin = time.perf_counter()
            run(x=x)["y"].numpy()  # type: ignore[operator]
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
