import dataclasses
import json

import pytest

from talkinghead import TalkingheadError
from talkinghead.engines.manifest import (
    VERSION,
    Manifest,
    embed_checksum,
    manifest_with_checksum,
    read_embedded,
    read_sidecar,
    sidecar,
)

MANIFEST = Manifest(
    format="onnx",
    preset="tiny",
    size=64,
    precision="fp32",
    batch=8,
    input="points",
    output="uint8",
    styles="constant",
    style_length=10,
    person='Zoë "the {first}".safetensors',
    weights="ab" * 32,
    reference=[[0.25, 0.5]] * 68,
    talkinghead="0.1.0",
    details={"opset": 20},
)


@pytest.fixture
def embedded(tmp_path):
    path = tmp_path / "engine.onnx"
    path.write_bytes(b"\x00weights{\xff" + MANIFEST.to_json().encode() + b"\x07 behind")
    embed_checksum(path)
    return path


@pytest.fixture
def with_sidecar(tmp_path):
    path = tmp_path / "engine.pt2"
    path.write_bytes(bytes(range(256)))
    sidecar(path).write_text(manifest_with_checksum(MANIFEST, path))
    return path


def test_manifest_round_trip_is_exact(embedded, with_sidecar):
    assert read_embedded(embedded) == MANIFEST
    assert read_sidecar(with_sidecar) == MANIFEST
    assert "iBUG" in json.loads(sidecar(with_sidecar).read_text())["landmarks"]


@pytest.mark.parametrize("position", [0, 9, 60, 300, -1])
def test_embedded_manifest_rejects_edited_file(embedded, position):
    contents = bytearray(embedded.read_bytes())
    contents[position] ^= 1
    embedded.write_bytes(contents)
    with pytest.raises(
        TalkingheadError,
        match="engine.onnx: (does not match its own|is no engine of this version|is 0 bytes)",
    ):
        read_embedded(embedded)


def test_embedded_manifest_rejects_cut_file(embedded):
    contents = embedded.read_bytes()
    for length in (0, 5, 100, len(contents) - 1):
        embedded.write_bytes(contents[:length])
        with pytest.raises(
            TalkingheadError,
            match="engine.onnx: (does not match its own|is no engine of this version|is 0 bytes)",
        ):
            read_embedded(embedded)


def test_sidecar_rejects_edits_and_other_files(with_sidecar):
    with_sidecar.write_bytes(b"another")
    with pytest.raises(TalkingheadError, match="engine.pt2: it or engine.pt2.json was cut or edited"):
        read_sidecar(with_sidecar)
    with_sidecar.write_bytes(bytes(range(256)))
    text = sidecar(with_sidecar).read_text()
    for old, new in (
        ('"batch": 8', '"batch": 9'),
        ('"constant"', '"input"'),
        ('"fp32"', '"bf16"'),
        ('"opset": 20', '"opset": 21'),
        ("{", "{ "),
    ):
        sidecar(with_sidecar).write_text(text.replace(old, new))
        with pytest.raises(TalkingheadError, match="engine.pt2: it or engine.pt2.json was cut or edited"):
            read_sidecar(with_sidecar)
    sidecar(with_sidecar).unlink()
    with pytest.raises(TalkingheadError, match="engine.pt2.json is missing"):
        read_sidecar(with_sidecar)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": VERSION + 1}, "is an engine of version 2, this talkinghead reads 1"),
        ({"precision": "int4"}, "lacks precision"),
        ({"batch": "8"}, "lacks batch"),
        ({"batch": 0}, "lacks batch"),
        ({"size": -64}, "lacks size"),
        ({"styles": None}, "lacks styles"),
        ({"sha256": None, "version": None}, "version None"),
    ],
)
def test_from_json_rejects_invalid_fields(change, message):
    text = json.dumps({**json.loads(MANIFEST.to_json()), **change})
    with pytest.raises(TalkingheadError, match=f"m.json: .*{message}"):
        Manifest.from_json(text, "m.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"version": 1}', "[" * 100_000])
def test_from_json_rejects_other_json(text):
    with pytest.raises(TalkingheadError, match="m.json: its manifest cannot be read"):
        Manifest.from_json(text, "m.json")


def test_from_json_rejects_missing_field():
    values = json.loads(MANIFEST.to_json())
    for field in dataclasses.fields(Manifest):
        with pytest.raises(TalkingheadError, match=f"lacks {field.name},"):
            Manifest.from_json(
                json.dumps({name: value for name, value in values.items() if name != field.name}), "m.json"
            )


@pytest.mark.parametrize("entry", [b"\n\x08location\x12\x06in.bin", b"\x12\x06in.bin\n\x08location"])
def test_embedded_manifest_rejects_external_weights(tmp_path, entry):
    """Check that external weights, which the checksum does not cover, are refused."""
    path = tmp_path / "it.onnx"
    path.write_bytes(b"\x00weights" + entry + MANIFEST.to_json().encode())
    embed_checksum(path)
    with pytest.raises(TalkingheadError, match="it.onnx: keeps weights in another file"):
        read_embedded(path)
