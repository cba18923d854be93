"""The examples for clusters: scripts parse, manifests fit their schemas, and commands have these options."""

import argparse
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from talkinghead.cli import build_parser

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "training_at_scale.md"
KUBERNETES = ROOT / "examples" / "cluster" / "kubernetes.yaml"
KUBERNETES_VERSION = "1.30"


def shell_blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def slurm_script() -> str:
    (script,) = (block for block in shell_blocks() if "srun torchrun" in block)
    return script


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8")))


def parse_torchrun(arguments: list[str]) -> tuple[argparse.Namespace, argparse.Namespace]:
    """Return the arguments of torchrun and those of the command that it starts."""
    torchrun = get_args_parser().parse_args(arguments)
    assert torchrun.module and torchrun.training_script == "talkinghead"
    return torchrun, build_parser().parse_args(torchrun.training_script_args)


def test_shell_blocks_parse() -> None:
    blocks = shell_blocks()
    assert any("#SBATCH" in block for block in blocks)
    for block in blocks:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_job_array_starts_part_of_its_number(tmp_path: Path) -> None:
    (script,) = (block for block in shell_blocks() if "--array" in block)
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "7"}
    done = subprocess.run(["bash"], input=script, text=True, check=True, capture_output=True, env=environment)
    command = done.stdout.splitlines()
    assert command[:2] == ["talkinghead", "prepare"]
    assert build_parser().parse_args(command[1:]).part == "7/100"


def test_slurm_script_has_options_of_torchrun_and_train() -> None:
    script = slurm_script().replace("\\\n", " ")
    (line,) = (line for line in script.splitlines() if line.startswith("srun torchrun"))
    torchrun, train = parse_torchrun(shlex.split(line)[2:])
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script, re.MULTILINE))
    assert torchrun.nproc_per_node == directives["gpus-per-node"]
    assert directives["ntasks-per-node"] == "1", "each machine has one torchrun"
    assert (train.command, train.save_every) == ("train", 600.0)


def test_kubernetes_manifests_fit_their_schemas() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="it is in the extra test")
    kinds = []
    for manifest in manifests():
        kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)
        kinds.append(manifest["kind"])
    assert kinds == ["Service", "Job"]
    assert f"Kubernetes {KUBERNETES_VERSION}," in " ".join(PAGE.read_text(encoding="utf-8").split())


def test_kubernetes_job_is_consistent() -> None:
    service, job = manifests()
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    program, *arguments = container["command"]
    torchrun, train = parse_torchrun(arguments)
    assert program == "torchrun" and spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(torchrun.nnodes)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(torchrun.nproc_per_node)
    name, service_name = job["metadata"]["name"], service["metadata"]["name"]
    port = container["ports"][0]["containerPort"]
    assert torchrun.rdzv_endpoint == f"{name}-0.{pod['subdomain']}:{port}"
    assert pod["subdomain"] == service_name and service["spec"]["selector"] == {"job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["volumes"]}
    assert train.command == "train" and Path(train.out).parts[1] == "runs" and "/runs" in mounts
    assert [Path(data).parts[1] for data in train.data] == ["data"] and mounts["/data"]["readOnly"]
