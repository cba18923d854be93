"""Sizes in headers are compared with the file before memory is allocated for them."""

import dataclasses
import io
import os
import random
import struct
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import SMALL_NETWORKS, face_points, guided
from support.corrupt_datasets import write_corrupt_datasets
from talkinghead.checkpoint import load_model, load_person, save_model, save_person
from talkinghead.dataset.people_table import read_people
from talkinghead.dataset.prepare import prepare
from talkinghead.dataset.shard_reader import MAX_SIDE, read_index
from talkinghead.dataset.shard_writer import ShardWriter
from talkinghead.engines.manifest import read_manifest
from talkinghead.errors import TalkingheadError
from talkinghead.evaluation.measurement_store import read_measurement
from talkinghead.media.images import decode_jpeg, read_image
from talkinghead.model import Model, Person, random_model
from talkinghead.networks import References, build_generator

GIGABYTE = 1 << 30


@contextmanager
def raises_within_memory(match: str, max_bytes: int = 8 << 20) -> Iterator[None]:
    """Check that the block raises an error, and that Python holds less than `max_bytes` until then."""
    tracemalloc.start()
    try:
        with pytest.raises(TalkingheadError, match=match):
            yield
        assert tracemalloc.get_traced_memory()[1] < max_bytes
    finally:
        tracemalloc.stop()


@pytest.fixture
def no_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test when a network allocates memory, which happens only after the file was checked."""

    def allocate(network: nn.Module, **_: object) -> nn.Module:
        raise AssertionError("memory was allocated for networks that the file does not hold")

    monkeypatch.setattr(nn.Module, "to_empty", allocate)


def model_with_huge_config() -> Model:
    """Return a model with few weights whose configuration claims gigabytes of them."""
    model = random_model("tiny")
    channels = (4096,) * 8
    networks = dataclasses.replace(
        model.config.networks, encoder=channels, down=channels, up=channels, image_size=512
    )
    return dataclasses.replace(model, config=dataclasses.replace(model.config, networks=networks))


# checkpoints


def test_load_model_rejects_configuration_larger_than_file(no_allocation: None, tmp_path: Path) -> None:
    save_model(model_with_huge_config(), tmp_path / "model.safetensors")
    with raises_within_memory("does not fit its configuration", 64 << 20):
        load_model(tmp_path / "model.safetensors")


def test_load_person_rejects_configuration_larger_than_file(no_allocation: None, tmp_path: Path) -> None:
    model = model_with_huge_config()
    person = Person(
        model.config,
        model.generator,
        torch.rand(1, 8),
        np.zeros((68, 2), np.float32),
        "0" * 64,
        feed_forward=False,
    )
    save_person(person, tmp_path / "person.safetensors")
    with raises_within_memory("does not fit its configuration", 64 << 20):
        load_person(tmp_path / "person.safetensors")


@pytest.mark.parametrize("load", [load_model, load_person])
def test_load_rejects_file_of_gigabytes(load: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    save_model(random_model(dataclasses.replace(random_model("tiny").config, networks=SMALL_NETWORKS)), path)
    os.truncate(path, 2 * GIGABYTE)  # a hole, on no disk
    with raises_within_memory("more than 1024 MB"):
        load(path)


def test_load_person_rejects_image_of_other_size_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = guided()
    images = np.zeros((2, 64, 64, 3), np.uint8)
    references = dataclasses.replace(
        References.encode(images, face_points((0, 0), (0, 0))),
        jpegs=(jpeg_bytes(64), jpeg_bytes(64, claimed_side=30_000)),
    )
    styles, generator = (
        torch.rand(1, model.generator.style_length),
        build_generator(model.config.networks, projection=False),
    )
    person = Person(
        model.config,
        generator,
        styles,
        np.zeros((68, 2), np.float32),
        "0" * 64,
        feed_forward=False,
        references=references,
    )
    save_person(person, tmp_path / "person.safetensors")
    with raises_within_memory(
        "its reference images are missing or damaged.*it is 30000x30000, expected 64x64"
    ):
        load_person(tmp_path / "person.safetensors")


def jpeg_bytes(side: int, claimed_side: int | None = None) -> bytes:
    """Return a square JPEG, whose header may claim another side."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "JPEG")
    data = buffer.getvalue()
    at = data.index(b"\xff\xc0") + 5
    return (
        data
        if claimed_side is None
        else data[:at] + struct.pack(">HH", claimed_side, claimed_side) + data[at + 4 :]
    )


def test_decode_jpeg_reads_no_other_format() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with pytest.raises(Exception, match="not a JPEG file"):
        decode_jpeg(buffer.getvalue())


# data sets


def write_shard(folder: Path, *members: tuple[str, bytes, int], kind: bytes = tarfile.REGTYPE) -> Path:
    """Write a folder with a shard, whose last member is of a type, and return the folder.

    A member is its name, its content, and the size of the hole that follows the content.
    """
    folder.mkdir(exist_ok=True)
    with open(folder / "shard-000000.tar", "wb") as file:
        for number, (name, content, zeros) in enumerate(members, 1):
            header = tarfile.TarInfo(name)
            header.size, header.type = (
                len(content) + zeros,
                kind if number == len(members) else tarfile.REGTYPE,
            )
            file.write(header.tobuf(tarfile.GNU_FORMAT) + content)
            file.seek(zeros + -header.size % 512, os.SEEK_CUR)
        file.write(bytes(1024))
    return folder


@pytest.mark.parametrize(
    "members, kind, match",
    [
        (
            [("c.0000.jpg", b"x", 0), ("c.landmarks.npy", b"\x93NUMPY", GIGABYTE)],
            tarfile.REGTYPE,
            "its last clip is not whole",
        ),
        (
            [("c.0000.jpg", b"x", 0), ("c.landmarks.npy", b"\x93NUMPY", GIGABYTE), ("c.json", b"{}", 0)],
            tarfile.REGTYPE,
            "a member claims 1073741830 bytes",
        ),
        ([("c.json", b"{}", GIGABYTE)], tarfile.REGTYPE, "a member claims 1073741826 bytes"),
        ([("c.0000.jpg", b"x", GIGABYTE)], tarfile.REGTYPE, "c.0000.jpg claims 1073741825 bytes"),
        ([("pax", b"20 path=c.json\n", GIGABYTE)], tarfile.XHDTYPE, "a header claims 1073742336 bytes"),
        ([("pax", b"20 path=c.json\n", GIGABYTE)], tarfile.XGLTYPE, "a header claims 1073742336 bytes"),
        (
            [("././@LongLink", b"c.json", GIGABYTE)],
            tarfile.GNUTYPE_LONGNAME,
            "a header claims 1073742336 bytes",
        ),
    ],
)
def test_read_index_rejects_member_larger_than_its_kind(
    members: list[tuple[str, bytes, int]], kind: bytes, match: str, tmp_path: Path
) -> None:
    with raises_within_memory(f"cannot be read as a shard .{match}"):
        read_index(write_shard(tmp_path, *members, kind=kind))


def test_read_index_reads_repacked_shard(tmp_path: Path) -> None:
    # Python's tarfile writes times and owners in extended headers.
    valid = write_corrupt_datasets(tmp_path / "valid", random.Random(1))["whole"]
    repacked = tarfile.open(tmp_path / "shard-000000.tar", "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
    with tarfile.open(valid / "shard-000000.tar") as source, repacked as to:
        for member in source:
            member.pax_headers = {"mtime": "1.5", "comment": "x" * 5000}
            to.addfile(member, source.extractfile(member))
    assert len(read_index(tmp_path)) == len(read_index(valid)) == 1


@pytest.mark.parametrize("size", [0, -1, MAX_SIDE + 1])
def test_prepare_rejects_invalid_crop_size(size: int, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(TalkingheadError, match=f"a size of {size} is none of crops"):
        prepare([tmp_path / "a.mp4"], tmp_path / "data", size, detector="network")
    assert not (tmp_path / "data").exists()


def test_shard_writer_ignores_foreign_names(tmp_path: Path) -> None:
    for name in ("shard-x.tar", "shard-000004.tar", "shard-0001 (copy).tar"):
        (tmp_path / name).touch()
    assert ShardWriter(tmp_path).shard == "shard-000005.tar"


# tables and results


def test_read_people_rejects_table_of_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "people.tsv"
    path.write_text("file\tperson\na.mp4\tanna\n")
    assert read_people(str(path)) == {"a.mp4": "anna"}
    os.truncate(path, GIGABYTE)
    with raises_within_memory("cannot be read as a table.*at most 64 MB"):
        read_people(str(path))


def test_read_measurement_rejects_wrong_checksum(tmp_path: Path) -> None:
    path, values = tmp_path / "clip.pt", {"features": torch.arange(100.0)}
    torch.save({"key": "[]", "values": values}, path)
    assert read_measurement(path)[0] == "[]" and set(read_measurement(path)[1]) == {"features"}
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 50.0)) + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(TalkingheadError, match="cannot be read again"):
        read_measurement(path)
    path.write_bytes(b"\x80\xc1" + bytes(content))  # torch warns of this start
    with pytest.raises(TalkingheadError, match="cannot be read again"):
        read_measurement(path)
    torch.save({"key": 1, "values": {}}, path)
    with pytest.raises(TalkingheadError, match="cannot be read again"):
        read_measurement(path)


# images and engines


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_read_image_rejects_file_of_gigabytes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"large{suffix}"
    Image.new("RGB", (8, 8)).save(path)
    os.truncate(path, GIGABYTE)
    with raises_within_memory("is too large, expected a picture of at most 512 MB"):
        read_image(path)


def test_read_manifest_rejects_engine_of_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    path.write_bytes(b"onnx")
    os.truncate(path, GIGABYTE)
    with raises_within_memory("expected 1 to 536,870,912"):
        read_manifest(path)


def test_load_model_shortens_text_of_file_in_error(tmp_path: Path) -> None:
    table = b'{"a": {"dtype": "' + b"x" * 1_000_000 + b'", "shape": [1], "data_offsets": [0, 4]}}'
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(table)) + table + bytes(4))
    with pytest.raises(TalkingheadError, match="is cut or not a model file.*make or copy it again") as error:
        load_model(tmp_path / "model.safetensors")
    assert len(str(error.value)) < 500 + len(str(tmp_path))


def test_error_is_one_short_line() -> None:
    message = str(TalkingheadError("a\n" + "b" * 100_000 + "c"))
    assert message.startswith("a\\nbbb") and message.endswith("bbbc") and len(message) < 2000
