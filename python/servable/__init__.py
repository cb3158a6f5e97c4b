"""The drop-in successor of TensorFlow Serving: native data plane, Python control plane."""

from __future__ import annotations

__all__ = ["__version__"]

__version__: str


def __getattr__(name: str) -> str:
    if name == "__version__":
        # Looked up when asked for: the metadata machinery takes longer to import than the rest of a start.
        from importlib import metadata

        try:
            return metadata.version("servable")
        except metadata.PackageNotFoundError:
            return "0+unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
