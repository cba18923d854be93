"""Access to FFmpeg's libraries: opening videos and choosing an encoder. The only module that imports PyAV."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import TalkingheadError, check_local, require
from .heif import heif_kind
from .size_limits import MAX_FRAME_PIXELS, check_pixels

log = logging.getLogger(__name__)

# Only formats that hold their frames themselves: FFmpeg also follows playlists (hls, concat, dash, ...),
# which name other files and addresses, and renders text files.
_CONTAINERS = "mov,matroska,avi,flv,asf,mpeg,mpegts,ogg,nut,mxf,rm,wtv,dv,ivf,gif,apng,yuv4mpegpipe"
_RAW_STREAMS = "mpegvideo,m4v,h261,h263,h264,hevc,vvc,av1,obu,vc1,mjpeg"
_FORMATS_WITHOUT_VIDEO = "webp_pipe,webp_anim,mp3,wav,flac,aac"  # opened to report what they lack
_FORMATS = f"{_CONTAINERS},{_RAW_STREAMS},{_FORMATS_WITHOUT_VIDEO}"
_ENCODERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"crf": "18"}),
    ("libopenh264", {"rc_mode": "quality", "qmin": "10", "qmax": "24", "b": "8000000"}),
    ("mpeg4", {"flags": "+qscale", "global_quality": str(2 * 118)}),  # 118: FF_QP2LAMBDA
)
"""Encoders in order of preference, with options for about the same high quality.

FFmpeg under the LGPL has no libx264, every FFmpeg has mpeg4.
"""
_LOW_DELAY = {"libx264": {"tune": "zerolatency"}}  # the other encoders have no delay
_FIRST_VERSION_WITHOUT_METADATA_ERRORS = 19  # of PyAV; it never raises for undecodable metadata


def av() -> Any:
    """Return the module PyAV."""
    return require("av", "app")


def open_video(path: Path) -> Any:
    """Open the container of a file that holds video; `video_stream` returns its stream.

    Raises:
        TalkingheadError: the file is missing, may not be read, or is no video.
    """
    check_local(path)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:  # such as a name that is too long
        raise TalkingheadError(
            f"{path}: cannot be read ({error.strerror}), expected a video; name another"
        ) from error
    if not is_file:
        problem = "is a folder" if is_folder else "no such file"
        raise TalkingheadError(f"{path}: {problem}, expected a video; name one that exists")
    kind = heif_kind(path)
    if kind:
        raise TalkingheadError(f"{path}: is a picture ({kind}), expected a video; name another")
    try:
        # absolute, so that no name is parsed as an address
        container = av().open(str(path.absolute()), **_open_arguments(path))
    except PermissionError as error:
        raise TalkingheadError(
            f"{path}: may not be read, expected a video; give yourself permission"
        ) from error
    except av().error.ArgumentError as error:
        raise TalkingheadError(
            f"{path}: cannot be read as a video, its format is none of those that are read (playlists are "
            "not) or it is damaged; "
            "name an mp4, mov, mkv, webm or avi"
        ) from error
    except (av().error.FFmpegError, OSError) as error:
        raise TalkingheadError(
            f"{path}: cannot be read as a video, it is empty, damaged, cut short or something else; name "
            "another"
        ) from error
    try:
        stream = video_stream(container)
        if stream is None:
            raise TalkingheadError("holds no moving pictures, expected a video; name another")
        check_pixels(stream.width, stream.height, MAX_FRAME_PIXELS)
    except TalkingheadError as error:
        container.close()
        raise TalkingheadError(f"{path}: {error}") from error
    return container


def _open_arguments(path: Path) -> dict[str, Any]:
    """Return the keyword arguments with which `av.open` reads a local file and no other."""
    arguments: dict[str, Any] = {
        "container_options": {"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
        # of the decoders with which FFmpeg probes the streams
        "options": {"max_pixels": str(MAX_FRAME_PIXELS)},
    }
    if path.suffix.lower() in (".png", ".apng"):  # a named demuxer does not read % in a path as a number
        arguments["format"] = "apng"
    if int(av().__version__.split(".")[0]) < _FIRST_VERSION_WITHOUT_METADATA_ERRORS:
        arguments["metadata_errors"] = "replace"
    return arguments


def video_stream(container: Any) -> Any:
    """Return the first video stream that can be decoded, None without one; album covers are skipped."""
    cover = av().stream.Disposition.attached_pic
    return next(
        (
            stream
            for stream in container.streams.video
            if stream.codec_context and not stream.disposition & cover
        ),
        None,
    )


def video_encoder(low_delay: bool = False) -> tuple[str, dict[str, str]]:
    """Return the name and the options of the encoder for written videos.

    Args:
        low_delay: make the encoder output each frame at once.
    """
    name, options = _first_encoder()
    return name, options | (_LOW_DELAY.get(name, {}) if low_delay else {})


@cache
def _first_encoder() -> tuple[str, dict[str, str]]:
    name, options = next(encoder for encoder in _ENCODERS if encoder[0] in av().codecs_available)
    if name == "mpeg4":
        log.warning(
            "this FFmpeg has no encoder for H.264 (libx264 or libopenh264): videos are MPEG-4 Part 2, which "
            "browsers do not play"
        )
    return name, options
