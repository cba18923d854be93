import dataclasses
import json

import pytest

from talkinghead import TalkingheadError
from talkinghead.engines.manifest import VERSION, Manifest, check_seal_inside, read_sidecar, seal_inside, sealed, sidecar

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
def whole(tmp_path):
    path = tmp_path / "engine.onnx"
    path.write_bytes(b"\x00weights{\xff" + MANIFEST.to_json().encode() + b"\x07 behind")
    seal_inside(path)
    return path


@pytest.fixture
def beside(tmp_path):
    path = tmp_path / "engine.pt2"
    path.write_bytes(bytes(range(256)))
    sidecar(path).write_text(sealed(MANIFEST, path))
    return path


def test_what_is_written_is_read(whole, beside):
    assert check_seal_inside(whole) == MANIFEST
    assert read_sidecar(beside) == MANIFEST
    assert "iBUG" in json.loads(sidecar(beside).read_text())["landmarks"]


@pytest.mark.parametrize("at", [0, 9, 60, 300, -1])
def test_a_sealed_file_that_was_edited_is_refused(whole, at):
    contents = bytearray(whole.read_bytes())
    contents[at] ^= 1
    whole.write_bytes(contents)
    with pytest.raises(TalkingheadError, match="engine.onnx: (does not match its own|is no engine of this version|is 0 bytes)"):
        check_seal_inside(whole)


def test_a_sealed_file_that_was_cut_is_refused(whole):
    contents = whole.read_bytes()
    for length in (0, 5, 100, len(contents) - 1):
        whole.write_bytes(contents[:length])
        with pytest.raises(TalkingheadError, match="engine.onnx: (does not match its own|is no engine of this version|is 0 bytes)"):
            check_seal_inside(whole)


def test_a_sidecar_belongs_to_one_file(beside):
    beside.write_bytes(b"another")
    with pytest.raises(TalkingheadError, match="engine.pt2: it or engine.pt2.json was cut or edited"):
        read_sidecar(beside)
    beside.write_bytes(bytes(range(256)))
    text = sidecar(beside).read_text()
    for old, new in (
        ('"batch": 8', '"batch": 9'),
        ('"constant"', '"input"'),
        ('"fp32"', '"bf16"'),
        ('"opset": 20', '"opset": 21'),
        ("{", "{ "),
    ):
        sidecar(beside).write_text(text.replace(old, new))
        with pytest.raises(TalkingheadError, match="engine.pt2: it or engine.pt2.json was cut or edited"):
            read_sidecar(beside)
    sidecar(beside).unlink()
    with pytest.raises(TalkingheadError, match="engine.pt2.json is missing beside it"):
        read_sidecar(beside)


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
def test_a_manifest_with_odd_fields_is_refused(change, message):
    text = json.dumps({**json.loads(MANIFEST.to_json()), **change})
    with pytest.raises(TalkingheadError, match=f"m.json: .*{message}"):
        Manifest.from_json(text, "m.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"version": 1}', "[" * 100_000])
def test_what_is_no_manifest_is_refused(text):
    with pytest.raises(TalkingheadError, match="m.json: what it says of itself cannot be read"):
        Manifest.from_json(text, "m.json")


def test_every_field_is_needed():
    whole = json.loads(MANIFEST.to_json())
    for each in dataclasses.fields(Manifest):
        with pytest.raises(TalkingheadError, match=f"lacks {each.name},"):
            Manifest.from_json(json.dumps({name: value for name, value in whole.items() if name != each.name}), "m.json")


@pytest.mark.parametrize("entry", [b"\n\x08location\x12\x06in.bin", b"\x12\x06in.bin\n\x08location"])
def test_weights_kept_in_another_file_are_refused(tmp_path, entry):
    """The checksum of the engine does not cover them: whoever changes them changes what it shows."""
    path = tmp_path / "it.onnx"
    path.write_bytes(b"\x00weights" + entry + MANIFEST.to_json().encode())
    seal_inside(path)
    with pytest.raises(TalkingheadError, match="it.onnx: keeps weights in another file"):
        check_seal_inside(path)
