"""Tests that playlists, which name other files, are rejected under any name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from conftest import draw_video, drawn_frame
from talkinghead.errors import TalkingheadError
from talkinghead.media.video import VideoReader, write_video


def hls(other: str) -> str:
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:1.0,\n{other}\n#EXT-X-ENDLIST\n"


def concat(other: str) -> str:
    return f"ffconcat version 1.0\nfile {other}\n"


def dash(other: str) -> str:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S"><Period>'
        f'<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{other}</BaseURL>'
        '<SegmentBase indexRange="0-1"/></Representation></AdaptationSet></Period></MPD>'
    )


PLAYLISTS: list[tuple[str, Callable[[str], str]]] = [
    *((f"list{ending}", hls) for ending in (".m3u8", ".m3u", ".mp4", ".mkv", "")),
    *((f"list{ending}", concat) for ending in (".mp4", ".gif", ".ffconcat", ".txt")),
    ("list.mpd", dash),
]


@pytest.mark.parametrize(("name", "playlist"), PLAYLISTS)
@pytest.mark.parametrize("whole", [True, False])
def test_reader_rejects_playlist(
    tmp_path: Path, name: str, playlist: Callable[[str], str], whole: bool
) -> None:
    other = draw_video(tmp_path / "other.mp4", [None] * 3)
    if not whole:
        with av.open(str(other)) as source, av.open(str(tmp_path / "other.ts"), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
        other = tmp_path / "other.ts"
    (tmp_path / name).write_text(playlist(other.name))
    with pytest.raises(TalkingheadError, match=r"cannot be read as a video, .*; name an") as caught:
        VideoReader(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_playlist_message_names_formats(tmp_path: Path) -> None:
    draw_video(tmp_path / "other.mp4", [None] * 3)
    (tmp_path / "list.mp4").write_text(concat("other.mp4"))
    says = (
        r"list\.mp4: cannot be read as a video, its format is none of those that are read \(playlists "
        r"are not\) or it is damaged; name an"
    )
    with pytest.raises(TalkingheadError, match=says):
        VideoReader(tmp_path / "list.mp4")


def test_playlist_that_names_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "self.mp4").write_text(concat("self.mp4"))
    (tmp_path / "self.m3u8").write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nself.m3u8\n")
    for name in ("self.mp4", "self.m3u8"):
        with pytest.raises(TalkingheadError, match="cannot be read as a video"):
            VideoReader(tmp_path / name)


def test_sound_is_not_taken_from_playlist(tmp_path: Path) -> None:
    draw_video(tmp_path / "other.mp4", [None] * 3)
    (tmp_path / "list.mp4").write_text(concat("other.mp4"))
    with (
        pytest.raises(TalkingheadError, match=r"list\.mp4: cannot be read as a video"),
        write_video(tmp_path / "out.mp4", 25, (48, 64), audio_from=tmp_path / "list.mp4") as video,
    ):
        video.write(drawn_frame((48, 64), None))


def test_reader_opens_local_files_of_listed_formats_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: list[dict[str, Any]] = []
    opened = av.open

    def record(*args: Any, **options: Any) -> Any:
        arguments.append(options)
        return opened(*args, **options)

    monkeypatch.setattr(av, "open", record)
    list(VideoReader(draw_video(tmp_path / "video.mp4", [None] * 3)))
    reading = [options["container_options"] for options in arguments if "container_options" in options]
    assert len(reading) >= 2
    for options in reading:
        assert options["protocol_whitelist"] == "file"
        assert not {"hls", "concat", "dash", "sdp", "rtsp", "image2", "tty", "lavfi", "imf", "vobsub"} & set(
            options["format_whitelist"].split(",")
        )
