"""Tests of the detection of scene cuts."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from talkinghead.media.video import VideoReader, write_video


def scenes(path: Path, frames: int = 60, flash: int = 0, cuts: Sequence[int] = ()) -> Path:
    """Write a textured scene that moves by 3 pixels a frame and changes at each cut.

    Every tenth frame is brighter by `flash`.
    """
    rows, columns = np.mgrid[:96, :400]
    textures = [np.random.default_rng(seed).uniform(20, 210, (12, 50, 3)) for seed in range(len(cuts) + 1)]
    with write_video(path, 25, (96, 160)) as video:
        for number in range(frames):
            texture = textures[sum(number >= cut for cut in cuts)][rows // 8, columns // 8]
            scene = texture[:, 3 * number % 240 :][:, :160] + flash * (number % 10 == 0)
            video.write(scene.clip(0, 255).astype(np.uint8))
    return path


def test_reader_detects_cuts(tmp_path: Path) -> None:
    reader = VideoReader(scenes(tmp_path / "film.mp4", cuts=(20, 33, 58)), find_cuts=True)
    assert reader.cuts == ()
    for _ in range(2):
        assert sum(1 for _ in reader) == 60
        assert reader.cuts == (20, 33, 58)
    without = VideoReader(reader.path)
    assert sum(1 for _ in without) == 60
    assert without.cuts == ()


@pytest.mark.parametrize("flash", [0, 15, 120])
def test_reader_ignores_movement_and_flashes(tmp_path: Path, flash: int) -> None:
    reader = VideoReader(scenes(tmp_path / "take.mp4", flash=flash), find_cuts=True)
    assert sum(1 for _ in reader) == 60
    assert reader.cuts == ()


def test_cuts_count_frames_at_constant_rate(tmp_path: Path) -> None:
    stamps = [40 * n for n in range(10)] + [1000 + 40 * n for n in range(10)]
    path = tmp_path / "varying.mp4"
    source = VideoReader(scenes(tmp_path / "film.mp4", 20, cuts=(10,)))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for stamp, frame in zip(stamps, source, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    reader = VideoReader(path, find_cuts=True)
    assert sum(1 for _ in reader) == 35
    assert reader.cuts == (25,)
