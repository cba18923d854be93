"""Video in and out, frame by frame in constant memory."""

import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TalkingheadError
from ..files import replacing
from .decoding import Cuts, ToRGB, decode, decode_webp, scan, scan_webp
from .libav import av, video_encoder
from .pictures import is_picture
from .size_limits import MAX_FRAME_PIXELS, TooLarge, check_pixels
from .sound import SoundTrack
from .timing import constant_rate

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".gif"))
_BT601 = 6  # SMPTE 170M: what swscale converts RGB to when it is not told


class VideoReader:
    """A video, GIF or animated WebP as RGB frames, upright and with square pixels, decoded anew each time it is iterated over.

    They come at a constant rate; where that of the file varies, frames are repeated (the same array: write into copies only) and left out
    as `talkinghead.media.timing` says. Of a file that is cut or damaged, the frames up to there are used. What the user is to know of this
    is logged as a warning, once for each reader. Colours: see `talkinghead.media.decoding.ToRGB`.

    Attributes:
        path: the file.
        fps: frames per second, as a Fraction.
        size: (height, width) in pixels.
        count: how many frames there are, None when that is not known; exact after an iteration to the end.
        has_audio: whether it has a sound track.
        cuts: the numbers of the frames that begin a new shot, after an iteration to the end with `find_cuts`.

    Raises:
        TalkingheadError: the file is missing, may not be read, is no video, or not one frame of it can be decoded; while iterating: its
            colours cannot be converted.
    """

    def __init__(self, path: str | Path, find_cuts: bool = False) -> None:
        self.path = Path(path)
        self.cuts: tuple[int, ...] = ()
        self._find_cuts, self._damaged = find_cuts, False
        # libav does not decode an animated one, and a still one is no video
        webp = self.path.suffix.lower() == ".webp" and not is_picture(self.path)
        self._decode = decode_webp if webp else decode
        contents = scan_webp(self.path) if webp else scan(self.path)
        timing = constant_rate(contents.stamps, contents.tick, contents.rate, contents.last)
        self.fps, self._stamps, self.has_audio = timing.fps, timing.stamps, contents.has_audio
        self.count: int | None = (contents.frames or None) if timing.stamps is None else len(timing.stamps)
        self._most = self.count if contents.is_cut else None
        with closing(self._decoded()) as frames:
            first = next(frames, None)
        if first is None:
            raise TalkingheadError(f"{self.path}: holds no frames, expected a video; name another")
        # later frames are brought to the size of the first, should they differ
        as_decoded = (first.height, max(1, round(first.width * contents.aspect)))
        try:
            check_pixels(*as_decoded[::-1], MAX_FRAME_PIXELS)
        except TooLarge as error:
            raise TalkingheadError(f"{self.path}: with square pixels {error}") from error
        self._rgb = ToRGB(as_decoded)
        self.size = as_decoded if first.rotation % 180 == 0 else as_decoded[::-1]
        for note in filter(None, (timing.note, contents.note)):
            self._warn(note)
        self._damaged = contents.is_cut  # and said so

    def __iter__(self) -> Iterator[np.ndarray]:
        cuts = Cuts() if self._find_cuts else None
        number, before, picture = 0, None, np.empty(0)
        for frame in self._at_constant_rate():
            if number == self._most:
                break
            if frame is not before:
                if cuts:
                    cuts.look(number, frame)
                picture, before = self._picture(frame), frame
            yield picture
            number += 1
        # what a damaged file gives may differ from one time to the next
        self._most = self.count = number
        if cuts:
            self.cuts = cuts.found()

    def _at_constant_rate(self) -> Iterator[Any]:
        """The frame of each picture: some several times, some not at all."""
        if self._stamps is None:
            yield from self._decoded()
            return
        wanted = iter(self._stamps.tolist())
        due, shown = next(wanted, None), None
        for frame in self._decoded():
            if frame.pts is None:
                continue
            # until this frame is due, and in place of any that could not be decoded
            while shown is not None and due is not None and due < frame.pts:
                yield shown
                due = next(wanted, None)
            shown = frame
        while shown is not None and due is not None and due <= shown.pts:
            yield shown
            due = next(wanted, None)

    def _decoded(self) -> Generator[Any, None, None]:
        """The frames as they are in the file, up to the first that cannot be decoded."""
        done = 0
        with closing(self._decode(self.path)) as frames:
            while True:
                try:
                    frame = next(frames, None)
                except (av().error.FFmpegError, TalkingheadError) as error:
                    grown = isinstance(error, TooLarge)
                    if not done:
                        problem = (
                            f"its first frame {error}" if grown else "not one of its frames can be decoded, it is damaged; name another"
                        )
                        raise TalkingheadError(f"{self.path}: {problem}") from error
                    if not self._damaged:
                        self._damaged = True
                        if grown:
                            self._warn(f"the frame after the first {done} {error}; what is before it is used")
                        else:
                            self._warn(f"cannot be decoded after {done} frames, it is damaged or cut short: what is there is used")
                    return
                if frame is None:
                    return
                yield frame
                done += 1

    def _picture(self, frame: Any) -> np.ndarray:
        try:
            picture = self._rgb(frame)
        except (av().error.FFmpegError, ValueError) as error:
            what = f"{frame.format.name}, {frame.width}x{frame.height}"
            raise TalkingheadError(f"{self.path}: its pictures ({what}) cannot be converted to RGB; convert it to h264") from error
        return np.rot90(picture, frame.rotation // 90) if frame.rotation else picture

    def _warn(self, text: str) -> None:
        log.warning("%s: %s", self.path.name, text)


class VideoWriter:
    """Takes the frames of a video one by one; made by `write_video`."""

    def __init__(
        self, container: Any, fps: Fraction, size: tuple[int, int], sound: SoundTrack | None = None, low_delay: bool = False
    ) -> None:
        self._container, self._fps, self._size, self._sound = container, fps, size, sound
        name, options = video_encoder(low_delay)
        stream = container.add_stream(name, rate=fps, options=options)
        # one colour sample serves 2x2 pixels, so an odd side is filled up
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = _BT601
        self._stream, self._count = stream, 0

    def write(self, frame: np.ndarray) -> None:
        """Add a frame uint8 [H, W, 3], RGB, of the size given to `write_video`.

        Raises:
            TalkingheadError: it has another size or dtype.
        """
        if frame.shape != (*self._size, 3) or frame.dtype != np.uint8:
            raise TalkingheadError(f"video: a frame must be uint8 {[*self._size, 3]}, got {frame.dtype} {list(frame.shape)}")
        odd = [(0, side % 2) for side in self._size]
        picture = av().VideoFrame.from_ndarray(np.ascontiguousarray(np.pad(frame, [*odd, (0, 0)], mode="edge")), format="rgb24")
        picture = picture.reformat(format=self._stream.pix_fmt)  # left to the encoder, the same frames give other videos now and then
        picture.pts, picture.time_base = self._count, 1 / self._fps
        self._container.mux(self._stream.encode(picture))
        self._count += 1
        if self._sound is not None:
            self._sound.write_until(self._count / self._fps)

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if not self._count:
            raise TalkingheadError("video: no frames were written, expected at least one")
        self._container.mux(self._stream.encode(None))
        if self._sound is not None:
            self._sound.finish()


def checked_rate(path: str | Path, fps: Fraction | float) -> Fraction:
    """Return the frames per second of a video that is to be written at `path`.

    Raises:
        TalkingheadError: the name does not end in .mp4, or the rate is not above 0.
    """
    if Path(path).suffix.lower() != ".mp4":
        raise TalkingheadError(f"{path}: only mp4 is written, expected a name that ends in .mp4; rename it")
    if fps <= 0:
        raise TalkingheadError(f"{path}: frames per second must be above 0, got {fps}; drive with a video")
    return Fraction(fps).limit_denominator(100_000)


@contextmanager
def write_video(
    path: str | Path,
    fps: Fraction | float,
    size: tuple[int, int],
    audio_from: str | Path | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[VideoWriter]:
    """Write an mp4 at `path`; it is there when the block ends well, and otherwise what was there before.

    It is H.264, or MPEG-4 Part 2 where this FFmpeg has no encoder for that, and yuv420p.

    Args:
        path: a name that ends in .mp4.
        fps: frames per second, above 0.
        size: (height, width) of the frames in pixels.
        audio_from: a file whose sound track, if it has one, is taken over up to the end of the frames: as it is where an mp4 can hold it,
            else as AAC.
        metadata: tags of the file, such as ``{"comment": "..."}``.

    Raises:
        TalkingheadError: the name does not end in .mp4, the file cannot be written, or the sound cannot be read.
    """
    rate = checked_rate(path, fps)
    with replacing(path) as beside, ExitStack() as stack:
        container = stack.enter_context(av().open(str(beside), "w", format="mp4", options={"movflags": "+faststart"}))
        container.metadata.update(metadata or {})
        sound = None if audio_from is None else SoundTrack.open(Path(audio_from), container, stack)
        writer = VideoWriter(container, rate, size, sound)
        yield writer
        writer.finish()
