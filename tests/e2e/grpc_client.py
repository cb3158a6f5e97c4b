"""The gRPC client that people have: tensorflow-serving-api over grpcio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

TIMEOUT_S = 60.0


class Grpc:
    """One channel to the gRPC port, with the stubs that the stock client package has."""

    def __init__(self, address: str) -> None:
        most = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address, options=most)
        self.prediction: Any = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model: Any = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, request: Any, **options: Any) -> Any:
        return self.prediction.Predict(request, **{"timeout": TIMEOUT_S, **options})

    def status(self, name: str, version: int | None = None) -> list[tuple[int, str, int, str]]:
        """Version, state, error code and error message of all versions of a model."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        response = self.model.GetModelStatus(request, timeout=TIMEOUT_S)
        states = get_model_status_pb2.ModelVersionStatus.State
        return [
            (status.version, states.Name(status.state), status.status.error_code, status.status.error_message)
            for status in response.model_version_status
        ]

    def states(self, name: str) -> dict[int, str]:
        """The state of each version; none for a model that is not known."""
        try:
            return {version: state for version, state, _, _ in self.status(name)}
        except grpc.RpcError as error:
            if code_of(error) == "NOT_FOUND":
                return {}
            raise

    def metadata(self, name: str) -> Any:
        """The signatures of a model, as a `SignatureDefMap`."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = name
        response = self.prediction.GetModelMetadata(request, timeout=TIMEOUT_S)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert response.metadata["signature_def"].Unpack(signatures)
        return signatures

    def reload(self, config: str) -> Any:
        """Ask for the models in a configuration written as protobuf text."""
        from google.protobuf import text_format

        parsed = text_format.Parse(config, model_server_config_pb2.ModelServerConfig())
        request = model_management_pb2.ReloadConfigRequest(config=parsed)
        return self.model.HandleReloadConfigRequest(request, timeout=TIMEOUT_S)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Grpc:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def code_of(error: grpc.RpcError) -> str:
    assert isinstance(error, grpc.Call)
    return error.code().name


def details_of(error: grpc.RpcError) -> str:
    assert isinstance(error, grpc.Call)
    return error.details() or ""


def tensor(values: Any, dtype: Any = None) -> Any:
    """A `TensorProto` as the stock client makes it; float32 unless said otherwise."""
    return tf.make_tensor_proto(values, dtype or tf.float32)


def array(proto: Any) -> np.ndarray[Any, Any]:
    """The values of a `TensorProto`, as the stock client reads them."""
    values: np.ndarray[Any, Any] = tf.make_ndarray(proto)
    return values


def predict_request(
    model: str,
    inputs: Mapping[str, Any],
    *,
    signature: str = "",
    version: int | None = None,
    label: str | None = None,
    outputs: Sequence[str] = (),
) -> Any:
    """A `PredictRequest`. `inputs` are `TensorProto`s, or values of float32."""
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(values if isinstance(values, type(tensor(0))) else tensor(values))
    return request
