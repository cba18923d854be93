"""Transfer of a file's sound track to a written video, up to the end of its frames."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TalkingheadError
from .pyav import av, open_video, video_stream

_CODECS_OF_MP4 = frozenset(("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"))
"""Codecs that are copied as they are; others are encoded as AAC."""
_MIN_MP3_RATE = 16_000  # samples a second of MP3 in an mp4
_SAMPLE_FORMAT = "fltp"  # the sample format that FFmpeg's AAC encoder takes
_MIN_RATE = 8_000  # samples a second
_DEFAULT_RATE = 48_000  # samples a second
_MAX_DRIFT_S = Fraction(1, 25)
"""Difference between time stamps and the count of samples above which the time stamps are used."""
_SILENCE_SAMPLES = 16_384  # silent samples written at a time


class SoundTrack:
    """Writer of a sound track, which is copied where an mp4 can hold it, and else encoded as AAC.

    Args:
        path: the file of the sound, for messages.
        source: the container with the sound.
        target: the container that receives it, still empty.

    Raises:
        TalkingheadError: the sound cannot be decoded.
    """

    def __init__(self, path: Path, source: Any, target: Any) -> None:
        stream = source.streams.audio[0]
        if stream.codec_context is None:
            raise TalkingheadError(
                f"{path}: its sound cannot be decoded, its codec is unknown; convert it to AAC"
            )
        self._path, self._source, self._target, self._stream = path, source, target, stream
        # the written video starts at time 0, the source may start at another
        frames = video_stream(source)
        self._source_pieces: Generator[Any, None, None]
        self._start = Fraction(frames.start_time or 0) * frames.time_base
        codec, rate = stream.codec_context.codec.canonical_name, stream.codec_context.sample_rate or 0
        self._is_copied = codec in _CODECS_OF_MP4 and rate > 0 and (codec != "mp3" or rate >= _MIN_MP3_RATE)
        if self._is_copied:
            self._out = target.add_stream_from_template(stream)
            self._source_pieces = self._shifted_packets()
            self._packet = next(self._source_pieces, None)
        else:
            self._rate = _aac_rate(rate or _DEFAULT_RATE)
            self._layout, self._channels = (
                ("mono", 1) if stream.codec_context.channels == 1 else ("stereo", 2)
            )
            self._out = target.add_stream("aac", rate=self._rate, layout=self._layout)
            self._source_pieces = self._decode()
            self._pending: np.ndarray | None = np.empty((self._channels, 0), np.float32)
            self._num_written = 0  # samples

    @classmethod
    def open(cls, path: Path, target: Any, stack: ExitStack) -> "SoundTrack | None":
        """Return the sound of a video, which stays open as long as the stack; None when it has none.

        Raises:
            TalkingheadError: the file cannot be read, or its sound not be decoded.
        """
        source = stack.enter_context(open_video(path))
        if not source.streams.audio:
            return None
        sound = cls(path, source, target)
        stack.enter_context(closing(sound._source_pieces))  # before the source
        return sound

    def write_until(self, seconds: Fraction) -> None:
        """Write the sound before a time.

        Raises:
            TalkingheadError: the sound cannot be decoded, or not be encoded.
        """
        if self._is_copied:
            while self._packet is not None and self._packet.pts * self._packet.time_base < seconds:
                self._target.mux(self._packet)
                self._packet = next(self._source_pieces, None)
            return
        end = round(seconds * self._rate)
        while self._pending is not None and self._num_written < end:
            if not self._pending.shape[1]:
                self._pending = next(self._source_pieces, None)
                continue
            samples, self._pending = np.split(self._pending, [end - self._num_written], axis=1)
            frame = av().AudioFrame.from_ndarray(
                np.ascontiguousarray(samples), format=_SAMPLE_FORMAT, layout=self._layout
            )
            frame.sample_rate, frame.pts, frame.time_base = (
                self._rate,
                self._num_written,
                Fraction(1, self._rate),
            )
            self._encode(frame)
            self._num_written += samples.shape[1]

    def finish(self) -> None:
        """Write the samples that the encoder still buffers.

        Raises:
            TalkingheadError: it cannot be encoded.
        """
        if not self._is_copied and self._num_written:
            self._encode(None)

    def _encode(self, frame: Any) -> None:
        try:
            packets = self._out.encode(frame)
        except (av().error.FFmpegError, ValueError) as error:
            raise TalkingheadError(
                f"{self._path}: its sound ({self._sound_format()}) cannot be encoded as AAC of "
                f"{self._rate} Hz; convert it to AAC"
            ) from error
        self._target.mux(packets)

    def _packets(self) -> Iterator[Any]:
        """Yield the packets of sound.

        Packets of other streams are skipped here and not by PyAV, which does not notice Ctrl-C.
        """
        return (packet for packet in self._source.demux() if packet.stream.index == self._stream.index)

    def _shifted_packets(self) -> Generator[Any, None, None]:
        """Yield the packets from time 0 on."""
        try:
            for packet in self._packets():
                if packet.pts is None:  # the demuxer's last, empty one
                    continue
                packet.pts -= round(self._start / packet.time_base)
                packet.dts = packet.pts
                packet.stream = self._out
                if packet.pts >= 0:
                    yield packet
        except av().error.FFmpegError as error:
            raise self._decode_error() from error

    def _decode(self) -> Generator[np.ndarray, None, None]:
        """Yield the sound from time 0 on in consecutive pieces, float32 [channels, n].

        Gaps are filled with silence, overlaps dropped.
        """
        resampler: Any = None
        resampler_format: tuple[str, str, int] | None = None
        anchor = Fraction(0)  # time of the resampler's first sample in the source, in seconds
        num_decoded = 0  # samples since then, at the rate of the source
        num_yielded = 0  # samples since time 0
        num_overlapping = 0  # samples that are still to be dropped
        for frame in self._decode_frames():
            rate = frame.sample_rate
            expected = anchor + Fraction(num_decoded, rate) if resampler else Fraction(0)
            time = expected if frame.pts is None else frame.pts * frame.time_base - self._start
            frame_format = (frame.format.name, frame.layout.name, rate)
            if resampler is None or frame_format != resampler_format or abs(time - expected) > _MAX_DRIFT_S:
                for piece in self._resample(resampler, None):
                    num_yielded += piece.shape[1]
                    yield piece
                resampler = av().AudioResampler(format=_SAMPLE_FORMAT, layout=self._layout, rate=self._rate)
                resampler_format, anchor, num_decoded = frame_format, time, 0
                num_missing = round(time * self._rate) - num_yielded
                while num_missing > 0:  # in small pieces, because damaged time stamps may skip years
                    piece = np.zeros((self._channels, min(num_missing, _SILENCE_SAMPLES)), np.float32)
                    num_missing -= piece.shape[1]
                    num_yielded += piece.shape[1]
                    yield piece
                num_overlapping = -num_missing
            num_decoded += frame.samples
            for piece in self._resample(resampler, frame):
                num_dropped = min(num_overlapping, piece.shape[1])
                num_overlapping -= num_dropped
                num_yielded += piece.shape[1] - num_dropped
                yield piece[:, num_dropped:]
        yield from self._resample(resampler, None)

    def _decode_frames(self) -> Iterator[Any]:
        """Yield the decoded audio frames of the file."""
        try:
            for packet in self._packets():
                yield from packet.decode()
        except av().error.FFmpegError as error:
            raise self._decode_error() from error

    def _resample(self, resampler: Any, frame: Any) -> list[np.ndarray]:
        """Return the samples that a resampler outputs for a frame, or, for None, those it still buffers."""
        if resampler is None:
            return []
        if frame is not None:
            frame.pts = None  # the time follows from the count of samples
        try:
            return [piece.to_ndarray() for piece in resampler.resample(frame)]
        except (av().error.FFmpegError, ValueError) as error:
            raise TalkingheadError(
                f"{self._path}: its sound ({self._stream.codec_context.name}) cannot be resampled to "
                f"{self._rate} Hz; convert it to AAC"
            ) from error

    def _decode_error(self) -> TalkingheadError:
        return TalkingheadError(
            f"{self._path}: its sound ({self._sound_format()}) cannot be decoded, it is damaged or cut "
            "short; name a whole one"
        )

    def _sound_format(self) -> str:
        context = self._stream.codec_context
        return f"{context.name}, {context.sample_rate} Hz"


def _aac_rate(rate: int) -> int:
    """Return the lowest AAC sample rate that is at least `rate` samples a second, else the highest."""
    supported = av().codec.Codec("aac", "w").audio_rates or (_DEFAULT_RATE,)
    candidates = sorted(candidate for candidate in supported if candidate >= _MIN_RATE)
    return next((candidate for candidate in candidates if candidate >= rate), candidates[-1])
