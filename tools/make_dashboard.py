"""Makes deploy/grafana/servable.json, a Grafana dashboard: what it shows is said here once, in a few lines.

python tools/make_dashboard.py [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "deploy" / "grafana" / "servable.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WHERE = 'instance=~"$instance",model=~"$model"'
WIDTH, HEIGHT = 12, 8

Panel = tuple[str, str, str, list[tuple[str, str]]]
"""Title, unit, what it tells, and queries with the names of their lines."""


def quantile(share: float, metric: str, by: str) -> str:
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{{{WHERE}}}[$__rate_interval])))"


def rate(metric: str, by: str, where: str = WHERE) -> str:
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


ROWS: list[tuple[str, list[Panel]]] = [
    (
        "Requests",
        [
            (
                "Requests per second",
                "reqps",
                "By model and version: after a change of version one takes over from the other.",
                [(rate("servable_requests_total", "model, version"), "{{model}} {{version}}")],
            ),
            (
                "Errors per second",
                "reqps",
                "Requests that failed, and those that found no version to answer them.",
                [
                    (rate("servable_requests_total", "model, code", f'{WHERE},code!="OK"'), "{{model}} {{code}}"),
                    (rate("servable_other_requests_total", "code", 'code!="OK"'), "no version: {{code}}"),
                ],
            ),
            (
                "Latency",
                "s",
                "From the last byte of a request to its answer.",
                [
                    (
                        quantile(share, "servable_request_duration_seconds", "model"),
                        f"{{{{model}}}} p{round(share * 100)}",
                    )
                    for share in (0.5, 0.99)
                ],
            ),
            (
                "Where the time goes",
                "s",
                "Mean time per request in each stage. A long queue wants more replicas or batching; a long decode or "
                "encode wants gRPC rather than JSON.",
                [
                    (
                        f"{rate('servable_request_stage_seconds_sum', 'stage')} / "
                        f"{rate('servable_request_stage_seconds_count', 'stage')}",
                        "{{stage}}",
                    )
                ],
            ),
        ],
    ),
    (
        "Batching",
        [
            (
                "Rows per batch",
                "short",
                "Mean number of rows that ran together.",
                [
                    (
                        f"{rate('servable_batch_rows_sum', 'model, signature')} / "
                        f"{rate('servable_batch_rows_count', 'model, signature')}",
                        "{{model}} {{signature}}",
                    )
                ],
            ),
            (
                "Batches by why they were cut",
                "ops",
                "Mostly full: there is more to batch. Mostly timeout: requests wait in vain.",
                [(rate("servable_batches_total", "reason"), "{{reason}}")],
            ),
        ],
    ),
    (
        "Models",
        [
            (
                "Versions by state",
                "short",
                "One in END has failed to load; its status says why.",
                [('sum by (state) (servable_version_state{instance=~"$instance"})', "{{state}}")],
            ),
            (
                "Memory of models",
                "bytes",
                "What each version is reckoned to take.",
                [(f"sum by (model, version) (servable_version_memory_bytes{{{WHERE}}})", "{{model}} {{version}}")],
            ),
        ],
    ),
    (
        "Server",
        [
            (
                "Memory",
                "bytes",
                "Resident, and what requests in flight hold of their budget.",
                [
                    ('process_resident_memory_bytes{instance=~"$instance"}', "{{instance}} resident"),
                    ('servable_bytes_in_flight{instance=~"$instance"}', "{{instance}} requests"),
                ],
            ),
            (
                "Processor",
                "short",
                "Cores in use.",
                [('rate(process_cpu_seconds_total{instance=~"$instance"}[$__rate_interval])', "{{instance}}")],
            ),
            (
                "In flight",
                "short",
                "Requests whose answers are not taken yet.",
                [('servable_requests_in_flight{instance=~"$instance"}', "{{instance}}")],
            ),
            (
                "Connections",
                "short",
                "Connections that are open.",
                [('servable_connections{instance=~"$instance"}', "{{instance}}")],
            ),
        ],
    ),
]


def variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row, members in ROWS:
        panels.append(
            {"type": "row", "title": row, "gridPos": {"x": 0, "y": top, "w": 2 * WIDTH, "h": 1}, "panels": []}
        )
        top += 1
        for place, (title, unit, tells, queries) in enumerate(members):
            grid = {"x": WIDTH * (place % 2), "y": top + HEIGHT * (place // 2), "w": WIDTH, "h": HEIGHT}
            targets = [
                {"datasource": DATASOURCE, "refId": chr(ord("A") + index), "expr": query, "legendFormat": legend}
                for index, (query, legend) in enumerate(queries)
            ]
            panels.append(
                {
                    "type": "timeseries",
                    "title": title,
                    "description": tells,
                    "datasource": DATASOURCE,
                    "gridPos": grid,
                    "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                    "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
                    "targets": targets,
                }
            )
        top += HEIGHT * -(-len(members) // 2)
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "title": "servable",
        "uid": "servable",
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
                variable("instance", "label_values(servable_build_info, instance)"),
                variable("model", "label_values(servable_version_state, model)"),
            ]
        },
        "panels": panels,
    }


def main() -> int:
    text = json.dumps(dashboard(), indent=2) + "\n"
    if "--check" in sys.argv[1:]:
        if TARGET.read_text() == text:
            return 0
        print(f"{TARGET} is not what tools/make_dashboard.py makes: run it", file=sys.stderr)
        return 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
