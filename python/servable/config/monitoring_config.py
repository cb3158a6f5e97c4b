"""Where metrics are to be had: `tensorflow.serving.MonitoringConfig`."""

from __future__ import annotations

from servable.config.codec import Codec

__all__ = ["metrics_path"]

MESSAGE = "tensorflow.serving.MonitoringConfig"
DEFAULT_PATH = "/monitoring/prometheus/metrics"


def metrics_path(text: str, codec: Codec) -> str | None:
    """The path on the REST port; `None` if metrics are off. `ValueError` if the text is malformed."""
    import json

    config = json.loads(codec.decode_message(MESSAGE, codec.encode_text(MESSAGE, text)))
    prometheus = config.get("prometheus_config", {})
    return prometheus.get("path") or DEFAULT_PATH if prometheus.get("enable") else None
