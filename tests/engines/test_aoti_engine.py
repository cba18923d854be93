"""Checks of the environment that a compiled package depends on."""

import dataclasses
import json

import pytest
import torch

from talkinghead import TalkingheadError
from talkinghead.engines import aoti_engine
from talkinghead.engines.aoti_engine import check_environment, compile_environment
from talkinghead.engines.manifest import Manifest

CPU = torch.device("cpu")


def manifest_of_first_version(portable: bool) -> Manifest:
    """Parse the manifest of a package of version 0.1.0, whose JSON has no schema version."""
    values = {
        "version": 1,
        "sha256": "0" * 64,
        "crop": "square",
        "landmarks": "68 points",
        "format": "aoti",
        "preset": "tiny",
        "size": 64,
        "precision": "fp32",
        "batch": 2,
        "input": "points",
        "output": "uint8",
        "styles": "constant",
        "style_length": 3360,
        "person": "person.safetensors",
        "weights": "ab" * 32,
        "reference": [[0.25, 0.5]] * 68,
        "talkinghead": "0.1.0",
        "details": {**compile_environment(CPU, portable=True), "portable": portable},
    }
    assert "ops_schema" not in values["details"]
    return Manifest.from_json(json.dumps(values), "person.pt2.json")[0]


@pytest.mark.parametrize("portable", [False, True])
def test_package_of_first_version_fits_this_version(portable):
    check_environment("person.pt2", manifest_of_first_version(portable), CPU)


def test_package_of_older_schemas_is_refused_unless_portable(monkeypatch):
    monkeypatch.setattr(aoti_engine, "SCHEMA_VERSION", 2)
    with pytest.raises(
        TalkingheadError, match="person.pt2: was compiled for ops_schema 1, this is 2; export it here"
    ):
        check_environment("person.pt2", manifest_of_first_version(portable=False), CPU)
    check_environment("person.pt2", manifest_of_first_version(portable=True), CPU)


def test_package_of_later_version_records_its_schemas():
    details = compile_environment(CPU, portable=False)
    assert details["ops_schema"] == aoti_engine.SCHEMA_VERSION
    manifest = dataclasses.replace(
        manifest_of_first_version(portable=False), talkinghead="0.3.0", details={**details, "portable": False}
    )
    check_environment("person.pt2", manifest, CPU)
