"""Manifests, the Helm chart, the KServe runtime, the systemd unit and the workflows, checked without a cluster."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from servable.config.flags import parse
from servable.config.options import OPTIONS
from servable.config.server_config import config_from

from tests.e2e.server import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
CHART = DEPLOY / "helm" / "servable"
VERSIONS = ("1.30", kubernetes_validate.latest_version())
CUSTOM = {"ServiceMonitor", "ClusterServingRuntime"}
"""Kinds that Kubernetes has no schema of."""

VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "image": {"repository": "example.com/servable", "tag": "1"},
        "imagePullSecrets": [{"name": "secret"}],
        "models": {"existingClaim": "models"},
        "extraArgs": ["--enable_batching", '--model_name=a "b"'],
        "env": [{"name": "AWS_REGION", "value": "eu-west-1"}],
        "envFrom": [{"secretRef": {"name": "store"}}],
        "autoscaling": {"enabled": True, "minReplicas": 3},
        "networkPolicy": {
            "enabled": True,
            "clients": [{"podSelector": {}}],
            "monitoring": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        },
        "serviceMonitor": {"enabled": True},
        "serviceAccount": {"name": "reader"},
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
    "shut": {
        "networkPolicy": {"enabled": True},
        "service": {"type": "LoadBalancer"},
        "podDisruptionBudget": {"enabled": False},
    },
    "volume": {
        "models": {"volume": {"nfs": {"server": "10.0.0.1", "path": "/models"}}},
        "drain": {"graceSeconds": 100},
    },
}


def helm() -> str | None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "servable" / "bin"
    candidates = (os.environ.get("HELM"), *map(str, cache.glob("helm-*")), shutil.which("helm"))
    return next((path for path in candidates if path and Path(path).exists()), None)


needs_helm = pytest.mark.skipif(helm() is None, reason="no helm in $HELM, from `make helm` or on PATH")


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def rendered(folder: Path, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    command = [str(helm()), "template", "release", str(CHART), "--values", str(file), "--kube-version", "1.33.0"]
    variables = {**os.environ, "HELM_CACHE_HOME": str(folder), "HELM_CONFIG_HOME": str(folder)}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def image_environment() -> dict[str, str]:
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    return dict(re.findall(r"\b(XDG_CACHE_HOME)=(\S+)", text))


def size_of(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) << {"Mi": 20, "Gi": 30}[unit]


def check(manifests: Sequence[dict[str, Any]]) -> None:
    """Whether Kubernetes would take these, and what we promise of them holds."""
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM:
            for version in VERSIONS:
                kubernetes_validate.validate(manifest, version, strict=True)
    by_kind = {manifest["kind"]: manifest for manifest in manifests}
    template = by_kind["Deployment"]["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    seconds = {
        name: float(value)
        for name, value in re.findall(r"--drain_(grace|timeout)_seconds=(\S+)", "\n".join(container["args"]))
    }
    assert pod["terminationGracePeriodSeconds"] > seconds["grace"] + seconds["timeout"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "http": 8501, "monitoring": 8502}
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    paths = {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    assert probes == {name: {"path": path, "port": "monitoring"} for name, path in paths.items()}
    for kind in ("Deployment", "PodDisruptionBudget"):
        if kind in by_kind:
            selector = by_kind[kind]["spec"]["selector"]["matchLabels"]
            assert selector.items() <= template["metadata"]["labels"].items()
    assert by_kind["Service"]["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert {port["targetPort"] for port in by_kind["Service"]["spec"]["ports"]} <= set(ports)
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounted.keys() == volumes.keys()
    # What the server writes by itself, copies of versions and records that wait, is on a volume with room for it.
    config = config_from(parse(container["args"]), environment=image_environment())
    for folder in (config.storage.cache_folder, config.request_log.spool_folder):
        assert folder.startswith(f"{mounted['cache']}/")
    room = size_of(volumes["cache"]["emptyDir"]["sizeLimit"]) - (config.storage.cache_bytes or math.inf)
    assert room > 4 * config.request_log.spool_bytes
    listed = by_kind["ConfigMap"]
    assert {"configMap": {"name": listed["metadata"]["name"]}, "name": "config"} in pod["volumes"]
    assert "model_config_list" in listed["data"]["models.config"]


def test_plain_manifests_are_valid() -> None:
    manifests = documents((DEPLOY / "kubernetes" / "servable.yaml").read_text())
    check(manifests)
    kinds = {manifest["kind"] for manifest in manifests}
    assert {"HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget"} <= kinds
    (monitor,) = documents((DEPLOY / "kubernetes" / "service-monitor.yaml").read_text())
    assert monitor["spec"]["endpoints"][0]["port"] == "monitoring"


@needs_helm
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_chart_renders_valid_manifests(values: dict[str, Any], tmp_path: Path) -> None:
    done = rendered(tmp_path, values)
    assert done.returncode == 0, done.stderr
    manifests = documents(done.stdout)
    check(manifests)
    for policy in (manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"):
        assert all(rule["from"] for rule in policy["spec"].get("ingress", []))


@needs_helm
@pytest.mark.parametrize(
    ("cache", "model_bytes"),
    [
        ({}, 8 << 30),
        ({"sizeLimit": "50Gi"}, 40 << 30),
        ({"sizeLimit": "2Gi"}, (2 << 30) * 4 // 5),
        ({"sizeLimit": "1.5Ti"}, (3 << 39) * 4 // 5),
        ({"sizeLimit": "500M"}, 400_000_000),
        ({"sizeLimit": "10000000"}, 8_000_000),
        ({"sizeLimit": "50Gi", "modelBytes": 50 << 30}, 50 << 30),
    ],
    ids=str,
)
def test_copies_of_models_get_four_fifths_of_the_cache(cache: dict[str, Any], model_bytes: int, tmp_path: Path) -> None:
    done = rendered(tmp_path, {"cache": cache})
    assert done.returncode == 0, done.stderr
    assert re.findall(r"--model_cache_bytes=(.*)", done.stdout) == [str(model_bytes)]


@needs_helm
def test_copies_of_models_get_no_more_than_the_cache(tmp_path: Path) -> None:
    done = rendered(tmp_path, {"cache": {"sizeLimit": "2Gi", "modelBytes": (2 << 30) + 1}})
    assert done.returncode != 0
    assert "cache.modelBytes (2147483649) is more than cache.sizeLimit (2Gi)" in done.stderr


@needs_helm
@pytest.mark.parametrize(
    "values",
    [
        {"replica": 2},
        {"replicas": "two"},
        {"extraArgs": ["model_name"]},
        {"image": {"repository": ""}},
        {"cache": {"sizeLimit": "much"}},
    ],
)
def test_the_chart_refuses_mistakes(values: dict[str, Any], tmp_path: Path) -> None:
    done = rendered(tmp_path, values)
    assert done.returncode != 0
    assert "schema" in done.stderr


def test_the_kserve_runtime_has_what_kserve_needs() -> None:
    (runtime,) = documents((DEPLOY / "kserve" / "servingruntime.yaml").read_text())
    assert (runtime["apiVersion"], runtime["kind"]) == ("serving.kserve.io/v1alpha1", "ClusterServingRuntime")
    spec = runtime["spec"]
    formats = {(one["name"], one["version"]) for one in spec["supportedModelFormats"]}
    assert formats == {("tensorflow", "1"), ("tensorflow", "2")}
    assert spec["protocolVersions"] == ["v1", "grpc-v1"]
    (container,) = spec["containers"]
    assert container["name"] == "kserve-container"
    assert {"--model_name={{.Name}}", "--model_base_path=/mnt/models", "--rest_api_port=8080"} <= set(container["args"])
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container]}}
    kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_the_systemd_unit_is_valid(tmp_path: Path) -> None:
    unit = tmp_path / "servable.service"
    text = (DEPLOY / "systemd" / "servable.service").read_text()
    unit.write_text(text.replace("/opt/servable/bin/tensorflow_model_server", "/bin/true"))  # which exists
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_flags_in_these_files_exist() -> None:
    known = {option.name for option in OPTIONS}
    for file in DEPLOY.rglob("*"):
        if file.is_file() and file.suffix in {".yaml", ".service", ".sh"}:
            flags = set(re.findall(r"--([a-z]+(?:_[a-z]+)+)", file.read_text()))
            assert flags <= known, f"{file}: {sorted(flags - known)}"


def test_workflows_are_readable() -> None:
    files = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
    assert {file.name for file in files} >= {"ci.yml", "release.yml", "wheels.yml"}
    for file in files:
        workflow = yaml.safe_load(file.read_text())
        assert workflow["permissions"] == {"contents": "read"}, f"{file.name}: jobs ask for more themselves"
        for name, job in workflow["jobs"].items():
            assert "uses" in job or "timeout-minutes" in job, f"{file.name}: {name} may run for ever"
