"""Fixtures of the tests of bad input: a sandbox, files to read, and a model and persons to read them with."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_input import SEED

from conftest import SMALL_NETWORKS
from support import corrupt_media
from support.sandbox import SandboxCall, SandboxPool
from talkinghead.checkpoint import load_model, save_model, save_person
from talkinghead.config import preset
from talkinghead.model import Person, random_model
from talkinghead.networks import Generator


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="session")
def small_model(checkpoint_folder: Path) -> Path:
    """Write a model that renders ten thousand frames in seconds."""
    path = checkpoint_folder / "small.safetensors"
    save_model(random_model(replace(preset("tiny"), networks=SMALL_NETWORKS), seed=1), path)
    return path


@pytest.fixture(scope="session")
def sandbox(small_model: Path) -> Iterator[SandboxPool]:
    os.environ["TALKINGHEAD_TEST_MODEL"] = str(small_model)
    with SandboxPool(int(os.environ.get("TALKINGHEAD_SERVERS", "2"))) as pool:
        yield pool


@pytest.fixture(scope="session")
def media(checkpoint_folder: Path) -> dict[str, list[Path]]:
    """Write images and videos by group; those of "whole" are valid."""
    return corrupt_media.make_media(checkpoint_folder / "media", SEED)


@pytest.fixture(scope="session")
def valid_media(media: dict[str, list[Path]]) -> dict[str, Path]:
    """Return valid images and videos by name."""
    return {path.name: path for path in media["whole"]}


@pytest.fixture(scope="session")
def feed_forward_person(
    sandbox: SandboxPool, media: dict[str, list[Path]], small_model: Path, checkpoint_folder: Path
) -> Path:
    """Write a feed-forward person."""
    path = checkpoint_folder / "person.safetensors"
    (image,) = [file for file in media["whole"] if file.suffix == ".png"]
    command = ["finetune", str(image), "--model", str(small_model), "--steps", "0", "--out", str(path)]
    (outcome,) = sandbox.run([SandboxCall("cli", [*command, "--quiet"])])
    assert outcome.code == 0, outcome.stderr
    return path


@pytest.fixture(scope="session")
def finetuned_person(small_model: Path, checkpoint_folder: Path) -> Path:
    """Write a person with a generator of their own."""
    path, model = checkpoint_folder / "finetuned.safetensors", load_model(small_model)
    generator = Generator(SMALL_NETWORKS, projection=False)
    landmarks = np.random.default_rng(SEED).uniform(0.2, 0.8, (68, 2)).astype(np.float32)
    styles = torch.rand(1, generator.style_length)
    save_person(Person(model.config, generator, styles, landmarks, model.digest, feed_forward=False), path)
    return path
