"""Makes the bundled demo model half_plus_two: y = 0.5 * x + 2, as a TensorFlow SavedModel.

    python tools/make_half_plus_two.py

Writes python/servable/demo/models/half_plus_two/1/. Its signature serving_default takes `x` (float32, a vector) and
gives `y` (float32, of the same length).

Requirements: pip install tensorflow-cpu
"""

from pathlib import Path

import tensorflow as tf

MODEL_DIRECTORY = Path(__file__).resolve().parents[1] / "python/servable/demo/models/half_plus_two/1"


class HalfPlusTwo(tf.Module):
    def __init__(self) -> None:
        super().__init__(name="half_plus_two")
        self.a = tf.Variable(0.5, name="a")
        self.b = tf.Variable(2.0, name="b")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def predict(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": self.a * x + self.b}


def main() -> None:
    model = HalfPlusTwo()
    options = tf.saved_model.SaveOptions(save_debug_info=False)
    tf.saved_model.save(model, str(MODEL_DIRECTORY), signatures={"serving_default": model.predict}, options=options)
    print(f"wrote {MODEL_DIRECTORY}")


if __name__ == "__main__":
    main()
