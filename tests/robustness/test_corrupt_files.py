"""Corrupt files of the project's own formats are refused in one line."""

import random
import sys
from pathlib import Path

import pytest
import torch
from bad_input import SEED, fail_on_faults, find_faults

from support.corrupt_checkpoints import corrupt_copies, write_corrupt_checkpoints, write_foreign_tensors
from support.corrupt_datasets import write_corrupt_datasets, write_corrupt_people_tables
from support.corrupt_media import write
from support.sandbox import USER_ERROR, SandboxCall, SandboxPool
from talkinghead.config import AdamConfig
from talkinghead.training.resume import adam, save_state

pytest_plugins = ["bad_input_fixtures"]
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="calls are forked, and their memory read from /proc"
)


@pytest.mark.parametrize("kind", ["model", "person"])
def test_load_corrupt_checkpoint_reports_user_error(
    kind: str,
    sandbox: SandboxPool,
    small_model: Path,
    finetuned_person: Path,
    valid_media: dict[str, Path],
    tmp_path: Path,
) -> None:
    valid = {"model": small_model, "person": finetuned_person}[kind]
    files = write_corrupt_checkpoints(tmp_path / "files", valid, kind, random.Random(SEED))
    calls = [SandboxCall("load", [str(path)]) for path in files]
    names = [f"load {kind} {path.stem}" for path in files]
    drive = str(valid_media["h264.mp4"])
    for number, path in enumerate(files[::4]):
        out = str(tmp_path / f"{number}" / "out")
        if kind == "person":
            arguments = ["animate", str(path), "--drive", drive, "--out", f"{out}.mp4"]
        else:
            finetune = ["finetune", drive, "--model", str(path), "--steps", "0"]
            arguments = [*finetune, "--out", f"{out}.safetensors"]
        calls.append(SandboxCall("cli", [*arguments, "--quiet"], [arguments[-1]]))
        names.append(f"{arguments[0]} with {kind} {path.stem}")
    outcomes = sandbox.run(calls)
    # Forged files may load, damaged ones may not.
    num_damaged = len(corrupt_copies(b"content", random.Random(SEED)))
    not_refused = [
        f"{name}: was not refused"
        for name, outcome in zip(names[:num_damaged], outcomes, strict=False)
        if outcome.code != USER_ERROR
    ]
    fail_on_faults(find_faults(outcomes, names) + not_refused, len(calls))


def test_load_corrupt_training_state_reports_user_error(sandbox: SandboxPool, tmp_path: Path) -> None:
    network = torch.nn.Linear(20, 20)
    optimizer = adam([{"params": list(network.parameters())}], AdamConfig(1e-3))
    valid = tmp_path / "whole.safetensors"
    save_state(valid, {"net": network}, {"adam": optimizer}, {"step": 1})
    copies = corrupt_copies(valid.read_bytes(), random.Random(SEED))
    files = [valid, *(write(tmp_path / name, content) for name, content in copies.items())]
    files += write_foreign_tensors(tmp_path, {"a": torch.zeros(3)})
    outcomes = sandbox.run([SandboxCall("state", [str(path)]) for path in files])
    assert outcomes[0].code == 0
    fail_on_faults(find_faults(outcomes, [f"state {path.name}" for path in files]), len(files))


def test_read_corrupt_dataset_reports_user_error(sandbox: SandboxPool, tmp_path: Path) -> None:
    folders = write_corrupt_datasets(tmp_path / "data", random.Random(SEED))
    calls = [SandboxCall("draw", [str(folder)]) for folder in folders.values()]
    names = [f"draw {name}" for name in folders]
    for number, (name, folder) in enumerate(list(folders.items())[1::7]):
        command = ["train", str(folder), "--out", str(tmp_path / f"run{number}"), "--steps", "0", "--quiet"]
        calls.append(SandboxCall("cli", command))
        names.append(f"train {name}")
    outcomes = sandbox.run(calls)
    faults = find_faults(outcomes, names)
    if outcomes[0].code:
        faults.append(f"the valid data set was refused: {outcomes[0].stderr}")
    fail_on_faults(faults, len(calls))


def test_read_unusual_people_table_reports_user_error(sandbox: SandboxPool, tmp_path: Path) -> None:
    tables = write_corrupt_people_tables(tmp_path)
    outcomes = sandbox.run([SandboxCall("people", [str(path)], seconds=5) for path in tables.values()])
    fail_on_faults(find_faults(outcomes, [f"people {name}" for name in tables]), len(tables))
