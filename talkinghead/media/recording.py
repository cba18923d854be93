"""Recording of live video to a file that is playable even if the process is killed."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import TalkingheadError
from ..system.atomic_file import atomic_write
from .pyav import av, open_video, video_stream
from .video import SoundWriter, VideoWriter, checked_rate

log = logging.getLogger(__name__)

_FRAGMENT_S = 0.5  # of video is lost at most
_FRAGMENTED = {
    "movflags": "+empty_moov+default_base_moof",
    "frag_duration": str(round(1e6 * _FRAGMENT_S)),
    "flush_packets": "1",
}
SoundSource: TypeAlias = Callable[[Any, ExitStack], SoundWriter | None]
"""Function from a container that is still empty to the writer of its sound, None for silence; what it opens
stays open as long as the stack.
"""


@contextmanager
def record_video(
    path: str | Path,
    fps: Fraction | float,
    size: tuple[int, int],
    metadata: Mapping[str, str] | None = None,
    *,
    sound: SoundSource | None = None,
) -> Iterator[VideoWriter]:
    """Record an mp4 that replaces a file at `path` when the block succeeds.

    Until then, frames are written to `NAME.part.mp4` in the same folder (or `NAME.part2.mp4` and so on where
    that exists), in fragments that are playable at any time. That file stays when the block or the process
    fails.

    Args:
        path: a name that ends in .mp4.
        fps: frames per second, above 0.
        size: (height, width) of the frames in pixels.
        metadata: tags of the file.
        sound: gives the file's sound; by default it has none.

    Raises:
        TalkingheadError: the name does not end in .mp4, or the file cannot be written.
    """
    path, rate = Path(os.path.realpath(path)), checked_rate(path, fps)
    part = _create_part_file(path)
    try:
        with (
            ExitStack() as stack,
            av().open(str(part), "w", format="mp4", options=_FRAGMENTED) as container,
        ):
            container.metadata.update(metadata or {})
            sound_writer = sound(container, stack) if sound is not None else None
            writer = VideoWriter(container, rate, size, sound_writer, low_delay=True)
            yield writer
            writer.finish()
        with atomic_write(path) as temp_path:
            _remux(part, temp_path, metadata or {})
    except BaseException as error:
        _keep_if_playable(part)
        if isinstance(error, OSError) and error.filename == str(part):
            raise TalkingheadError(
                f"{path}: writing failed ({error.strerror}); free some space or name another place"
            ) from error
        raise
    part.unlink()


def _create_part_file(path: Path) -> Path:
    """Create an empty file of an unused name in the folder of `path`.

    Raises:
        TalkingheadError: the folder cannot be written to.
    """
    if os.path.lexists(path) and not os.path.isfile(path):
        raise TalkingheadError(f"{path}: cannot write, it is a folder, a device or a pipe; name a file")
    for number in count(1):
        part = path.with_name(f"{path.stem}.part{number if number > 1 else ''}{path.suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.touch(exist_ok=False)
            break
        except FileExistsError as error:
            if not os.path.lexists(part):  # a file exists in place of the folder
                raise TalkingheadError(
                    f"{path}: cannot write here ({error.strerror}); name another place"
                ) from error
        except OSError as error:
            raise TalkingheadError(
                f"{path}: cannot write here ({error.strerror}); name another place"
            ) from error
    return part


def _remux(part: Path, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the packets of a recording, its frames and its sound, as a plain mp4."""
    with (
        open_video(part) as source,
        av().open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as target,
    ):
        target.metadata.update(metadata)
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:  # the demuxer's last packets are empty
                packet.stream = streams[packet.stream.index]
                target.mux(packet)


def _keep_if_playable(part: Path) -> None:
    """Log where the unfinished recording is, or delete it when it holds no frames."""
    try:
        with open_video(part) as source:
            holds_frames = next((True for packet in source.demux(video_stream(source)) if packet.size), False)
    except TalkingheadError:
        holds_frames = False
    if holds_frames:
        log.warning("%s: the recording failed; this file holds the frames until then", part)
    else:
        part.unlink(missing_ok=True)
