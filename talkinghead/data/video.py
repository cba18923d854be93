"""Video in and out, frame by frame in constant memory. The only module that imports PyAV."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TalkingheadError, require
from ..files import replacing

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".gif"))
_NO_VIDEO = frozenset(("tty", "image2"))  # ffmpeg would also draw a text file
_SOUND_OF_MP4 = frozenset(("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"))  # copied as they are, others become AAC
_WHOLE = 0.9  # of the length that the header states must be there
_BT601 = 6  # SMPTE 170M: what swscale converts RGB to when it is not told


class VideoReader:
    """A video or GIF as RGB frames, upright and with square pixels, decoded anew each time it is iterated over.

    Attributes:
        path: the file.
        fps: frames per second, on average, as a Fraction.
        size: (height, width) in pixels.
        count: how many frames there are as the file says, None when it does not.
        has_audio: whether it has a sound track.

    Raises:
        TalkingheadError: the file is missing, empty, cut, or no video; while iterating: it is damaged, or shorter than its header says.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        frame = next(self._frames(), None)
        if frame is None:
            raise TalkingheadError(f"{self.path}: holds no frames, expected a video; name another")
        with _open(self.path) as container:
            stream = container.streams.video[0]
            self.fps = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self.count: int | None = stream.frames or round((container.duration or 0) / 1e6 * self.fps) or None
            self.has_audio = bool(container.streams.audio)
            self._aspect = Fraction(stream.sample_aspect_ratio or 1)
        # later frames are brought to the size of the first, should they differ
        self._decoded = (frame.height, max(1, round(frame.width * self._aspect)))
        self.size = self._decoded if frame.rotation % 180 == 0 else self._decoded[::-1]

    def __iter__(self) -> Iterator[np.ndarray]:
        height, width = self._decoded
        for frame in self._frames():
            picture = frame.to_ndarray(format="rgb24", width=width, height=height)
            yield np.rot90(picture, frame.rotation // 90) if frame.rotation else picture

    def _frames(self) -> Iterator[Any]:
        av = require("av", "app")
        done, end = 0, 0.0
        with _open(self.path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            # only a header that counts its frames is taken at its word
            length = float((stream.duration or 0) * stream.time_base) if stream.frames else 0.0
            start = float((stream.start_time or 0) * stream.time_base)
            try:
                for frame in container.decode(stream):
                    yield frame
                    done, end = done + 1, frame.time or 0.0
            except av.error.FFmpegError as error:
                raise TalkingheadError(
                    f"{self.path}: the video cannot be decoded after {done} frames, it is damaged or cut short; name a whole one"
                ) from error
        if done > 1 and end - start < _WHOLE * length * (done - 1) / done:
            raise TalkingheadError(
                f"{self.path}: the video ends after {end - start:.1f} of its {length:.1f} seconds, it is cut short; name a whole one"
            )


def _open(path: Path) -> Any:
    """The container of a file that has at least one video stream."""
    av = require("av", "app")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise TalkingheadError(f"{path}: {what}, expected a video; name one that exists")
    try:
        container = av.open(str(path.absolute()))  # absolute, so that no name reads as an address
    except (av.error.FFmpegError, OSError) as error:
        raise TalkingheadError(
            f"{path}: cannot be read as a video, it is empty, damaged, cut short or something else; name another"
        ) from error
    if not container.streams.video or container.format.name in _NO_VIDEO:
        container.close()
        raise TalkingheadError(f"{path}: holds no moving pictures, expected a video; name another")
    return container


class VideoWriter:
    """Takes the frames of a video one by one; made by `write_video`."""

    def __init__(self, container: Any, fps: Fraction, size: tuple[int, int], sound: "_Sound | None") -> None:
        self._container, self._fps, self._size, self._sound = container, fps, size, sound
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
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
        picture = require("av", "app").VideoFrame.from_ndarray(
            np.ascontiguousarray(np.pad(frame, [*odd, (0, 0)], mode="edge")), format="rgb24"
        )
        picture.pts, picture.time_base = self._count, 1 / self._fps
        self._container.mux(self._stream.encode(picture))
        self._count += 1
        if self._sound is not None:
            self._sound.write_until(float(self._count / self._fps))

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if not self._count:
            raise TalkingheadError("video: no frames were written, expected at least one")
        self._container.mux(self._stream.encode(None))


@contextmanager
def write_video(
    path: str | Path,
    fps: Fraction | float,
    size: tuple[int, int],
    audio_from: str | Path | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[VideoWriter]:
    """Write an mp4 (h264, yuv420p) at `path`; it is there when the block ends well, and otherwise what was there before.

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
    av = require("av", "app")
    if Path(path).suffix.lower() != ".mp4":
        raise TalkingheadError(f"{path}: only mp4 is written, expected a name that ends in .mp4; rename it")
    if fps <= 0:
        raise TalkingheadError(f"{path}: frames per second must be above 0, got {fps}; drive with a video")
    rate = Fraction(fps).limit_denominator(100_000)
    with replacing(path) as beside, ExitStack() as stack:
        container = stack.enter_context(av.open(str(beside), "w", format="mp4", options={"movflags": "+faststart"}))
        container.metadata.update(metadata or {})
        sound = None if audio_from is None else _Sound.of(Path(audio_from), container, stack)
        writer = VideoWriter(container, rate, size, sound)
        yield writer
        writer.finish()


class _Sound:
    """Carries a sound track into another container, a little at a time."""

    def __init__(self, path: Path, source: Any, target: Any) -> None:
        stream = source.streams.audio[0]
        self._path, self._source, self._target, self._from = path, source, target, stream
        # the written video starts at 0, wherever the source did
        self._start = Fraction(source.streams.video[0].start_time or 0) * source.streams.video[0].time_base
        self._copied = stream.codec_context.codec.canonical_name in _SOUND_OF_MP4
        self._to = (
            target.add_stream_from_template(stream) if self._copied else target.add_stream("aac", rate=stream.codec_context.sample_rate)
        )
        self._pieces = self._shifted()
        self._next = next(self._pieces, None)

    @classmethod
    def of(cls, path: Path, target: Any, stack: ExitStack) -> "_Sound | None":
        source = stack.enter_context(_open(path))
        return cls(path, source, target) if source.streams.audio else None

    def write_until(self, seconds: float) -> None:
        while self._next is not None and self._next[0] < seconds:
            self._target.mux(self._next[1])
            self._next = next(self._pieces, None)

    def _shifted(self) -> Iterator[tuple[float, Any]]:
        """(time in seconds, what to mux then), from time 0 on."""
        av = require("av", "app")
        try:
            for piece in self._source.demux(self._from) if self._copied else self._source.decode(self._from):
                if piece.pts is None:  # the demuxer's last, empty packet
                    continue
                shift = round(self._start / piece.time_base)
                piece.pts -= shift
                if self._copied:
                    piece.dts = piece.pts
                    piece.stream = self._to
                if piece.pts >= 0:
                    yield float(piece.pts * piece.time_base), piece if self._copied else self._to.encode(piece)
            if not self._copied:
                yield 0.0, self._to.encode(None)
        except av.error.FFmpegError as error:
            raise TalkingheadError(f"{self._path}: its sound cannot be decoded, it is damaged or cut short; name a whole one") from error
