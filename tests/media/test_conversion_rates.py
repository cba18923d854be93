"""Tests of reading videos with a variable frame rate."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from conftest import drawn_frame
from talkinghead.media.video import VideoReader

FPS = Fraction(30000, 1001)


def varying_video(path: Path, stamps: Sequence[int], codec: str = "libx264") -> Path:
    """Write frames at these milliseconds, each of its own grey: 2 + 5 * number."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 + 5 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shades(reader: VideoReader) -> list[int]:
    """Return the number of the source frame of each frame that is read from a `varying_video`."""
    return [round((float(frame.mean()) - 2) / 5) for frame in reader]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate_becomes_constant(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    # 40 ms each; frame 3 lasts 120 ms, frames 6 and 7 fall into one output frame
    path = varying_video(
        tmp_path / f"phone{suffix}", [0, 40, 80, 120, 240, 280, 320, 335, 360, 400, 440, 480, 520]
    )
    reader = VideoReader(path)
    assert (reader.fps, reader.count) == (25, 14)
    expected = [0, 1, 2, 3, 3, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert shades(reader) == shades(reader) == expected
    assert caplog.messages == [
        f"phone{suffix}: its frame rate varies, read at 25 a second (frames repeated: 2, left out: 1)"
    ]


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mkv", "libx264"),
        (".webm", "libvpx-vp9"),
        (".mpg", "mpeg2video"),
        (".ts", "libx264"),
        (".flv", "flv"),
    ],
)
def test_constant_rate_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, codec: str
) -> None:
    path = tmp_path / f"video{suffix}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(40):
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 + 5 * number, np.uint8), format="rgb24")
                )
            )
        container.mux(stream.encode(None))
    reader = VideoReader(path)
    assert reader.fps == pytest.approx(FPS, rel=1e-3)
    assert reader.count == 40
    assert shades(reader) == list(range(40))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("stamps", "fps", "expected", "note"),
    [
        (
            [4 * n for n in range(40)],
            50,
            [0, 5, 10, 15, 20, 25, 30, 35],
            "has 250 frames a second, read at 50 a second",
        ),
        (
            [2500 * n for n in range(4)],
            1,
            [0, 0, 0, 1, 1, 2, 2, 2, 3],
            "has 0.4 frames a second, read at 1 a second",
        ),
        (list(range(40)), 25, list(range(40)), "time stamps make no sense, every frame is used, 25 a second"),
        (
            [40 * n + 3_000_000 * (n > 19) for n in range(40)],
            25,
            list(range(40)),
            "time stamps make no sense, every frame is used, 25 a second",
        ),
    ],
    ids=["fast", "slow", "absurd", "jump"],
)
def test_implausible_rates_are_adjusted(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    stamps: list[int],
    fps: int,
    expected: list[int],
    note: str,
) -> None:
    reader = VideoReader(varying_video(tmp_path / "odd.mkv", stamps))
    assert reader.fps == fps
    read = shades(reader)
    assert read[: len(expected)] == expected
    assert len(expected) <= len(read) == reader.count <= len(expected) + 2  # the last frame may last longer
    (message,) = caplog.messages
    assert message.startswith("odd.mkv: it")
    assert note in message


def test_undecodable_frames_are_replaced_by_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = VideoReader(varying_video(tmp_path / "gap.mp4", [0, 40, 80, 120, 240, 280, 320, 360]))
    assert shades(reader) == [0, 1, 2, 3, 3, 3, 4, 5, 6, 7]
    decode_all = reader._decode
    damaged = VideoReader(reader.path)
    monkeypatch.setattr(
        damaged,
        "_decode",
        lambda path: (
            frame for frame in decode_all(path) if frame.pts * frame.time_base not in (0, Fraction(7, 25))
        ),
    )
    assert shades(damaged) == [1, 1, 2, 3, 3, 3, 4, 4, 6, 7]


def test_backward_time_stamps_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = [
        varying_video(tmp_path / f"{number}.ts", [40 * n for n in range(20)]).read_bytes()
        for number in range(2)
    ]
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    reader = VideoReader(tmp_path / "joined.ts")
    assert shades(reader) == list(range(20)) * 2
    assert caplog.messages == ["joined.ts: its time stamps run backwards: they are not used, every frame is"]


def test_gif_frames_last_as_stated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.fromarray(drawn_frame((48, 64), (x, 8, 16))) for x in (0, 10, 20, 30)]
    frames[0].save(
        tmp_path / "slow.gif", save_all=True, append_images=frames[1:], duration=[100, 300, 100, 500]
    )
    read = list(VideoReader(tmp_path / "slow.gif"))
    assert [int((frame[16, :, 0] > 200).argmax()) for frame in read] == [
        0,
        10,
        10,
        10,
        20,
        30,
        30,
        30,
        30,
        30,
    ]
    assert read[1] is read[2]
    assert caplog.messages == [
        "slow.gif: its frame rate varies, read at 10 a second (frames repeated: 6, left out: 0)"
    ]


def test_frames_outside_edit_list_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = varying_video(tmp_path / "whole.mp4", [40 * n for n in range(20)])
    with (
        av.open(str(whole)) as source,
        av.open(str(tmp_path / "trimmed.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = round(Fraction(1, 5) / packet.time_base)  # of 5 frames
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    reader = VideoReader(tmp_path / "trimmed.mp4")
    assert reader.count == 15
    assert shades(reader) == list(range(5, 20))
    assert not caplog.messages


def test_reader_reads_animated_webp(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.fromarray(drawn_frame((48, 64), (x, 8, 16))) for x in (0, 10, 20, 30)]
    path = tmp_path / "moving.webp"
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=[100, 100, 300, 100], lossless=True
    )
    reader = VideoReader(path)
    assert (reader.fps, reader.size, reader.count, reader.has_audio) == (10, (48, 64), 6, False)
    for _ in range(2):
        assert [int((frame[16, :, 0] > 200).argmax()) for frame in reader] == [0, 10, 20, 20, 20, 30]
    assert caplog.messages == [
        "moving.webp: its frame rate varies, read at 10 a second (frames repeated: 2, left out: 0)"
    ]


def test_reader_reads_animated_png_of_any_name(tmp_path: Path) -> None:
    frames = [Image.fromarray(drawn_frame((48, 64), (x, 8, 16))) for x in (0, 10, 20)]
    frames[0].save(tmp_path / "a%03d.png", save_all=True, append_images=frames[1:], duration=80)
    reader = VideoReader(tmp_path / "a%03d.png")
    assert reader.fps == Fraction(25, 2)
    assert [int((frame[16, :, 0] > 200).argmax()) for frame in reader] == [0, 10, 20]
