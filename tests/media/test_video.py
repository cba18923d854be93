import gc
import re
import resource
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from conftest import draw_video, drawn_frame
from talkinghead.errors import TalkingheadError
from talkinghead.media import libav
from talkinghead.media.decoding import decode
from talkinghead.media.recording import record_video
from talkinghead.media.video import VideoReader, write_video

FPS = Fraction(30000, 1001)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def sounding_video(path: Path, codec: str, seconds: int, rate: int = 44100) -> Path:
    """Grey frames at 25 fps, with a tone of 440 Hz that is loud in the second half."""
    with av.open(str(path), "w") as container:
        pictures: Any = container.add_stream("mpeg1video" if path.suffix == ".mpg" else "libx264", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sound: Any = container.add_stream(codec, rate=rate, layout="mono")
        for number in range(25 * seconds):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(drawn_frame((48, 64), None, number), format="rgb24")))
        container.mux(pictures.encode(None))
        time = np.arange(rate * seconds) / rate
        wave = (np.sin(2 * np.pi * 440 * time) * np.where(time < seconds / 2, 0.05, 0.8)).astype(np.float32)[None]
        resampler = av.AudioResampler(format=sound.codec_context.format, layout="mono", rate=rate)
        for start in range(0, wave.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, start : start + 1024]), format="fltp", layout="mono")
            frame.rate, frame.pts = rate, start
            for piece in resampler.resample(frame):
                container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    return path


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def loud_from(path: Path) -> tuple[float, float]:
    """When the tone grows loud, and when the sound ends, in seconds."""
    start, end = None, 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            if start is None and np.abs(frame.to_ndarray()).max() > 0.4:
                start = frame.time
            end = (frame.time or 0.0) + frame.samples / frame.sample_rate
    assert start is not None
    return start, end


def test_frames_rate_and_tags_come_back(tmp_path: Path) -> None:
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128), (255, 255, 255), (0, 0, 0)]
    with write_video(tmp_path / "out.mp4", FPS, (48, 64), metadata={"comment": "synthesised"}) as video:
        for colour in colours:
            video.write(np.full((48, 64, 3), colour, np.uint8))
    reader = VideoReader(tmp_path / "out.mp4")
    assert (reader.fps, reader.size, reader.count, reader.has_audio) == (FPS, (48, 64), len(colours), False)
    frames = list(reader)
    assert all(frame.dtype == np.uint8 and frame.shape == (48, 64, 3) for frame in frames)
    # also from the second time on
    for frame, again, colour in zip(frames, reader, colours, strict=True):
        assert np.abs(frame.astype(int) - colour).max() <= 4
        assert np.array_equal(frame, again)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert container.metadata["comment"] == "synthesised"
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.codec_context.colorspace) == ("h264", "yuv420p", 6)


def test_the_same_frames_give_the_same_video(tmp_path: Path, carphone: Path) -> None:
    frames = list(islice(VideoReader(carphone), 60))
    made = set()
    for _ in range(12):
        with write_video(tmp_path / "out.mp4", FPS, frames[0].shape[:2]) as video:
            for frame in frames:
                video.write(frame)
        made.add((tmp_path / "out.mp4").read_bytes())
    assert len(made) == 1


@pytest.fixture
def lgpl_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An FFmpeg without the encoders for H.264."""
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264", "libopenh264"})
    libav._first_encoder.cache_clear()
    yield
    libav._first_encoder.cache_clear()


def test_without_x264_videos_are_mpeg4(tmp_path: Path, carphone: Path, lgpl_ffmpeg: None, caplog: pytest.LogCaptureFixture) -> None:
    frames = list(islice(VideoReader(carphone), 30))
    for write in (write_video, record_video):
        path = tmp_path / f"{write.__name__}.mp4"
        with write(path, FPS, frames[0].shape[:2]) as video:
            for frame in frames:
                video.write(frame)
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "mpeg4"
        reader = VideoReader(path)
        found = list(reader)
        assert (len(found), reader.fps) == (30, FPS)
        assert all(np.abs(a[:, :192].astype(int) - b[:, :192]).mean() < 4 for a, b in zip(found, frames, strict=True))
    assert [message for message in caplog.messages if "H.264" in message] == [
        "this FFmpeg has no encoder for H.264 (libx264 or libopenh264): videos are MPEG-4 Part 2, which browsers do not play"
    ]


def test_an_odd_side_is_filled_up(tmp_path: Path) -> None:
    with write_video(tmp_path / "odd.mp4", 25, (47, 63)) as video:
        video.write(np.full((47, 63, 3), 200, np.uint8))
    assert VideoReader(tmp_path / "odd.mp4").size == (48, 64)
    assert np.abs(next(iter(VideoReader(tmp_path / "odd.mp4"))).astype(int) - 200).max() <= 4


def test_a_turned_video_is_read_upright(tmp_path: Path) -> None:
    red_in_corner = drawn_frame((48, 64), (0, 0, 16))
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(red_in_corner, format="rgb24")))
        container.mux(stream.encode(None))
    reader = VideoReader(tmp_path / "turned.mp4")
    assert reader.size == (64, 48)
    frame = next(iter(reader))
    assert frame.shape == (64, 48, 3)
    # 90 degrees counter-clockwise: from the top left to the bottom left
    assert frame[56, 8, 0] > 200
    assert frame[8, 8, 0] < 120


def test_wide_pixels_become_square(carphone: Path) -> None:
    # 176 x 144 with pixels of 12:11
    assert VideoReader(carphone).size == (144, 193)
    assert next(iter(VideoReader(carphone))).shape == (144, 193, 3)


def test_a_gif_is_a_video(tmp_path: Path) -> None:
    frames = [Image.fromarray(drawn_frame((48, 64), (x, 8, 16))) for x in (0, 10, 20)]
    frames[0].save(tmp_path / "three.gif", save_all=True, append_images=frames[1:], duration=80)
    reader = VideoReader(tmp_path / "three.gif")
    assert (reader.fps, reader.size) == (Fraction(25, 2), (48, 64))
    assert [int((frame[16, :, 0] > 200).argmax()) for frame in reader] == [0, 10, 20]


@pytest.mark.parametrize("codec", ["aac", "libmp3lame"])
def test_sound_that_mp4_holds_is_copied_bit_for_bit(tmp_path: Path, codec: str) -> None:
    source = sounding_video(tmp_path / "source.mkv", codec, seconds=2)
    with write_video(tmp_path / "out.mp4", 25, (48, 64), audio_from=source) as video:
        for number in range(50):
            video.write(drawn_frame((48, 64), None, number))
    copied, original = packets(tmp_path / "out.mp4"), packets(source)
    # an encoder's lead-in lies before the first frame
    first = original.index(copied[0])
    assert first <= 2
    assert len(copied) >= len(original) - 4
    assert copied == original[first : first + len(copied)]


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "aac"), (".mpg", "mp2"), (".mkv", "pcm_s16le")])
def test_sound_stays_with_the_pictures(tmp_path: Path, suffix: str, codec: str) -> None:
    source = sounding_video(tmp_path / f"source{suffix}", codec, seconds=4)
    with write_video(tmp_path / "out.mp4", 25, (48, 64), audio_from=source) as video:
        for number in range(75):  # a second less than there is sound
            video.write(drawn_frame((48, 64), None, number))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == "aac"
    start, end = loud_from(tmp_path / "out.mp4")
    assert start == pytest.approx(2, abs=0.07)
    assert end == pytest.approx(3, abs=0.1)


def test_a_source_without_sound_gives_none(tmp_path: Path) -> None:
    source = draw_video(tmp_path / "mute.mp4", [None] * 2)
    with write_video(tmp_path / "out.mp4", 25, (48, 64), audio_from=source) as video:
        video.write(drawn_frame((48, 64), None))
    assert not VideoReader(tmp_path / "out.mp4").has_audio


def test_a_failing_block_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"before")

    def fail_while_writing() -> None:
        with write_video(path, 25, (48, 64)) as video:
            video.write(drawn_frame((48, 64), None))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_while_writing()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "fps", "frames", "message"),
    [
        ("out.avi", 25, 1, r"out\.avi: only mp4 is written"),
        ("out.mp4", 0, 1, r"out\.mp4: frames per second must be above 0, got 0"),
        ("out.mp4", 25, 0, "no frames were written"),
        ("no/out.mp4", 25, 1, "cannot write here"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, name: str, fps: int, frames: int, message: str) -> None:
    (tmp_path / "no").touch()  # a file where a folder should be
    with pytest.raises(TalkingheadError, match=message), write_video(tmp_path / name, fps, (48, 64)) as video:
        for _ in range(frames):
            video.write(drawn_frame((48, 64), None))
    assert [path.name for path in tmp_path.iterdir()] == ["no"]


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    message = r"a frame must be uint8 \[48, 64, 3\], got uint8 \[64, 48, 3\]"
    with pytest.raises(TalkingheadError, match=message), write_video(tmp_path / "out.mp4", 25, (48, 64)) as video:
        video.write(drawn_frame((64, 48), None))
    assert not list(tmp_path.iterdir())


def damaged(tmp_path: Path, kind: str) -> Path:
    path = draw_video(tmp_path / f"{kind}.mp4", [(n % 40, 20, 60) for n in range(100)])
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "a-folder":
        path.unlink()
        path.mkdir()
    elif kind == "a-loop":
        path.unlink()
        path.symlink_to(path)
    elif kind == "ansi":
        path = path.with_suffix(".txt")
        path.write_bytes(b"a text that ffmpeg would draw\n" * 40)
    elif kind == "long-name":
        path = path.with_name("x" * 300)
    else:
        with av.open(str(path)) as container:
            packets = [packet.pos or 0 for packet in container.demux(video=0) if packet.size]
        contents = {
            "empty": b"",
            "foreign": b"not a video at all\n" * 40,
            "beginning": data[:600],
            "without-its-index": data.replace(b"moov", b"junk", 1),
            "without-frames": data[: packets[0]],
            "zeroed": data[: packets[0]] + bytes(len(data) - packets[0]),
            "cut": data[: packets[50] + 9],
            "cut-between-packets": data[: packets[50]],
            "cut-near-the-end": data[: packets[97]],
            "overwritten": data[: packets[50]] + bytes(len(data) // 4) + data[packets[50] + len(data) // 4 :],
        }
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("a-folder", "is a folder, expected a video"),
        ("a-loop", "no such file"),
        ("long-name", "cannot be read \\(File name too long\\)"),
        ("empty", "cannot be read as a video"),
        ("foreign", "cannot be read as a video"),
        ("ansi", "cannot be read as a video"),
        ("beginning", "cannot be read as a video|holds no frames"),
        ("without-its-index", "cannot be read as a video"),
        ("without-frames", "holds no frames"),
        ("zeroed", "holds no frames|not one of its frames can be decoded"),
    ],
)
def test_what_is_no_video_is_named(tmp_path: Path, kind: str, message: str) -> None:
    path = damaged(tmp_path, kind)
    with pytest.raises(TalkingheadError, match=f"^{path}: .*({message})") as caught:
        VideoReader(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "frames", "note"),
    [
        ("cut", 50, r"the video ends after \d\.\d\d of its 4\.00 seconds, it is cut short: what is there is used"),
        ("cut-between-packets", 50, r"the video ends after \d\.\d\d of its 4\.00 seconds, it is cut short: what is there is used"),
        ("cut-near-the-end", 97, r"the video ends after 3\.\d\d of its 4\.00 seconds, it is cut short: what is there is used"),
        ("overwritten", 50, r"cannot be decoded after \d\d frames, it is damaged or cut short: what is there is used"),
    ],
)
def test_what_is_whole_of_a_damaged_video_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, frames: int, note: str
) -> None:
    whole = draw_video(tmp_path / "whole.mp4", [(n % 40, 20, 60) for n in range(100)])
    reader = VideoReader(damaged(tmp_path, kind))
    found = list(reader)
    # a decoder may hold some back
    assert frames - 4 <= len(found) <= frames
    assert all(np.array_equal(*pair) for pair in zip(found, VideoReader(whole), strict=False))
    assert reader.count == len(found)
    assert sum(1 for _ in reader) == len(found)
    (message,) = caplog.messages
    assert re.fullmatch(f"{kind}\\.mp4: {note}", message)


def test_later_passes_over_a_damaged_video_are_no_longer_than_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = VideoReader(damaged(tmp_path, "cut"))
    first = sum(1 for _ in reader)
    # a decoder that gets further than the time before
    monkeypatch.setattr(reader, "_decode", lambda path: decode(draw_video(tmp_path / "whole.mp4", [None] * 100)))
    assert sum(1 for _ in reader) == first


def test_a_cut_stream_is_told_from_one_with_longer_sound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = sounding_video(tmp_path / "source.mkv", "aac", seconds=4)
    with write_video(tmp_path / "short.mp4", 25, (48, 64)) as video:
        for number in range(25):
            video.write(drawn_frame((48, 64), None, number))
    with av.open(str(tmp_path / "short.mp4")) as pictures, av.open(str(source)) as sound, av.open(str(tmp_path / "longer.mkv"), "w") as out:
        streams = [out.add_stream_from_template(each) for each in (pictures.streams.video[0], sound.streams.audio[0])]
        for container, kind, stream in zip((pictures, sound), ("video", "audio"), streams, strict=True):
            for packet in container.demux(**{kind: 0}):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    assert len(list(VideoReader(tmp_path / "longer.mkv"))) == 25
    assert not caplog.messages
    data = source.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    VideoReader(tmp_path / "cut.mkv")
    assert re.fullmatch(r"cut\.mkv: the video ends after [12]\.\d\d of its 4\.\d\d seconds, it is cut short: .*", *caplog.messages)


@pytest.mark.parametrize(
    "name", ["-x.mp4", "http:x.mp4", "concat:a|b.mp4", "%d.mp4", "two\nlines.mp4", "ж 字.mp4", "\udcff\udcfe.mp4", "no-ending"]
)
def test_odd_names_are_names_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    draw_video(tmp_path / "video.mp4", [None] * 3).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(VideoReader(name))) == 3


def raw_video(path: Path, frames: Sequence[np.ndarray], **tags: str) -> Path:
    """Frames without loss, in a codec that takes any size."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("png", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        container.metadata.update(tags)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (63, 1), (47, 63), (8, 8)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = [np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8) for seed in range(3)]
    reader = VideoReader(raw_video(tmp_path / "odd.mov", frames))
    assert reader.size == size
    assert np.array_equal(list(reader), frames)


def test_metadata_that_is_no_text_does_not_matter(tmp_path: Path) -> None:
    path = raw_video(tmp_path / "tagged.mov", [NOISE], comment="MARKMARK")
    path.write_bytes(path.read_bytes().replace(b"MARKMARK", b"\xb3\xff" * 4))
    assert len(list(VideoReader(path))) == 1


def test_a_cover_is_no_moving_picture(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp3"), "w") as container:
        sound: Any = container.add_stream("libmp3lame", rate=44100)
        cover: Any = container.add_stream("png", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(drawn_frame((48, 64), None), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), format="fltp", layout="stereo")
        frame.rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with pytest.raises(TalkingheadError, match=r"song\.mp3: holds no moving pictures"):
        VideoReader(tmp_path / "song.mp3")


def scenes(path: Path, frames: int = 60, flash: int = 0, cuts: Sequence[int] = ()) -> Path:
    """A textured scene that moves by 3 pixels a frame, of which every tenth is lighter; another scene from each cut on."""
    rows, columns = np.mgrid[:96, :400]
    textures = [np.random.default_rng(seed).uniform(20, 210, (12, 50, 3)) for seed in range(len(cuts) + 1)]
    with write_video(path, 25, (96, 160)) as video:
        for number in range(frames):
            texture = textures[sum(number >= cut for cut in cuts)][rows // 8, columns // 8]
            scene = texture[:, 3 * number % 240 :][:, :160] + flash * (number % 10 == 0)
            video.write(scene.clip(0, 255).astype(np.uint8))
    return path


def test_cuts_are_found(tmp_path: Path) -> None:
    reader = VideoReader(scenes(tmp_path / "film.mp4", cuts=(20, 33, 58)), find_cuts=True)
    assert reader.cuts == ()
    for _ in range(2):
        assert sum(1 for _ in reader) == 60
        assert reader.cuts == (20, 33, 58)
    without = VideoReader(reader.path)
    assert sum(1 for _ in without) == 60
    assert without.cuts == ()


@pytest.mark.parametrize("flash", [0, 15, 120])
def test_movement_and_flashes_are_no_cuts(tmp_path: Path, flash: int) -> None:
    reader = VideoReader(scenes(tmp_path / "take.mp4", flash=flash), find_cuts=True)
    assert sum(1 for _ in reader) == 60
    assert reader.cuts == ()


def test_cuts_are_numbered_as_the_frames_are(tmp_path: Path) -> None:
    stamps = [40 * n for n in range(10)] + [1000 + 40 * n for n in range(10)]
    path = tmp_path / "varying.mp4"
    source = VideoReader(scenes(tmp_path / "film.mp4", 20, cuts=(10,)))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for stamp, frame in zip(stamps, source, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    reader = VideoReader(path, find_cuts=True)
    assert sum(1 for _ in reader) == 35
    assert reader.cuts == (25,)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), format="fltp", layout="stereo")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(TalkingheadError, match=r"sound\.m4a: holds no moving pictures"):
        VideoReader(tmp_path / "sound.m4a")


def test_frames_are_not_kept(carphone: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0
    for frame in islice(VideoReader(carphone), 40):
        alive.append(weakref.ref(frame))
        del frame
        gc.collect(0)
        most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) == 40
    assert most <= 2


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc")
def test_memory_does_not_grow_with_a_video(tmp_path: Path) -> None:
    videos = [draw_video(tmp_path / f"{count}.mp4", [(number, 20, 60) for number in range(count)], (480, 640)) for count in (20, 200)]
    start = max(resident() for _ in VideoReader(videos[0]))  # with what the decoder needs for itself
    most = max(resident() for _ in VideoReader(videos[1]))
    # all 200 frames are 90 MB as they are decoded, and twice that as RGB
    assert most - start < 30e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc")
def test_memory_does_not_grow_with_a_video_of_4k(tmp_path: Path) -> None:
    videos = [tmp_path / f"{count}.mp4" for count in (6, 18)]
    for path in videos:
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 3840, 2160, "yuv420p"
            frame = av.VideoFrame(3840, 2160, "yuv420p")
            for number in range(int(path.stem)):
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    start = max(resident() for _ in VideoReader(videos[0]))
    most = max(resident() for _ in VideoReader(videos[1], find_cuts=True))
    # a frame is 25 MB as RGB
    assert most - start < 60e6


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By the decoders, which would write to the process's standard error."""
    data = draw_video(tmp_path / "whole.mp4", [(n, 20, 60) for n in range(40)]).read_bytes()
    damaged = tmp_path / "damaged.mp4"
    capfd.readouterr()  # what the encoder says
    for start in range(0, len(data), len(data) // 40):
        damaged.write_bytes(data[:start] + bytes(100) + data[start + 100 :])
        with suppress(TalkingheadError):
            assert len(list(VideoReader(damaged, find_cuts=True))) <= 40
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
