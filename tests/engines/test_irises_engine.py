"""Engines of models with irises: 78 points, shown in the frames of every engine as in torch's."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from support.gaze_helpers import SIDE, gaze_clip, model_with_irises
from talkinghead.clip import Clip
from talkinghead.engines.load import open_engine
from talkinghead.engines.manifest import IRISES, LANDMARKS, Manifest, read_embedded
from talkinghead.engines.tensorrt_engine import input_shapes
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.engines.verify import pooled_psnr_db, verification_poses, verify_against_torch
from talkinghead.errors import TalkingheadError
from talkinghead.exporters.export import export_person
from talkinghead.exporters.frame_module import FrameModule
from talkinghead.landmarks.face_points import fit_points, track_points
from talkinghead.model import Model, Person
from talkinghead.pipelines.finetune import finetune


@pytest.fixture(scope="module")
def clip() -> Clip:
    return gaze_clip()


@pytest.fixture(scope="module")
def people(guided_model: Model, clip: Clip) -> dict[str, Person]:
    """Return persons of the same weights, of a model with irises and of one without."""
    plain = finetune(guided_model, clip, steps=0)
    config = model_with_irises(guided_model).config
    return {"plain": plain, "irises": dataclasses.replace(plain, config=config)}


@pytest.fixture(scope="module")
def points(clip: Clip) -> np.ndarray:
    return track_points(clip.track) / np.float32(SIDE)


def test_engine_with_irises_shows_them(people: dict[str, Person], points: np.ndarray) -> None:
    engine, plain = TorchEngine(people["irises"]), TorchEngine(people["plain"])
    assert (engine.spec.num_points, plain.spec.num_points) == (78, 68)
    frames, without = engine.run(points), plain.run(points[:, :68])
    assert not np.array_equal(frames, without)
    # hidden irises leave the landmark image of a model without them
    np.testing.assert_array_equal(engine.run(fit_points(points[:, :68], 78)), without)


def test_engine_without_irises_shows_them_by_references_alone(
    people: dict[str, Person], points: np.ndarray
) -> None:
    engine = TorchEngine(people["plain"])
    assert not np.array_equal(engine.run(points), engine.run(points[:, :68]))
    references = people["plain"].references
    assert references is not None and references.irises is not None
    without = dataclasses.replace(references, irises=None)
    engine.set_person(dataclasses.replace(people["plain"], references=without))
    np.testing.assert_array_equal(engine.run(points), engine.run(points[:, :68]))


def test_engine_hides_unknown_irises_and_says_so_once(
    people: dict[str, Person], points: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    engine = TorchEngine(people["irises"])
    with caplog.at_level(logging.INFO, "talkinghead"):
        engine.run(points)
        assert "irises" not in caplog.text
        frames = [engine.run(points[:, :68]) for _ in range(2)]
    assert caplog.text.count("the driver's irises are unknown") == 1
    np.testing.assert_array_equal(frames[0], engine.run(fit_points(points[:, :68], 78)))


@pytest.mark.parametrize("count", [67, 73, 79])
def test_engine_refuses_other_numbers_of_points(people: dict[str, Person], count: int) -> None:
    with pytest.raises(TalkingheadError, match=r"give landmarks \[B, 68, 2\], or \[B, 78, 2\] with irises"):
        TorchEngine(people["irises"]).run(np.zeros((1, count, 2), np.float32))


def test_verification_poses_move_the_irises(people: dict[str, Person]) -> None:
    neutral = people["irises"].neutral_landmarks
    poses = verification_poses(neutral, 78)
    assert poses.shape == (4, 78, 2) and poses.dtype == np.float32
    np.testing.assert_array_equal(poses[:, :68], verification_poses(neutral))
    gaze = poses[:, 68] - poses[:, 36:42].mean(axis=1)
    assert np.abs(np.diff(gaze, axis=0)).max(axis=1).min() > 0.01
    assert (poses[:, 68:] > 0).all() and (poses[:, 68:] < 1).all()


def test_verification_compares_shown_irises(people: dict[str, Person]) -> None:
    class Forgetful(TorchEngine):
        def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
            return super()._run(inputs | {"points": fit_points(inputs["points"][:, :68], 78)})

    assert verify_against_torch(TorchEngine(people["irises"]), people["irises"]) > 50
    with pytest.raises(TalkingheadError, match="dB from torch's"):
        verify_against_torch(Forgetful(people["irises"]), people["irises"])


def test_manifest_states_the_number_of_points(people: dict[str, Person]) -> None:
    manifests = {name: Manifest.of(person, "onnx", "fp32", 4) for name, person in people.items()}
    assert manifests["irises"].spec.num_points == manifests["irises"].details["num_points"] == 78
    assert manifests["plain"].spec.num_points == 68 and "num_points" not in manifests["plain"].details
    texts = {name: json.loads(manifest.to_json()) for name, manifest in manifests.items()}
    assert texts["irises"]["landmarks"] == LANDMARKS + IRISES and texts["plain"]["landmarks"] == LANDMARKS
    assert len(texts["irises"]["reference"]) == 68
    assert Manifest.from_json(json.dumps(texts["irises"]), "engine")[0] == manifests["irises"]
    assert manifests["irises"].weights != manifests["plain"].weights


def test_shapes_of_exported_inputs_have_irises(people: dict[str, Person]) -> None:
    for name, count in (("irises", 78), ("plain", 68)):
        assert FrameModule(people[name]).example_inputs(3)[0].shape == (3, count, 2)
        assert input_shapes(Manifest.of(people[name], "tensorrt", "fp32", 4).spec)["points"] == (count, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "input"),
    [
        ("fp32", "points"),
        ("fp16", "points"),
        ("fp32", "image"),
    ],
)
def test_onnx_renders_irises_as_torch(
    people: dict[str, Person], points: np.ndarray, tmp_path: Path, input: str, precision: str
) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript, which writes ONNX, is not installed")
    path = tmp_path / "person.onnx"
    report = export_person(people["irises"], path, "onnx", precision, batch=3, input=input, device="cpu")
    assert report.psnr_db is not None and report.psnr_db > 40
    assert read_embedded(path).num_points == 78
    engine, expected = open_engine(path, people["irises"]), TorchEngine(people["irises"]).run(points)
    frames = engine.run(points)
    assert pooled_psnr_db(frames, expected) > 40
    hidden = engine.run(points[:, :68])
    assert pooled_psnr_db(hidden, frames) < pooled_psnr_db(frames, expected)
    assert pooled_psnr_db(hidden, TorchEngine(people["plain"]).run(points)) > 40


@pytest.mark.slow  # torch's compiler takes a minute
def test_aoti_renders_irises_as_torch(people: dict[str, Person], points: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "person.pt2"
    report = export_person(people["irises"], path, "aoti", batch=3, device="cpu")
    assert report.psnr_db is not None and report.psnr_db > 50
    engine = open_engine(path, people["irises"])
    assert len(points) > 1
    frames = engine.run(points)
    assert pooled_psnr_db(frames, TorchEngine(people["irises"]).run(points)) > 50
