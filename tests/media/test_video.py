"""Tests of reading intact videos."""

import gc
import resource
import weakref
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from conftest import draw_video, drawn_frame
from talkinghead.errors import TalkingheadError
from talkinghead.media.video import VideoReader

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_reader_turns_rotated_video_upright(tmp_path: Path) -> None:
    red_in_corner = drawn_frame((48, 64), (0, 0, 16))
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(red_in_corner, format="rgb24")))
        container.mux(stream.encode(None))
    reader = VideoReader(tmp_path / "turned.mp4")
    assert reader.size == (64, 48)
    frame = next(iter(reader))
    assert frame.shape == (64, 48, 3)
    # 90 degrees counter-clockwise: from the top left to the bottom left
    assert frame[56, 8, 0] > 200
    assert frame[8, 8, 0] < 120


def test_reader_makes_pixels_square(carphone: Path) -> None:
    # 176 x 144 with pixels of 12:11
    assert VideoReader(carphone).size == (144, 193)
    assert next(iter(VideoReader(carphone))).shape == (144, 193, 3)


def test_reader_reads_gif(tmp_path: Path) -> None:
    frames = [Image.fromarray(drawn_frame((48, 64), (x, 8, 16))) for x in (0, 10, 20)]
    frames[0].save(tmp_path / "three.gif", save_all=True, append_images=frames[1:], duration=80)
    reader = VideoReader(tmp_path / "three.gif")
    assert (reader.fps, reader.size) == (Fraction(25, 2), (48, 64))
    assert [int((frame[16, :, 0] > 200).argmax()) for frame in reader] == [0, 10, 20]


@pytest.mark.parametrize(
    "name",
    [
        "-x.mp4",
        "http:x.mp4",
        "concat:a|b.mp4",
        "%d.mp4",
        "two\nlines.mp4",
        "ж 字.mp4",
        "\udcff\udcfe.mp4",
        "no-ending",
    ],
)
def test_reader_accepts_unusual_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    draw_video(tmp_path / "video.mp4", [None] * 3).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(VideoReader(name))) == 3


def raw_video(path: Path, frames: Sequence[np.ndarray], **tags: str) -> Path:
    """Write frames without loss, in a codec that supports any size."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("png", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        container.metadata.update(tags)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (63, 1), (47, 63), (8, 8)])
def test_reader_accepts_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = [np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8) for seed in range(3)]
    reader = VideoReader(raw_video(tmp_path / "odd.mov", frames))
    assert reader.size == size
    assert np.array_equal(list(reader), frames)


def test_reader_ignores_undecodable_metadata(tmp_path: Path) -> None:
    path = raw_video(tmp_path / "tagged.mov", [NOISE], comment="MARKMARK")
    path.write_bytes(path.read_bytes().replace(b"MARKMARK", b"\xb3\xff" * 4))
    assert len(list(VideoReader(path))) == 1


def test_reader_rejects_audio_with_cover(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp3"), "w") as container:
        sound: Any = container.add_stream("libmp3lame", rate=44100)
        cover: Any = container.add_stream("png", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(drawn_frame((48, 64), None), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), format="fltp", layout="stereo")
        frame.rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with pytest.raises(TalkingheadError, match=r"song\.mp3: holds no moving pictures"):
        VideoReader(tmp_path / "song.mp3")


def test_reader_rejects_audio_file(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), format="fltp", layout="stereo")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(TalkingheadError, match=r"sound\.m4a: holds no moving pictures"):
        VideoReader(tmp_path / "sound.m4a")


def test_reader_releases_frames(carphone: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0
    for frame in islice(VideoReader(carphone), 40):
        alive.append(weakref.ref(frame))
        del frame
        gc.collect(0)
        most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) == 40
    assert most <= 2


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc"
)
def test_reader_memory_is_independent_of_length(tmp_path: Path) -> None:
    videos = [
        draw_video(tmp_path / f"{count}.mp4", [(number, 20, 60) for number in range(count)], (480, 640))
        for count in (20, 200)
    ]
    start = max(resident() for _ in VideoReader(videos[0]))  # includes the memory of the decoder
    most = max(resident() for _ in VideoReader(videos[1]))
    # 200 decoded frames take 90 MB, and twice that as RGB
    assert most - start < 30e6


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc"
)
def test_reader_memory_is_independent_of_4k_length(tmp_path: Path) -> None:
    videos = [tmp_path / f"{count}.mp4" for count in (6, 18)]
    for path in videos:
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 3840, 2160, "yuv420p"
            frame = av.VideoFrame(3840, 2160, "yuv420p")
            for number in range(int(path.stem)):
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    start = max(resident() for _ in VideoReader(videos[0]))
    most = max(resident() for _ in VideoReader(videos[1], find_cuts=True))
    # an RGB frame takes 25 MB
    assert most - start < 60e6
