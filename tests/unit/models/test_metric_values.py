"""Values of metrics by TensorFlow's names."""

from __future__ import annotations

import pytest
from servable.models.metric_values import first_values

PAGE = """# TYPE :tensorflow:serving:request_count counter
:tensorflow:serving:request_count{model_name="b",status="OK"} 2
:tensorflow:serving:request_count{model_name="a",status="OK"} 3
:tensorflow:serving:request_count{model_name="a",status="UNKNOWN"} 4
# TYPE :tensorflow:serving:request_latency histogram
:tensorflow:serving:request_latency_bucket{model_name="a",le="10"} 1
:tensorflow:serving:request_latency_sum{model_name="a"} 1.5
:tensorflow:serving:request_latency_count{model_name="a"} 1
# TYPE :tensorflow:serving:batching_session:wrapped_run_count counter
:tensorflow:serving:batching_session:wrapped_run_count{} 9
# TYPE :tensorflow:serving:empty counter
process_cpu_seconds_total 1.5
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("/tensorflow/serving/request_count", 3),
        (":tensorflow:serving:request_count", 3),
        ("/tensorflow/serving/batching_session/wrapped_run_count", 9),
        ("/tensorflow/serving/request_latency", 0),
        ("/tensorflow/serving/empty", 0),
        ("process_cpu_seconds_total", 0),
        ("nope", 0),
        ("", 0),
    ],
)
def test_the_first_value_counts(name: str, value: int) -> None:
    assert first_values(PAGE, [name]) == {name: value}
