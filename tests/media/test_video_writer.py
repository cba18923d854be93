"""Tests of writing videos, with and without sound."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from conftest import draw_video, drawn_frame
from support.videos_with_sound import sounding_video
from talkinghead.errors import TalkingheadError
from talkinghead.media import pyav
from talkinghead.media.recording import record_video
from talkinghead.media.video import VideoReader, write_video

FPS = Fraction(30000, 1001)


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def find_loud_part(path: Path) -> tuple[float, float]:
    """Return when the tone grows loud and when the sound ends, in seconds."""
    start, end = None, 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            if start is None and np.abs(frame.to_ndarray()).max() > 0.4:
                start = frame.time
            end = (frame.time or 0.0) + frame.samples / frame.sample_rate
    assert start is not None
    return start, end


def test_writer_keeps_frames_rate_and_tags(tmp_path: Path) -> None:
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128), (255, 255, 255), (0, 0, 0)]
    with write_video(tmp_path / "out.mp4", FPS, (48, 64), metadata={"comment": "synthesised"}) as video:
        for colour in colours:
            video.write(np.full((48, 64, 3), colour, np.uint8))
    reader = VideoReader(tmp_path / "out.mp4")
    assert (reader.fps, reader.size, reader.count, reader.has_audio) == (FPS, (48, 64), len(colours), False)
    frames = list(reader)
    assert all(frame.dtype == np.uint8 and frame.shape == (48, 64, 3) for frame in frames)
    # also in a second iteration
    for frame, repeated, colour in zip(frames, reader, colours, strict=True):
        assert np.abs(frame.astype(int) - colour).max() <= 4
        assert np.array_equal(frame, repeated)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert container.metadata["comment"] == "synthesised"
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.codec_context.colorspace) == (
            "h264",
            "yuv420p",
            6,
        )


def test_writer_is_deterministic(tmp_path: Path, carphone: Path) -> None:
    frames = list(islice(VideoReader(carphone), 60))
    contents = set()
    for _ in range(12):
        with write_video(tmp_path / "out.mp4", FPS, frames[0].shape[:2]) as video:
            for frame in frames:
                video.write(frame)
        contents.add((tmp_path / "out.mp4").read_bytes())
    assert len(contents) == 1


@pytest.fixture
def lgpl_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove the H.264 encoders of FFmpeg."""
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264", "libopenh264"})
    pyav._first_encoder.cache_clear()
    yield
    pyav._first_encoder.cache_clear()


def test_writer_without_x264_falls_back_to_mpeg4(
    tmp_path: Path, carphone: Path, lgpl_ffmpeg: None, caplog: pytest.LogCaptureFixture
) -> None:
    frames = list(islice(VideoReader(carphone), 30))
    for write in (write_video, record_video):
        path = tmp_path / f"{write.__name__}.mp4"
        with write(path, FPS, frames[0].shape[:2]) as video:
            for frame in frames:
                video.write(frame)
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "mpeg4"
        reader = VideoReader(path)
        read = list(reader)
        assert (len(read), reader.fps) == (30, FPS)
        assert all(
            np.abs(a[:, :192].astype(int) - b[:, :192]).mean() < 4 for a, b in zip(read, frames, strict=True)
        )
    assert [message for message in caplog.messages if "H.264" in message] == [
        "this FFmpeg has no encoder for H.264 (libx264 or libopenh264): videos are MPEG-4 Part 2, which "
        "browsers do not play"
    ]


def test_writer_pads_odd_sides(tmp_path: Path) -> None:
    with write_video(tmp_path / "odd.mp4", 25, (47, 63)) as video:
        video.write(np.full((47, 63, 3), 200, np.uint8))
    assert VideoReader(tmp_path / "odd.mp4").size == (48, 64)
    assert np.abs(next(iter(VideoReader(tmp_path / "odd.mp4"))).astype(int) - 200).max() <= 4


@pytest.mark.parametrize("codec", ["aac", "libmp3lame"])
def test_writer_copies_mp4_sound_bit_for_bit(tmp_path: Path, codec: str) -> None:
    source = sounding_video(tmp_path / "source.mkv", codec, seconds=2)
    with write_video(tmp_path / "out.mp4", 25, (48, 64), audio_from=source) as video:
        for number in range(50):
            video.write(drawn_frame((48, 64), None, number))
    copied, original = packets(tmp_path / "out.mp4"), packets(source)
    # the encoder's priming samples lie before the first frame
    first = original.index(copied[0])
    assert first <= 2
    assert len(copied) >= len(original) - 4
    assert copied == original[first : first + len(copied)]


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "aac"), (".mpg", "mp2"), (".mkv", "pcm_s16le")])
def test_writer_keeps_sound_in_sync(tmp_path: Path, suffix: str, codec: str) -> None:
    source = sounding_video(tmp_path / f"source{suffix}", codec, seconds=4)
    with write_video(tmp_path / "out.mp4", 25, (48, 64), audio_from=source) as video:
        for number in range(75):  # one second less than the sound
            video.write(drawn_frame((48, 64), None, number))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == "aac"
    start, end = find_loud_part(tmp_path / "out.mp4")
    assert start == pytest.approx(2, abs=0.07)
    assert end == pytest.approx(3, abs=0.1)


def test_writer_of_silent_source_adds_no_sound(tmp_path: Path) -> None:
    source = draw_video(tmp_path / "mute.mp4", [None] * 2)
    with write_video(tmp_path / "out.mp4", 25, (48, 64), audio_from=source) as video:
        video.write(drawn_frame((48, 64), None))
    assert not VideoReader(tmp_path / "out.mp4").has_audio


def test_writer_that_fails_keeps_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"before")

    def fail_while_writing() -> None:
        with write_video(path, 25, (48, 64)) as video:
            video.write(drawn_frame((48, 64), None))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_while_writing()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "fps", "frames", "message"),
    [
        ("out.avi", 25, 1, r"out\.avi: only mp4 is written"),
        ("out.mp4", 0, 1, r"out\.mp4: 0 frames per second cannot be written; choose a rate above 0"),
        ("out.mp4", 25, 0, "has no frames; write at least one"),
        ("no/out.mp4", 25, 1, "cannot write here"),
    ],
)
def test_writer_reports_user_error(tmp_path: Path, name: str, fps: int, frames: int, message: str) -> None:
    (tmp_path / "no").touch()  # a file where a folder should be
    with pytest.raises(TalkingheadError, match=message), write_video(tmp_path / name, fps, (48, 64)) as video:
        for _ in range(frames):
            video.write(drawn_frame((48, 64), None))
    assert [path.name for path in tmp_path.iterdir()] == ["no"]


def test_writer_rejects_frame_of_other_size(tmp_path: Path) -> None:
    message = r"a frame is uint8 \[64, 48, 3\]; give uint8 \[48, 64, 3\]"
    with (
        pytest.raises(TalkingheadError, match=message),
        write_video(tmp_path / "out.mp4", 25, (48, 64)) as video,
    ):
        video.write(drawn_frame((64, 48), None))
    assert not list(tmp_path.iterdir())
