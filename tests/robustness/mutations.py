"""Mutations of the bytes of any file, and of the headers of the project's own files; all are random."""

import io
import json
import random
import re
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOLE_BYTES = 1_600_000_000
"""Size of the hole in a sparse file: it takes no space on the disk, but is too large for memory."""

RAW_VALUES = {
    "nan": "NaN",
    "infinity": "-Infinity",
    "beyond-floats": "1e400",
    "long-number": "9" * 5000,
    "big-number": "9" * 300,
    "deep-list": "[" * 100_000 + "]" * 100_000,
    "deep-table": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "cut-list": "[" * 100_000,
    "half-a-pair": r'"\ud800"',
    "terminal": r'"\u001b]0;x\u0007\u202e"',
}
"""JSON that `json.dumps` does not write, by name."""
PLAIN_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    10**9,
    2**63,
    -(2**63),
    1e308,
    0.5,
    -0.0,
    "",
    "x",
    "1",
    "x" * 100_000,
    "../../../etc/passwd",
    "\n\r\0",
    [],
    {},
    [[]],
    {"a": 1},
    [None] * 1000,
)

Pieces = list[bytes | int]
"""Contents of a file in order: bytes, or the size of a hole."""


def write_pieces(path: Path, pieces: Pieces) -> None:
    with open(path, "wb") as file:
        size = 0
        for piece in pieces:
            size += piece if isinstance(piece, int) else len(piece)
            if isinstance(piece, bytes):
                file.write(piece)
            else:
                file.seek(size)
        file.truncate(size)


# any file


def flip_bits(content: bytes, rng: random.Random) -> Pieces:
    changed = bytearray(content)
    # Most readers decide by the first bytes.
    end = len(content) if rng.random() < 0.6 else min(len(content), 512)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return [bytes(changed)]


def truncate(content: bytes, rng: random.Random) -> Pieces:
    random_lengths = (rng.randrange(len(content)), rng.randrange(len(content)))
    lengths = (0, 1, 7, 8, 12, *random_lengths, len(content) - 1)
    return [content[: rng.choice(lengths)]]


def zero_range(content: bytes, rng: random.Random) -> Pieces:
    start, end = _range(content, rng)
    return [content[:start], bytes(end - start), content[end:]]


def overwrite_range(content: bytes, rng: random.Random) -> Pieces:
    start, end = _range(content, rng)
    return [content[:start], rng.randbytes(end - start), content[end:]]


def duplicate_range(content: bytes, rng: random.Random) -> Pieces:
    start, end = rng.choice(((0, len(content)), _range(content, rng)))
    return [content[:end], content[start:]]


def delete_range(content: bytes, rng: random.Random) -> Pieces:
    start, end = _range(content, rng)
    return [content[:start], content[end:]]


def insert_bytes(content: bytes, rng: random.Random) -> Pieces:
    place = rng.choice((0, len(content), rng.randrange(len(content))))
    return [content[:place], rng.randbytes(rng.choice((1, 16, 4096))), content[place:]]


def grow_sparse(content: bytes, rng: random.Random) -> Pieces:
    """Put a hole at the end, or anywhere else."""
    place = rng.choice((len(content), len(content), 0, rng.randrange(len(content))))
    return [content[:place], HOLE_BYTES, content[place:]]


def randomise(content: bytes, rng: random.Random) -> Pieces:
    return [content[: rng.choice((0, 4, 8, 16))], rng.randbytes(rng.choice((1, 100, 20_000)))]


Mutation = Callable[[bytes, random.Random], Pieces]
BYTE_MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    flip_bits,
    truncate,
    zero_range,
    overwrite_range,
    duplicate_range,
    delete_range,
    insert_bytes,
    grow_sparse,
    randomise,
)


def _range(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content))
    return start, min(len(content), start + rng.choice((1, 8, 100, 5000, len(content))))


# JSON


def edit_json(text: str, rng: random.Random) -> str:
    """Return JSON text with one or two values replaced, removed or added."""
    values = {"root": json.loads(text)}
    for _ in range(rng.choice((1, 1, 2))):
        _edit_value(values, rng)
    return re.sub(r'"<raw ([a-z-]+)>"', lambda match: RAW_VALUES[match[1]], json.dumps(values.get("root")))


def _edit_value(values: Any, rng: random.Random) -> None:
    key: Any = "root"
    while isinstance(values[key], (dict, list)) and values[key] and rng.random() < 0.75:
        values = values[key]
        key = rng.choice(list(values) if isinstance(values, dict) else range(len(values)))
    action = rng.random()
    if action < 0.15 and key != "root":
        del values[key]
    elif action < 0.25 and isinstance(values, dict) and key != "root":
        values["more"] = values[key]
    elif action < 0.35 and key != "root":
        other = rng.choice(list(values) if isinstance(values, dict) else range(len(values)))
        values[key], values[other] = values[other], values[key]
    else:
        values[key] = (
            f"<raw {rng.choice(list(RAW_VALUES))}>" if rng.random() < 0.4 else rng.choice(PLAIN_VALUES)
        )


def edit_json_file(content: bytes, rng: random.Random) -> Pieces:
    return [edit_json(content.decode(), rng).encode()]


def edit_json_lines(content: bytes, rng: random.Random) -> Pieces:
    lines = content.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    action = rng.random()
    if action < 0.1:
        lines.insert(rng.randrange(len(lines)), lines[number])
    elif action < 0.2:
        del lines[number]
    else:
        lines[number] = edit_json(lines[number].decode(), rng).encode() + b"\n"
    return list(lines)


# tables


def edit_table(content: bytes, rng: random.Random) -> Pieces:
    cells = [line.split(b"\t") for line in content.split(b"\n")]
    row = rng.choice(cells)
    unusual = (
        b"",
        b"\t",
        b"\r\n",
        b"\x0b",
        b"\xff\xfe",
        b"\0",
        "Zo\u00eb\u202e".encode(),
        b"a" * 1_000_000,
        b"file",
        b"person",
        b"../..",
    )
    row[rng.randrange(len(row))] = rng.choice(unusual)
    return [b"\n".join(b"\t".join(row) for row in cells)]


# safetensors


def edit_safetensors(content: bytes, rng: random.Random) -> Pieces:
    """Edit the table of tensors, or the header of a checkpoint and its checksum."""
    (length,) = struct.unpack("<Q", content[:8])
    table, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = table.get("__metadata__", {})
    own = [name for name in metadata if metadata[name].startswith("{")]
    if own and rng.random() < 0.6:
        name = rng.choice(own)
        metadata[name] = edit_json(metadata[name], rng)
        if "sha256" in metadata and name == "talkinghead":
            metadata["sha256"] = _checksum(content, metadata[name])
        text = json.dumps(table)
    elif rng.random() < 0.5:
        name = rng.choice([name for name in table if name != "__metadata__"])
        dtypes = ("F64", "F16", "BF16", "I32", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X")
        shapes = ([], [0], [1], [2**62, 4], [-1], [10**12], table[name]["shape"][::-1])
        offsets = ([0, 4], [0, 2**62], [4, 0], [len(data), len(data)], [0])
        edits = {
            "dtype": rng.choice(dtypes),
            "shape": rng.choice(shapes),
            "data_offsets": rng.choice(offsets),
        }
        field, value = rng.choice(list(edits.items()))
        table[name][field] = value
        text = json.dumps(table)
    else:
        text = edit_json(json.dumps(table), rng)
    header = text.encode()
    lengths = [len(header)] * 6 + [2**63, len(header) + 8]  # mostly the right one
    return [struct.pack("<Q", rng.choice(lengths)), header, data]


def _checksum(content: bytes, fields: str) -> str:
    from safetensors.torch import load

    from talkinghead.system.tensor_file import checksum

    return checksum(fields, load(content))


# shards


def edit_shard(content: bytes, rng: random.Random) -> Pieces:
    """Edit a member, or the tar header of one."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    kinds = ("json", "npy", "jpg")
    kind = rng.choice(kinds)
    number = rng.choice([number for number, (member, _) in enumerate(members) if member.name.endswith(kind)])
    member, data = members[number]
    if rng.random() < 0.3:
        return _edit_tar_header(members, number, rng)
    if kind == "json":
        data = edit_json(data.decode(), rng).encode()
    elif kind == "npy":
        shape = rng.choice(
            ("(24, 68, 2)", "(10**9, 68, 2)", "(1000000000000, 68, 2)", "(-24, 68, 2)", "()", "(" * 3000)
        )
        dtype = rng.choice(("<f4", "<f8", "|O", ">f4", "<U9", "<c8", "V99"))
        order = rng.choice((False, True))
        text = f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data[128:]
    else:
        data = b"".join(
            piece for piece in rng.choice(BYTE_MUTATIONS[:8])(data, rng) if isinstance(piece, bytes)
        )
    members[number] = (member, data)
    return [
        *(_tar_member(member, len(data)) + data + bytes(-len(data) % 512) for member, data in members),
        bytes(1024),
    ]


def _edit_tar_header(members: list[tuple[tarfile.TarInfo, bytes]], number: int, rng: random.Random) -> Pieces:
    """Give a member another type, a wrong size, an unusual name, or the size of a hole."""
    pieces: Pieces = []
    large = rng.random() < 0.4
    for place, (member, data) in enumerate(members):
        if place != number:
            pieces += [_tar_member(member, len(data)), data, bytes(-len(data) % 512)]
            continue
        size = HOLE_BYTES // 512 * 512 if large else rng.choice((len(data), 0, 2**33 - 1, 10**12))
        kinds = (
            tarfile.REGTYPE,
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.SYMTYPE,
            tarfile.GNUTYPE_SPARSE,
            b"z",
        )
        name = rng.choice((member.name, member.name, "../" + member.name, "\u202e.json", "x" * 90))
        header = _tar_member(member, size, name, rng.choice(kinds))
        pieces += [header, size - len(data), data] if large else [header, data, bytes(-len(data) % 512)]
    return [*pieces, bytes(1024)]


def _tar_member(
    member: tarfile.TarInfo, size: int, name: str | None = None, kind: bytes = tarfile.REGTYPE
) -> bytes:
    header = tarfile.TarInfo(name or member.name)
    header.size, header.type = size, kind
    return header.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")


# engines


def edit_onnx(content: bytes, rng: random.Random) -> Pieces:
    """Edit the manifest or the network of an engine, and embed the checksum of the result."""
    import hashlib

    mark = b'"sha256": "'
    at = content.rindex(mark) + len(mark)
    start = content.rindex(b"{", 0, at)
    _, length = json.JSONDecoder().raw_decode(content[start:].decode("utf-8", "replace"))
    text, end = content[start : start + length].decode(), start + length
    if rng.random() < 0.7:
        text = edit_json(text, rng)
        changed = content[:start] + text.encode() + content[end:]
    else:
        network = b"".join(
            piece
            for piece in rng.choice(BYTE_MUTATIONS[:8])(content[:start], rng)
            if isinstance(piece, bytes)
        )
        changed = network + content[start:]
    at = changed.rfind(mark) + len(mark)
    without_checksum = changed[:at] + b"0" * 64 + changed[at + 64 :]
    return [
        without_checksum[:at],
        hashlib.sha256(without_checksum).hexdigest().encode(),
        without_checksum[at + 64 :],
    ]
