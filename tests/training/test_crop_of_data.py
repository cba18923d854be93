"""A trained model has the crop convention of its data, whatever its preset says."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.minimal_training import minimal_config
from support.shard_folders import clip_info, write_clip
from talkinghead.checkpoint import load_model
from talkinghead.config import Config
from talkinghead.dataset.shard_reader import MESH
from talkinghead.dataset.shard_writer import ShardWriter
from talkinghead.errors import TalkingheadError
from talkinghead.training import meta, meta_setup
from talkinghead.training.meta import train

SIDE = 16
FRAMES = 6


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return a configuration of milliseconds a step."""
    monkeypatch.setattr(meta, "open_perceptual", lambda *_: [])
    monkeypatch.setattr(meta, "measure_peak_flops", lambda *_: 1.0)  # measuring it takes seconds
    return replace(minimal_config(), perceptual=("efficientnet-lite0",))


def write_clips(folder: Path, convention: int, detector: str = "network") -> Path:
    """Write shards of two people, cropped by a convention."""
    with ShardWriter(folder) as writer:
        for number in range(2):
            info = clip_info(number, FRAMES, SIDE)
            crop = replace(info.crop, convention=convention)
            images = [np.full((SIDE, SIDE, 3), number, np.uint8)] * FRAMES
            write_clip(writer, replace(info, crop=crop, detector=detector), images)
    return folder


@pytest.mark.parametrize("convention", [1, 2])
@pytest.mark.parametrize("preset", [1, 2])
def test_model_has_crop_of_its_data(convention: int, preset: int, config: Config, tmp_path: Path) -> None:
    data = write_clips(tmp_path / "data", convention)
    model = train(data, tmp_path / "run", replace(config, crop=preset), steps=1)
    assert model.config.crop == convention
    assert load_model(tmp_path / "run" / "model.safetensors").config.crop == convention


def test_synthetic_people_go_with_either_convention(config: Config, tmp_path: Path) -> None:
    people, clips = write_clips(tmp_path / "people", 1, MESH), write_clips(tmp_path / "clips", 2)
    assert train([people, clips], tmp_path / "run", config, steps=1).config.crop == 2
    assert train(people, tmp_path / "alone", replace(config, crop=2), steps=1).config.crop == 2


def test_data_of_two_conventions_are_rejected(config: Config, tmp_path: Path) -> None:
    data = [write_clips(tmp_path / "old", 1), write_clips(tmp_path / "new", 2)]
    with pytest.raises(
        TalkingheadError, match="cropped by different conventions .*; prepare those of 1 again into other"
    ):
        train(data, tmp_path / "run", config, steps=1)


def test_run_with_crop_of_preset_resumes_with_that_of_its_data(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_clips(tmp_path / "data", 2)
    with monkeypatch.context() as earlier:
        earlier.setattr(meta_setup, "_with_crop_of_data", lambda config, _: config)
        assert train(data, tmp_path / "run", config, steps=1).config.crop == 1
    with caplog.at_level(logging.INFO):
        assert train(data, tmp_path / "run", config, steps=2).config.crop == 2
    assert "resuming at step 1 of 2" in caplog.text
