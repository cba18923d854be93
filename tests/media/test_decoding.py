"""Tests of decoding frames, converting colours and scanning files."""

import re
import signal
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from conftest import draw_video
from talkinghead.errors import TalkingheadError
from talkinghead.media import decoding, pyav, video
from talkinghead.media.decoding import decode, scan
from talkinghead.media.video import VideoReader

# numbers of ITU-T H.273
BT709, UNKNOWN, BT601, BT2020 = 1, 2, 6, 9
PQ, HLG = 16, 18
LIMITED, FULL = 1, 2
WEIGHTS = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114), BT2020: (0.2627, 0.0593)}
TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)  # of light, from BT.2020
COLOURS = np.array(
    [
        [0.05, 0.05, 0.05],
        [0.35, 0.35, 0.35],
        [0.5, 0.4, 0.38],
        [0.3, 0.34, 0.4],
        [0.42, 0.38, 0.3],
        [0.45, 0.36, 0.28],
        [0.95, 0.95, 0.95],
    ]
)


def coloured(
    path: Path,
    colours: np.ndarray,
    matrix: int,
    tags: tuple[int, int, int, int],
    size: tuple[int, int] = (64, 96),
    bits: int = 10,
) -> Path:
    """Write a frame of upright stripes of colours [N, 3] from 0 to 1, tagged (matrix, primaries, transfer,
    range).
    """
    red, blue = WEIGHTS[matrix]
    r, g, b = colours.T
    y = red * r + (1 - red - blue) * g + blue * b
    planes = [y, (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)]
    unit, most = 1 << (bits - 8), (1 << bits) - 1
    limited = tags[3] == LIMITED
    scales = (
        [(16 * unit, 219 * unit), (128 * unit, 224 * unit), (128 * unit, 224 * unit)]
        if limited
        else [(0, most), (128 * unit, most), (128 * unit, most)]
    )
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv444p10le" if bits == 10 else "yuv444p"
        frame = av.VideoFrame(size[1], size[0], stream.pix_fmt)
        for plane, values, (low, scale) in zip(frame.planes, planes, scales, strict=True):
            stripes = np.repeat(np.rint(low + scale * values), -(-size[1] // len(colours)))[: size[1]]
            rows = np.zeros(
                (size[0], plane.line_size // (2 if bits == 10 else 1)), np.uint16 if bits == 10 else np.uint8
            )
            rows[:, : size[1]] = stripes
            plane.update(rows.tobytes())
        for target in (stream.codec_context, frame):
            target.colorspace, target.color_primaries, target.color_trc, target.color_range = tags
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def stripes(path: Path, count: int) -> np.ndarray:
    (frame,) = VideoReader(path)
    width = -(-frame.shape[1] // count)
    return frame[frame.shape[0] // 2, width // 2 :: width].astype(int)


def srgb(light: np.ndarray) -> np.ndarray:
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def light_of_pq(signal: np.ndarray) -> np.ndarray:
    """Return the light in cd/m2 of a PQ signal (SMPTE ST 2084)."""
    power = signal ** (32 / 2523)
    return 10000 * (np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)) ** (16384 / 2610)


def light_of_hlg(signal: np.ndarray) -> np.ndarray:
    """Return the light in cd/m2 of an HLG signal on a display of 1000 cd/m2 (ITU-R BT.2100)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ [0.2627, 0.678, 0.0593]
    return 1000 * luminance[:, None] ** 0.2 * scene


# PQ has only the required tags, HLG has all
@pytest.mark.parametrize(
    ("tags", "light"),
    [((UNKNOWN, UNKNOWN, PQ, LIMITED), light_of_pq), ((BT2020, BT2020, HLG, LIMITED), light_of_hlg)],
    ids=["pq", "hlg"],
)
def test_hdr_white_is_203_nits(tmp_path: Path, tags: tuple[int, int, int, int], light: Any) -> None:
    converted = stripes(coloured(tmp_path / "hdr.mkv", COLOURS, BT2020, tags), len(COLOURS))
    expected = srgb(light(COLOURS) / 203 @ TO_BT709.T)
    assert expected[0].max() < 15 < 50 < expected[1].min() < 150
    assert expected[-1].min() > 254.9
    # the lookup table of swscale is coarse for colours
    assert np.abs(converted - expected).max() <= 6
    assert np.abs(converted - expected)[np.ptp(COLOURS, axis=1) == 0].max() <= 2


def test_hdr_without_matrix_defaults_to_bt2020() -> None:
    frame = av.VideoFrame(64, 48, "yuv420p10le")
    frame.color_trc, frame.color_primaries, frame.colorspace = PQ, UNKNOWN, UNKNOWN
    assert decoding._colour_arguments(frame)["src_colorspace"] == BT2020
    assert frame.color_primaries == BT2020


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("extent", [LIMITED, FULL], ids=["limited", "full"])
@pytest.mark.parametrize(
    ("tagged", "size", "meant"),
    [
        (BT709, (64, 96), BT709),
        (BT601, (64, 96), BT601),
        (BT601, (720, 1280), BT601),
        (BT2020, (64, 96), BT2020),
        (UNKNOWN, (64, 96), BT601),
        (UNKNOWN, (576, 704), BT601),
        (UNKNOWN, (720, 1280), BT709),
        (UNKNOWN, (544, 1280), BT709),
        (UNKNOWN, (1280, 720), BT709),
    ],
)
def test_converter_keeps_colours_of_sdr_video(
    tmp_path: Path, tagged: int, size: tuple[int, int], meant: int, extent: int, bits: int
) -> None:
    colours = np.array([[0.9, 0.2, 0.2], [0.2, 0.9, 0.2], [0.1, 0.1, 0.8], [1, 1, 1], [0, 0, 0]])
    path = coloured(tmp_path / "colours.mkv", colours, meant, (tagged, UNKNOWN, UNKNOWN, extent), size, bits)
    assert np.abs(stripes(path, len(colours)) - 255 * colours).max() <= 2


def test_converter_composites_transparency_on_white(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "clear.mov"), "w") as container:
        stream: Any = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgba"
        picture = np.zeros((48, 64, 4), np.uint8)
        picture[:, :, 0], picture[:, 16:32, 3], picture[:, 32:, 3] = 200, 128, 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba")))
        container.mux(stream.encode(None))
    (frame,) = VideoReader(tmp_path / "clear.mov")
    assert frame[24, [8, 24, 48]].tolist() == [[255, 255, 255], [227, 127, 127], [200, 0, 0]]


def test_reader_resizes_frames_to_first_size(tmp_path: Path) -> None:
    parts = []
    for number, size in enumerate([(48, 64), (96, 128), (48, 64)]):
        path = tmp_path / f"{number}.ts"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("mpeg2video", rate=25)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for index in range(4):
                frame = av.VideoFrame.from_ndarray(
                    np.full((*size, 3), 40 * (1 + number), np.uint8), format="rgb24"
                )
                frame.pts, frame.time_base = index + 4 * number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        parts.append(path.read_bytes())
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    frames = list(VideoReader(tmp_path / "joined.ts", find_cuts=True))
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    shades = [round(float(frame.mean()) / 40) for frame in frames]
    assert shades == [1] * shades.count(1) + [2] * shades.count(2) + [3] * shades.count(3)
    assert set(shades) == {1, 2, 3}


def test_reader_rejects_too_large_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = draw_video(tmp_path / "large.mp4", [None] * 3, (96, 128))
    monkeypatch.setattr(pyav, "MAX_FRAME_PIXELS", 96 * 128 - 1)
    says = (
        r"large\.mp4: is 128x96, 0\.01229 million pixels, expected at most 0\.01229 million; scale it down$"
    )
    with pytest.raises(TalkingheadError, match=says):
        VideoReader(path)


@pytest.mark.parametrize(
    ("codec", "ending", "size"),
    [
        (
            "mpeg2video",
            ".ts",
            "is damaged, or has more than the 0.0041 million pixels expected at most; repair it or",
        ),
        ("libx264", ".ts", "is 128x96, 0.01229 million pixels, expected at most 0.0041 million"),
        (
            "mjpeg",
            ".mjpg",
            "is damaged, or has more than the 0.0041 million pixels expected at most; repair it or",
        ),
    ],
)
def test_reader_stops_before_frames_that_grow_too_large(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    codec: str,
    ending: str,
    size: str,
) -> None:
    path = growing_video(tmp_path, codec, ending)
    for module in (pyav, decoding):
        monkeypatch.setattr(module, "MAX_FRAME_PIXELS", 4100)
    frames = list(VideoReader(path))
    assert 8 <= len(frames) <= 12 and {frame.shape for frame in frames} == {(48, 64, 3)}
    assert re.fullmatch(
        rf"{path.name}: the frame after the first \d+ {size}.? scale it down; what is before it is used",
        caplog.messages[-1],
    )


def growing_video(folder: Path, codec: str, ending: str) -> Path:
    """Write twelve frames of 64x48, then twelve of 128x96."""
    parts = []
    for number, (height, width) in enumerate([(48, 64), (96, 128)]):
        path = folder / f"{number}{ending}"
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = (
                height,
                width,
                "yuvj420p" if codec == "mjpeg" else "yuv420p",
            )
            for index in range(12):
                frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 90, np.uint8), format="rgb24")
                frame.pts, frame.time_base = index + 12 * number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        parts.append(path.read_bytes())
    joined = folder / f"joined{ending}"
    joined.write_bytes(b"".join(parts))
    return joined


def test_reader_rejects_size_with_square_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 4
        container.mux(stream.encode(av.VideoFrame(96, 64, "yuv420p")))
        container.mux(stream.encode(None))
    monkeypatch.setattr(video, "MAX_FRAME_PIXELS", 20_000)
    with pytest.raises(
        TalkingheadError,
        match=r"wide\.mkv: with square pixels is 384x64, 0\.02458 million pixels, .* at most 0\.02 million",
    ):
        VideoReader(path)


def test_decoding_sees_signals_between_frames(tmp_path: Path) -> None:
    """Put 100,000 packets of sound, which yield no frame, between two frames."""
    path = tmp_path / "sound.nut"
    with av.open(str(path), "w") as container:
        pictures: Any = container.add_stream("mpeg4", rate=25)
        pictures.height, pictures.width, pictures.pix_fmt = 16, 16, "yuv420p"
        sound: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        container.mux(pictures.encode(av.VideoFrame(16, 16, "yuv420p")))
        packet = av.Packet(b"\0\0")
        packet.stream, packet.time_base = sound, Fraction(1, 8000)
        for number in range(100_000):
            packet.pts = packet.dts = number
            container.mux(packet)
    received: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: received.append(number))
    try:
        with closing(decode(path)) as frames:
            assert next(frames).width == 16
            signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
            assert next(frames, None) is None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(received) > 5  # 1 if signals were handled only at the end


@pytest.mark.parametrize(
    ("aspect", "width"),
    [(Fraction(4, 3), 128), (Fraction(1, 2), 48), (Fraction(1, 20), 96), (Fraction(20), 96)],
)
def test_reader_ignores_implausible_pixel_aspect(tmp_path: Path, aspect: Fraction, width: int) -> None:
    path = tmp_path / "aspect.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        container.mux(stream.encode(av.VideoFrame(96, 64, "yuv420p")))
        container.mux(stream.encode(None))
    assert VideoReader(path).size == (64, width)


def test_scan_counts_frames_without_decoding(carphone: Path) -> None:
    info = scan(carphone)
    assert (info.frames, info.is_cut, info.note, info.aspect) == (
        120,
        False,
        "",
        Fraction(128, 117),
    )
    assert len(info.stamps) == 120


def test_scan_detects_few_missing_frames_by_header(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "cut.mp4", [None] * 300, (48, 64))
    with av.open(str(path)) as container:
        end = [packet.pos or 0 for packet in container.demux(video=0) if packet.size][296]
    assert not scan(path).is_cut
    path.write_bytes(path.read_bytes()[:end])
    info = scan(path)
    assert info.is_cut
    assert info.note.startswith("the video ends after 11.")
    assert 290 <= info.frames <= 296
    assert np.ptp(np.diff(np.sort(info.stamps))) == 0  # without a hole
