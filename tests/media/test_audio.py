"""Tests of copied and transcoded sound, which is as long as the frames."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from conftest import drawn_frame
from talkinghead.errors import TalkingheadError
from talkinghead.media import audio
from talkinghead.media.video import write_video

SIZE = (48, 64)


def source(
    path: Path,
    rate: int,
    codec: str = "pcm_s16le",
    seconds: float = 3.0,
    piece: int = 0,
    starts: tuple[float, ...] = (0.0,),
    earlier_seconds: float = 0,
) -> Path:
    """Write three seconds of video with tones of 200 Hz in audio frames of `piece` samples.

    The tone from the last start lasts `seconds`, those before it `earlier_seconds`.
    """
    with av.open(str(path), "w") as container:
        pictures: Any = container.add_stream("libx264", rate=25)
        pictures.height, pictures.width, pictures.pix_fmt = *SIZE, "yuv420p"
        sound: Any = container.add_stream(codec, rate=rate, layout="mono")
        kind = sound.codec_context.format = "fltp" if codec in ("aac", "libmp3lame") else "s16"
        for number in range(75):
            frame = av.VideoFrame.from_ndarray(drawn_frame(SIZE, None, number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        for place, start in enumerate(starts):
            length = earlier_seconds if place < len(starts) - 1 else seconds
            wave = 0.5 * np.sin(2 * np.pi * 200 * np.arange(round(length * rate)) / rate)
            samples = (wave * 32767).astype(np.int16) if kind == "s16" else wave.astype(np.float32)
            step = piece or 1024
            for first in range(0, len(samples), step):
                tone = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(samples[None, first : first + step]), format=kind, layout="mono"
                )
                tone.sample_rate, tone.pts, tone.time_base = (
                    rate,
                    round(start * rate) + first,
                    Fraction(1, rate),
                )
                container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
    return path


def with_sound_of(path: Path, frames: int = 25) -> Path:
    """Write frames at 25 per second with the sound of another video."""
    out = path.with_name("out.mp4")
    with write_video(out, 25, SIZE, audio_from=path) as video:
        for number in range(frames):
            video.write(drawn_frame(SIZE, None, number))
    return out


def sound_of(path: Path) -> tuple[np.ndarray, int]:
    """Return the samples, placed by their time stamps, and the sample rate."""
    pieces = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            assert frame.pts is not None and frame.time_base is not None
            pieces.append(
                (round(float(frame.pts * frame.time_base) * frame.sample_rate), frame.to_ndarray()[0])
            )
        rate = container.streams.audio[0].codec_context.sample_rate
    samples = np.zeros(max(place + len(piece) for place, piece in pieces), np.float32)
    for place, piece in pieces:
        samples[max(place, 0) : place + len(piece)] = piece[max(-place, 0) :]
    return samples, rate


def loudness(samples: np.ndarray, rate: int, at: float) -> float:
    around = samples[round((at - 0.05) * rate) : round((at + 0.05) * rate)]
    return float(np.sqrt(np.mean(around**2)))


@pytest.mark.parametrize("piece", [160, 5000])
@pytest.mark.parametrize(
    ("rate", "result"),
    [(5000, 8000), (8000, 8000), (22050, 22050), (44100, 44100), (50000, 64000), (192000, 96000)],
)
def test_transcoded_sound_is_as_long_as_pictures(tmp_path: Path, rate: int, result: int, piece: int) -> None:
    samples, out_rate = sound_of(with_sound_of(source(tmp_path / "in.mkv", rate, piece=piece)))
    assert out_rate == result
    assert 1 <= len(samples) / out_rate < 1 + 1024 / out_rate + 1e-3
    assert all(
        loudness(samples, out_rate, at) == pytest.approx(0.5 / np.sqrt(2), rel=0.1) for at in (0.1, 0.5, 0.9)
    )


@pytest.mark.parametrize(("codec", "rate"), [("aac", 44100), ("flac", 44100), ("libmp3lame", 44100)])
def test_copied_sound_is_as_long_as_pictures(tmp_path: Path, codec: str, rate: int) -> None:
    samples, out_rate = sound_of(with_sound_of(source(tmp_path / "in.mkv", rate, codec)))
    assert 1 - 1152 / out_rate <= len(samples) / out_rate < 1 + 4608 / out_rate


def test_mp3_of_low_rate_is_transcoded(tmp_path: Path) -> None:
    out = with_sound_of(source(tmp_path / "in.mkv", 8000, "libmp3lame"))
    with av.open(str(out)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    samples, rate = sound_of(out)
    assert 1 <= len(samples) / rate < 1 + 1024 / rate + 1e-3


def test_short_sound_is_written_to_its_end(tmp_path: Path) -> None:
    samples, rate = sound_of(with_sound_of(source(tmp_path / "in.mkv", 16000, seconds=0.7)))
    assert loudness(samples, rate, 0.64) > 0.3
    assert 0.7 <= len(samples) / rate < 0.7 + 2 * 1024 / rate


def test_gap_in_sound_stays_in_place(tmp_path: Path) -> None:
    samples, rate = sound_of(
        with_sound_of(source(tmp_path / "in.mkv", 16000, starts=(0.2, 0.7), earlier_seconds=0.2, seconds=1))
    )
    assert [loudness(samples, rate, at) > 0.3 for at in (0.08, 0.3, 0.55, 0.8)] == [False, True, False, True]
    assert 1 <= len(samples) / rate < 1 + 1024 / rate + 1e-3


def test_time_stamp_of_years_takes_no_memory(tmp_path: Path) -> None:
    samples, rate = sound_of(
        with_sound_of(source(tmp_path / "in.nut", 16000, starts=(0.0, 3e8), earlier_seconds=0.4, seconds=0.1))
    )
    assert [loudness(samples, rate, at) > 0.3 for at in (0.2, 0.7)] == [True, False]
    assert 1 <= len(samples) / rate < 1 + 1024 / rate + 1e-3


def test_unencodable_sound_rate_reports_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(tmp_path / "in.mkv", 192000)
    monkeypatch.setattr(audio, "_aac_rate", lambda rate: rate)
    says = (
        r"in\.mkv: its sound \(pcm_s16le, 192000 Hz\) cannot be encoded as AAC of 192000 Hz; convert it "
        r"to AAC"
    )
    with pytest.raises(TalkingheadError, match=says):
        with_sound_of(path)


def test_animated_webp_has_no_sound(tmp_path: Path) -> None:
    frames = [Image.fromarray(drawn_frame(SIZE, None, number)) for number in range(3)]
    frames[0].save(tmp_path / "in.webp", save_all=True, append_images=frames[1:], duration=40)
    with av.open(str(with_sound_of(tmp_path / "in.webp"))) as container:
        assert not container.streams.audio


def test_sound_of_unknown_codec_reports_user_error(tmp_path: Path) -> None:
    path = source(tmp_path / "in.mkv", 44100, "aac")
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_ZZZ"))
    with pytest.raises(
        TalkingheadError,
        match=r"in\.mkv: its sound cannot be decoded, its codec is unknown; convert it to AAC",
    ):
        with_sound_of(path)
