import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from talkinghead import TalkingheadError, load_person, save_person
from talkinghead.cli import main
from talkinghead.engines import formats
from talkinghead.engines.formats import check, export, open_engine
from talkinghead.engines.manifest import read_sidecar, sealed, sidecar
from talkinghead.engines.probe import psnr
from talkinghead.media.video import VideoReader


@pytest.fixture(scope="module")
def folder(people, carphone, tmp_path_factory):
    """A fine-tuned person's file and engines, made by the command line."""
    folder = tmp_path_factory.mktemp("engines")
    save_person(people["fine-tuned"], folder / "person.safetensors")
    person = str(folder / "person.safetensors")
    assert main(["export", person, "--format", "onnx", "--out", str(folder / "it.onnx"), "--quiet", "--json"]) == 0
    assert main(["export", person, "--format", "aoti", "--out", str(folder / "it.pt2"), "--quiet"]) == 0
    assert {each.name for each in folder.iterdir()} == {"person.safetensors", "it.onnx", "it.pt2", "it.pt2.json"}
    assert main(["animate", person, "--drive", str(carphone), "--out", str(folder / "torch.mp4"), "--precision", "fp32", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def portable(people, tmp_path_factory):
    """A feed-forward person compiled in torch's own ops, for landmark images."""
    path = tmp_path_factory.mktemp("portable") / "anybody.pt2"
    made = export(people["feed-forward"], path, "aoti", "fp32", 4, "image", "float", portable=True)
    assert made.decibels > 60 and made.manifest.details["portable"] is True and "psnr" not in made.manifest.details
    json.dumps(dataclasses.replace(made, decibels=float("inf")).as_dict(), allow_nan=False)  # JSON knows no infinity
    return path


@pytest.mark.parametrize("name", ["it.onnx", "it.pt2"])
def test_the_video_is_torchs(folder, carphone, tmp_path, name):
    out = tmp_path / "made.mp4"
    given = ["animate", str(folder / "person.safetensors"), "--drive", str(carphone), "--engine", str(folder / name)]
    assert main([*given, "--out", str(out), "--quiet"]) == 0
    made, wanted = (np.stack(list(VideoReader(each))) for each in (out, folder / "torch.mp4"))
    assert made.shape == wanted.shape and wanted.std() > 20
    assert psnr(made, wanted) > 34  # frames are nearer (test_onnx.py); of one level in some pixels an encoder makes 38 dB


@pytest.mark.parametrize("name", ["it.onnx", "it.pt2"])
def test_check_says_what_is_inside(folder, capsys, name):
    assert main(["export", "--check", str(folder / name), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["preset"], found["size"], found["precision"], found["batch"], found["styles"]) == ("tiny", 64, "fp32", 8, "constant")
    assert found["equal"] or found["psnr"] > 60
    assert main(["export", "--check", str(folder / name)]) == 0
    said = capsys.readouterr().out
    assert "tiny 64x64, fp32" in said and "shows one person" in said and "torch's" in said


def test_another_person_is_refused(folder, people, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    person = load_person(folder / "person.safetensors")
    person.styles = person.styles * 1.01
    save_person(person, other)
    for name in ("it.onnx", "it.pt2"):
        assert main(["export", str(other), "--check", str(folder / name)]) == 2
        assert f"{name}: was made from other weights than this person's" in capsys.readouterr().err
    assert main(["export", str(folder / "nobody.safetensors"), "--check", str(folder / "it.onnx")]) == 2
    assert "nobody.safetensors: no such file" in capsys.readouterr().err


def test_a_check_finds_its_person_or_says_who_is_missing(folder, tmp_path):
    moved = tmp_path / "moved.onnx"
    moved.write_bytes((folder / "it.onnx").read_bytes())
    assert check(moved).decibels > 60
    (tmp_path / "person.safetensors").write_bytes((folder / "person.safetensors").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats.os.path, "isfile", lambda path: str(path).startswith(str(tmp_path)))  # both were moved
        assert check(moved).decibels > 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats.os.path, "isfile", lambda path: str(path).endswith(".onnx"))
        with pytest.raises(TalkingheadError, match="moved.onnx: was made from /.*person.safetensors, which is not here; name the person's"):
            check(moved)


def test_what_cannot_run_here_is_told_all_the_same(folder, tmp_path):
    path = elsewhere(folder, tmp_path, cpu="VSX")
    found = check(path)
    assert found.decibels is None and "was compiled for cpu VSX" in found.why_not
    assert "not run here" in found.lines()[2] and found.as_dict()["psnr"] is None


def test_rows_of_a_package_may_be_different_people(portable, people):
    person = people["feed-forward"]
    engine = open_engine(portable, person)
    points = np.repeat(person.reference[None], 6, 0)
    styles = person.styles.numpy() * np.linspace(1, 0.7, 6, dtype=np.float32)[:, None]
    together = engine.run(points, styles)
    alone = np.concatenate([engine.run(points[:1], row) for row in styles])
    assert np.abs(together.astype(int) - alone).max() <= 1 and np.abs(together[0].astype(int) - together[5]).max() > 20
    assert np.array_equal(engine.run(points[:1]), together[:1])


def test_a_portable_package_needs_torch_alone(portable):
    code = (
        "import sys, torch\nfrom torch._inductor import aoti_load_package\n"
        f"made = aoti_load_package({str(portable)!r})(torch.zeros(2, 3, 64, 64), torch.zeros(2, 3360))\n"
        "assert made.shape == (2, 3, 64, 64) and made.isfinite().all()\n"
        "assert not [name for name in sys.modules if name.startswith('talkinghead')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=portable.parent)
    assert done.returncode == 0, done.stderr


def test_an_edited_package_is_not_run(folder, tmp_path, monkeypatch):
    path = tmp_path / "it.pt2"
    contents = bytearray((folder / "it.pt2").read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)
    sidecar(path).write_bytes(sidecar(folder / "it.pt2").read_bytes())
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda *_: pytest.fail("native code was loaded"))
    with pytest.raises(TalkingheadError, match="it.pt2: it or it.pt2.json was cut or edited"):
        open_engine(path)
    sidecar(path).unlink()
    with pytest.raises(TalkingheadError, match="it.pt2: is no engine of this version of talkinghead, was cut, or lacks its it.pt2.json"):
        open_engine(path)


def elsewhere(folder, tmp_path, **details):
    """The package as another machine would have made it."""
    path = tmp_path / "it.pt2"
    path.write_bytes((folder / "it.pt2").read_bytes())
    sidecar(path).write_bytes(sidecar(folder / "it.pt2").read_bytes())
    manifest = read_sidecar(path)
    made = dataclasses.replace(manifest, talkinghead=details.pop("talkinghead", manifest.talkinghead))
    sidecar(path).write_text(sealed(dataclasses.replace(made, details={**made.details, **details}), path))
    return path


@pytest.mark.parametrize("what, value", [("torch", "2.9.0"), ("device", "cuda"), ("cpu", "VSX"), ("talkinghead", "0.0.1")])
def test_a_package_for_another_machine_is_named(folder, tmp_path, what, value):
    path = elsewhere(folder, tmp_path, **{what: value})
    with pytest.raises(TalkingheadError, match=f"it.pt2: was compiled for {what} {value}, this is .*; export it here"):
        open_engine(path)


def test_a_batch_of_one(people, tmp_path):
    made = export(people["feed-forward"], tmp_path / "one.onnx", "onnx", batch=1, input="image")
    assert made.manifest.batch == 1 and made.decibels > 60


def test_an_engine_that_cannot_be_opened_is_named_by_where_it_was_to_be(people, tmp_path, monkeypatch):
    def refused(path, *others, **named):
        raise TalkingheadError(f"{path}: cannot be run")

    monkeypatch.setattr(formats, "open_engine", refused)
    with pytest.raises(TalkingheadError, match=f"^{re.escape(str(tmp_path / 'it.onnx'))}: cannot be run$"):
        export(people["fine-tuned"], tmp_path / "it.onnx", "onnx", batch=1)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_engine_is_not_kept(people, tmp_path, monkeypatch):
    def wrong(person, path, *given, **named):
        other = load_person(tmp_path / "other.safetensors")
        made = write(other, path, *given, **named)
        monkeypatch.setattr(formats, "belongs", lambda *_: None)  # as a builder that loses a weight would
        return made

    write, person = formats.write_onnx, people["fine-tuned"]
    save_person(person, tmp_path / "other.safetensors")
    other = load_person(tmp_path / "other.safetensors")
    with torch.no_grad():
        other.generator.out.bias += 0.05
    save_person(other, tmp_path / "other.safetensors")
    monkeypatch.setattr(formats, "write_onnx", wrong)
    with pytest.raises(TalkingheadError, match="onnx: its frames are 3.* dB from torch's, at least 50"):
        export(person, tmp_path / "it.onnx", "onnx", input="image")
    assert {each.name for each in tmp_path.iterdir()} == {"other.safetensors"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["person.safetensors", "--format", "onnx"], "PERSON, --format and --out are needed"),
        (["person.safetensors", "--format", "coreml", "--out", "o"], "invalid choice: 'coreml'"),
        (["person.safetensors", "--format", "onnx", "--out", "o", "--precision", "int8"], "invalid choice: 'int8'"),
        (["person.safetensors", "--format", "onnx", "--out", "o", "--batch", "9"], "'9' is not a whole number from 1 to 8"),
        (["person.safetensors", "--format", "onnx", "--out", "o", "--portable"], "--portable belongs to --format aoti, got onnx"),
        (["person.safetensors", "--format", "aoti", "--out", "o.pt2", "--target", "sm_89"], "--target belongs to --format tensorrt"),
        (["person.safetensors", "--format", "onnx", "--out", "o", "--base", "b"], "--base belongs to --format tensorrt"),
        (["person.safetensors", "--format", "tensorrt", "--out", "o", "--base", "b", "--target", "sm_89"], "leave --target out, or --base"),
        (["person.safetensors", "--format", "aoti", "--out", "o.so"], "an aoti engine is a .pt2 file"),
        (["person.safetensors", "--format", "onnx", "--out", "/proc/nowhere/o.onnx"], "cannot write here"),
        (["person.safetensors", "--format", "onnx", "--out", "./person.safetensors"], "is the same file as the input"),
        (["person.safetensors", "--format", "tensorrt", "--out", "it.onnx", "--base", "it.onnx"], "is the same file as the input"),
        (["person.safetensors", "--format", "onnx", "--out", "o", "--device", "cuda:99"], "device 'cuda:99'"),
        (["nobody.safetensors", "--format", "onnx", "--out", "o"], "nobody.safetensors: no such file"),
        (["--check", "nothing.onnx"], "nothing.onnx: no such file; an engine is what"),
        (["--check", "person.safetensors"], "is no engine of this version of talkinghead, was cut, or lacks"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    assert main(["export", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("talkinghead: error: ") and said.count("\n") == 1 and message in said
    assert sorted(folder.iterdir()) == before


def test_an_engine_has_its_own_precision(folder, capsys, carphone):
    given = ["animate", str(folder / "person.safetensors"), "--drive", str(carphone), "--out", "o.mp4", "--engine", str(folder / "it.onnx")]
    assert main([*given, "--precision", "bf16"]) == 2
    assert "--precision is the engine's own" in capsys.readouterr().err


def test_a_runtime_that_fails_is_one_line(folder, monkeypatch):
    engine = open_engine(folder / "it.onnx")

    def failing(given):
        raise RuntimeError("out of luck\nat line 7")

    monkeypatch.setattr(engine, "_call", failing)
    with pytest.raises(TalkingheadError, match=r"onnx: running failed \(out of luck\); export it again, or render with torch"):
        engine.run(np.zeros((1, 68, 2), np.float32))
