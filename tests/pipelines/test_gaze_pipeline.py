"""Gaze from a driver to the frames of a person: files, animation, live driving and learning further."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from conftest import RedSquare, draw_video
from support.gaze_helpers import SIDE, gaze_clip, model_with_irises, without_irises, write_gaze_shards
from support.live_helpers import record_frames
from talkinghead.checkpoint import load_model, load_person, save_model, save_person
from talkinghead.clip import Clip, Track
from talkinghead.data.crop import Crop
from talkinghead.data.load import join_clips
from talkinghead.engines.manifest import Manifest
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.errors import TalkingheadError
from talkinghead.evaluation.evaluate_clip import render as render_own_landmarks
from talkinghead.evaluation.measure_clips import _read_track, _track_values
from talkinghead.evaluation.split import find_eval_clips, read_eval_frames
from talkinghead.exporters.tensorrt import _check_base
from talkinghead.landmarks.detector import Face
from talkinghead.landmarks.face_points import HIDDEN_IRIS, fit_points, track_points
from talkinghead.landmarks.gaze import look_ahead
from talkinghead.model import Model, Person
from talkinghead.networks.references import References, shape_distance
from talkinghead.pipelines.animate import animate, driving_points
from talkinghead.pipelines.finetune import finetune
from talkinghead.pipelines.live import live
from talkinghead.training.early_stopping import finetune_with_early_stopping


@pytest.fixture(scope="module")
def model(guided_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Return a model with irises that has a file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(model_with_irises(guided_model), path)
    return load_model(path)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return gaze_clip(fps=25.0)


@pytest.fixture(scope="module")
def person(model: Model, clip: Clip) -> Person:
    return finetune(model, clip, steps=2, perceptual=[])


@pytest.fixture(scope="module")
def plain_person(guided_model: Model, clip: Clip) -> Person:
    """Return a person of a reference-guided model whose landmark images show no irises."""
    return finetune(guided_model, clip, steps=0)


@pytest.fixture(scope="module")
def old_person(plain_person: Person) -> Person:
    """Return that person as files of earlier versions have it: without the irises of the references."""
    assert plain_person.references is not None
    return dataclasses.replace(
        plain_person, references=dataclasses.replace(plain_person.references, irises=None)
    )


@pytest.fixture(scope="module")
def paper_form_person(clip: Clip) -> Person:
    return finetune(load_model("tiny"), clip, steps=0)


def frames_of(person: Person, drive: Track, retarget: str = "on", crop: Crop | None = None) -> np.ndarray:
    return np.stack(list(animate(person, drive, crop, retarget, precision="fp32", device="cpu")))


DRIVES = pytest.mark.parametrize(
    ("retarget", "crop"), [("on", None), ("off", None), ("auto", Crop(0, 0, SIDE))], ids=["on", "off", "crop"]
)


@DRIVES
def test_gaze_of_driver_moves_the_picture(
    person: Person, clip: Clip, retarget: str, crop: Crop | None
) -> None:
    drive = clip.track
    points = driving_points(person, drive, crop, retarget == "on")
    assert points.shape == (len(clip), 78, 2)
    blind = frames_of(person, without_irises(clip).track, retarget, crop)
    frames = frames_of(person, drive, retarget, crop)
    assert not np.array_equal(frames, blind)
    assert np.abs(frames.astype(int) - TorchEngine(person).run(points)).max() <= 1
    if crop is not None:
        np.testing.assert_allclose(points, track_points(drive) / SIDE, atol=1e-6)


@DRIVES
def test_references_without_irises_render_as_before(
    old_person: Person, clip: Clip, retarget: str, crop: Crop | None
) -> None:
    frames = frames_of(old_person, clip.track, retarget, crop)
    np.testing.assert_array_equal(frames, frames_of(old_person, without_irises(clip).track, retarget, crop))


@DRIVES
def test_references_follow_gaze_that_landmark_images_do_not_show(
    plain_person: Person, clip: Clip, retarget: str, crop: Crop | None
) -> None:
    drive = dataclasses.replace(clip.track, irises=look_ahead(clip.track.landmarks))  # those of no reference
    frames = frames_of(plain_person, drive, retarget, crop)
    assert not np.array_equal(frames, frames_of(plain_person, without_irises(clip).track, retarget, crop))


@DRIVES
def test_model_of_the_papers_form_without_irises_takes_landmarks_alone(
    paper_form_person: Person, clip: Clip, retarget: str, crop: Crop | None
) -> None:
    points = driving_points(paper_form_person, clip.track, crop, retarget == "on")
    assert points.shape == (len(clip), 68, 2)
    frames = frames_of(paper_form_person, clip.track, retarget, crop)
    blind = frames_of(paper_form_person, without_irises(clip).track, retarget, crop)
    np.testing.assert_array_equal(frames, blind)


def test_driver_without_irises_is_reported_once(
    person: Person,
    old_person: Person,
    clip: Clip,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = without_irises(clip).track
    drive = Track(np.repeat(drive.landmarks, 6, axis=0), drive.size, drive.fps)  # several batches
    with caplog.at_level(logging.INFO, "talkinghead"):
        frames_of(old_person, drive)
        frames_of(person, clip.track)
        assert "irises" not in caplog.text
        frames_of(person, drive)
    assert caplog.text.count("the driver's irises are unknown") == 1
    # the comparison of a driver with the person says nothing of its own
    caplog.clear()
    monkeypatch.setattr("talkinghead.pipelines.animate.person_distance", lambda *_: 0.1)
    with caplog.at_level(logging.INFO, "talkinghead"):
        list(animate(person, without_irises(clip), precision="fp32", device="cpu"))
    assert "taken for the person it drives" in caplog.text
    assert caplog.text.count("the driver's irises are unknown") == 1


def test_points_with_irises_drive_like_their_track(person: Person, clip: Clip) -> None:
    frames = list(animate(person, track_points(clip.track), precision="fp32", device="cpu"))
    np.testing.assert_array_equal(np.stack(frames), frames_of(person, clip.track))


def test_shape_distance_depends_on_landmarks_alone(person: Person, clip: Clip) -> None:
    assert person.references is not None
    landmarks, faces = person.references.landmarks, track_points(clip.track) / SIDE
    np.testing.assert_array_equal(shape_distance(landmarks, faces), shape_distance(landmarks, faces[:, :68]))


def test_person_file_keeps_irises_of_references(
    person: Person, plain_person: Person, guided_model: Model, clip: Clip, tmp_path: Path
) -> None:
    save_person(person, tmp_path / "person.safetensors")
    loaded = load_person(tmp_path / "person.safetensors")
    assert loaded.config.networks.irises and loaded.references is not None
    np.testing.assert_allclose(loaded.references.irises, clip.track.irises / SIDE, atol=1e-6)
    np.testing.assert_array_equal(frames_of(loaded, clip.track), frames_of(person, clip.track))
    assert plain_person.references is not None and plain_person.references.irises is not None
    plain = finetune(guided_model, without_irises(clip), steps=1, perceptual=[])
    save_person(plain, tmp_path / "plain.safetensors")
    with safe_open(tmp_path / "plain.safetensors", framework="pt") as file:
        assert "references.irises" not in file.keys()  # noqa: SIM118


@pytest.mark.parametrize("fault", ["shape", "not finite"])
def test_references_reject_bad_irises(clip: Clip, fault: str) -> None:
    irises = np.zeros((len(clip), 2, 5, 2), np.float32)
    irises = irises[1:] if fault == "shape" else irises + np.nan
    with pytest.raises(TalkingheadError, match="references: (irises|a landmark is not finite)"):
        References(clip.frames, clip.track.landmarks / SIDE, irises=irises)


def test_learning_further_keeps_irises_of_known_pictures(person: Person, model: Model, clip: Clip) -> None:
    new = without_irises(gaze_clip(2, seed=1))
    learned = finetune(person, new, steps=1, model=model, perceptual=[])
    assert learned.references is not None and learned.references.irises is not None
    assert (learned.references.irises[:2] == HIDDEN_IRIS).all()
    np.testing.assert_allclose(learned.references.irises[2:], clip.track.irises / SIDE, atol=1e-5)


def test_joined_clips_hide_unknown_irises(clip: Clip) -> None:
    blind = without_irises(clip)
    joined = join_clips([clip, blind], "both").track
    assert joined.irises is not None and joined.irises.shape == (2 * len(clip), 2, 5, 2)
    np.testing.assert_array_equal(joined.irises[: len(clip)], clip.track.irises)
    assert (joined.irises[len(clip) :] == HIDDEN_IRIS * SIDE).all()
    assert join_clips([blind, blind], "both").track.irises is None


def test_evaluation_renders_own_irises(person: Person, clip: Clip) -> None:
    points = track_points(clip.track) / SIDE
    np.testing.assert_array_equal(render_own_landmarks(person, clip), TorchEngine(person).run(points))
    blind = render_own_landmarks(person, without_irises(clip))
    np.testing.assert_array_equal(blind, TorchEngine(person).run(fit_points(points[:, :68], 78)))


def test_evaluation_reads_irises_of_data_sets(tmp_path: Path) -> None:
    folder = write_gaze_shards(tmp_path / "data", ann=True, bob=False)
    known, unknown = find_eval_clips([folder])
    frames = read_eval_frames(known, 32, [2], 3, detector=None)  # type: ignore[arg-type]  # none is needed
    track = frames.held_out.track
    assert track.irises is not None
    distance = np.abs(track.irises[0] - gaze_clip(12).track.irises / 2).max(axis=(1, 2, 3))
    assert distance.min() < 1e-4
    assert read_eval_frames(unknown, 32, [2], 3, detector=None).held_out.track.irises is None  # type: ignore[arg-type]


@pytest.mark.parametrize("known", [True, False])
def test_evaluation_stores_irises_of_tracks(clip: Clip, known: bool) -> None:
    track = (clip if known else without_irises(clip)).track
    assert _read_track(_track_values(track)) == track


def test_early_stopping_compares_with_irises(model: Model, clip: Clip) -> None:
    for pictures in (clip, clip[:2]):
        learned = finetune_with_early_stopping(model, pictures, max_steps=1, perceptual=[])
        assert learned.references is not None and learned.references.irises is not None
        assert len(learned.references.irises) == len(pictures)


def test_refit_refuses_base_with_other_points(person: Person, guided_model: Model) -> None:
    base = Manifest.of(dataclasses.replace(person, config=guided_model.config), "tensorrt", "fp32", 4)
    with pytest.raises(TalkingheadError, match="has num_points 68, expected 78; name another base"):
        _check_base(Path("base.engine"), base, person, {})


class LookingSquare:
    """Detector of red squares whose face looks ahead."""

    name = "looking-square"

    def __init__(self) -> None:
        self.detector = RedSquare()

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [list(map(self._add, faces)) for faces in self.detector.find(frames)]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        return [self._add(face) for face in self.detector.follow(frames, near)]

    @staticmethod
    def _add(face: Face) -> Face:
        return dataclasses.replace(face, irises=look_ahead(face.landmarks[None])[0])


@pytest.mark.parametrize("sees_irises", [True, False])
def test_live_hands_irises_to_the_engine(
    person: Person,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sees_irises: bool,
) -> None:
    record_frames(monkeypatch)
    drive = draw_video(tmp_path / "drive.mp4", [None, None, *[(30 + n, 30, 50) for n in range(6)]])
    engine, inputs = TorchEngine(person), []

    def record(points: np.ndarray, styles: np.ndarray | None = None) -> np.ndarray:
        inputs.append(np.array(points))
        return TorchEngine.run(engine, points, styles)

    monkeypatch.setattr(engine, "run", record)
    detector = LookingSquare() if sees_irises else RedSquare()
    with caplog.at_level(logging.INFO, "talkinghead"):
        report = live(person, drive, engine=engine, detector=detector, realtime=False, retarget="off")
    assert report.frames == 8 and report.without_face == 5  # a lost face is searched every 0.2 s
    counts = [points.shape[1] for points in inputs]
    # before the first face the person at rest looks ahead, and is rendered once
    assert counts == [78] * 2 + [78 if sees_irises else 68] * 3
    assert ("irises are unknown" in caplog.text) is not sees_irises
