import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset

from talkinghead.data.crop import Crop
from talkinghead.dataset.shard_reader import ClipInfo, read_index
from talkinghead.dataset.shard_writer import ShardWriter, write_clip
from talkinghead.errors import TalkingheadError

SIZE = 16


def info(name: str, frames: int, person: str = "someone") -> ClipInfo:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return ClipInfo(
        name,
        digest,
        person,
        29.97,
        (120, 160),
        Crop(-3.25, 4.5, 90.125),
        tuple(range(1, 1 + frames)),
        SIZE,
        "network",
    )


def landmarks(seed: int, frames: int) -> np.ndarray:
    return np.random.default_rng(seed).random((frames, 68, 2), dtype=np.float32) * SIZE


def frames_of(seed: int, count: int) -> np.ndarray:
    """Return uniform images of different shades, which JPEG keeps within a few levels."""
    return np.stack(
        [np.full((SIZE, SIZE, 3), (seed * 40 + 3 * number) % 256, np.uint8) for number in range(count)]
    )


def write(folder: Path, counts: list[int], shard_size: int = 2) -> None:
    with ShardWriter(folder, shard_size) as writer:
        for seed, count in enumerate(counts):
            writer.write(info(f"clip {seed}.v2.mp4", count), landmarks(seed, count), frames_of(seed, count))


def test_reader_returns_written_clip(tmp_path: Path) -> None:
    write(tmp_path / "data", [5, 3, 4])
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "shard-000000.tar",
        "shard-000001.tar",
    ]
    clips = read_index(tmp_path / "data")
    assert [len(clip) for clip in clips] == [5, 3, 4]
    for seed, clip in enumerate(clips):
        assert clip.info == info(f"clip {seed}.v2.mp4", len(clip))
        assert (clip.person, clip.fps, clip.size, clip.key) == ("someone", 29.97, SIZE, clip.info.key)
        assert np.array_equal(clip.landmarks, landmarks(seed, len(clip)))


def irises(seed: int, frames: int) -> np.ndarray:
    return np.random.default_rng(seed).random((frames, 2, 5, 2), dtype=np.float32) * SIZE


def write_with_irises(folder: Path) -> Path:
    """Write a shard of two clips, of which the first has irises, and return its path."""
    with ShardWriter(folder) as writer:
        writer.write(info("a.mp4", 3), landmarks(0, 3), frames_of(0, 3), irises=irises(0, 3))
        writer.write(info("b.mp4", 2), landmarks(1, 2), frames_of(1, 2))
    return folder / "shard-000000.tar"


def test_reader_returns_irises_of_clips_that_have_them(tmp_path: Path) -> None:
    shard = write_with_irises(tmp_path)
    first, second = read_index(tmp_path)
    assert first.irises is not None and first.irises.dtype == np.float32
    assert np.array_equal(first.irises, irises(0, 3)) and second.irises is None
    assert np.array_equal(first.landmarks, landmarks(0, 3))
    assert np.array_equal(second.landmarks, landmarks(1, 2))
    with tarfile.open(shard) as tar:
        assert f"{first.key}.irises.npy" in tar.getnames()


def npy(values: np.ndarray) -> bytes:
    """Return the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(irises(0, 2)), r"3 frames but irises float32 \[2, 2, 5, 2\], expected float32 \[3, 2, 5, 2\]"),
        (npy(irises(0, 3).astype(np.float64)[:, :, :4]), "irises float64"),
        (npy(irises(0, 3) + np.float32(np.inf)), "its irises are not all finite"),
        (npy(irises(0, 3))[:-4], "cannot be read as a shard"),
        (npy(irises(0, 300)), "a member claims 24128 bytes, expected at most"),
        (b"\x93NUMPY\x02\x00", "its irises are no .npy of version 1.0"),
    ],
)
def test_reader_rejects_invalid_irises(tmp_path: Path, content: bytes, message: str) -> None:
    exchange(write_with_irises(tmp_path), "irises.npy", content)
    with pytest.raises(TalkingheadError, match=message):
        read_index(tmp_path)


def test_writer_rejects_other_number_of_irises(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer, pytest.raises(TalkingheadError, match="3 frames and irises of 2"):
        writer.write(info("a.mp4", 3), landmarks(0, 3), frames_of(0, 3), irises=irises(0, 2))
    assert not list(tmp_path.iterdir())


def test_shard_clip_reads_frames_in_any_order(tmp_path: Path) -> None:
    write(tmp_path, [5, 12])
    clip = read_index(tmp_path)[1]
    frames = clip.frames([11, 0, 11, 4])
    assert (frames.shape, frames.dtype) == ((4, SIZE, SIZE, 3), np.uint8)
    assert np.abs(frames.astype(int) - frames_of(1, 12)[[11, 0, 11, 4]]).max() <= 1
    assert np.array_equal(clip.frames(np.array([3]))[0], clip.frames(range(12))[3])


def test_shard_clip_decodes_only_requested_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [12])
    decoded: list[int] = []

    def counting(data: bytes, size: int | None = None, min_side: int | None = None) -> np.ndarray:
        decoded.append(len(data))
        return np.zeros((SIZE, SIZE, 3), np.uint8)

    monkeypatch.setattr("talkinghead.dataset.shard_reader.decode_jpeg", counting)
    clip = read_index(tmp_path)[0]
    assert decoded == []
    clip.frames([7, 2])
    assert len(decoded) == 2


def test_webdataset_opens_shard(tmp_path: Path) -> None:
    write(tmp_path, [3, 2, 4])
    samples = list(
        webdataset.WebDataset(
            [str(path) for path in sorted(tmp_path.glob("*.tar"))], shardshuffle=False, empty_check=False
        )
    )
    assert [sample["__key__"] for sample in samples] == [clip.key for clip in read_index(tmp_path)]
    for seed, sample in enumerate(samples):
        count = [3, 2, 4][seed]
        pictures = [f"{number:04d}.jpg" for number in range(count)]
        assert {key for key in sample if not key.startswith("__")} == {*pictures, "landmarks.npy", "json"}
        assert np.array_equal(np.load(io.BytesIO(sample["landmarks.npy"])), landmarks(seed, count))
        described = json.loads(sample["json"])
        assert described["version"] == 1
        assert described["frames"] == list(range(1, 1 + count))
        assert described["crop"] == [-3.25, 4.5, 90.125]
    # and its own decoders know what is in it
    decoded = next(
        iter(webdataset.WebDataset(str(tmp_path / "shard-000000.tar"), shardshuffle=False).decode("rgb8"))
    )
    assert np.abs(decoded["0001.jpg"].astype(int) - frames_of(0, 3)[1]).max() <= 1
    assert decoded["landmarks.npy"].shape == (3, 68, 2)
    assert decoded["json"]["person"] == "someone"


def test_clip_key_is_valid_tar_name(tmp_path: Path) -> None:
    first, second = info("ä b/c.d" + "x" * 300 + ".mp4", 2), info("other.mp4", 2)
    assert "." not in first.key
    assert len(f"{first.key}.landmarks.npy".encode()) <= 100
    # files of one name and other content are other clips
    assert ClipInfo(**{**vars(first), "sha256": second.sha256}).key != first.key


def test_shots_become_separate_clips(tmp_path: Path) -> None:
    whole = info("film.mp4", 2)
    shots = [ClipInfo(**{**vars(whole), "part": part}) for part in (1, 2)]
    assert len({whole.key, *(shot.key for shot in shots)}) == 3
    with ShardWriter(tmp_path) as writer:
        for seed, shot in enumerate(shots):
            writer.write(shot, landmarks(seed, 2), frames_of(seed, 2))
    assert [clip.info for clip in read_index(tmp_path)] == shots


def test_reader_accepts_clips_without_part(tmp_path: Path) -> None:
    known = json.loads(info("clip 0.v2.mp4", 3).to_json())
    del known["part"]
    replaced(tmp_path, "json", json.dumps(known).encode())
    [clip] = read_index(tmp_path)
    assert clip.info == info("clip 0.v2.mp4", 3)
    assert clip.info.part == 0


@pytest.mark.parametrize(
    ("crop", "written"),
    [
        (Crop(-3.25, 4.5, 90.125), [-3.25, 4.5, 90.125]),
        (Crop(-3.25, 4.5, 90.125, 2), [-3.25, 4.5, 90.125, 2]),
    ],
)
def test_clip_info_json_holds_the_convention_of_its_crop(
    tmp_path: Path, crop: Crop, written: list[float]
) -> None:
    clip = ClipInfo(**{**vars(info("clip.mp4", 3)), "crop": crop})
    assert json.loads(clip.to_json())["crop"] == written
    assert ClipInfo.from_json(clip.to_json().encode()) == clip
    with ShardWriter(tmp_path) as writer:
        writer.write(clip, landmarks(0, 3), frames_of(0, 3))
    [there] = read_index(tmp_path)
    assert there.info.crop == crop


@pytest.mark.parametrize(
    "crop", [[0, 0], [0, 0, 9, 3], [0, 0, 9, 2.0], [0, 0, 9, "2"], [0, 0, 9, True], [0, 0, 9, 2, 2]]
)
def test_clip_info_json_with_another_crop_is_refused(tmp_path: Path, crop: list[object]) -> None:
    odd = {**json.loads(info("clip 0.v2.mp4", 3).to_json()), "crop": crop}
    replaced(tmp_path, "json", json.dumps(odd).encode())
    with pytest.raises(
        TalkingheadError, match=r"cannot be read as a shard .*, or prepare the data into another folder$"
    ):
        read_index(tmp_path)


@pytest.mark.parametrize("convention", [1, 2])
def test_clip_info_valid_is_where_the_source_is(convention: int) -> None:
    whole = info("clip.mp4", 3)
    assert ClipInfo(**{**vars(whole), "crop": Crop(8, 4, 80, convention)}).valid(16) is None
    inside = ClipInfo(**{**vars(whole), "crop": Crop(-40, 0, 80, convention)}).valid(16)
    assert inside is not None and (inside.shape, inside.dtype) == ((16, 16), bool)
    assert not inside[:, :8].any() and inside[:, 8:].all()
    low = ClipInfo(**{**vars(whole), "crop": Crop(0, 80, 80, convention)}).valid(
        16
    )  # of a frame that is 120 high and 160 wide
    assert low is not None and low[:8].all() and not low[8:].any()


def test_append_archive_equals_direct_writing(tmp_path: Path) -> None:
    with open(tmp_path / "two", "wb") as file:
        for seed in (0, 1):
            write_clip(file, info(f"clip {seed}.v2.mp4", 3), landmarks(seed, 3), frames_of(seed, 3))
        size = file.tell()
        with pytest.raises(TalkingheadError, match="which differ; give as many of each"):
            write_clip(file, info("short.mp4", 3), landmarks(0, 3), frames_of(0, 2))
    assert (tmp_path / "two").stat().st_size == size
    with ShardWriter(tmp_path / "a", 1) as writer:
        writer.append_archive(tmp_path / "two", 2)
        assert (writer.clips, writer.shard) == (2, "shard-000000.tar")
        writer.finish()
        assert (writer.clips, writer.shard) == (0, "shard-000001.tar")
        writer.finish()  # nothing to finish
    write(tmp_path / "b", [3, 3])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["shard-000000.tar"]
    assert (tmp_path / "a/shard-000000.tar").read_bytes() == (tmp_path / "b/shard-000000.tar").read_bytes()


def test_failed_first_clip_leaves_no_shard(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer, pytest.raises(TalkingheadError):
        writer.write(info("short.mp4", 3), landmarks(0, 3), frames_of(0, 2))
    assert list(tmp_path.iterdir()) == []


def test_shard_bytes_depend_on_clips_alone(tmp_path: Path) -> None:
    write(tmp_path / "a", [5, 3, 4])
    write(tmp_path / "b", [5, 3, 4])
    for name in ("shard-000000.tar", "shard-000001.tar"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with tarfile.open(tmp_path / "a/shard-000000.tar") as tar:
        assert {(member.mtime, member.uid, member.gid, member.uname, member.gname) for member in tar} == {
            (0, 0, 0, "", "")
        }


def test_failed_clip_is_not_in_shard(tmp_path: Path) -> None:
    def breaking() -> Iterator[np.ndarray]:
        yield frames_of(9, 1)[0]
        raise TalkingheadError("the video is damaged")

    with ShardWriter(tmp_path / "a", 8) as writer:
        writer.write(info("clip 0.v2.mp4", 5), landmarks(0, 5), frames_of(0, 5))
        with pytest.raises(TalkingheadError, match="damaged"):
            writer.write(info("broken.mp4", 4), landmarks(9, 4), breaking())
        with pytest.raises(TalkingheadError, match=r"broken\.mp4: 3 frames, 4 landmarks and 4 numbers"):
            writer.write(info("broken.mp4", 4), landmarks(9, 4), frames_of(9, 3))
        writer.write(info("clip 1.v2.mp4", 3), landmarks(1, 3), frames_of(1, 3))
    write(tmp_path / "b", [5, 3], shard_size=8)
    assert (tmp_path / "a/shard-000000.tar").read_bytes() == (tmp_path / "b/shard-000000.tar").read_bytes()


def test_interruption_leaves_complete_shards(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path, 2) as writer:
            for seed in range(3):
                writer.write(info(f"clip {seed}.v2.mp4", 4), landmarks(seed, 4), frames_of(seed, 4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["shard-000000.tar"]
    assert len(read_index(tmp_path)) == 2


def test_shard_writer_continues_numbering(tmp_path: Path) -> None:
    write(tmp_path, [2, 2, 2, 2, 2])
    (tmp_path / "shard-000000.tar").unlink()
    kept = (tmp_path / "shard-000002.tar").read_bytes()
    with ShardWriter(tmp_path) as writer:
        writer.write(info("late.mp4", 2), landmarks(7, 2), frames_of(7, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"shard-00000{number}.tar" for number in (1, 2, 3)
    ]
    assert (tmp_path / "shard-000002.tar").read_bytes() == kept
    assert read_index(tmp_path)[-1].info.name == "late.mp4"


def test_shard_writer_without_clips_writes_no_file(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "data"):
        pass
    assert not (tmp_path / "data").exists()
    with pytest.raises(TalkingheadError, match=r"holds no shards .* talkinghead prepare VIDEOS"):
        read_index(tmp_path / "data")


@pytest.mark.parametrize("blocks", [1, 2, 3, 6, 20])
def test_reader_rejects_truncated_shard(tmp_path: Path, blocks: int) -> None:
    """Truncate also between two members, which tarfile accepts."""
    write(tmp_path, [3, 3])
    shard = tmp_path / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[: -512 * blocks])
    with pytest.raises(
        TalkingheadError,
        match=f"^{shard}: cannot be read as a shard .*, or prepare the data into another folder$",
    ):
        read_index(tmp_path)


def replaced(tmp_path: Path, member: str, content: bytes | None) -> Path:
    """Write a shard of one clip with a file in it replaced or left out."""
    write(tmp_path, [3])
    shard = tmp_path / "shard-000000.tar"
    exchange(shard, member, content)
    return shard


def exchange(shard: Path, member: str, content: bytes | None) -> None:
    """Replace a file in a shard, or leave it out."""
    with tarfile.open(shard) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    with tarfile.open(shard, "w") as tar:
        for name, data in files.items():
            kept = content if name.endswith(member) else data
            if kept is not None:
                header = tarfile.TarInfo(name)
                header.size = len(kept)
                tar.addfile(header, io.BytesIO(kept))


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("json", b'{"version": 2}', "format version 2, expected 1"),
        ("json", b'{"version": 1}', "crop"),
        ("json", b"[]", "cannot be read"),
        ("json", b"{", "cannot be read"),
        ("json", None, "its last clip is not whole"),
        ("0001.jpg", None, r"2 frames but landmarks float32 \[3, 68, 2\]"),
        ("landmarks.npy", None, "has 3 frames, and not as many landmarks"),
        ("landmarks.npy", b"\x93NUMPY", "cannot be read"),
    ],
)
def test_reader_rejects_invalid_shard(
    tmp_path: Path, member: str, content: bytes | None, message: str
) -> None:
    shard = replaced(tmp_path, member, content)
    with pytest.raises(TalkingheadError, match=message) as caught:
        read_index(tmp_path)
    assert str(shard) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reader_reports_removed_shard(tmp_path: Path) -> None:
    write(tmp_path, [3])
    clip = read_index(tmp_path)[0]
    (tmp_path / "shard-000000.tar").unlink()
    with pytest.raises(TalkingheadError, match=rf"shard-000000\.tar: a frame of {clip.key} cannot be read"):
        clip.frames([0])
