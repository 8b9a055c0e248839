"""conf/cluster says what this version of the project and of Ray takes."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.command_line import parse
from jobs.pool import Node, pool_for
from jobs.settings import LabelSettings

FOLDER = Path(__file__).parents[1] / "conf" / "cluster"
RAY = re.search(r"^ray==([\d.]+)", (FOLDER.parents[1] / "constraints.txt").read_text(), re.M)


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found


def clusters() -> list[dict[str, Any]]:
    return [document("raycluster.yaml")["spec"], document("rayjob.yaml")["spec"]["rayClusterSpec"]]


def commands() -> list[list[str]]:
    """Every `afd label` of the files, without the command itself."""
    said = re.sub(r"\\\n#", " ", (FOLDER / "raycluster.yaml").read_text())
    [in_comment] = re.findall(r"-- (afd label [^\n]*)", said)
    words = map(shlex.split, (in_comment, document("rayjob.yaml")["spec"]["entrypoint"]))
    return [command[2:] for command in words]


def test_the_clusters_run_the_ray_that_was_tested() -> None:
    assert RAY is not None
    assert {spec["rayVersion"] for spec in clusters()} == {RAY[1]}


@pytest.mark.parametrize("command", commands())
def test_the_commands_parse_and_their_workers_fit_on_the_nodes(command: list[str]) -> None:
    settings = parse(LabelSettings, command, prog="afd label")
    assert settings.output.startswith("s3://")
    assert isinstance(settings.cpus_per_worker, int)
    assert isinstance(settings.workers_per_gpu, int)
    for spec in clusters():
        [group] = spec["workerGroupSpecs"]
        [worker] = group["template"]["spec"]["containers"]
        limits = worker["resources"]["limits"]
        node = Node(int(limits["cpu"]), int(limits["nvidia.com/gpu"]))
        pool = pool_for(replace(settings, workers="auto", max_workers="none"), [node], 99)
        assert (pool.num_workers, pool.num_gpus) == (4, 0.25)
        assert group["maxReplicas"] * pool.num_workers == settings.max_workers


def test_shared_memory_holds_the_object_store() -> None:
    for spec in clusters():
        [group] = spec["workerGroupSpecs"]
        [volume] = group["template"]["spec"]["volumes"]
        size = volume["emptyDir"]["sizeLimit"]
        assert size.endswith("Gi")
        store = int(group["rayStartParams"]["object-store-memory"])
        assert store < int(size[:-2]) << 30


def test_the_runtime_environment_holds_no_secret() -> None:
    environment = document("runtime_env.yaml")["env_vars"]
    job = yaml.safe_load(document("rayjob.yaml")["spec"]["runtimeEnvYAML"])["env_vars"]
    assert environment == job
    assert not [name for name in environment if re.search("KEY|SECRET|TOKEN", name)]
