"""Windows of whole frames for the detection network: the label lies on the face, wherever it is."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from test_landmark_crops import FACE, SIDE, marked_frame, write_faces

from talkinghead.data.crop import Crop
from talkinghead.dataset.shard_reader import ClipInfo
from talkinghead.dataset.shard_writer import ShardWriter
from talkinghead.errors import TalkingheadError
from talkinghead.media.images import resize
from talkinghead.media.video import write_video
from talkinghead.training.detection_scenes import SceneSource
from talkinghead.training.landmark_crops import FaceSource
from talkinghead.training.landmark_run import train_landmarks
from talkinghead.training.whole_frames import WholeFrames

WIDTH, HEIGHT, LEFT, TOP, CROP = 800, 600, 500, 200, 128


def write_frames(path: Path, frame: np.ndarray) -> None:
    """Write a video of six equal frames."""
    with write_video(path, 25, frame.shape[:2]) as writer:
        for _ in range(6):
            writer.write(frame)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Write a video of 800 x 600 whose face, of the data set in `data`, lies to the right."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame[TOP : TOP + CROP, LEFT : LEFT + CROP] = resize(marked_frame(), CROP)
    (tmp_path / "videos").mkdir()
    write_frames(tmp_path / "videos" / "anna.mp4", frame)
    info = ClipInfo(
        name="anna.mp4",
        sha256=hashlib.sha256(b"anna").hexdigest(),
        person="anna",
        fps=25.0,
        frame_size=(HEIGHT, WIDTH),
        crop=Crop(LEFT, TOP, CROP),
        frames=(0, 5),
        size=SIDE,
        detector="mesh",
    )
    with ShardWriter(tmp_path / "data") as writer:
        writer.write(info, np.stack([FACE, FACE]), [marked_frame()] * 2)
    return tmp_path / "videos"


def test_window_label_lies_on_face(videos: Path, tmp_path: Path) -> None:
    frames = WholeFrames(FaceSource([str(tmp_path / "data")]).clips, videos)
    rows, columns = (np.mgrid[:160, :160] + 0.5) / 160
    random, checked, radii = np.random.default_rng(0), 0, set()
    for _ in range(200):
        picture, (x, y, radius, roll) = frames.draw_window(160, random)
        radii.add(round(radius, 3))
        assert 0.05 < min(x, y) < max(x, y) < 0.95
        if not 0.08 < radius < 0.25 or max(abs(x - 0.5), abs(y - 0.5)) > 0.2:
            continue
        nose = picture[1].numpy()
        light = np.where(nose > 0.2, nose, 0)
        centre = np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()
        down = np.array([-np.sin(roll), np.cos(roll)]) * radius
        # in the mean face the nose tip lies 0.13 radii above the centre
        np.testing.assert_allclose(centre, [x, y] - 0.13 * down, atol=0.08 * radius)
        checked += 1
    assert checked > 5
    assert len(radii) > 50


def test_scenes_show_whole_frames(videos: Path, tmp_path: Path) -> None:
    faces = FaceSource([str(tmp_path / "data")])
    share = [
        (SceneSource(faces, 0, frames).draw(0, 64).count > 0).float().mean()
        for frames in (None, WholeFrames(faces.clips, videos))
    ]
    assert share[1] > share[0]


def test_other_videos_are_refused(videos: Path, tmp_path: Path) -> None:
    others = FaceSource([str(write_faces(tmp_path / "others", ("bob",)))]).clips
    with pytest.raises(
        TalkingheadError, match=r"videos: holds none of the videos that the data was prepared"
    ):
        WholeFrames(others, videos)
    write_frames(videos / "anna.mp4", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(TalkingheadError, match=r"anna.mp4: is not the video that the data was prepared from"):
        WholeFrames(FaceSource([str(tmp_path / "data")]).clips, videos)


def test_run_learns_on_whole_frames(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talkinghead.training.landmark_run.BATCH", 4)
    data, out = tmp_path / "data", tmp_path / "run"
    train_landmarks(data, out, "detection", steps=1, whole_frames=videos, learning_rate=1e-3)
    assert (out / "network.safetensors").exists()
    with pytest.raises(TalkingheadError, match="holds a run with whole_frames True, not False"):
        train_landmarks(data, out, "detection", steps=1, learning_rate=1e-3)
    with pytest.raises(TalkingheadError, match="only the detection network learns on them"):
        train_landmarks(data, tmp_path / "points", steps=1, whole_frames=videos)
