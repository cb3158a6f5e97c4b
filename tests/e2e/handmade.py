"""SavedModels written by hand, as protobuf text: graphs that no exporter is needed for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def placeholder(name: str, dtype: str) -> str:
    return node(name, "Placeholder", dtype=f"type: {dtype}", shape="shape { unknown_rank: true }")


def node(name: str, op: str, inputs: Sequence[str] = (), **attributes: str) -> str:
    """A `NodeDef`; attributes are `AttrValue`s as text."""
    listed = "".join(f" input: '{source}'" for source in inputs)
    attrs = "".join(f" attr {{ key: '{key}' value {{ {value} }} }}" for key, value in attributes.items())
    return f"node {{ name: '{name}' op: '{op}'{listed}{attrs} }}"


def write_model(folder: Path, nodes: Sequence[str], inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """A SavedModel with one signature. `inputs` and `outputs` are data types by tensor name."""
    folder.mkdir(parents=True)
    (folder / "saved_model.pbtxt").write_text(
        "saved_model_schema_version: 1\n"
        "meta_graphs {\n"
        "  meta_info_def { tags: 'serve' tensorflow_version: '2.16.0' }\n"
        f"  graph_def {{ {' '.join(nodes)} versions {{ producer: 1395 }} }}\n"
        "  signature_def { key: 'serving_default' value {\n"
        f"    {_tensors('inputs', inputs)}\n"
        f"    {_tensors('outputs', outputs)}\n"
        "    method_name: 'tensorflow/serving/predict'\n"
        "  } }\n"
        "}\n"
    )


def _tensors(field: str, tensors: Mapping[str, str]) -> str:
    return " ".join(
        f"{field} {{ key: '{name}' value {{ name: '{name}:0' dtype: {dtype} tensor_shape {{ unknown_rank: true }} }} }}"
        for name, dtype in tensors.items()
    )


def write_endless(folder: Path) -> None:
    """A model that never answers: it takes from a queue into which nobody puts anything."""
    floats = "list { type: DT_FLOAT }"
    nodes = [
        placeholder("x", "DT_FLOAT"),
        node("queue", "FIFOQueueV2", component_types=floats),
        node("taken", "QueueDequeueV2", ["queue"], component_types=floats),
        node("y", "AddV2", ["x", "taken"], T="type: DT_FLOAT"),
    ]
    write_model(folder, nodes, {"x": "DT_FLOAT"}, {"y": "DT_FLOAT"})


def write_normalizer(folder: Path) -> None:
    """A model that normalises text with an op of tensorflow-text."""
    nodes = [
        placeholder("text", "DT_STRING"),
        node("normal", "NormalizeUTF8", ["text"], normalization_form="s: 'NFKC'"),
    ]
    write_model(folder, nodes, {"text": "DT_STRING"}, {"normal": "DT_STRING"})
