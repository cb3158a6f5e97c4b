"""Where metrics are to be had: `tensorflow.serving.MonitoringConfig`."""

from __future__ import annotations

from servable.config.codec import Codec

__all__ = ["DEFAULT_PATH", "metrics_path"]

MESSAGE = "tensorflow.serving.MonitoringConfig"
DEFAULT_PATH = "/monitoring/prometheus/metrics"
"""Without a file, metrics are there. TensorFlow Serving has none then."""


def metrics_path(text: str, codec: Codec) -> str | None:
    """The path of the page with TensorFlow Serving's metrics; `None` if they are switched off.

    `ValueError` if the text is malformed.
    """
    import json

    config = json.loads(codec.decode_message(MESSAGE, codec.encode_text(MESSAGE, text)))
    prometheus = config.get("prometheus_config", {})
    return prometheus.get("path") or DEFAULT_PATH if prometheus.get("enable") else None
