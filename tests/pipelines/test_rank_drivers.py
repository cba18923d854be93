"""Tests of the ranking of drivers; those that cannot drive are reported, not fatal."""

import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import RedSquare, draw_video
from talkinghead import checkpoint, cli
from talkinghead.clip import Clip, Track
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks import dlib_detector
from talkinghead.model import Person, random_model
from talkinghead.pipelines import rank_drivers
from talkinghead.pipelines.finetune import finetune


class Tilt:
    """Network whose embedding is the angle of the mean red: images of the same shade are one person."""

    name, digest = "tilt", ""

    def embed_face(self, frame: np.ndarray) -> np.ndarray | None:
        red = float(frame[..., 0].mean()) / 255
        return None if red == 0 else np.array([np.cos(red), np.sin(red)], np.float32)


@pytest.fixture(scope="module")
def person() -> Person:
    points = RedSquare()(np.pad(np.full((40, 40, 3), (230, 20, 20), np.uint8), ((10, 14), (12, 12), (0, 0))))
    assert points is not None
    clip = Clip(Track(points[None], (64, 64)), np.full((1, 64, 64, 3), 128, np.uint8))
    return finetune(random_model("tiny"), clip, steps=0)


def test_rank_drivers_sorts_by_similarity(
    person: Person, tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rendered frames get the shade that the driver's width stands for; the person's own shade is 100.
    shades = {20: 240, 30: 110, 40: 0, 50: 150}
    drivers = [
        draw_video(tmp_path / f"{side}.mp4", [(40 + i, 30, side) for i in range(20)]) for side in shades
    ]
    now: list[int] = []

    def rendered(person: Person, points: np.ndarray) -> list[np.ndarray]:
        return [np.full((64, 64, 3), now[0], np.uint8) for _ in points]

    def points(person: Person, track: Track, retargeted: bool) -> np.ndarray:
        now[:] = [shades[round(float(np.ptp(track.landmarks[0, :, 0])) / 10) * 10]]
        assert retargeted
        return track.landmarks

    monkeypatch.setattr(rank_drivers, "render", rendered)
    monkeypatch.setattr(rank_drivers, "driving_points", points)
    monkeypatch.setattr(rank_drivers, "driver_is_same_person", lambda *_: False)
    pictures = np.full((2, 64, 64, 3), 100, np.uint8)
    wall = draw_video(tmp_path / "wall.mp4", [None] * 5)
    candidates = [drivers[0], wall, tmp_path / "gone.mp4", *drivers[1:]]
    ranked = rank_drivers.rank_drivers(person, candidates, Tilt(), red_square, pictures)
    assert [score.driver.stem for score in ranked] == ["30", "50", "20", "40", "wall", "gone"]
    assert (
        ranked[0].similarity == pytest.approx(np.cos(10 / 255), abs=1e-5)
        and ranked[0].faces == 1
        and ranked[0].retargeted
    )
    assert ranked[0].distance == pytest.approx(2 * np.sin(5 / 255), abs=1e-5)
    assert (ranked[3].similarity, ranked[3].distance, ranked[3].faces) == (
        0,
        None,
        0,
    )  # no face in the result
    assert "no face was found" in ranked[4].problem and "no such file" in ranked[5].problem
    table = rank_drivers.format_scores(ranked)
    assert (
        table[1].split() == ["1", "30.mp4", "0.999", "0.039", "100%", "the", "person's"]
        and "no face" in table[4]
    )
    assert table[5].startswith("-   wall.mp4") and len(table) == 7


def test_rank_drivers_without_pictures_uses_neutral_face(
    person: Person, tmp_path: Path, red_square: RedSquare
) -> None:
    own = draw_video(tmp_path / "own.mp4", [(30, 26, 42)] * 12, size=(100, 100))
    (ranked,) = rank_drivers.rank_drivers(
        person, [tmp_path], Tilt(), red_square, retarget="off"
    )  # folders are looked through
    assert ranked.driver == own and ranked.similarity == pytest.approx(1, abs=0.02) and not ranked.retargeted
    with pytest.raises(TalkingheadError, match="no face is found in the pictures"):
        rank_drivers.rank_drivers(person, [own], Tilt(), red_square, np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(TalkingheadError, match="retarget 'yes': is unknown; choose one of"):
        rank_drivers.rank_drivers(person, [own], Tilt(), red_square, retarget="yes")


def test_commands_report_missing_and_foreign_options(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in {
        ("animate", "person"): "the following arguments are required: -d/--drive, -o/--out",
        ("animate", "person", "--drive", "a.mp4"): "the following arguments are required: -o/--out",
        ("animate", "person", "--drive", "a.mp4", "--pictures", "p.png"): "`talkinghead rank-drivers`",
        ("animate", "person", "--drive", "a.mp4", "--rank-drivers", "b"): "`talkinghead rank-drivers`",
        ("rank-drivers", "person"): "the following arguments are required: DRIVER",
        ("rank-drivers", "person", "b.mp4", "--engine", "e.onnx"): "unknown option --engine",
        ("rank-drivers", "gone.safetensors", "b.mp4"): "gone.safetensors: no such file",
    }.items():
        assert cli.main([*arguments]) == 2
        assert message in capsys.readouterr().err


def test_rank_drivers_command_without_dlib_reports_extra(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    dlib_detector._face_recognizer.cache_clear()
    monkeypatch.setattr(checkpoint, "load_person", lambda *_: person)
    video = draw_video(tmp_path / "bob.mp4", [None])
    assert cli.main(["rank-drivers", str(tmp_path / "anna.safetensors"), str(video)]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert error.endswith("pip install 'talkinghead[identity]'")
