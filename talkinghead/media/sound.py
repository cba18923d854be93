"""Carries the sound track of one file into another, as far as its pictures go."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TalkingheadError
from .libav import av, open_video, pictures_of

_CODECS_OF_MP4 = frozenset(("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"))  # copied as they are, others become AAC
_MIN_MP3_RATE = 16_000  # samples a second of MP3 in an mp4
_FORMAT = "fltp"  # of the samples that FFmpeg's encoder of AAC takes
_MIN_RATE, _USUAL_RATE = 8_000, 48_000
_MAX_OFF_S = Fraction(1, 25)  # by which time stamps may differ from the count of samples before they are followed
_SILENCE = 16_384  # samples made at a time


class SoundTrack:
    """Writes sound into a container a little at a time, copied where an mp4 can hold it, else as AAC.

    Args:
        path: where the sound comes from, for messages.
        source: the container with the sound.
        target: the container for it, to which nothing was written yet.

    Raises:
        TalkingheadError: the sound cannot be decoded.
    """

    def __init__(self, path: Path, source: Any, target: Any) -> None:
        stream = source.streams.audio[0]
        if stream.codec_context is None:
            raise TalkingheadError(f"{path}: its sound cannot be decoded, its codec is unknown; convert it to AAC")
        self._path, self._source, self._target, self._stream = path, source, target, stream
        # the written video starts at 0, wherever the source did
        pictures = pictures_of(source)
        self._source_pieces: Generator[Any, None, None]
        self._start = Fraction(pictures.start_time or 0) * pictures.time_base
        codec, rate = stream.codec_context.codec.canonical_name, stream.codec_context.sample_rate or 0
        self._is_copied = codec in _CODECS_OF_MP4 and rate > 0 and (codec != "mp3" or rate >= _MIN_MP3_RATE)
        if self._is_copied:
            self._out = target.add_stream_from_template(stream)
            self._source_pieces = self._shifted_packets()
            self._packet = next(self._source_pieces, None)
        else:
            self._rate = _aac_rate(rate or _USUAL_RATE)
            self._layout, self._channels = ("mono", 1) if stream.codec_context.channels == 1 else ("stereo", 2)
            self._out = target.add_stream("aac", rate=self._rate, layout=self._layout)
            self._source_pieces = self._decoded()
            self._rest: np.ndarray | None = np.empty((self._channels, 0), np.float32)
            self._written = 0  # samples

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
        """Write what sounds before that time.

        Raises:
            TalkingheadError: the sound cannot be decoded, or not be encoded.
        """
        if self._is_copied:
            while self._packet is not None and self._packet.pts * self._packet.time_base < seconds:
                self._target.mux(self._packet)
                self._packet = next(self._source_pieces, None)
            return
        end = round(seconds * self._rate)
        while self._rest is not None and self._written < end:
            if not self._rest.shape[1]:
                self._rest = next(self._source_pieces, None)
                continue
            now, self._rest = np.split(self._rest, [end - self._written], axis=1)
            frame = av().AudioFrame.from_ndarray(np.ascontiguousarray(now), format=_FORMAT, layout=self._layout)
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._written, Fraction(1, self._rate)
            self._encode(frame)
            self._written += now.shape[1]

    def finish(self) -> None:
        """Write what the encoder still holds.

        Raises:
            TalkingheadError: it cannot be encoded.
        """
        if not self._is_copied and self._written:
            self._encode(None)

    def _encode(self, frame: Any) -> None:
        try:
            packets = self._out.encode(frame)
        except (av().error.FFmpegError, ValueError) as error:
            what = f"{self._stream.codec_context.name}, {self._stream.codec_context.sample_rate} Hz"
            raise TalkingheadError(
                f"{self._path}: its sound ({what}) cannot be encoded as AAC of {self._rate} Hz; convert it to AAC"
            ) from error
        self._target.mux(packets)

    def _packets(self) -> Iterator[Any]:
        """Yield the packets of sound; those of pictures are passed over here, where Ctrl-C is seen, and not by PyAV, where it is not."""
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
            raise self._cannot_decode() from error

    def _decoded(self) -> Generator[np.ndarray, None, None]:
        """Yield float32 [channels, n] pieces of sound that follow each other from time 0 on; gaps are silent, overlaps left out."""
        resampler: Any = None
        kind, anchor, heard, at, behind = None, Fraction(0), 0, 0, 0
        for frame in self._frames():
            rate = frame.sample_rate
            expected = anchor + Fraction(heard, rate) if resampler else Fraction(0)
            time = expected if frame.pts is None else frame.pts * frame.time_base - self._start
            frame_kind = (frame.format.name, frame.layout.name, rate)
            if resampler is None or frame_kind != kind or abs(time - expected) > _MAX_OFF_S:
                for piece in self._resampled(resampler, None):
                    at += piece.shape[1]
                    yield piece
                resampler = av().AudioResampler(format=_FORMAT, layout=self._layout, rate=self._rate)
                kind, anchor, heard = frame_kind, time, 0
                ahead = round(time * self._rate) - at
                while ahead > 0:  # in small pieces, for damaged time stamps may ask for years
                    piece = np.zeros((self._channels, min(ahead, _SILENCE)), np.float32)
                    ahead, at = ahead - piece.shape[1], at + piece.shape[1]
                    yield piece
                behind = -ahead
            heard += frame.samples
            for piece in self._resampled(resampler, frame):
                skipped = min(behind, piece.shape[1])
                behind -= skipped
                at += piece.shape[1] - skipped
                yield piece[:, skipped:]
        yield from self._resampled(resampler, None)

    def _frames(self) -> Iterator[Any]:
        """Yield the frames of sound as they are in the file."""
        try:
            for packet in self._packets():
                yield from packet.decode()
        except av().error.FFmpegError as error:
            raise self._cannot_decode() from error

    def _resampled(self, resampler: Any, frame: Any) -> list[np.ndarray]:
        """Return the samples that come out of a resampler for one frame, or, for None, at its end."""
        if resampler is None:
            return []
        if frame is not None:
            frame.pts = None  # the count of samples tells the time
        try:
            return [piece.to_ndarray() for piece in resampler.resample(frame)]
        except (av().error.FFmpegError, ValueError) as error:
            raise TalkingheadError(
                f"{self._path}: its sound ({self._stream.codec_context.name}) cannot be resampled to {self._rate} Hz; convert it to AAC"
            ) from error

    def _cannot_decode(self) -> TalkingheadError:
        what = f"{self._stream.codec_context.name}, {self._stream.codec_context.sample_rate} Hz"
        return TalkingheadError(f"{self._path}: its sound ({what}) cannot be decoded, it is damaged or cut short; name a whole one")


def _aac_rate(rate: int) -> int:
    """Return the lowest rate of AAC that keeps all of a sound of `rate` samples a second, or else the highest."""
    rates = sorted(each for each in av().codec.Codec("aac", "w").audio_rates or (_USUAL_RATE,) if each >= _MIN_RATE)
    return next((each for each in rates if each >= rate), rates[-1])
