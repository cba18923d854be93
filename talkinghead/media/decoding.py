"""Low-level reading of video files: time stamps without decoding, decoded frames, conversion to RGB, and
scene cuts.
"""

from array import array
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TalkingheadError
from .images import read_animation
from .pyav import av, open_video, video_stream
from .size_limits import MAX_FRAME_PIXELS, check_decoder
from .transparency import composite_on_white

_MILLISECOND = Fraction(1, 1000)
_NO_TIMESTAMP = -(1 << 63)
_FORMATS_WITH_DURATION = frozenset(("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv", "avi"))
"""Formats that state the duration in a header, which a truncated file keeps."""
_MIN_COMPLETE_SHARE = 0.98  # of the stated duration
_MIN_PIXEL_ASPECT = Fraction(1, 8)  # a pixel aspect ratio outside these limits is a mistake
_MAX_PIXEL_ASPECT = Fraction(8)
# colour codes of ITU-T H.273
_BT709 = 1
_UNKNOWN = 2
_BT2020 = 9
_SRGB = 13
_PQ = 16
_HLG = 18
_CUT_DETECTION_SIZE = (128, 72)  # width and height at which frames are compared
_MIN_CUT_DIFFERENCE = 10.0  # of 100


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video that are known without decoding it.

    Attributes:
        frames: the number of frames.
        stamps: int64 [frames], their time stamps in units of `tick`; empty when unknown.
        tick: seconds.
        rate: the stated frames per second, None when not stated.
        last: duration of the last frame in units of `tick`; 0 when unknown.
        aspect: width of a pixel divided by its height.
        has_audio: whether there is a sound track.
        is_cut: whether the file is shorter than it states; then `frames` counts those before the first that
            is missing.
        note: a warning for the user, empty without one.
    """

    frames: int
    stamps: np.ndarray
    tick: Fraction
    rate: Fraction | None = None
    last: int = 0
    aspect: Fraction = Fraction(1)
    has_audio: bool = False
    is_cut: bool = False
    note: str = ""


def scan(path: Path) -> VideoInfo:
    """Read the packets of a video without decoding them.

    Raises:
        TalkingheadError: the file is missing, may not be read, or is no video.
    """
    with open_video(path) as container:
        stream = video_stream(container)
        # the time stamps of its packets, in the order of the file
        presentation, decoding = array("q"), array("q")
        packets, last, end = 0, 0, 0.0
        for packet in _packets(container):
            stamp = packet.dts if packet.pts is None else packet.pts
            end = max(end, float(((stamp or 0) + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            packets += 1
            if packet.size and not packet.is_discard:
                presentation.append(_NO_TIMESTAMP if packet.pts is None else packet.pts)
                decoding.append(_NO_TIMESTAMP if packet.dts is None else packet.dts)
                last = packet.duration or 0
        stamps, order, note = np.array(presentation, np.int64), np.array(decoding, np.int64), ""
        order = order[order != _NO_TIMESTAMP]
        if (stamps == _NO_TIMESTAMP).any():
            stamps = stamps[:0]
        elif (np.diff(order) < 0).any():
            stamps, note = stamps[:0], "its time stamps run backwards: they are not used, every frame is"
        length = (container.duration or 0) / 1e6 if container.format.name in _FORMATS_WITH_DURATION else 0.0
        # Frames are missing when the header counts more packets, unless an edit list hides them. Without such
        # a count, sound and rounding may explain a small difference.
        missing = (length - end) * packets / end if end > 0 else 0.0  # in frames
        is_cut = (
            missing > 0.5 if packets < stream.frames else missing > 2 and end < _MIN_COMPLETE_SHARE * length
        )
        is_cut |= packets < stream.frames and _has_hole(stamps, order)
        if is_cut and packets:
            # a frame is presented no sooner than it is decoded, so none is missing up to the last decoding
            # time
            if len(order) and len(stamps):
                stamps = stamps[stamps <= order[-1]]
                end = float((max(stamps, default=0) + last) * stream.time_base)
            note = (
                f"the video ends after {end:.2f} of its {length:.2f} seconds, it is cut short: what is "
                "there is used"
            )
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        return VideoInfo(
            frames=len(stamps) or len(presentation),
            stamps=stamps,
            tick=stream.time_base,
            rate=stream.average_rate or stream.guessed_rate,
            last=last,
            aspect=aspect if _MIN_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT else Fraction(1),
            has_audio=bool(container.streams.audio),
            is_cut=is_cut,
            note=note,
        )


def _has_hole(stamps: np.ndarray, order: np.ndarray) -> bool:
    """Return whether frames are missing that would be decoded last but presented earlier."""
    if not len(stamps) or not len(order):
        return False
    steps, late = np.diff(np.sort(stamps)), np.diff(np.sort(stamps[stamps >= order[-1]]))
    return bool(len(late) and late.max() > 1.5 * np.median(steps))


def _packets(container: Any) -> Iterator[Any]:
    """Yield the packets of all streams up to the first that cannot be read."""
    try:
        for packet in container.demux():
            if packet.size or packet.pts is not None:  # the demuxer's last packets are empty
                yield packet
    except av().error.FFmpegError:
        return


def decode(path: Path) -> Generator[Any, None, None]:
    """Yield the frames of a video as decoded by libav.

    Raises:
        FFmpegError: a frame cannot be decoded.
        TooLargeError: the header of a frame states too many pixels; the frame is not decoded.
        TalkingheadError: the file is missing, may not be read, or is no video.
    """
    with open_video(path) as container:
        stream = video_stream(container)
        # with a thread for each frame, damaged frames would be decoded differently each time
        stream.thread_type = "SLICE"
        stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        # Packets of other streams are skipped here: where PyAV skips them, it does not notice Ctrl-C until
        # the next frame.
        for packet in container.demux():
            if packet.stream.index != stream.index:
                continue
            try:
                frames = packet.decode()
            except av().error.FFmpegError:
                check_decoder(stream.codec_context.width, stream.codec_context.height, MAX_FRAME_PIXELS)
                raise
            yield from frames


def scan_webp(path: Path) -> VideoInfo:
    """Scan an animated WebP, like `scan`; Pillow reads it, because libav cannot."""
    stamps, last = [0], 0
    try:
        for _, last in read_animation(path):
            stamps.append(stamps[-1] + last)
    except TalkingheadError:
        pass  # the frames before the damage are used
    return VideoInfo(len(stamps) - 1, np.array(stamps[:-1], np.int64), _MILLISECOND, last=last)


def decode_webp(path: Path) -> Generator[Any, None, None]:
    """Yield the frames of an animated WebP, as `decode` does.

    Raises:
        TalkingheadError: a frame cannot be decoded.
    """
    stamp = 0
    for image, milliseconds in read_animation(path):
        frame = av().VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = stamp, _MILLISECOND
        stamp += milliseconds
        yield frame


class RgbConverter:
    """Conversion of the frames of one video to uint8 [H, W, 3], RGB, of one size (height, width).

    HDR (PQ, HLG) is converted for an sRGB display whose white is HDR's reference white, 203 cd/m2 (ITU-R
    BT.2408): darker colours are kept, brighter ones become white (swscale computes a table for this once, in
    some seconds). Where a video does not state how its colours are coded, the usual defaults of players
    apply: BT.709 from high definition on, else BT.601. Transparent frames are composited on white.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._reformatter = av().video.reformatter.VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:
        """Convert one frame.

        Raises:
            FFmpegError, ValueError: the frame cannot be converted.
        """
        height, width = self._size
        has_alpha = any(component.is_alpha for component in frame.format.components)
        converted = self._reformatter.reformat(
            frame, width, height, "rgba" if has_alpha else "rgb24", **_colour_arguments(frame)
        ).to_ndarray()
        return composite_on_white(converted) if has_alpha else converted


def _colour_arguments(frame: Any) -> dict[str, int]:
    """Return the arguments of `reformat` that convert the colours of a frame to sRGB."""
    if frame.format.is_rgb:
        return {}
    unknown = frame.colorspace == _UNKNOWN
    if frame.color_trc in (_PQ, _HLG):
        if frame.color_primaries == _UNKNOWN:
            frame.color_primaries = _BT2020
        to_srgb = {"dst_color_trc": _SRGB, "dst_color_primaries": _BT709}
        return {**to_srgb, "src_colorspace": _BT2020} if unknown else to_srgb
    return {"src_colorspace": _BT709} if unknown and (frame.width >= 1280 or frame.height > 576) else {}


class CutDetector:
    """Detector of cuts by the mean difference of consecutive frames, as measured by FFmpeg's filter scdet.

    The filter itself is not used: it reports cuts in the metadata of frames, which PyAV 17 does not read.
    """

    def __init__(self) -> None:
        self._reformatter = av().video.reformatter.VideoReformatter()
        self._previous: np.ndarray | None = None
        self._numbers, self._differences = array("q"), array("d")

    def add(self, number: int, frame: Any) -> None:
        """Compare the next frame with the one before."""
        small = self._reformatter.reformat(frame, *_CUT_DETECTION_SIZE, "rgb24").to_ndarray().astype(np.int16)
        difference = 0.0 if self._previous is None else float(np.abs(small - self._previous).mean())
        self._previous = small
        self._numbers.append(number)
        self._differences.append(difference * 100 / 256)

    def cuts(self) -> tuple[int, ...]:
        """Return the numbers of the first frames of new shots.

        Such a frame differs from the frame before much more than its neighbours do.
        """
        numbers, differences = np.array(self._numbers, np.int64), np.array(self._differences)
        excess = differences[1:] - np.maximum(differences[:-1], np.append(differences[2:], 0))
        # the first frame has no difference, and a shot is longer than one frame
        return tuple(numbers[2:][excess[1:] > _MIN_CUT_DIFFERENCE].tolist())
