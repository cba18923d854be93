"""What is in a video file: its time stamps without decoding, its frames as libav gives them, their colours as RGB, its shots."""

from array import array
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TalkingheadError
from .libav import av, open_video, pictures_of
from .pictures import moving_pictures, on_white
from .size_limits import MAX_FRAME_PIXELS, check_decoder

_MILLISECOND = Fraction(1, 1000)
_NEVER = -(1 << 63)
_STATE_LENGTH = frozenset(("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv", "avi"))  # in a header, which a cut file keeps
_WHOLE = 0.98  # of that length must be there
_SHAPES = (Fraction(1, 8), Fraction(8))  # of pixels; others are a mistake
# numbers of ITU-T H.273
_BT709, _UNKNOWN, _BT2020 = 1, 2, 9
_SRGB, _PQ, _HLG = 13, 16, 18
_SMALL, _CUT = (128, 72), 10.0  # the size at which shots are told apart, and the difference, of 100, that makes a cut


@dataclass(frozen=True)
class Contents:
    """What is known of a video before it is decoded.

    Attributes:
        frames: how many it holds.
        stamps: int64 [frames], their time stamps in units of `tick`; empty when they are not known.
        tick: seconds.
        rate: the frames per second that it states, None when it does not.
        last: how long the last frame is shown, in units of `tick`; 0 when that is not known.
        aspect: width of a pixel by its height.
        has_audio: whether it has a sound track.
        is_cut: whether there is less than it states; then `frames` are those up to which none is missing.
        note: what is wrong with it, "" when nothing is.
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


def scan(path: Path) -> Contents:
    """Read the packets of a video without decoding them.

    Raises:
        TalkingheadError: the file is missing, may not be read, or is no video.
    """
    with open_video(path) as container:
        stream = pictures_of(container)
        shown, decoded = array("q"), array("q")  # the time stamps of its packets, in the order of the file
        packets, last, end = 0, 0, 0.0
        for packet in _packets(container):
            stamp = packet.dts if packet.pts is None else packet.pts
            end = max(end, float(((stamp or 0) + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            packets += 1
            if packet.size and not packet.is_discard:
                shown.append(_NEVER if packet.pts is None else packet.pts)
                decoded.append(_NEVER if packet.dts is None else packet.dts)
                last = packet.duration or 0
        stamps, order, note = np.array(shown, np.int64), np.array(decoded, np.int64), ""
        order = order[order != _NEVER]
        if (stamps == _NEVER).any():
            stamps = stamps[:0]
        elif (np.diff(order) < 0).any():
            stamps, note = stamps[:0], "its time stamps run backwards: they are not used, every frame is"
        length = (container.duration or 0) / 1e6 if container.format.name in _STATE_LENGTH else 0.0
        # a header that counts more packets is right unless they are edited out; else sound and rounding may account for a little
        missing = (length - end) * packets / end if end > 0 else 0.0  # in frames
        is_cut = missing > 0.5 if packets < stream.frames else missing > 2 and end < _WHOLE * length
        is_cut |= packets < stream.frames and _has_hole(stamps, order)
        if is_cut and packets:
            # frames are shown no sooner than they are decoded, so up to the last time of decoding none is missing
            if len(order) and len(stamps):
                stamps = stamps[stamps <= order[-1]]
                end = float((max(stamps, default=0) + last) * stream.time_base)
            note = f"the video ends after {end:.2f} of its {length:.2f} seconds, it is cut short: what is there is used"
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        return Contents(
            frames=len(stamps) or len(shown),
            stamps=stamps,
            tick=stream.time_base,
            rate=stream.average_rate or stream.guessed_rate,
            last=last,
            aspect=aspect if _SHAPES[0] <= aspect <= _SHAPES[1] else Fraction(1),
            has_audio=bool(container.streams.audio),
            is_cut=is_cut,
            note=note,
        )


def _has_hole(stamps: np.ndarray, order: np.ndarray) -> bool:
    """Whether frames are missing that would have been decoded after the last, and shown before it."""
    if not len(stamps) or not len(order):
        return False
    steps, late = np.diff(np.sort(stamps)), np.diff(np.sort(stamps[stamps >= order[-1]]))
    return bool(len(late) and late.max() > 1.5 * np.median(steps))


def _packets(container: Any) -> Iterator[Any]:
    """The packets of all streams, as far as they can be read."""
    try:
        for packet in container.demux():
            if packet.size or packet.pts is not None:  # but for the demuxer's last ones
                yield packet
    except av().error.FFmpegError:
        return


def decode(path: Path) -> Generator[Any, None, None]:
    """The frames of a video as libav decodes them.

    Raises:
        FFmpegError: a frame cannot be decoded.
        TooLarge: a frame is, as its header says; it is not decoded.
        TalkingheadError: the file is missing, may not be read, or is no video.
    """
    with open_video(path) as container:
        stream = pictures_of(container)
        stream.thread_type = "SLICE"  # by whole frames, what is made of damaged ones differs from one time to the next
        stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        # of all streams: where PyAV passes over the packets of others itself, it does not see Ctrl-C until the next frame
        for packet in container.demux():
            if packet.stream.index != stream.index:
                continue
            try:
                frames = packet.decode()
            except av().error.FFmpegError:
                check_decoder(stream.codec_context.width, stream.codec_context.height, MAX_FRAME_PIXELS)
                raise
            yield from frames


def scan_webp(path: Path) -> Contents:
    """The same as `scan` of an animated WebP, which libav does not decode and Pillow does."""
    stamps, last, note = [0], 0, ""
    try:
        for _, last in moving_pictures(path):
            stamps.append(stamps[-1] + last)
    except TalkingheadError:
        pass  # so far it can be read
    return Contents(len(stamps) - 1, np.array(stamps[:-1], np.int64), _MILLISECOND, last=last, note=note)


def decode_webp(path: Path) -> Generator[Any, None, None]:
    """The same as `decode` of an animated WebP.

    Raises:
        TalkingheadError: a frame cannot be decoded.
    """
    stamp = 0
    for picture, milliseconds in moving_pictures(path):
        frame = av().VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = stamp, _MILLISECOND
        stamp += milliseconds
        yield frame


class ToRGB:
    """Converts the frames of one video to uint8 [H, W, 3], RGB, of one size (height, width).

    HDR (PQ, HLG) is shown as on an sRGB display whose white is HDR's reference white, 203 cd/m2 (ITU-R BT.2408): what is darker looks as
    it was meant to, what is brighter becomes white (swscale makes a table for this once, in some seconds). A video that does not say how
    its colours are coded is taken as players do: as BT.709 from high definition on, and else as BT.601. Transparency is laid on white.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._reformatter = av().video.reformatter.VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:
        """The picture of a frame.

        Raises:
            FFmpegError, ValueError: it cannot be converted.
        """
        height, width = self._size
        clear = any(component.is_alpha for component in frame.format.components)
        as_rgb = self._reformatter.reformat(frame, width, height, "rgba" if clear else "rgb24", **_colours(frame)).to_ndarray()
        return on_white(as_rgb) if clear else as_rgb


def _colours(frame: Any) -> dict[str, int]:
    """What is to be done with the colours of a frame, as arguments of `reformat`."""
    if frame.format.is_rgb:
        return {}
    unknown = frame.colorspace == _UNKNOWN
    if frame.color_trc in (_PQ, _HLG):
        if frame.color_primaries == _UNKNOWN:
            frame.color_primaries = _BT2020
        colours = {"dst_color_trc": _SRGB, "dst_color_primaries": _BT709}
        return {**colours, "src_colorspace": _BT2020} if unknown else colours
    return {"src_colorspace": _BT709} if unknown and (frame.width >= 1280 or frame.height > 576) else {}


class Cuts:
    """Finds the frames that begin a new shot, by the mean difference of frames, measured as FFmpeg's filter scdet does.

    The filter itself gives it as metadata of frames, which PyAV 17 does not read.
    """

    def __init__(self) -> None:
        self._reformatter = av().video.reformatter.VideoReformatter()
        self._before: np.ndarray | None = None
        self._numbers, self._differences = array("q"), array("d")

    def look(self, number: int, frame: Any) -> None:
        """Take in the next frame."""
        small = self._reformatter.reformat(frame, *_SMALL, "rgb24").to_ndarray().astype(np.int16)
        difference = 0.0 if self._before is None else float(np.abs(small - self._before).mean())
        self._before = small
        self._numbers.append(number)
        self._differences.append(difference * 100 / 256)

    def found(self) -> tuple[int, ...]:
        """The numbers of the frames that begin another shot: they differ from the frame before much more than their neighbours do."""
        numbers, differences = np.array(self._numbers, np.int64), np.array(self._differences)
        more = differences[1:] - np.maximum(differences[:-1], np.append(differences[2:], 0))
        # the first difference is none, and a shot is longer than one frame
        return tuple(numbers[2:][more[1:] > _CUT].tolist())
