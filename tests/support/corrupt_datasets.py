"""Corrupt data sets: shards that are damaged, forged or no files, tables of people, and a folder of many
videos.
"""

import io
import json
import os
import random
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from support.corrupt_checkpoints import corrupt_copies
from support.corrupt_media import flip_bytes, write
from support.sample_media import encoded, frames

SHARD = "shard-000000.tar"
SPECIAL_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
}
"""Functions that make something other than a file at a path."""
NUM_GOOD_VIDEOS = 24
Members = dict[str, bytes]
"""Contents of a shard's members by name."""


def write_corrupt_datasets(folder: Path, rng: random.Random) -> dict[str, Path]:
    """Write folders of prepared data with one shard each, and return them by what is wrong with the shard.

    The one of "whole" is valid.
    """
    clip = _clip_members()
    valid = _tar(clip)
    contents = {"whole": valid, **corrupt_copies(valid, rng)}
    contents.update(
        {"is-empty": b"", "is-zeros": bytes(10240), "is-text": b"no shard", "is-zip": b"PK\5\6" + bytes(18)}
    )
    members = {
        **dict(_corrupt_names(clip)),
        **dict(_corrupt_frames(clip, rng)),
        **dict(_corrupt_landmarks(clip)),
        **dict(_corrupt_info(clip)),
    }
    contents.update({f"member-{name}": _tar(content) for name, content in members.items()})
    contents.update({f"kind-{name}": content for name, content in _tars_with_special_members(clip).items()})
    folders = {name: write(folder / name / SHARD, content).parent for name, content in contents.items()}
    for number in ("x", "-1", "99999999999999999999", "0001 (copy)"):
        name = f"number-{number}"
        folders[name] = write(folder / name / f"shard-{number}.tar", valid).parent
    for name, create in SPECIAL_FILES.items():
        folders[f"is-{name}"] = folder / f"is-{name}"
        folders[f"is-{name}"].mkdir()
        create(folders[f"is-{name}"] / SHARD)
    for name, member in (("frame", "c.0000.jpg"), ("json", "c.json"), ("landmarks", "c.landmarks.npy")):
        folders[f"sparse-{name}"] = _write_sparse_shard(folder / f"sparse-{name}", clip, member)
    folders["missing"] = folder / "missing"
    folders["is-file"] = write(folder / "file", valid)
    return folders


def _corrupt_names(clip: Members) -> Iterator[tuple[str, Members]]:
    yield "name-climbs", {f"../../{name}": content for name, content in clip.items()}
    yield "name-absolute", {f"/etc/{name}": content for name, content in clip.items()}
    unusual = "\u202e\U0001f600."
    yield "name-unusual", {name.replace("c.", unusual, 1): content for name, content in clip.items()}
    yield "twice", {**clip, **{f"./{name}": content for name, content in clip.items()}}
    yield "order", dict(sorted(clip.items(), reverse=True))
    for name, suffix in {"no-json": "json", "no-landmarks": "npy", "no-frames": "jpg"}.items():
        yield name, {member: content for member, content in clip.items() if not member.endswith(suffix)}


def _corrupt_frames(clip: Members, rng: random.Random) -> Iterator[tuple[str, Members]]:
    jpeg = clip["c.0000.jpg"]
    yield "frame-more", {"c.9999.jpg": jpeg, **clip}
    size, huge = b"\xff\xc0\0\x11\x08\0\x20\0\x20", b"\xff\xc0\0\x11\x08\xff\xff\xff\xff"
    for name, content in {
        "empty": b"",
        "cut": jpeg[:200],
        "flipped": flip_bytes(jpeg, rng, 0, 1, 40),
        "text": b"no picture",
        "smaller": _jpeg(16),
        "1-pixel": _jpeg(1),
        "huge": jpeg.replace(size, huge),
    }.items():
        yield f"frame-{name}", {**clip, "c.0001.jpg": content}
    smaller = {name: _jpeg(16) if name.endswith("jpg") else content for name, content in clip.items()}
    yield "frames-all-smaller", smaller


def _corrupt_landmarks(clip: Members) -> Iterator[tuple[str, Members]]:
    shape = (24, 68, 2)
    arrays = {
        "pickled": np.array([{"a": 1}], dtype=object),
        "not-finite": np.full(shape, np.nan, np.float32),
        "infinite": np.full(shape, np.inf, np.float32),
        "huge": np.full(shape, 1e38, np.float32),
        "doubles": np.full(shape, 5.0),
        "whole-numbers": np.full(shape, 5),
        "complex": np.full(shape, 5j),
        "texts": np.full(shape, "x"),
        "records": np.zeros(shape, dtype=[("x", "f4")]),
        "short": np.zeros((23, 68, 2), np.float32),
        "points-67": np.zeros((24, 67, 2), np.float32),
        "flat": np.zeros(24 * 136, np.float32),
        "scalar": np.float32(1),
    }
    contents = {
        **{name: _npy(array) for name, array in arrays.items()},
        "empty": b"",
        "cut": clip["c.landmarks.npy"][:500],
        "many": _npy_header("(1000000000000, 68, 2)"),
        "overflows": _npy_header(f"({2**62}, {2**62}, 8)"),
        "negative": _npy_header("(-24, 68, 2)"),
        "code": _npy_header("(__import__('os').abort(), 68, 2)"),
        "nested": _npy_header("(" * 5000),
        "pickle": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    }
    for name, content in contents.items():
        yield f"landmarks-{name}", {**clip, "c.landmarks.npy": content}


def _corrupt_info(clip: Members) -> Iterator[tuple[str, Members]]:
    fields = json.loads(clip["c.json"])
    changed_fields: dict[str, dict[str, Any]] = {
        "version-0": {"version": 0},
        "more": {"more": 1},
        "person-list": {"person": ["a"]},
        "person-null": {"person": None},
        "person-number": {"person": 7},
        "name-number": {"name": 7},
        "fps-not-finite": {"fps": float("nan")},
        "fps-text": {"fps": "fast"},
        "crop-negative": {"crop": [0, 0, -5]},
        "crop-text": {"crop": ["a", "b", "c"]},
        "crop-short": {"crop": [1]},
        "size-text": {"size": "32"},
        "size-0": {"size": 0},
        "size-huge": {"size": 10**9},
        "frames-short": {"frames": [1, 2]},
        "frames-text": {"frames": "abc"},
        "frames-number": {"frames": 3},
        "detector-null": {"detector": None},
        "sha-number": {"sha256": 5},
    }
    forged = {name: {**fields, **changes} for name, changes in changed_fields.items()}
    for key in ("name", "crop", "size", "frames"):
        forged[f"without-{key}"] = {name: value for name, value in fields.items() if name != key}
    contents = {
        "empty": b"",
        "null": b"null",
        "list": b"[]",
        "nested": b"[" * 100_000,
        "not-utf-8": b'{"name": "\xff"}',
        "number-long": b'{"version": 1, "fps": ' + b"9" * 10_000 + b"}",
        **{name: json.dumps(header).encode() for name, header in forged.items()},
    }
    for name, content in contents.items():
        yield f"json-{name}", {**clip, "c.json": content}


def _tars_with_special_members(clip: Members) -> dict[str, bytes]:
    """Return shards with members that are no plain files, or have a wrong size in their header."""
    other_members = _tar({name: content for name, content in clip.items() if name != "c.json"})[:-1024]
    members = {
        name: _tar_member("c.json", type=kind, linkname="/etc/passwd")
        for name, kind in {
            "link": tarfile.SYMTYPE,
            "hard-link": tarfile.LNKTYPE,
            "folder": tarfile.DIRTYPE,
            "pipe": tarfile.FIFOTYPE,
            "device": tarfile.CHRTYPE,
        }.items()
    }
    members["link-within"] = _tar_member("c.json", type=tarfile.SYMTYPE, linkname="c.landmarks.npy")
    members["link-to-itself"] = _tar_member("c.json", type=tarfile.SYMTYPE, linkname="c.json")
    members["size-terabyte"] = _tar_member_of_size(b"\x80" + (10**12).to_bytes(11, "big"))
    members["size-negative"] = _tar_member_of_size(b"\xff" * 12)
    members["size-no-number"] = _tar_member_of_size(b"abcdefghijkl")
    members["sparse-terabyte"] = _tar_member("c.json", type=tarfile.GNUTYPE_SPARSE)
    long_name = "././@LongLink"
    members["long-name"] = _tar_member(long_name, b"c.json\0" + b"x" * 5000, type=tarfile.GNUTYPE_LONGNAME)
    members["long-name-gigabyte"] = (
        _tar_member(long_name, type=tarfile.GNUTYPE_LONGNAME)[:124] + b"77777777777\0" + bytes(376)
    )
    for name, record, extra_length in (
        ("size", b"size=1000000000000\n", 3),
        ("size-unusual", b"size=-5\n", 3),
        ("endless", b"path=x\n", 99999),
        ("sparse", b"GNU.sparse.size=10000000000000\n", 3),
    ):
        extension = b"%d %s" % (len(record) + extra_length, record)
        members[f"extended-{name}"] = _tar_member("pax", extension, type=tarfile.XHDTYPE) + _tar_member(
            "c.json", clip["c.json"]
        )
    return {name: other_members + member + bytes(1024) for name, member in members.items()}


# members of a shard


def _clip_members() -> Members:
    """Return the members of one clip of 24 frames of 32 x 32."""
    landmarks = np.random.default_rng(5).uniform(4, 28, (24, 68, 2)).astype(np.float32)
    info = {
        "version": 1,
        "name": "c.mp4",
        "sha256": "ab" * 32,
        "person": "c",
        "fps": 25.0,
        "frame_size": [96, 128],
        "crop": [0.0, 0.0, 96.0],
        "frames": list(range(24)),
        "size": 32,
        "detector": "centre",
        "part": 0,
    }
    images = {f"c.{number:04d}.jpg": _jpeg(32) for number in range(24)}
    return {**images, "c.landmarks.npy": _npy(landmarks), "c.json": json.dumps(info).encode()}


def _jpeg(side: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frames(1)[0]).resize((side, side)).save(buffer, "JPEG", subsampling=0)
    return buffer.getvalue()


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _npy_header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(text) + 1, 65535)) + text + b"\n" + bytes(64)


def _tar_member(name: str, content: bytes = b"", **fields: Any) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for key, value in fields.items():
        setattr(header, key, value)
    return header.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape") + content + bytes(-len(content) % 512)


def _tar_member_of_size(field: bytes) -> bytes:
    """Return the header of c.json with 12 bytes in place of the size."""
    header = bytearray(_tar_member("c.json"))
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _tar(members: Members) -> bytes:
    return b"".join(_tar_member(name, content) for name, content in members.items()) + bytes(1024)


def _write_sparse_shard(folder: Path, clip: Members, large_member: str) -> Path:
    """Write a shard in which one member is 5 GB of zeros that take no space on the disk."""
    folder.mkdir()
    with open(folder / SHARD, "wb") as file:
        for name, content in clip.items():
            header = tarfile.TarInfo(name)
            header.size = 5 << 30 if name == large_member else len(content)
            file.write(header.tobuf(tarfile.GNU_FORMAT))
            file.write(content)
            file.seek(header.size - len(content) + -header.size % 512, os.SEEK_CUR)
        file.write(bytes(1024))
    return folder


# tables of people


def write_corrupt_people_tables(folder: Path) -> dict[str, Path]:
    """Write tables of people, and return their paths by what is unusual about them."""
    contents = {
        "binary": random.Random(1).randbytes(5000),
        "empty": b"",
        "only-head": b"file\tperson\n",
        "no-head": b"a.mp4\tanna\n",
        "column-missing": b"file\nx.mp4\n",
        "columns-uneven": b"file\tperson\na.mp4\tanna\textra\nb.mp4\n",
        "commas": b"file,person\na.mp4,anna\n",
        "two-byte": "file\tperson\na.mp4\tanna\n".encode("utf-16"),
        "latin": "file\tperson\na.mp4\tZo\xeb\n".encode("latin-1"),
        "marked": b"\xef\xbb\xbffile\tperson\na.mp4\tanna\n",
        "zeros": bytes(5000),
        "columns-twice": b"file\tfile\tperson\na.mp4\tb.mp4\tanna\n",
        "nobody": b"file\tperson\n\t\n \t \n",
        "climbs": b"file\tperson\n../../etc/passwd\t../../x\n",
        "line-long": b"file\tperson\n" + b"a" * 1_000_000 + b"\tanna\n",
        "unusual-breaks": b"file\tperson\r\na.mp4\tanna\x0b\x0c\x1c\r\n",
    }
    paths = {name: write(folder / f"{name}.tsv", content) for name, content in contents.items()}
    for name, create in SPECIAL_FILES.items():
        paths[name] = folder / f"{name}.tsv"
        create(paths[name])
    paths["missing"] = folder / "missing.tsv"
    paths["name-long"] = folder / ("x" * 300)
    return paths


# folders of videos


def write_thousand_videos(folder: Path, corrupt: list[Path]) -> int:
    """Write good videos, copies of corrupt ones, and short ones that are rejected soon; return the count."""
    count = 1000
    folder.mkdir()
    good = encoded(folder / "g.mp4", frames(24, (96, 96)), settings={"preset": "ultrafast"})
    short = encoded(folder / "s.mp4", frames(2, (32, 32)), settings={"preset": "ultrafast"})

    def with_number(content: bytes, number: int) -> bytes:
        """Return other bytes of the same video."""
        return content + struct.pack(">I4sI", 12, b"free", number)

    for number in range(NUM_GOOD_VIDEOS):
        write(folder / f"good-{number}.mp4", with_number(good, number))
    for number, path in enumerate(corrupt):
        shutil.copy(path, folder / f"bad-{number}{path.suffix}")
    for number in range(count - NUM_GOOD_VIDEOS - len(corrupt)):
        write(folder / f"short-{number}.mp4", with_number(short, number))
    return count
