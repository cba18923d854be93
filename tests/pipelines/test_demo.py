import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import talkinghead.pipelines.demo as demo
from conftest import RedSquare, draw_video
from talkinghead import cli, metrics
from talkinghead.checkpoint import load_person
from talkinghead.clip import Clip, Track
from talkinghead.errors import TalkingheadError
from talkinghead.evaluation import scorer
from talkinghead.media.contact_sheet import GAP, LABEL_HEIGHT, Panels, SheetRow, draw_contact_sheet
from talkinghead.model import random_model
from talkinghead.pipelines.demo_source import split
from talkinghead.pretrained import face_recognition


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[demo.Demo, list[tuple[str, int]]]:
    """Run the demo on random weights for two steps; return it and the reported progress."""
    from talkinghead.landmarks.open_detector import open_detector

    progress_log: list[tuple[str, int]] = []

    def progress(iterable: Any, /, *, desc: str, total: int | None) -> Any:
        steps = 0
        for item in iterable:
            yield item
            steps += 1
        progress_log.append((desc, steps))

    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(demo, "MAX_FRAMES", 60)  # half the clip is half the time
        patched.setattr(face_recognition, "open_installed_dlib", lambda: None)
        result = demo.run(
            demo.demo_clip(),
            out,
            random_model("tiny"),
            open_detector("network"),
            "none",
            steps=2,
            progress=progress,
        )
    return result, progress_log


# run, on the real clip


def test_demo_metrics_include_nearest_frame(demo_run: tuple[demo.Demo, Any]) -> None:
    figures = json.loads(demo_run[0].metrics.read_text())
    assert figures == demo_run[0].figures
    assert set(figures["result"]) == set(figures["nearest"]) == {"ssim", "psnr", "landmark_error"}
    assert figures["settings"]["frames"]["learned_from"] == 8
    assert figures["settings"]["frames"]["held_out"] == 20
    assert (figures["settings"]["model"], figures["settings"]["steps"]) == ("none", 2)
    assert figures["settings"]["seconds"]["total"] > 0
    # copying a real frame is far better than two steps from random weights
    assert figures["nearest"]["ssim"] > 0.6 > figures["result"]["ssim"]
    assert figures["nearest"]["psnr"] > figures["result"]["psnr"] + 5
    assert 0.01 < figures["nearest"]["landmark_error"] < 0.5


def test_demo_video_shows_held_out_third(demo_run: tuple[demo.Demo, Any]) -> None:
    with av.open(str(demo_run[0].video)) as container:
        assert "synthesised by talkinghead" in container.metadata["comment"]
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 20
    assert frames[0].shape[0] >= LABEL_HEIGHT + 256 and frames[0].shape[1] >= 4 * 256
    panels = [
        frames[10][LABEL_HEIGHT : LABEL_HEIGHT + 256, GAP + i * (256 + GAP) :][:, :256].astype(float)
        for i in range(4)
    ]
    source, landmarks, result, truth = panels
    assert (landmarks.max(axis=2) < 30).mean() > 0.85 and landmarks.max() > 200  # lines on black
    assert np.abs(source - truth).mean() < np.abs(result - truth).mean()  # the same man, and coloured blocks
    assert frames[10][:LABEL_HEIGHT].max() > 200  # labels


def test_demo_saves_person(demo_run: tuple[demo.Demo, Any]) -> None:
    assert load_person(demo_run[0].video.parent / "person.safetensors").provenance["steps"] == 2


def test_demo_sheet_has_five_rows(demo_run: tuple[demo.Demo, Any]) -> None:
    with Image.open(demo_run[0].sheet) as picture:
        assert picture.width > 8 * 144 and picture.height > 5 * 144


def test_demo_reports_progress_of_every_step(demo_run: tuple[demo.Demo, list[tuple[str, int]]]) -> None:
    assert [steps for _, steps in demo_run[1]] == [60, 2, 20, 20]


# run, with a known face and no network


class FakeNetworks:
    """Replacement of fine-tuning and animation that keeps its arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures: Clip
        self.drive: Track
        self.crop: Any
        monkeypatch.setattr(demo, "finetune", self.finetune)
        monkeypatch.setattr(demo, "describe_run", lambda model, clip, steps: "learning")
        monkeypatch.setattr(demo, "animate", self.animate)
        monkeypatch.setattr(demo, "save_person", lambda person, path: None)
        monkeypatch.setattr(
            demo, "measure", lambda *arguments: dict.fromkeys(("ssim", "psnr", "identity", "landmark_error"))
        )

    def finetune(self, model: Any, clip: Clip, steps: int, **rest: Any) -> SimpleNamespace:
        self.pictures = clip
        networks = SimpleNamespace(num_points=68, used_points=68)
        return SimpleNamespace(
            neutral_landmarks=clip.track.landmarks[0], config=SimpleNamespace(networks=networks)
        )

    def animate(self, person: SimpleNamespace, drive: Track, crop: Any) -> Any:
        self.drive, self.crop = drive, crop
        return (np.zeros((64, 64, 3), np.uint8) for _ in range(len(drive)))


def moving(visible: range, wide_from: int = 999) -> list[tuple[int, int, int] | None]:
    """Return a face that moves right by a pixel a frame; from frame `wide_from` on, 45 pixels further."""
    return [(20 + i + (45 if i >= wide_from else 0), 30, 40) if i in visible else None for i in range(45)]


def test_demo_does_not_learn_from_held_out(
    tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model("tiny")
    seen = []
    for wide_from in (999, 30):  # the second video differs in its last third alone
        networks = FakeNetworks(monkeypatch)
        video = draw_video(tmp_path / "video.mp4", moving(range(45), wide_from), size=(120, 200))
        demo.run(video, tmp_path / "out", model, red_square)
        seen.append((networks.crop, networks.pictures, networks.drive))
    (crop, pictures, drive), (other_crop, other_pictures, other_drive) = seen
    np.testing.assert_allclose(
        [crop.x, crop.y, crop.side], [other_crop.x, other_crop.y, other_crop.side], atol=4
    )
    np.testing.assert_allclose(pictures.track.landmarks, other_pictures.track.landmarks, atol=2)
    assert not np.allclose(drive.landmarks, other_drive.landmarks, atol=10)
    assert len(pictures) == 8 and len(drive) == 15
    left = (
        pictures.track.landmarks[:, 0, 0] * crop.side / 64 + crop.x
    )  # in pixels of the video, where a face moves 1 a frame
    np.testing.assert_allclose(
        left, 20 + np.linspace(0, 29, 8), atol=2
    )  # evenly spaced over the first two thirds


def test_demo_long_video_uses_first_frames(
    tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "MAX_FRAMES", 30)
    FakeNetworks(monkeypatch)
    video = draw_video(tmp_path / "video.mp4", moving(range(45)), size=(120, 200))
    assert (
        demo.run(video, tmp_path / "out", random_model("tiny"), red_square).figures["settings"]["frames"][
            "total"
        ]
        == 30
    )


@pytest.mark.parametrize(
    "visible, expected",
    [
        (range(0), "video.mp4: no face"),
        (range(5), "video.mp4: a face is in 5 frames of the first two thirds and in 0 of the last"),
        (range(30, 45), "in 0 frames"),
    ],
)
def test_demo_unsuitable_video_reports_user_error(
    visible: range, expected: str, tmp_path: Path, red_square: RedSquare
) -> None:
    video = draw_video(tmp_path / "video.mp4", moving(visible), size=(120, 200))
    with pytest.raises(TalkingheadError, match=expected) as raised:
        demo.run(video, tmp_path / "out", random_model("tiny"), red_square)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_demo_unwritable_folder_fails_before_finetuning(
    tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = FakeNetworks(monkeypatch)
    video = draw_video(tmp_path / "video.mp4", moving(range(45)), size=(120, 200))
    with pytest.raises(TalkingheadError, match="cannot write"):
        demo.run(video, video / "out", random_model("tiny"), red_square)
    assert not hasattr(networks, "pictures")  # before the fine-tuning, not after it


# its parts


def test_split_holds_out_last_third() -> None:
    kept = np.array([i for i in range(120) if i not in (0, 79, 80, 119)])
    parts = split(kept, 120)
    assert parts.cut == 80
    assert (parts.first[0], parts.first[-1], len(parts.first)) == (1, 78, 78)
    assert (parts.held[0], parts.held[-1], len(parts.held)) == (81, 118, 38)
    assert parts.shots.tolist() == [1, 12, 23, 34, 45, 56, 67, 78]


def test_compare_describes_missing_metric() -> None:
    figures: dict[str, dict[str, float | None]]
    figures = {
        row: {"ssim": 0.5, "psnr": 21.26, "identity": None, "landmark_error": 0.123}
        for row in ("result", "nearest")
    }
    figures["nearest"]["psnr"] = None
    assert demo.compare(figures)[1:3] == ["PSNR 21.3 (infinite)", "identity distance no face (no face)"]


def test_measure_has_no_nan(monkeypatch: pytest.MonkeyPatch, red_square: RedSquare) -> None:
    for module, name in (
        (metrics, "ssim"),
        (metrics, "psnr"),
        (face_recognition, "identity_distance"),
        (scorer, "landmark_error"),
    ):
        monkeypatch.setattr(module, name, lambda *arguments: float("nan"))
    frames, track = np.zeros((1, 64, 64, 3), np.uint8), Track(np.zeros((1, 68, 2)), (64, 64))
    monkeypatch.setattr(face_recognition, "open_installed_dlib", lambda: object())
    figures = demo.measure(frames, frames, track, red_square)
    assert figures == dict.fromkeys(("ssim", "psnr", "identity", "landmark_error"))
    monkeypatch.setattr(face_recognition, "open_installed_dlib", lambda: None)
    assert "identity" not in demo.measure(frames, frames, track, red_square)


@pytest.mark.identity
def test_measure_with_dlib_has_identity_distance(carphone_clip: Clip) -> None:
    clip = carphone_clip[[0, 20]]
    figures = demo.measure(clip.frames, clip.frames[::-1], clip.track, RedSquare())
    identity = figures["identity"]
    assert identity is not None and 0 < identity < 0.5


@pytest.mark.parametrize("measured", [False, True])
def test_demo_command_reports_identity_distance(
    measured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"ssim": 0.5, "psnr": 20.0, "landmark_error": 0.1} | ({"identity": 0.3} if measured else {})
    files = (tmp_path / name for name in ("result.mp4", "sheet.png", "metrics.json"))
    result = demo.Demo(*files, {"result": row, "nearest": row})
    monkeypatch.setattr(demo, "run", lambda *arguments, **options: result)
    assert cli.main(["demo", "--model", "none", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert ("identity distance 0.30 (0.30)" in printed) is measured
    assert ("identity: not measured (pip install 'talkinghead[identity]')\n" in printed) is not measured


def test_panels_enlarges_and_labels() -> None:
    panels = Panels([("one", "first"), ("two", "second")], 256)
    red, blue = np.full((64, 64, 3), (200, 0, 0), np.uint8), np.full((64, 64, 3), (0, 0, 200), np.uint8)
    frame = panels.frame([red, blue])
    assert frame.shape == (*panels.size, 3) and all(side % 2 == 0 for side in panels.size)
    assert frame[LABEL_HEIGHT + 128, GAP + 128].tolist() == [200, 0, 0]
    assert frame[LABEL_HEIGHT + 128, 2 * GAP + 256 + 128].tolist() == [0, 0, 200]
    strip = frame[:LABEL_HEIGHT]
    assert strip[:, : GAP + 256].max() > 200 and strip[:, GAP + 256 :].max() > 200
    assert np.array_equal(strip, panels.frame([blue, red])[:LABEL_HEIGHT])


def test_contact_sheet_places_rows_and_captions() -> None:
    pictures = [np.full((10, 10, 3), value, np.uint8) for value in (60, 120, 180)]
    plain = draw_contact_sheet(
        "title", "below", [SheetRow("a", "x", pictures), SheetRow("b", "y", pictures[:2])]
    )
    captioned = draw_contact_sheet(
        "title", "below", [SheetRow("a", "x", pictures, ["1", "2", "3"]), SheetRow("b", "y", pictures[:2])]
    )
    assert captioned.shape[0] > plain.shape[0] and captioned.shape[1] == plain.shape[1]
    for value, times in ((60, 2), (120, 2), (180, 1)):
        assert (plain == value).all(axis=2).sum() == times * 144 * 144
    lefts = [np.nonzero((plain == value).all(axis=2))[1].min() for value in (60, 120, 180)]
    assert np.diff(lefts).tolist() == [144 + GAP] * 2
