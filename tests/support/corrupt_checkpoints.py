"""Corrupt models and persons: damaged files, and forged ones with a valid checksum."""

import io
import json
import random
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from support.corrupt_media import flip_bytes, overwrite_bytes, write
from support.sample_media import cut


def corrupt_copies(content: bytes, rng: random.Random) -> dict[str, bytes]:
    """Return damaged copies of a file's content by the kind of damage, for any kind of file."""
    cuts = {f"cut-at-{share:g}": cut(content, share) for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999)}
    return {
        **cuts,
        "cut-by-1": content[:-1],
        "cut-at-7-bytes": content[:7],
        "flipped-head": flip_bytes(content, rng, 0, 40 / len(content), 2),
        "flipped-early": flip_bytes(content, rng, 0, 0.05, 5),
        "flipped-middle": flip_bytes(content, rng, 0.4, 0.6, 5),
        "flipped-late": flip_bytes(content, rng, 0.95, 1, 5),
        "zeros-within": overwrite_bytes(content, rng, 0.3, 0.5, 0),
        "noise-within": overwrite_bytes(content, rng, 0.1, 0.3),
        "doubled": content + content,
        "junk-after": content + b"junk",
    }


# checkpoints


def write_corrupt_checkpoints(folder: Path, valid: Path, kind: str, rng: random.Random) -> list[Path]:
    """Write damaged and forged copies of a model or person file, and return their paths, damaged ones first.

    Forged files have a valid checksum: it protects from damage, not from malice.
    """
    content = valid.read_bytes()
    paths = [
        write(folder / f"{name}.safetensors", copy) for name, copy in corrupt_copies(content, rng).items()
    ]
    with safe_open(valid, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    fields = json.loads(metadata["talkinghead"])
    for name, header in {**_forged_headers(fields, kind), **_forged_header_texts()}.items():
        paths.append(_write_forged(folder / f"{name}.safetensors", header, tensors))
    for name, changes in _forged_tensors(tensors, kind).items():
        paths.append(_write_forged(folder / f"{name}.safetensors", fields, {**tensors, **changes}))
    return paths + write_foreign_tensors(folder, tensors)


def _write_forged(path: Path, header: object, tensors: dict[str, torch.Tensor]) -> Path:
    from talkinghead.system.tensor_file import checksum

    text = header if isinstance(header, str) else json.dumps(header, sort_keys=True)
    save_file(tensors, path, {"talkinghead": text, "sha256": checksum(text, tensors)})
    return path


def _forged_header_texts() -> dict[str, str]:
    return {"header-null": "null", "header-deep": "[" * 100_000, "header-not-json": "{'kind'"}


def _forged_headers(fields: dict[str, Any], kind: str) -> dict[str, Any]:
    networks = fields["config"]["networks"]
    changed_networks: dict[str, dict[str, Any]] = {
        "size-text": {"image_size": "64"},
        "size-0": {"image_size": 0},
        "size-negative": {"image_size": -64},
        "size-odd": {"image_size": 33},
        "size-fraction": {"image_size": 32.5},
        "size-huge": {"image_size": 10**9},
        "channels-huge": {"encoder": [10**9, 10**9], "up": [10**9, 10**9], "down": [10**9, 10**9]},
        "channels-none": {"encoder": [], "up": [], "down": []},
        "channels-negative": {"encoder": [-8, -16]},
        "channels-text": {"encoder": "ab"},
        "channels-null": {"up": None},
        "channels-nested": {"up": [[16], [8]]},
        "blocks-endless": {"residual": 10**9},
        "blocks-many": {"encoder": [8] * 500_000, "up": [8] * 500_000, "down": [8] * 500_000},
        "attention-beyond": {"encoder_attention": 99, "up_attention": -7},
        "slope-text": {"discriminator_slope": "steep"},
        "gain-0": {"embedding_gain": 0.0},
    }
    changed_config: dict[str, dict[str, Any]] = {
        "config-extra": {"more": 1},
        "config-networks-list": {"networks": []},
        "preset-list": {"preset": ["tiny"]},
        "preset-path": {"preset": "../../../etc/passwd"},
        **{name: {"networks": {**networks, **changes}} for name, changes in changed_networks.items()},
    }
    changed_fields: dict[str, dict[str, Any]] = {
        "version-999": {"version": 999},
        "version-text": {"version": "1"},
        "other-kind": {"kind": "voice"},
        "config-list": {"config": [1]},
        "provenance-text": {"provenance": "trust me"},
        **{name: {"config": {**fields["config"], **changes}} for name, changes in changed_config.items()},
    }
    if kind == "person":
        changed_fields["model-number"] = {"model": 5}
        changed_fields["feed-forward-text"] = {"feed_forward": "no"}
    return {
        "header-list": [1, 2],
        **{name: {**fields, **changes} for name, changes in changed_fields.items()},
        **{f"without-{key}": {k: v for k, v in fields.items() if k != key} for key in fields},
    }


def _forged_tensors(tensors: dict[str, torch.Tensor], kind: str) -> dict[str, dict[str, torch.Tensor]]:
    first = "styles" if kind == "person" else next(iter(tensors))
    tensor = tensors[first]
    forged = {
        "tensor-not-finite": {first: torch.full_like(tensor, float("nan"))},
        "tensor-infinite": {first: torch.full_like(tensor, float("inf"))},
        "tensor-whole-numbers": {first: tensor.to(torch.int64)},
        "tensor-truth-values": {first: tensor.bool()},
        "tensor-complex": {first: tensor.to(torch.complex64)},
        "tensor-eight-bits": {first: tensor.to(torch.float8_e4m3fn)},
        "tensor-other-shape": {first: torch.zeros(3, 5)},
        "tensor-scalar": {first: torch.zeros(())},
        "tensor-empty": {first: torch.zeros(0)},
        "tensor-more": {"more": torch.zeros(3)},
        "tensor-unusual-name": {"../\n\0": torch.zeros(3)},
    }
    if kind == "person":
        forged["reference-not-finite"] = {"reference": torch.full((68, 2), float("nan"))}
        forged["reference-one-point"] = {"reference": torch.zeros(68, 2)}
        forged["reference-huge"] = {"reference": torch.full((68, 2), 1e38) * torch.rand(68, 2)}
    return forged


def write_foreign_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> list[Path]:
    """Write safetensors files of other programs, and files that only have the suffix; return their paths."""

    def with_length(text: bytes) -> bytes:
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
        "header-not-utf-8": with_length(b"\xff\xfe{}"),
        "header-list": with_length(b"[]"),
        "header-nested": with_length(b'{"a":' * 50_000),
        "offsets-beyond": with_length(
            b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
        ),
        "offsets-negative": with_length(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}')
        + bytes(4),
        "offsets-overlap": with_length(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        )
        + bytes(4),
        "shape-overflows": with_length(
            b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}'
        )
        + bytes(4),
        "type-unknown": with_length(b'{"a":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
        "torch-pickle": pickled.getvalue(),
        "pickle": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
        "text": b"a person\n",
    }
    return [write(folder / f"is-{name}.safetensors", content) for name, content in contents.items()]
