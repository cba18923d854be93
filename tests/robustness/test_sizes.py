"""What a header or a file's size claims is compared with what the file has before any memory is taken for it."""

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
from damaged_own import make_data
from talkinghead.checkpoint import Model, Person, load_model, load_person, random_model, save_model, save_person
from talkinghead.cli import read_people
from talkinghead.corpus.prepare import prepare
from talkinghead.corpus.shard_writer import ShardWriter
from talkinghead.data.shards import MAX_SIDE, read_index
from talkinghead.engines.formats import read_manifest
from talkinghead.errors import TalkingheadError
from talkinghead.evaluation.evaluate import _KEYS, _read
from talkinghead.media.pictures import decode_jpeg, read_picture
from talkinghead.networks import References, build_generator

GIGABYTE = 1 << 30


@contextmanager
def refused(match: str, most: int = 8 << 20) -> Iterator[None]:
    """The block ends with an error in one line, and Python held no more than `most` bytes meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(TalkingheadError, match=match):
            yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.fixture
def no_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that are given memory, which is done once a file is known to fit, fail the test."""

    def allocate(network: nn.Module, **_: object) -> nn.Module:
        raise AssertionError("memory was taken for networks that the file does not hold")

    monkeypatch.setattr(nn.Module, "to_empty", allocate)


def huge() -> Model:
    """A model of few weights that says it has gigabytes of them."""
    model = random_model("tiny")
    channels = (4096,) * 8
    networks = dataclasses.replace(model.config.networks, encoder=channels, down=channels, up=channels, image_size=512)
    return dataclasses.replace(model, config=dataclasses.replace(model.config, networks=networks))


# checkpoints


def test_load_model_rejects_configuration_larger_than_file(no_allocation: None, tmp_path: Path) -> None:
    save_model(huge(), tmp_path / "model.safetensors")
    with refused("does not fit its configuration", 64 << 20):
        load_model(tmp_path / "model.safetensors")


def test_load_person_rejects_configuration_larger_than_file(no_allocation: None, tmp_path: Path) -> None:
    model = huge()
    person = Person(model.config, model.generator, torch.rand(1, 8), np.zeros((68, 2), np.float32), "0" * 64, feed_forward=False)
    save_person(person, tmp_path / "person.safetensors")
    with refused("does not fit its configuration", 64 << 20):
        load_person(tmp_path / "person.safetensors")


@pytest.mark.parametrize("load", [load_model, load_person])
def test_load_rejects_file_of_gigabytes(load: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    save_model(random_model(dataclasses.replace(random_model("tiny").config, networks=SMALL_NETWORKS)), path)
    os.truncate(path, 2 * GIGABYTE)  # a hole, on no disk
    with refused("more than 1024 MB"):
        load(path)


def test_load_person_rejects_picture_of_other_size_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = guided()
    pictures = np.zeros((2, 64, 64, 3), np.uint8)
    references = dataclasses.replace(References.stored(pictures, face_points((0, 0), (0, 0))), jpegs=(jpeg(64), jpeg(64, claims=30_000)))
    styles, generator = torch.rand(1, model.generator.style_length), build_generator(model.config.networks, projection=False)
    person = Person(model.config, generator, styles, np.zeros((68, 2), np.float32), "0" * 64, feed_forward=False, references=references)
    save_person(person, tmp_path / "person.safetensors")
    with refused("the pictures that it shows are missing or damaged.*it is 30000x30000, expected 64x64"):
        load_person(tmp_path / "person.safetensors")


def jpeg(side: int, claims: int | None = None) -> bytes:
    """A JPEG of a side, whose header may claim another."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "JPEG")
    data = buffer.getvalue()
    at = data.index(b"\xff\xc0") + 5
    return data if claims is None else data[:at] + struct.pack(">HH", claims, claims) + data[at + 4 :]


def test_decode_jpeg_reads_no_other_format() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with pytest.raises(Exception, match="not a JPEG file"):
        decode_jpeg(buffer.getvalue())


# data sets


def shard(folder: Path, *members: tuple[str, bytes, int], kind: bytes = tarfile.REGTYPE) -> Path:
    """A folder with a shard of members, the last of a kind: name, content, and how many zeros, on no disk, follow that."""
    folder.mkdir(exist_ok=True)
    with open(folder / "shard-000000.tar", "wb") as file:
        for number, (name, content, zeros) in enumerate(members, 1):
            header = tarfile.TarInfo(name)
            header.size, header.type = len(content) + zeros, kind if number == len(members) else tarfile.REGTYPE
            file.write(header.tobuf(tarfile.GNU_FORMAT) + content)
            file.seek(zeros + -header.size % 512, os.SEEK_CUR)
        file.write(bytes(1024))
    return folder


@pytest.mark.parametrize(
    "members, kind, match",
    [
        ([("c.0000.jpg", b"x", 0), ("c.landmarks.npy", b"\x93NUMPY", GIGABYTE)], tarfile.REGTYPE, "a member claims 1073741830 bytes"),
        ([("c.json", b"{}", GIGABYTE)], tarfile.REGTYPE, "a member claims 1073741826 bytes"),
        ([("c.0000.jpg", b"x", GIGABYTE)], tarfile.REGTYPE, "c.0000.jpg claims 1073741825 bytes"),
        ([("pax", b"20 path=c.json\n", GIGABYTE)], tarfile.XHDTYPE, "a header claims 1073742336 bytes"),
        ([("pax", b"20 path=c.json\n", GIGABYTE)], tarfile.XGLTYPE, "a header claims 1073742336 bytes"),
        ([("././@LongLink", b"c.json", GIGABYTE)], tarfile.GNUTYPE_LONGNAME, "a header claims 1073742336 bytes"),
    ],
)
def test_read_index_rejects_member_larger_than_its_kind(
    members: list[tuple[str, bytes, int]], kind: bytes, match: str, tmp_path: Path
) -> None:
    with refused(f"cannot be read as a shard .{match}"):
        read_index(shard(tmp_path, *members, kind=kind))


def test_read_index_reads_repacked_shard(tmp_path: Path) -> None:
    """As Python's tarfile writes it, with times and owners in extended headers."""
    whole = make_data(tmp_path / "made", random.Random(1))["whole"]
    repacked = tarfile.open(tmp_path / "shard-000000.tar", "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
    with tarfile.open(whole / "shard-000000.tar") as source, repacked as to:
        for member in source:
            member.pax_headers = {"mtime": "1.5", "comment": "x" * 5000}
            to.addfile(member, source.extractfile(member))
    assert len(read_index(tmp_path)) == len(read_index(whole)) == 1


@pytest.mark.parametrize("size", [0, -1, MAX_SIDE + 1])
def test_prepare_rejects_size_of_no_crop(size: int, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(TalkingheadError, match=f"a size of {size} is none of crops"):
        prepare([tmp_path / "a.mp4"], tmp_path / "data", size, detector="dlib")
    assert not (tmp_path / "data").exists()


def test_shard_writer_passes_over_foreign_names(tmp_path: Path) -> None:
    for name in ("shard-x.tar", "shard-000004.tar", "shard-0001 (copy).tar"):
        (tmp_path / name).touch()
    assert ShardWriter(tmp_path).shard == "shard-000005.tar"


# tables and results


def test_read_people_rejects_table_of_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "people.tsv"
    path.write_text("file\tperson\na.mp4\tanna\n")
    assert read_people(str(path)) == {"a.mp4": "anna"}
    os.truncate(path, GIGABYTE)
    with refused("cannot be read as a table.*at most 64 MB"):
        read_people(str(path))


def test_evaluated_clip_is_compared_with_its_checksums(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    torch.save({name: torch.arange(100.0) for name in _KEYS}, path)
    assert set(_read(path)) == _KEYS
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 50.0)) + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(TalkingheadError, match="cannot be read again"):
        _read(path)
    path.write_bytes(b"\x80\xc1" + bytes(content))  # with a beginning that torch warns of
    with pytest.raises(TalkingheadError, match="cannot be read again"):
        _read(path)
    torch.save({"name": 1}, path)
    with pytest.raises(TalkingheadError, match="cannot be read again"):
        _read(path)


# pictures and engines


@pytest.mark.parametrize("ending", [".webp", ".png"])
def test_read_picture_rejects_file_of_gigabytes(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"large{ending}"
    Image.new("RGB", (8, 8)).save(path)
    os.truncate(path, GIGABYTE)
    with refused("is too large, expected a picture of at most 512 MB"):
        read_picture(path)


def test_read_manifest_rejects_engine_of_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    path.write_bytes(b"onnx")
    os.truncate(path, GIGABYTE)
    with refused("1 to 536,870,912 were expected"):
        read_manifest(path)


def test_load_model_shortens_what_file_says(tmp_path: Path) -> None:
    table = b'{"a": {"dtype": "' + b"x" * 1_000_000 + b'", "shape": [1], "data_offsets": [0, 4]}}'
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(table)) + table + bytes(4))
    with pytest.raises(TalkingheadError, match="is cut or not a model file.*make or copy it again") as error:
        load_model(tmp_path / "model.safetensors")
    assert len(str(error.value)) < 500 + len(str(tmp_path))


def test_error_is_one_short_line() -> None:
    message = str(TalkingheadError("a\n" + "b" * 100_000 + "c"))
    assert message.startswith("a\\nbbb") and message.endswith("bbbc") and len(message) < 2000
