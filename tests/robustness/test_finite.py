"""Values that are not finite are refused at the inputs, and never affect a decision."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import SMALL_NETWORKS, RedSquare, draw_video, face_clip, face_points
from talkinghead.checkpoint import load_model, load_person, save_model, save_person
from talkinghead.clip import Track
from talkinghead.config import preset
from talkinghead.data.load import read_clip, read_faces, read_track
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.detector import Face
from talkinghead.landmarks.retarget import neutral_face
from talkinghead.model import Model, random_model
from talkinghead.pipelines.finetune import finetune
from talkinghead.pretrained.face_recognition import ArcFace
from talkinghead.system.tensor_file import checksum

NOT_FINITE = (float("nan"), float("inf"), float("-inf"))


def small_model() -> Model:
    config = preset("tiny")
    return random_model(replace(config, networks=replace(SMALL_NETWORKS, image_size=32)), seed=1)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_track_rejects_values_that_are_not_finite(value: float) -> None:
    good = face_points((0, 0), (0.1, 0), (0, 0.1)) * 64
    points = good.copy()
    points[1, 7, 0] = value
    with pytest.raises(
        TalkingheadError, match="^Track: landmarks of frame 1 are not finite; leave that frame out$"
    ):
        Track(points, (64, 64))
    with pytest.raises(TalkingheadError, match="^Track: confidence of frame 2 "):
        Track(good, (64, 64), confidence=np.array([1, 1, value]))
    with pytest.raises(TalkingheadError, match="^retarget: a landmark is not finite"):
        neutral_face(points)


class GlitchingDetector(RedSquare):
    """Detector that returns invalid values for some frames."""

    def __init__(self, *glitches: int, landmark: float = np.nan, confidence: float = 1.0) -> None:
        self.glitches, self.landmark, self.confidence = glitches, landmark, confidence

    def add_glitch(self, face: Face) -> Face:
        """Return the face, with invalid values on frames of the glitches."""
        left = round(float(face.landmarks[0, 0]))
        if (left - 40) // 2 not in self.glitches:
            return face
        points = face.landmarks.copy()
        points[7, 1] = self.landmark
        return Face(points, self.confidence)

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [[self.add_glitch(face) for face in faces] for faces in super().find(frames)]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        return [self.add_glitch(face) for face in super().follow(frames, near)]


@pytest.mark.parametrize("landmark, confidence", [(np.nan, 1.0), (np.inf, 1.0), (5.0, np.nan)])
def test_detector_glitch_counts_as_no_face(landmark: float, confidence: float, tmp_path: Path) -> None:
    video = draw_video(tmp_path / "drive.mp4", [(40 + 2 * i, 30, 40) for i in range(20)])
    detector = GlitchingDetector(5, 6, 16, landmark=landmark, confidence=confidence)
    track = read_track(video, detector)
    assert np.flatnonzero(~track.seen).tolist() == [5, 6, 16]
    left = track.landmarks[:, 0, 0]
    np.testing.assert_allclose(left, 40 + 2 * np.arange(20), atol=1.5)  # interpolated
    everywhere = GlitchingDetector(*range(20), landmark=landmark, confidence=confidence)
    assert read_faces(video, everywhere).tracks == ()
    with pytest.raises(TalkingheadError, match="no face was found"):
        read_clip(video, 64, everywhere)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_load_checkpoint_rejects_values_that_are_not_finite(value: float, tmp_path: Path) -> None:
    model, clip = small_model(), face_clip(face_points((0, 0), (0.06, 0.02)), 32)
    path, person_path = tmp_path / "model.safetensors", tmp_path / "person.safetensors"
    save_model(model, path)
    person = finetune(model, clip, steps=0)
    save_person(person, person_path)
    for file, load in ((path, load_model), (person_path, lambda place: load_person(place, model))):
        write_value(file, value)
        with pytest.raises(
            TalkingheadError, match=f"^{file}: tensor .* has values that are not finite; make it again$"
        ):
            load(file)  # type: ignore[operator]
    person.neutral_landmarks[3, 0] = value
    before = person_path.read_bytes()
    with pytest.raises(TalkingheadError, match="tensor reference has values that are not finite"):
        save_person(person, person_path)
    assert person_path.read_bytes() == before
    with torch.no_grad():
        next(model.generator.parameters()).fill_(value)
    with pytest.raises(TalkingheadError, match="^model: tensor generator.* not finite"):
        finetune(model, clip, steps=0)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_engine_rejects_values_that_are_not_finite(value: float) -> None:
    engine = TorchEngine(finetune(small_model(), face_clip(face_points((0, 0)), 32), steps=0))
    points, styles = face_points((0, 0), (0.1, 0)), np.array(engine.styles)
    assert engine.run(points, styles).std() > 0
    invalid_points = points.copy()
    invalid_points[1, 3, 0] = styles.reshape(-1)[2] = value
    for arguments in ((invalid_points, None), (points, styles)):
        with pytest.raises(TalkingheadError, match="^engine: landmarks, images or styles are not finite"):
            engine.run(*arguments)


def write_value(path: Path, value: float) -> None:
    """Write a value into the first tensor of a file, and update the checksum."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    next(tensor for tensor in tensors.values() if tensor.is_floating_point()).view(-1)[0] = value
    save_file(tensors, path, {**metadata, "sha256": checksum(metadata["talkinghead"], tensors)})


def test_face_embedding_rejects_values_that_are_not_finite() -> None:
    network = ArcFace.__new__(ArcFace)
    network.name, network._channels_first = "arc.onnx", True

    class Session:
        def get_inputs(self) -> list[object]:
            return [type("Input", (), {"name": "x"})]

        def run(self, *_: object) -> list[np.ndarray]:
            return [np.array([[1.0, np.nan]])]

    network._session = Session()
    with pytest.raises(TalkingheadError, match=r"^arc\.onnx: its embedding of a face is not finite"):
        network.embed_aligned_face(np.zeros((112, 112, 3), np.uint8))
