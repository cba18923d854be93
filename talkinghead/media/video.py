"""Reading and writing of videos, frame by frame in constant memory."""

import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import TalkingheadError
from ..system.atomic_file import atomic_write
from .audio import SoundTrack
from .decoding import CutDetector, RgbConverter, decode, decode_webp, scan, scan_webp
from .frame_rate import constant_rate
from .images import is_image_file
from .pyav import av, video_encoder
from .size_limits import MAX_FRAME_PIXELS, TooLargeError, check_pixels

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".gif")
)
_BT601 = 6  # SMPTE 170M: the default of swscale for conversion from RGB


class VideoReader:
    """RGB frames of a video, GIF or animated WebP, upright and with square pixels, decoded in each iteration.

    The frame rate is constant; where that of the file varies, frames are repeated (the same array: write
    only into copies) and left out, see `talkinghead.media.frame_rate`. Of a truncated or damaged file, the
    frames before the damage are used. Each reader logs a warning about this once. Colours: see
    `talkinghead.media.decoding.RgbConverter`.

    Attributes:
        path: the file.
        fps: frames per second, as a Fraction.
        size: (height, width) in pixels.
        count: the number of frames, None when unknown; exact after a complete iteration.
        has_audio: whether there is a sound track.
        cuts: the numbers of the first frames of new shots, after a complete iteration with `find_cuts`.

    Raises:
        TalkingheadError: the file is missing, may not be read, is no video, or not one frame of it can be
            decoded; while iterating: its colours cannot be converted.
    """

    def __init__(self, path: str | Path, find_cuts: bool = False) -> None:
        self.path = Path(path)
        self.cuts: tuple[int, ...] = ()
        self._find_cuts, self._has_warned_of_damage = find_cuts, False
        # libav does not decode an animated WebP, and a still one is no video
        is_webp = self.path.suffix.lower() == ".webp" and not is_image_file(self.path)
        self._decode = decode_webp if is_webp else decode
        info = scan_webp(self.path) if is_webp else scan(self.path)
        timing = constant_rate(info.stamps, info.tick, info.rate, info.last)
        self.fps, self._stamps, self.has_audio = timing.fps, timing.stamps, info.has_audio
        self.count: int | None = (info.frames or None) if timing.stamps is None else len(timing.stamps)
        self._max_count = self.count if info.is_cut else None
        with closing(self._decode_frames()) as frames:
            first = next(frames, None)
        if first is None:
            raise TalkingheadError(f"{self.path}: holds no frames, expected a video; name another")
        # later frames of another size are resized to that of the first
        decoded_size = (first.height, max(1, round(first.width * info.aspect)))
        try:
            check_pixels(*decoded_size[::-1], MAX_FRAME_PIXELS)
        except TooLargeError as error:
            raise TalkingheadError(f"{self.path}: with square pixels {error}") from error
        self._to_rgb = RgbConverter(decoded_size)
        self.size = decoded_size if first.rotation % 180 == 0 else decoded_size[::-1]
        for note in filter(None, (timing.note, info.note)):
            self._warn(note)
        self._has_warned_of_damage = info.is_cut  # by its note

    def __iter__(self) -> Iterator[np.ndarray]:
        detector = CutDetector() if self._find_cuts else None
        number, previous, image = 0, None, np.empty(0)
        for frame in self._at_constant_rate():
            if number == self._max_count:
                break
            if frame is not previous:
                if detector:
                    detector.add(number, frame)
                image, previous = self._to_image(frame), frame
            yield image
            number += 1
        # the number of frames of a damaged file may differ from one iteration to the next
        self._max_count = self.count = number
        if detector:
            self.cuts = detector.cuts()

    def _at_constant_rate(self) -> Iterator[Any]:
        """Yield the frames at a constant rate: some repeatedly, some not at all."""
        if self._stamps is None:
            yield from self._decode_frames()
            return
        stamps = iter(self._stamps.tolist())
        due, current = next(stamps, None), None
        for frame in self._decode_frames():
            if frame.pts is None:
                continue
            # repeat the current frame until this one is due, also in place of undecodable ones
            while current is not None and due is not None and due < frame.pts:
                yield current
                due = next(stamps, None)
            current = frame
        while current is not None and due is not None and due <= current.pts:
            yield current
            due = next(stamps, None)

    def _decode_frames(self) -> Generator[Any, None, None]:
        """Yield the frames of the file up to the first that cannot be decoded."""
        num_decoded = 0
        with closing(self._decode(self.path)) as frames:
            while True:
                try:
                    frame = next(frames, None)
                except (av().error.FFmpegError, TalkingheadError) as error:
                    is_too_large = isinstance(error, TooLargeError)
                    if not num_decoded:
                        problem = (
                            f"its first frame {error}"
                            if is_too_large
                            else "not one of its frames can be decoded, it is damaged; name another"
                        )
                        raise TalkingheadError(f"{self.path}: {problem}") from error
                    if not self._has_warned_of_damage:
                        self._has_warned_of_damage = True
                        if is_too_large:
                            self._warn(
                                f"the frame after the first {num_decoded} {error}; what is before it is used"
                            )
                        else:
                            self._warn(
                                f"cannot be decoded after {num_decoded} frames, it is damaged or cut short: "
                                "what is there is used"
                            )
                    return
                if frame is None:
                    return
                yield frame
                num_decoded += 1

    def _to_image(self, frame: Any) -> np.ndarray:
        try:
            image = self._to_rgb(frame)
        except (av().error.FFmpegError, ValueError) as error:
            frame_format = f"{frame.format.name}, {frame.width}x{frame.height}"
            raise TalkingheadError(
                f"{self.path}: its pictures ({frame_format}) cannot be converted to RGB; convert it to h264"
            ) from error
        return np.rot90(image, frame.rotation // 90) if frame.rotation else image

    def _warn(self, text: str) -> None:
        log.warning("%s: %s", self.path.name, text)


class SoundWriter(Protocol):
    """Writer of a video's sound track."""

    def write_until(self, seconds: Fraction) -> None:
        """Write the sound before a time of the video, as far as it is known."""

    def finish(self) -> None:
        """Write what is missing up to the last such time."""


class VideoWriter:
    """Writer of the frames of a video, returned by `write_video`."""

    def __init__(
        self,
        container: Any,
        fps: Fraction,
        size: tuple[int, int],
        sound: SoundWriter | None = None,
        low_delay: bool = False,
    ) -> None:
        self._container, self._fps, self._size, self._sound = container, fps, size, sound
        name, options = video_encoder(low_delay)
        stream = container.add_stream(name, rate=fps, options=options)
        # a colour sample covers 2x2 pixels, so sides are padded to even lengths
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = _BT601
        self._stream, self._num_written = stream, 0
        self._reformatter = av().video.reformatter.VideoReformatter()

    def write(self, frame: np.ndarray) -> None:
        """Add a frame uint8 [H, W, 3], RGB, of the size passed to `write_video`.

        Raises:
            TalkingheadError: the frame has another size or dtype.
        """
        if frame.shape != (*self._size, 3) or frame.dtype != np.uint8:
            raise TalkingheadError(
                f"video: a frame is {frame.dtype} {list(frame.shape)}; give uint8 {[*self._size, 3]}"
            )
        padding = [*((0, side % 2) for side in self._size), (0, 0)]
        padded = np.ascontiguousarray(np.pad(frame, padding, mode="edge"))
        # converted here, because the encoder's own conversion is not always deterministic, and by one thread:
        # starting others takes longer than a frame
        encoder_frame = self._reformatter.reformat(
            av().VideoFrame.from_ndarray(padded, format="rgb24"), format=self._stream.pix_fmt, threads=1
        )
        encoder_frame.pts, encoder_frame.time_base = self._num_written, 1 / self._fps
        self._container.mux(self._stream.encode(encoder_frame))
        self._num_written += 1
        if self._sound is not None:
            self._sound.write_until(self._num_written / self._fps)

    def finish(self) -> None:
        """Write the frames that the encoder still buffers.

        Raises:
            TalkingheadError: no frames were written.
        """
        if not self._num_written:
            raise TalkingheadError("video: has no frames; write at least one")
        self._container.mux(self._stream.encode(None))
        if self._sound is not None:
            self._sound.finish()


def checked_rate(path: str | Path, fps: Fraction | float) -> Fraction:
    """Return the frame rate of a video that will be written at `path`, as a Fraction.

    Raises:
        TalkingheadError: the name does not end in .mp4, or the rate is not above 0.
    """
    if Path(path).suffix.lower() != ".mp4":
        raise TalkingheadError(f"{path}: only mp4 is written, expected a name that ends in .mp4; rename it")
    if fps <= 0:
        raise TalkingheadError(f"{path}: {fps} frames per second cannot be written; choose a rate above 0")
    return Fraction(fps).limit_denominator(100_000)


@contextmanager
def write_video(
    path: str | Path,
    fps: Fraction | float,
    size: tuple[int, int],
    audio_from: str | Path | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[VideoWriter]:
    """Write an mp4 that replaces a file at `path` when the block succeeds.

    The codec is H.264, or MPEG-4 Part 2 where this FFmpeg has no encoder for that; the pixel format is
    yuv420p.

    Args:
        path: a name that ends in .mp4.
        fps: frames per second, above 0.
        size: (height, width) of the frames in pixels.
        audio_from: a file whose sound track, if there is one, is added up to the end of the frames: copied
            where an mp4 can hold it, else encoded as AAC.
        metadata: tags of the file, such as ``{"comment": "..."}``.

    Raises:
        TalkingheadError: the name does not end in .mp4, the file cannot be written, or the sound cannot be
            read.
    """
    rate = checked_rate(path, fps)
    with atomic_write(path) as temp_path, ExitStack() as stack:
        container = stack.enter_context(
            av().open(str(temp_path), "w", format="mp4", options={"movflags": "+faststart"})
        )
        container.metadata.update(metadata or {})
        sound = None if audio_from is None else SoundTrack.open(Path(audio_from), container, stack)
        writer = VideoWriter(container, rate, size, sound)
        yield writer
        writer.finish()
