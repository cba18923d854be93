"""Tests of reading damaged videos and files that are no videos."""

import re
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from conftest import draw_video, drawn_frame
from support.videos_with_sound import sounding_video
from talkinghead.errors import TalkingheadError
from talkinghead.media.decoding import decode
from talkinghead.media.video import VideoReader, write_video


def damaged_video(tmp_path: Path, kind: str) -> Path:
    path = draw_video(tmp_path / f"{kind}.mp4", [(n % 40, 20, 60) for n in range(100)])
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "a-folder":
        path.unlink()
        path.mkdir()
    elif kind == "a-loop":
        path.unlink()
        path.symlink_to(path)
    elif kind == "ansi":
        path = path.with_suffix(".txt")
        path.write_bytes(b"a text that ffmpeg would draw\n" * 40)
    elif kind == "long-name":
        path = path.with_name("x" * 300)
    else:
        with av.open(str(path)) as container:
            packets = [packet.pos or 0 for packet in container.demux(video=0) if packet.size]
        contents = {
            "empty": b"",
            "foreign": b"not a video at all\n" * 40,
            "beginning": data[:600],
            "without-its-index": data.replace(b"moov", b"junk", 1),
            "without-frames": data[: packets[0]],
            "zeroed": data[: packets[0]] + bytes(len(data) - packets[0]),
            "cut": data[: packets[50] + 9],
            "cut-between-packets": data[: packets[50]],
            "cut-near-the-end": data[: packets[97]],
            "overwritten": data[: packets[50]] + bytes(len(data) // 4) + data[packets[50] + len(data) // 4 :],
        }
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("a-folder", "is a folder, expected a video"),
        ("a-loop", "no such file"),
        ("long-name", "cannot be read \\(File name too long\\)"),
        ("empty", "cannot be read as a video"),
        ("foreign", "cannot be read as a video"),
        ("ansi", "cannot be read as a video"),
        ("beginning", "cannot be read as a video|holds no frames"),
        ("without-its-index", "cannot be read as a video"),
        ("without-frames", "holds no frames"),
        ("zeroed", "holds no frames|not one of its frames can be decoded"),
    ],
)
def test_reader_of_invalid_file_reports_user_error(tmp_path: Path, kind: str, message: str) -> None:
    path = damaged_video(tmp_path, kind)
    with pytest.raises(TalkingheadError, match=f"^{path}: .*({message})") as caught:
        VideoReader(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "frames", "note"),
    [
        (
            "cut",
            50,
            r"the video ends after \d\.\d\d of its 4\.00 seconds, it is cut short: what is there is used",
        ),
        (
            "cut-between-packets",
            50,
            r"the video ends after \d\.\d\d of its 4\.00 seconds, it is cut short: what is there is used",
        ),
        (
            "cut-near-the-end",
            97,
            r"the video ends after 3\.\d\d of its 4\.00 seconds, it is cut short: what is there is used",
        ),
        (
            "overwritten",
            50,
            r"cannot be decoded after \d\d frames, it is damaged or cut short: what is there is used",
        ),
    ],
)
def test_reader_uses_frames_before_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, frames: int, note: str
) -> None:
    whole = draw_video(tmp_path / "whole.mp4", [(n % 40, 20, 60) for n in range(100)])
    reader = VideoReader(damaged_video(tmp_path, kind))
    read = list(reader)
    # a decoder may buffer some frames
    assert frames - 4 <= len(read) <= frames
    assert all(np.array_equal(*pair) for pair in zip(read, VideoReader(whole), strict=False))
    assert reader.count == len(read)
    assert sum(1 for _ in reader) == len(read)
    (message,) = caplog.messages
    assert re.fullmatch(f"{kind}\\.mp4: {note}", message)


def test_reader_of_damaged_video_repeats_first_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = VideoReader(damaged_video(tmp_path, "cut"))
    first = sum(1 for _ in reader)
    # simulate a decoder that decodes more frames than in the first iteration
    monkeypatch.setattr(
        reader, "_decode", lambda path: decode(draw_video(tmp_path / "whole.mp4", [None] * 100))
    )
    assert sum(1 for _ in reader) == first


def test_reader_distinguishes_truncation_from_longer_sound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = sounding_video(tmp_path / "source.mkv", "aac", seconds=4)
    with write_video(tmp_path / "short.mp4", 25, (48, 64)) as video:
        for number in range(25):
            video.write(drawn_frame((48, 64), None, number))
    with (
        av.open(str(tmp_path / "short.mp4")) as pictures,
        av.open(str(source)) as sound,
        av.open(str(tmp_path / "longer.mkv"), "w") as out,
    ):
        streams = [
            out.add_stream_from_template(stream)
            for stream in (pictures.streams.video[0], sound.streams.audio[0])
        ]
        for container, kind, stream in zip((pictures, sound), ("video", "audio"), streams, strict=True):
            for packet in container.demux(**{kind: 0}):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    assert len(list(VideoReader(tmp_path / "longer.mkv"))) == 25
    assert not caplog.messages
    data = source.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    VideoReader(tmp_path / "cut.mkv")
    assert re.fullmatch(
        r"cut\.mkv: the video ends after [12]\.\d\d of its 4\.\d\d seconds, it is cut short: .*",
        *caplog.messages,
    )


def test_reader_of_damaged_video_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Check that decoders do not write to the standard error of the process."""
    data = draw_video(tmp_path / "whole.mp4", [(n, 20, 60) for n in range(40)]).read_bytes()
    damaged = tmp_path / "damaged.mp4"
    capfd.readouterr()  # discard messages of the encoder
    for start in range(0, len(data), len(data) // 40):
        damaged.write_bytes(data[:start] + bytes(100) + data[start + 100 :])
        with suppress(TalkingheadError):
            assert len(list(VideoReader(damaged, find_cuts=True))) <= 40
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
