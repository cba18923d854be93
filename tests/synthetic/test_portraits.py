"""Tests of animated portraits: pixels, landmarks, depth order, the data set, interruption, bad input."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from talkinghead.cli import main
from talkinghead.data.crop import Crop, crop_around
from talkinghead.dataset.shard_reader import read_index
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.media.images import write_image
from talkinghead.synthetic import portrait_sources, portraits
from talkinghead.synthetic.portrait_expression import PortraitMotion
from talkinghead.synthetic.portrait_motion import PortraitHead, move_landmarks, render_motion, sample_motions
from talkinghead.synthetic.portrait_rasterizer import rasterize
from talkinghead.synthetic.portrait_sources import find_portraits
from talkinghead.synthetic.portraits import PortraitReport, prepare_portraits

SIDE = 280


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    """One woman, uint8 [280, 280, 3], in the public domain."""
    data = pytest.importorskip("skimage.data", reason="scikit-image's pictures are needed")
    return np.ascontiguousarray(data.astronaut()[:SIDE, 84 : 84 + SIDE])


@pytest.fixture(scope="module")
def head(astronaut: np.ndarray) -> PortraitHead:
    return PortraitHead.fit(astronaut, open_detector("network").find([astronaut])[0][0].landmarks)


def grey_head(dots: Sequence[int] = ()) -> PortraitHead:
    """Return a mean face on grey, with soft red dots on some of its landmarks."""
    landmarks = MEAN_FACE[:, :2] * 45 + [SIDE / 2, SIDE / 2 + 15]
    picture = np.full((SIDE, SIDE, 3), 120.0)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    for dot in dots:
        near = (x - landmarks[dot, 0]) ** 2 + (y - landmarks[dot, 1]) ** 2
        picture[..., 0] += 130 * np.exp(-near / (2 * 2.0**2))
    return PortraitHead.fit(np.rint(picture).astype(np.uint8), landmarks)


def render_picture(head: PortraitHead, motion: PortraitMotion) -> np.ndarray:
    """Return the whole picture, moved."""
    return render_motion(head, motion, Crop(0, 0, SIDE, 2), SIDE)


TURNS = [
    PortraitMotion(yaw=14),
    PortraitMotion(yaw=-14),
    PortraitMotion(pitch=10),
    PortraitMotion(pitch=-10),
    PortraitMotion(roll=9, shift=(-0.1, 0.05)),
]


@pytest.mark.parametrize("motion", TURNS, ids=["right", "left", "up", "down", "tilted"])
def test_landmarks_of_turned_frame_agree_with_detector(head: PortraitHead, motion: PortraitMotion) -> None:
    points = move_landmarks(head, motion)
    crop = crop_around(np.stack([head.landmarks, points]), (SIDE, SIDE), convention=2)
    face = open_detector("network").find([render_motion(head, motion, crop, 256)])[0][0]
    eyes = np.linalg.norm(points[45] - points[36]) * 256 / crop.side
    distance = np.linalg.norm(face.landmarks - crop.points(points, 256), axis=1) / eyes
    unmoved = np.linalg.norm(face.landmarks - crop.points(head.landmarks, 256), axis=1) / eyes
    assert distance.mean() < 0.035 and distance[17:].mean() < 0.03
    assert unmoved.mean() > 2.5 * distance.mean()


def test_rotation_moves_nose_against_eyes(head: PortraitHead) -> None:
    for motion, axis, sign in (
        (PortraitMotion(yaw=10), 0, 1),
        (PortraitMotion(yaw=-10), 0, -1),
        (PortraitMotion(pitch=8), 1, -1),
    ):
        change = (move_landmarks(head, motion) - head.landmarks)[:, axis] * sign
        # what lies nearer to the camera moves further
        assert change[30] > change[[36, 39, 42, 45]].mean() + 0.05 * head.scale
        assert change[30] > change[[0, 16]].mean() + 0.1 * head.scale


@pytest.mark.parametrize(
    "motion",
    [
        PortraitMotion(yaw=12, pitch=6, roll=-7, zoom=1.03),
        PortraitMotion(yaw=-9, jaw=0.8, smile=0.9, brows=-1),
        PortraitMotion(smile=-1, brows=1, shift=(0.1, -0.1)),
    ],
    ids=["turned", "speaking", "puckered"],
)
def test_landmarks_lie_where_their_pixels_are_drawn(motion: PortraitMotion) -> None:
    dots = (8, 19, 30, 48, 57)
    marked = grey_head(dots)
    red = render_picture(marked, motion)[..., 0] - render_picture(grey_head(), motion)[..., 0].astype(float)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    points = move_landmarks(marked, motion)
    for dot in dots:
        near = np.hypot(x - points[dot, 0], y - points[dot, 1]) < 10
        weight = np.clip(red, 0, None) * near
        centre = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
        assert np.abs(centre - points[dot]).max() < 0.6
        assert np.linalg.norm(points[dot] - marked.landmarks[dot]) > 2


def test_upper_lid_meets_lower_when_lids_close(head: PortraitHead) -> None:
    points = move_landmarks(head, PortraitMotion(lids=(1.0, 0.0)))
    lids = [(face[37], face[[36, 41, 40, 39]].T) for face in (head.landmarks, points)]
    opening = [np.interp(upper[0], *lower) - upper[1] for upper, lower in lids]
    assert opening[1] < 0.15 * opening[0]
    np.testing.assert_allclose(points[42:48], head.landmarks[42:48], atol=1e-6)
    x, y = points[36:42].mean(axis=0).astype(int)
    before, after = (
        head.picture[y - 4 : y + 3, x - 3 : x + 4],
        render_picture(head, PortraitMotion(lids=(1, 1)))[y - 4 : y + 3, x - 3 : x + 4],
    )
    # skin where the dark eye was
    assert after.mean() > before.mean() + 15


def test_mouth_is_dark_inside_when_jaw_opens(head: PortraitHead) -> None:
    points = move_landmarks(head, PortraitMotion(jaw=1.0))
    assert points[66, 1] - head.landmarks[66, 1] > 0.15 * head.scale
    assert points[8, 1] - head.landmarks[8, 1] > 0.15 * head.scale
    np.testing.assert_allclose(points[27:55], head.landmarks[27:55], atol=0.6)
    x, y = (points[66] - [0, 3]).astype(int)
    assert render_picture(head, PortraitMotion(jaw=1.0))[y - 1 : y + 2, x - 3 : x + 4].mean() < 90


def test_border_and_background_stand_still_when_head_moves(head: PortraitHead, astronaut: np.ndarray) -> None:
    for motion in (
        *TURNS,
        PortraitMotion(yaw=-14, pitch=10, roll=9, shift=(0.12, -0.12), zoom=1.04, jaw=1.0),
    ):
        frame = render_picture(head, motion)
        for line in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
            np.testing.assert_array_equal(frame[line], astronaut[line])
        np.testing.assert_array_equal(frame[:40, :40], astronaut[:40, :40])
        low, high = head.landmarks.min(axis=0).astype(int), head.landmarks.max(axis=0).astype(int)
        box = np.s_[low[1] : high[1], low[0] : high[0]]
        assert np.abs(frame[box].astype(int) - astronaut[box]).mean() > 5


def test_frame_without_motion_is_the_portrait(head: PortraitHead, astronaut: np.ndarray) -> None:
    crop = Crop(20.5, 11.2, 200, 2)
    np.testing.assert_array_equal(render_motion(head, PortraitMotion(), crop, 96), crop.pixels(astronaut, 96))
    np.testing.assert_allclose(move_landmarks(head, PortraitMotion()), head.landmarks, atol=1e-6)


def test_rasterize_keeps_nearest_triangle() -> None:
    random = np.random.default_rng(3)
    screen = np.column_stack([random.uniform(-4, 28, (60, 2)), random.uniform(-2, 2, 60)])
    triangles = np.arange(60).reshape(20, 3)
    rows, columns, triangle, weights = rasterize(screen, triangles, 24)
    depth = np.full((24, 24), -np.inf)
    depth[rows, columns] = (weights * screen[triangles[triangle], 2]).sum(axis=1)
    expected = np.full((24, 24), -np.inf)
    for corners in screen[triangles]:
        matrix = np.column_stack([corners[:, :2], np.ones(3)]).T
        y, x = np.mgrid[:24, :24] + 0.5
        share = np.linalg.solve(matrix, np.stack([x.ravel(), y.ravel(), np.ones(576)]))
        here = np.where((share >= 0).all(axis=0), corners[:, 2] @ share, -np.inf).reshape(24, 24)
        expected = np.maximum(expected, here)
    np.testing.assert_array_equal(np.isfinite(depth), np.isfinite(expected))
    covered = np.isfinite(expected)
    np.testing.assert_allclose(depth[covered], expected[covered], atol=2e-6)


def test_far_cheek_stays_behind_near_one_when_turned_far() -> None:
    plain = grey_head()
    picture = plain.picture.copy()
    x = np.arange(SIDE) + 0.5
    middle = plain.landmarks[30, 0]
    picture[:, x > middle + 8] = (200, 40, 40)
    picture[:, x < middle - 2] = (40, 40, 200)
    head = PortraitHead.fit(picture, plain.landmarks)
    motion = PortraitMotion(yaw=60)  # far beyond what is drawn, so that the sheet folds over the right cheek
    frame, nose = render_picture(head, motion), move_landmarks(head, motion)[30]
    row = frame[int(nose[1])].astype(int)
    # the side that faces the camera reaches up to the nose, and nothing of the far cheek lies over it
    near = row[int(nose[0]) - 25 : int(nose[0]) - 6]
    assert (near[:, 2] > near[:, 0] + 100).all()


def test_sampled_motions_cover_the_range() -> None:
    for seed in range(20):
        motions = sample_motions(10, 0.0, np.random.default_rng(seed))
        assert motions[0] == PortraitMotion() and len(motions) == 10
        turns = np.array([[motion.yaw, motion.pitch, motion.roll] for motion in motions[1:]])
        assert (np.abs(turns) <= [14, 10, 9]).all()
        assert (turns.max(axis=0) > [10, 7, 6]).all() and (turns.min(axis=0) < [-10, -7, -6]).all()
        assert sum(motion.lids[0] > 0.8 for motion in motions) == 3
        assert sum(motion.jaw > 0.1 for motion in motions) == 5
        assert np.ptp([motion.smile for motion in motions]) > 0.8
    turned = sample_motions(10, 20.0, np.random.default_rng(0))
    assert -14 <= min(motion.yaw for motion in turned) < -8 and max(motion.yaw for motion in turned) <= 5


def map_in_this_process(work, jobs, workers, caller):  # type: ignore[no-untyped-def]
    """Do what `map_ordered` does without worker processes."""
    for label, job in jobs:
        yield label, None if job is None else work(job, lambda: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """Two portraits, and pictures that are none."""
    folder = tmp_path_factory.mktemp("portraits")
    write_image(folder / "2 mirrored.png", astronaut[:, ::-1])
    write_image(folder / "10.png", astronaut)
    write_image(folder / "blank.png", np.full((90, 90, 3), 128, dtype=np.uint8))
    write_image(folder / "couple.png", np.concatenate([astronaut, astronaut[:, ::-1]], axis=1))
    (folder / "cut.png").write_bytes((folder / "10.png").read_bytes()[:5000])
    (folder / "same.png").write_bytes((folder / "10.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def prepared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, PortraitReport]]:
    """Prepare the folder's data set of 4 frames each, 64x64, by this process."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portraits, "map_ordered", map_in_this_process)
        yield out, prepare_portraits(folder, out, 64, seed=5, frames_each=4, detector="network")


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file of a folder by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_data_set_holds_moved_portraits(prepared: tuple[Path, PortraitReport], astronaut: np.ndarray) -> None:
    out, report = prepared
    assert (report.added, report.present, report.clips, report.frames) == (2, 0, 2, 8)
    clips = read_index(out)
    assert [clip.person for clip in clips] == ["portrait-2_mirrored", "portrait-10"]
    for clip, picture in zip(clips, (astronaut[:, ::-1], astronaut), strict=True):
        crop = clip.info.crop
        assert clip.info.frame_size == (SIDE, SIDE) and clip.info.detector == "network"
        assert crop.convention == 2
        expected = crop_around(
            clip.landmarks * (crop.side / 64) + [crop.x, crop.y], (SIDE, SIDE), convention=2
        )
        np.testing.assert_allclose(
            [expected.x, expected.y, expected.side], [crop.x, crop.y, crop.side], atol=0.01
        )
        frames = clip.frames(range(4)).astype(int)
        assert np.abs(frames[0] - crop.pixels(picture, 64)).mean() < 2.5  # JPEG's
        assert (np.abs(frames[1:] - frames[0]).mean(axis=(1, 2, 3)) > 4).all()
    assert (out / "sheet.png").stat().st_size > 5_000
    summary = json.loads((out / "dataset.json").read_text())
    assert summary["people"] == 2 and summary["frames_each"] == 4 and summary["seed"] == 5


def test_report_gives_reason_for_each_rejected_picture(prepared: tuple[Path, PortraitReport]) -> None:
    out, report = prepared
    reasons = dict(report.rejected)
    assert set(reasons) == {"blank.png", "couple.png", "cut.png", "same.png"}
    assert "shows no face" in reasons["blank.png"] and "shows 2 large faces" in reasons["couple.png"]
    assert reasons["cut.png"].startswith("cannot be read as a picture")
    assert reasons["same.png"] == "is the same picture as 10.png"
    lines = [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]
    assert {line["file"]: line["reason"] for line in lines[1:] if line["verdict"] == "rejected"} == reasons
    assert (
        report.as_dict()["made"] == 2
        and "4 rejected" in report.lines()[0]
        and report.as_dict()["rejected"] == reasons
    )


def test_small_or_cornered_face_is_rejected(astronaut: np.ndarray, tmp_path: Path) -> None:
    small = np.pad(astronaut[::3, ::3], ((60, 60), (60, 60), (0, 0)), mode="edge")
    write_image(tmp_path / "small.png", small)
    write_image(tmp_path / "tight.png", astronaut[70:182, 92:196])
    renderer = portraits.PortraitRenderer(open_detector("network"), 0, 64, 3)
    reasons = []
    for name in ("small", "tight"):
        task = portraits._Task(tmp_path / f"{name}.png", "0" * 64, name, name, tmp_path / f"{name}.tar")
        reasons.append(renderer(task, lambda: None).get("reason", ""))
    assert "pixels wide, expected 48 at least" in reasons[0]
    assert "lies at the border of the picture" in reasons[1]


def test_workers_and_tar_give_the_same_bytes(
    folder: Path, prepared: tuple[Path, PortraitReport], tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for path in sorted(folder.iterdir(), reverse=True):
            tar.add(path, arcname=f"../deep/{path.name}")
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    out = tmp_path / "out"
    pictures = tmp_path / "all.tar"
    report = prepare_portraits(pictures, out, 64, seed=5, frames_each=4, workers=2, detector="network")
    assert read_files(out) == read_files(prepared[0])
    assert report.added == 2 and len(report.rejected) == 4


def test_interrupted_run_resumes_with_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portraits, "map_ordered", map_in_this_process)
    one_each: dict[str, Any] = {"frames_each": 2, "detector": "network", "shard_clips": 1}

    def stop_after_first(results, /, *, desc, total):  # type: ignore[no-untyped-def]
        yield next(iter(results))
        raise KeyboardInterrupt

    uninterrupted, resumed = tmp_path / "whole", tmp_path / "cut"
    prepare_portraits(folder, uninterrupted, 32, **one_each)
    with pytest.raises(KeyboardInterrupt):
        prepare_portraits(folder, resumed, 32, **one_each, progress=stop_after_first)
    assert [path.name for path in resumed.glob("shard-*.tar")] == ["shard-000000.tar"]
    report = prepare_portraits(folder, resumed, 32, **one_each)
    assert (report.added, report.present) == (1, 1) and len(report.rejected) == 4
    assert read_files(resumed) == read_files(uninterrupted)
    repeated = prepare_portraits(folder, resumed, 32, frames_each=2, detector="network")
    assert (repeated.added, repeated.present) == (0, 2) and dict(repeated.rejected) == dict(report.rejected)
    with pytest.raises(TalkingheadError, match="prepared with seed 0, expected 1; prepare into another"):
        prepare_portraits(folder, resumed, 32, seed=1, frames_each=2, detector="network")


def test_tar_members_are_bounded_and_names_sanitised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portrait_sources, "MAX_IMAGE_BYTES", 100)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, size in (("../../x y\n.jpg", 5), ("big.png", 101), (".hidden.jpg", 5), ("b.gif", 5)):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(b"x" * size))
    members = find_portraits(tmp_path / "a.tar")
    assert [portrait.name for portrait in members] == ["x y\\n.jpg", "big.png"]
    assert members[0].person == "portrait-x_y_n" and members[0].read() == b"xxxxx"
    assert members[1].reason == "has 101 bytes, expected at most 100; scale it down"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"size": 0}, "0 pixels a side, expected at least 1"),
        ({"frames_each": 0}, "0 frames for each, expected at least 1"),
        ({"workers": 0}, "0 workers, expected at least 1"),
        ({"seed": -1}, "seed -1, expected 0 or more"),
        ({"pictures": "missing"}, "missing: no such file; name a folder"),
        ({"pictures": "notes.txt"}, "notes.txt: is no folder and no .tar"),
        ({"pictures": "broken.tar"}, "broken.tar: cannot be read as a .tar"),
        ({"pictures": "empty.tar"}, "empty.tar: holds no pictures"),
        ({"pictures": "empty"}, "empty: holds no pictures"),
        ({"pictures": "blank"}, "blank: none of 1 can be used; the first: 1.png: shows no face"),
    ],
)
def test_prepare_portraits_rejects_bad_input(
    settings: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(portraits, "map_ordered", map_in_this_process)
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "broken.tar").write_bytes(b"none" * 400)
    tarfile.open(tmp_path / "empty.tar", "w").close()
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").mkdir()
    write_image(tmp_path / "blank/1.png", np.full((90, 90, 3), 128, dtype=np.uint8))
    numbers = {name: value for name, value in settings.items() if name != "pictures"}
    pictures = tmp_path / settings.get("pictures", "blank")
    with pytest.raises(TalkingheadError) as failure:
        prepare_portraits(pictures, tmp_path / "out", detector="network", **numbers)
    assert message in str(failure.value) and "\n" not in str(failure.value)
    assert not list((tmp_path / "out").glob("shard-*"))


def test_command_prepares_portraits(
    astronaut: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "pictures" / "anna.png", astronaut)
    out = tmp_path / "data"
    command = ["prepare", "--portraits", str(tmp_path / "pictures"), "--out", str(out), "--size", "64"]
    assert main([*command, "--frames-each", "3", "--workers", "1", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 1
    (clip,) = read_index(out)
    assert (clip.person, len(clip), clip.size) == ("portrait-anna", 3, 64)
    assert main([*command, "video.mp4"]) == 2
    assert "videos and --portraits are different sources; name one of" in capsys.readouterr().err
