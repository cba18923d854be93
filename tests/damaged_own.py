"""The project's own files, damaged and forged: models and persons, data sets, training states, tables of people."""

import io
import json
import os
import random
import shutil
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from damaged import flipped, overwritten, write
from good_media import cut, encoded, frames

Made = list[Path]


def broken(content: bytes, chance: random.Random) -> dict[str, bytes]:
    """What may happen to any of these files."""
    cuts = {f"cut-at-{share:g}": cut(content, share) for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999)}
    return {
        **cuts,
        "cut-by-1": content[:-1],
        "cut-at-7-bytes": content[:7],
        "flipped-head": flipped(content, chance, 0, 40 / len(content), 2),
        "flipped-early": flipped(content, chance, 0, 0.05, 5),
        "flipped-middle": flipped(content, chance, 0.4, 0.6, 5),
        "flipped-late": flipped(content, chance, 0.95, 1, 5),
        "zeros-within": overwritten(content, chance, 0.3, 0.5, 0),
        "noise-within": overwritten(content, chance, 0.1, 0.3),
        "doubled": content + content,
        "junk-after": content + b"junk",
    }


# checkpoints


def make_checkpoints(folder: Path, whole: Path, kind: str, chance: random.Random) -> Made:
    """A model or person file, broken and forged. Forged ones have the right checksum: it protects from damage, not from malice."""
    content = whole.read_bytes()
    made = [write(folder / f"{name}.safetensors", broken) for name, broken in broken(content, chance).items()]
    with safe_open(whole, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    fields = json.loads(metadata["talkinghead"])

    def forged(name: str, header: Any = None, changed: dict[str, torch.Tensor] | None = None) -> None:
        from talkinghead.tensor_file import checksum

        text = header if isinstance(header, str) else json.dumps(fields if header is None else header, sort_keys=True)
        them = {**tensors, **(changed or {})}
        save_file(them, folder / f"{name}.safetensors", {"talkinghead": text, "sha256": checksum(text, them)})
        made.append(folder / f"{name}.safetensors")

    def config(**networks: Any) -> dict[str, Any]:
        return {**fields, "config": {**fields["config"], "networks": {**fields["config"]["networks"], **networks}}}

    for name, header in {
        "version-999": {**fields, "version": 999},
        "version-text": {**fields, "version": "1"},
        "other-kind": {**fields, "kind": "voice"},
        "header-list": [1, 2],
        "header-null": None,
        "header-deep": "[" * 100_000,
        "header-not-json": "{'kind'",
        "size-text": config(image_size="64"),
        "size-0": config(image_size=0),
        "size-negative": config(image_size=-64),
        "size-odd": config(image_size=33),
        "size-fraction": config(image_size=32.5),
        "size-huge": config(image_size=10**9),
        "channels-huge": config(encoder=[10**9, 10**9], up=[10**9, 10**9], down=[10**9, 10**9]),
        "channels-none": config(encoder=[], up=[], down=[]),
        "channels-negative": config(encoder=[-8, -16]),
        "channels-text": config(encoder="ab"),
        "channels-null": config(up=None),
        "channels-nested": config(up=[[16], [8]]),
        "blocks-endless": config(residual=10**9),
        "blocks-many": config(encoder=[8] * 500_000, up=[8] * 500_000, down=[8] * 500_000),
        "attention-beyond": config(encoder_attention=99, up_attention=-7),
        "slope-text": config(discriminator_slope="steep"),
        "gain-0": config(embedding_gain=0.0),
        "config-extra": {**fields, "config": {**fields["config"], "more": 1}},
        "config-list": {**fields, "config": [1]},
        "config-networks-list": {**fields, "config": {**fields["config"], "networks": []}},
        "preset-list": {**fields, "config": {**fields["config"], "preset": ["tiny"]}},
        "preset-path": {**fields, "config": {**fields["config"], "preset": "../../../etc/passwd"}},
        "provenance-text": {**fields, "provenance": "trust me"},
        **{f"without-{key}": {k: v for k, v in fields.items() if k != key} for key in fields},
        **({"model-number": {**fields, "model": 5}, "feed-forward-text": {**fields, "feed_forward": "no"}} if kind == "person" else {}),
    }.items():
        forged(name, "null" if header is None else header)
    first = "styles" if kind == "person" else next(iter(tensors))
    for name, change in {
        "not-finite": lambda it: torch.full_like(it, float("nan")),
        "infinite": lambda it: torch.full_like(it, float("inf")),
        "whole-numbers": lambda it: it.to(torch.int64),
        "truth-values": lambda it: it.bool(),
        "complex": lambda it: it.to(torch.complex64),
        "eight-bits": lambda it: it.to(torch.float8_e4m3fn),
        "other-shape": lambda it: torch.zeros(3, 5),
        "scalar": lambda it: torch.zeros(()),
        "empty": lambda it: torch.zeros(0),
    }.items():
        forged(f"tensor-{name}", changed={first: change(tensors[first])})
    if kind == "person":
        forged("reference-not-finite", changed={"reference": torch.full((68, 2), float("nan"))})
        forged("reference-one-point", changed={"reference": torch.zeros(68, 2)})
        forged("reference-huge", changed={"reference": torch.full((68, 2), 1e38) * torch.rand(68, 2)})
    forged("tensor-more", changed={"more": torch.zeros(3)})
    forged("tensor-odd-name", changed={"../\n\0": torch.zeros(3)})
    made += foreign(folder, tensors)
    return made


def foreign(folder: Path, tensors: dict[str, torch.Tensor]) -> Made:
    """Safetensors of others, and what only has the ending."""

    def table(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text

    pickled = io.BytesIO()
    torch.save(tensors, pickled)
    contents = {
        "foreign": save(tensors),
        "foreign-metadata": save(tensors, {"format": "pt"}),
        "metadata-half": save(tensors, {"talkinghead": "{}"}),
        "header-2-to-63": struct.pack("<Q", 2**63) + b"{}",
        "header-max": struct.pack("<Q", 2**64 - 1) + b"{}",
        "header-4-gigabytes": struct.pack("<Q", 2**32) + b"{}" * 50,
        "header-0": bytes(8),
        "header-not-utf-8": table(b"\xff\xfe{}"),
        "header-list": table(b"[]"),
        "header-nested": table(b'{"a":' * 50_000),
        "offsets-beyond": table(b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'),
        "offsets-negative": table(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}') + bytes(4),
        "offsets-overlap": table(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        )
        + bytes(4),
        "shape-overflows": table(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}') + bytes(4),
        "type-unknown": table(b'{"a":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
        "torch-pickle": pickled.getvalue(),
        "pickle": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
        "text": b"a person\n",
    }
    return [write(folder / f"is-{name}.safetensors", content) for name, content in contents.items()]


# data sets


def make_data(folder: Path, chance: random.Random) -> dict[str, Path]:
    """Prepared data, by what is wrong with it; "whole" is not. Each is a folder with one shard, or what should be one."""
    clip = _clip()
    whole = _tar(clip)
    made: dict[str, Path] = {}

    def shard(name: str, content: bytes, called: str = "shard-000000.tar") -> None:
        made[name] = write(folder / name / called, content).parent

    shard("whole", whole)
    for name, content in broken(whole, chance).items():
        shard(name, content)
    for name, content in (("empty", b""), ("zeros", bytes(10240)), ("text", b"no shard"), ("zip", b"PK\5\6" + bytes(18))):
        shard(f"is-{name}", content)
    for number in ("x", "-1", "99999999999999999999", "0001 (copy)"):
        shard(f"number-{number}", whole, f"shard-{number}.tar")

    # members
    jpg, npy, text = clip["c.0000.jpg"], clip["c.landmarks.npy"], clip["c.json"]
    fields = json.loads(text)
    members: dict[str, dict[str, Any]] = {
        "name-climbs": {f"../../{name}": content for name, content in clip.items()},
        "name-absolute": {f"/etc/{name}": content for name, content in clip.items()},
        "name-odd": {name.replace("c.", "\u202e\U0001f600.", 1): content for name, content in clip.items()},
        "twice": {**clip, **{f"./{name}": content for name, content in clip.items()}},
        "order": dict(sorted(clip.items(), reverse=True)),
        "no-json": {name: content for name, content in clip.items() if not name.endswith("json")},
        "no-landmarks": {name: content for name, content in clip.items() if not name.endswith("npy")},
        "no-frames": {name: content for name, content in clip.items() if not name.endswith("jpg")},
        "frame-more": {"c.9999.jpg": jpg, **clip},
        "frame-empty": {**clip, "c.0001.jpg": b""},
        "frame-cut": {**clip, "c.0001.jpg": jpg[:200]},
        "frame-flipped": {**clip, "c.0001.jpg": flipped(jpg, chance, 0, 1, 40)},
        "frame-text": {**clip, "c.0001.jpg": b"no picture"},
        "frame-smaller": {**clip, "c.0001.jpg": _jpeg(16)},
        "frame-1-pixel": {**clip, "c.0001.jpg": _jpeg(1)},
        "frame-huge": {**clip, "c.0001.jpg": jpg.replace(b"\xff\xc0\0\x11\x08\0\x20\0\x20", b"\xff\xc0\0\x11\x08\xff\xff\xff\xff")},
        "frames-all-smaller": {name: _jpeg(16) if name.endswith("jpg") else content for name, content in clip.items()},
    }
    arrays = {
        "pickled": np.array([{"a": 1}], dtype=object),
        "not-finite": np.full((24, 68, 2), np.nan, np.float32),
        "infinite": np.full((24, 68, 2), np.inf, np.float32),
        "huge": np.full((24, 68, 2), 1e38, np.float32),
        "doubles": np.full((24, 68, 2), 5.0),
        "whole-numbers": np.full((24, 68, 2), 5),
        "complex": np.full((24, 68, 2), 5j),
        "texts": np.full((24, 68, 2), "x"),
        "records": np.zeros((24, 68, 2), dtype=[("x", "f4")]),
        "short": np.zeros((23, 68, 2), np.float32),
        "points-67": np.zeros((24, 67, 2), np.float32),
        "flat": np.zeros(24 * 136, np.float32),
        "scalar": np.float32(1),
    }
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        members[f"landmarks-{name}"] = {**clip, "c.landmarks.npy": buffer.getvalue()}
    for name, content in {
        "empty": b"",
        "cut": npy[:500],
        "many": _npy_header("(1000000000000, 68, 2)"),
        "overflows": _npy_header(f"({2**62}, {2**62}, 8)"),
        "negative": _npy_header("(-24, 68, 2)"),
        "code": _npy_header("(__import__('os').abort(), 68, 2)"),
        "nested": _npy_header("(" * 5000),
        "pickle": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    }.items():
        members[f"landmarks-{name}"] = {**clip, "c.landmarks.npy": content}
    infos = {
        "empty": b"",
        "null": b"null",
        "list": b"[]",
        "nested": b"[" * 100_000,
        "not-utf-8": b'{"name": "\xff"}',
        "number-long": b'{"version": 1, "fps": ' + b"9" * 10_000 + b"}",
        **{
            name: json.dumps({**fields, **changes}).encode()
            for name, changes in {
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
            }.items()
        },
        **{
            f"without-{key}": json.dumps({k: v for k, v in fields.items() if k != key}).encode()
            for key in ("name", "crop", "size", "frames")
        },
    }
    for name, content in infos.items():
        members[f"json-{name}"] = {**clip, "c.json": content}
    for name, content in members.items():
        shard(f"member-{name}", _tar(content))
    for name, content in _odd_members(clip).items():
        shard(f"kind-{name}", content)

    # what stands in the place of a shard
    for name, placed in {"pipe": os.mkfifo, "folder": os.mkdir}.items():
        (folder / f"is-{name}").mkdir()
        placed(folder / f"is-{name}" / "shard-000000.tar")
        made[f"is-{name}"] = folder / f"is-{name}"
    for name, target in {"dangling": "nowhere", "loop": "shard-000000.tar", "device": "/dev/zero"}.items():
        (folder / f"is-{name}").mkdir()
        (folder / f"is-{name}" / "shard-000000.tar").symlink_to(target)
        made[f"is-{name}"] = folder / f"is-{name}"
    # gigabytes that are not on the disk
    for name, member in (("frame", "c.0000.jpg"), ("json", "c.json"), ("landmarks", "c.landmarks.npy")):
        made[f"sparse-{name}"] = _sparse(folder / f"sparse-{name}" / "shard-000000.tar", clip, member)
    made["missing"] = folder / "missing"
    made["is-file"] = write(folder / "file", whole)
    return made


def _jpeg(side: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frames(1)[0]).resize((side, side)).save(buffer, "JPEG", subsampling=0)
    return buffer.getvalue()


def _clip() -> dict[str, bytes]:
    """The members of one clip: 24 frames of 32 x 32."""
    random_points = np.random.default_rng(5).uniform(4, 28, (24, 68, 2)).astype(np.float32)
    buffer = io.BytesIO()
    np.save(buffer, random_points)
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
    pictures = {f"c.{number:04d}.jpg": _jpeg(32) for number in range(24)}
    return {**pictures, "c.landmarks.npy": buffer.getvalue(), "c.json": json.dumps(info).encode()}


def _npy_header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(text) + 1, 65535)) + text + b"\n" + bytes(64)


def _member(name: str, content: bytes, **how: Any) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for key, value in how.items():
        setattr(header, key, value)
    return header.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape") + content + bytes(-len(content) % 512)


def _tar(members: dict[str, bytes]) -> bytes:
    return b"".join(_member(name, content) for name, content in members.items()) + bytes(1024)


def _odd_members(clip: dict[str, bytes]) -> dict[str, bytes]:
    """Shards with members that are no plain files, or lie about their size."""

    def with_json(member: bytes) -> bytes:
        return _tar({name: content for name, content in clip.items() if name != "c.json"})[:-1024] + member + bytes(1024)

    def size_of(count: bytes) -> bytes:
        header = bytearray(_member("c.json", b""))
        header[124:136] = count
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header)

    kinds = {
        "link": tarfile.SYMTYPE,
        "hard-link": tarfile.LNKTYPE,
        "folder": tarfile.DIRTYPE,
        "pipe": tarfile.FIFOTYPE,
        "device": tarfile.CHRTYPE,
    }
    made = {name: with_json(_member("c.json", b"", type=kind, linkname="/etc/passwd")) for name, kind in kinds.items()}
    made["link-within"] = with_json(_member("c.json", b"", type=tarfile.SYMTYPE, linkname="c.landmarks.npy"))
    made["link-to-itself"] = with_json(_member("c.json", b"", type=tarfile.SYMTYPE, linkname="c.json"))
    made["size-terabyte"] = with_json(size_of(b"\x80" + (10**12).to_bytes(11, "big")))
    made["size-negative"] = with_json(size_of(b"\xff" * 12))
    made["size-no-number"] = with_json(size_of(b"abcdefghijkl"))
    made["sparse-terabyte"] = with_json(_member("c.json", b"", type=tarfile.GNUTYPE_SPARSE))
    made["long-name"] = with_json(_member("././@LongLink", b"c.json\0" + b"x" * 5000, type=tarfile.GNUTYPE_LONGNAME))
    made["long-name-gigabyte"] = with_json(
        _member("././@LongLink", b"", type=tarfile.GNUTYPE_LONGNAME)[:124] + b"77777777777\0" + bytes(376)
    )
    for name, record in (
        ("size", b"size=1000000000000\n"),
        ("size-odd", b"size=-5\n"),
        ("endless", b"path=x\n"),
        ("sparse", b"GNU.sparse.size=10000000000000\n"),
    ):
        lengthy = b"%d %s" % (len(record) + (99999 if name == "endless" else 3), record)
        made[f"extended-{name}"] = with_json(_member("pax", lengthy, type=tarfile.XHDTYPE) + _member("c.json", clip["c.json"]))
    return made


def _sparse(path: Path, clip: dict[str, bytes], which: str) -> Path:
    """A shard one member of which really is 5 GB, all holes."""
    path.parent.mkdir()
    with open(path, "wb") as file:
        for name, content in clip.items():
            header = tarfile.TarInfo(name)
            header.size = 5 << 30 if name == which else len(content)
            file.write(header.tobuf(tarfile.GNU_FORMAT))
            file.write(content)
            file.seek(header.size - len(content) + -header.size % 512, os.SEEK_CUR)
        file.write(bytes(1024))
    return path.parent


# tables of people


def make_tables(folder: Path) -> dict[str, Path]:
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
        "odd-breaks": b"file\tperson\r\na.mp4\tanna\x0b\x0c\x1c\r\n",
    }
    made = {name: write(folder / f"{name}.tsv", content) for name, content in contents.items()}
    for name, placed in {"pipe": os.mkfifo, "folder": os.mkdir}.items():
        placed(folder / f"{name}.tsv")
        made[name] = folder / f"{name}.tsv"
    for name, target in {"dangling": "nowhere", "loop": "loop.tsv", "device": "/dev/zero"}.items():
        (folder / f"{name}.tsv").symlink_to(target)
        made[name] = folder / f"{name}.tsv"
    made["missing"] = folder / "missing.tsv"
    made["name-long"] = folder / ("x" * 300)
    return made


# a folder of a thousand


def make_thousand(folder: Path, bad: list[Path]) -> tuple[int, int]:
    """A thousand videos: 24 good ones, the bad ones, and short ones that are rejected soon; how many good, and how many in all."""
    folder.mkdir()
    good = encoded(folder / "g.mp4", frames(24, (96, 96)), settings={"preset": "ultrafast"})
    short = encoded(folder / "s.mp4", frames(2, (32, 32)), settings={"preset": "ultrafast"})

    def numbered(content: bytes, number: int) -> bytes:
        return content + struct.pack(">I4sI", 12, b"free", number)  # other content, the same video

    for number in range(24):
        write(folder / f"good-{number}.mp4", numbered(good, number))
    for number, path in enumerate(bad):
        shutil.copy(path, folder / f"bad-{number}{path.suffix}")
    for number in range(1000 - 24 - len(bad)):
        write(folder / f"short-{number}.mp4", numbered(short, number))
    return 24, 1000
