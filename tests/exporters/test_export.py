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
from talkinghead.engines import load, report
from talkinghead.engines.load import open_engine
from talkinghead.engines.manifest import manifest_with_checksum, read_sidecar, sidecar
from talkinghead.engines.report import verify_engine
from talkinghead.engines.verify import pooled_psnr_db
from talkinghead.exporters import export as export_module
from talkinghead.exporters.export import export_person
from talkinghead.media.video import VideoReader

pytestmark = pytest.mark.slow  # compiled and ONNX engines are written first, in two minutes


@pytest.fixture(scope="module")
def folder(people, carphone, tmp_path_factory):
    """Write a fine-tuned person's file and engines by the command line."""
    folder = tmp_path_factory.mktemp("engines")
    save_person(people["fine-tuned"], folder / "person.safetensors")
    person = str(folder / "person.safetensors")
    assert (
        main(["export", person, "--format", "onnx", "--out", str(folder / "it.onnx"), "--quiet", "--json"])
        == 0
    )
    assert main(["export", person, "--format", "aoti", "--out", str(folder / "it.pt2"), "--quiet"]) == 0
    assert {path.name for path in folder.iterdir()} == {
        "person.safetensors",
        "it.onnx",
        "it.pt2",
        "it.pt2.json",
    }
    assert (
        main(
            [
                "animate",
                person,
                "--drive",
                str(carphone),
                "--out",
                str(folder / "torch.mp4"),
                "--precision",
                "fp32",
                "--quiet",
            ]
        )
        == 0
    )
    return folder


@pytest.fixture(scope="module")
def portable(people, tmp_path_factory):
    """Export a feed-forward person compiled in torch's own ops, for landmark images."""
    path = tmp_path_factory.mktemp("portable") / "anybody.pt2"
    report = export_person(people["feed-forward"], path, "aoti", "fp32", 4, "image", "float", portable=True)
    assert (
        report.psnr_db > 60
        and report.manifest.details["portable"] is True
        and "psnr" not in report.manifest.details
    )
    json.dumps(
        dataclasses.replace(report, psnr_db=float("inf")).as_dict(), allow_nan=False
    )  # JSON knows no infinity
    return path


@pytest.mark.parametrize("name", ["it.onnx", "it.pt2"])
def test_video_of_engine_matches_torch(folder, carphone, tmp_path, name):
    out = tmp_path / "made.mp4"
    command = [
        "animate",
        str(folder / "person.safetensors"),
        "--drive",
        str(carphone),
        "--engine",
        str(folder / name),
    ]
    assert main([*command, "--out", str(out), "--quiet"]) == 0
    video, expected = (np.stack(list(VideoReader(path))) for path in (out, folder / "torch.mp4"))
    assert video.shape == expected.shape and expected.std() > 20
    assert (
        pooled_psnr_db(video, expected) > 34
    )  # frames are nearer (test_onnx.py); of one level in some pixels an encoder makes 38 dB


@pytest.mark.parametrize("name", ["it.onnx", "it.pt2"])
def test_verify_reports_engine_content(folder, capsys, name):
    assert main(["verify", str(folder / name), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["preset"], values["size"], values["precision"], values["batch"], values["styles"]) == (
        "tiny",
        64,
        "fp32",
        8,
        "constant",
    )
    assert values["equal"] or values["psnr"] > 60
    assert main(["verify", str(folder / name)]) == 0
    printed = capsys.readouterr().out
    assert "tiny 64x64, fp32" in printed and "shows one person" in printed and "torch's" in printed


def test_verify_rejects_other_person(folder, people, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    person = load_person(folder / "person.safetensors")
    person.styles = person.styles * 1.01
    save_person(person, other)
    for name in ("it.onnx", "it.pt2"):
        assert main(["verify", str(folder / name), str(other)]) == 2
        assert f"{name}: was made from other weights than this person's" in capsys.readouterr().err
    assert main(["verify", str(folder / "it.onnx"), str(folder / "nobody.safetensors")]) == 2
    assert "nobody.safetensors: no such file" in capsys.readouterr().err


def test_verify_finds_person_or_names_missing(folder, tmp_path):
    moved = tmp_path / "moved.onnx"
    moved.write_bytes((folder / "it.onnx").read_bytes())
    assert verify_engine(moved).psnr_db > 60
    (tmp_path / "person.safetensors").write_bytes((folder / "person.safetensors").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            report.os.path, "isfile", lambda path: str(path).startswith(str(tmp_path))
        )  # both were moved
        assert verify_engine(moved).psnr_db > 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report.os.path, "isfile", lambda path: str(path).endswith(".onnx"))
        with pytest.raises(
            TalkingheadError,
            match="moved.onnx: its person /.*person.safetensors is not there; name the person's file: "
            "talkinghead verify /.*moved.onnx PERSON.safetensors",
        ):
            verify_engine(moved)


def test_engine_of_person_names_file_of_last_load_or_save(people, tmp_path):
    """Check that an engine exported in Python is verified without naming the person."""
    path, copy = tmp_path / "anna.safetensors", tmp_path / "copy.safetensors"
    person = dataclasses.replace(people["fine-tuned"])
    assert person.file is None
    person.save(path)
    assert person.file == path and dataclasses.replace(person).file is None
    person = load_person(path)
    person.export(tmp_path / "anna.onnx", "onnx")
    assert verify_engine(tmp_path / "anna.onnx").manifest.person == str(path)
    person.save(copy)
    assert person.file == copy and copy.read_bytes() == path.read_bytes()


def test_engine_of_unsaved_person_says_how_to_verify(people, tmp_path):
    path = tmp_path / "anna.onnx"
    person = dataclasses.replace(people["fine-tuned"])
    report = person.export(path, "onnx")
    assert "takes landmarks (points), gives uint8" in report.lines()[1]
    with pytest.raises(
        TalkingheadError,
        match=f"anna.onnx: names no file of its person; name the person's file: talkinghead verify {path} ",
    ):
        verify_engine(path)
    assert verify_engine(path, person).psnr_db > 60


def test_verify_reports_engine_that_cannot_run(folder, tmp_path):
    path = write_foreign_package(folder, tmp_path, cpu="VSX")
    report = verify_engine(path)
    assert report.psnr_db is None and "was compiled for cpu VSX" in report.reason_not_run
    assert "not run here" in report.lines()[2] and report.as_dict()["psnr"] is None


def test_package_rows_accept_different_styles(portable, people):
    person = people["feed-forward"]
    engine = open_engine(portable, person)
    points = np.repeat(person.neutral_landmarks[None], 6, 0)
    styles = person.styles.numpy() * np.linspace(1, 0.7, 6, dtype=np.float32)[:, None]
    together = engine.run(points, styles)
    alone = np.concatenate([engine.run(points[:1], row) for row in styles])
    assert (
        np.abs(together.astype(int) - alone).max() <= 1
        and np.abs(together[0].astype(int) - together[5]).max() > 20
    )
    # one row is not always rounded as several are
    assert np.abs(engine.run(points[:1]).astype(int) - together[:1]).max() <= 1


def test_portable_package_needs_only_torch(portable):
    code = (
        "import sys, torch\nfrom torch._inductor import aoti_load_package\n"
        f"made = aoti_load_package({str(portable)!r})(torch.zeros(2, 3, 64, 64), torch.zeros(2, 3360))\n"
        "assert made.shape == (2, 3, 64, 64) and made.isfinite().all()\n"
        "assert not [name for name in sys.modules if name.startswith('talkinghead')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=portable.parent)
    assert done.returncode == 0, done.stderr


def test_edited_package_is_never_loaded(folder, tmp_path, monkeypatch):
    path = tmp_path / "it.pt2"
    contents = bytearray((folder / "it.pt2").read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)
    sidecar(path).write_bytes(sidecar(folder / "it.pt2").read_bytes())
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda *_: pytest.fail("native code was loaded"))
    with pytest.raises(TalkingheadError, match="it.pt2: it or it.pt2.json was cut or edited"):
        open_engine(path)
    sidecar(path).unlink()
    with pytest.raises(
        TalkingheadError,
        match="it.pt2: is no engine of this version of talkinghead, was cut, or lacks its it.pt2.json",
    ):
        open_engine(path)


def write_foreign_package(folder, tmp_path, **details):
    """Write the package as another machine would have made it."""
    path = tmp_path / "it.pt2"
    path.write_bytes((folder / "it.pt2").read_bytes())
    sidecar(path).write_bytes(sidecar(folder / "it.pt2").read_bytes())
    manifest = read_sidecar(path)
    sidecar(path).write_text(
        manifest_with_checksum(dataclasses.replace(manifest, details={**manifest.details, **details}), path)
    )
    return path


@pytest.mark.parametrize(
    "what, value", [("torch", "2.9.0"), ("device", "cuda"), ("cpu", "VSX"), ("ops_schema", 2)]
)
def test_package_of_other_environment_is_refused(folder, tmp_path, what, value):
    path = write_foreign_package(folder, tmp_path, **{what: value})
    with pytest.raises(
        TalkingheadError, match=f"it.pt2: was compiled for {what} {value}, this is .*; export it here"
    ):
        open_engine(path)


def test_export_of_batch_one_matches_torch(people, tmp_path):
    report = export_person(people["feed-forward"], tmp_path / "one.onnx", "onnx", batch=1, input="image")
    assert report.manifest.batch == 1 and report.psnr_db > 60


def test_failed_verification_names_final_path(people, tmp_path, monkeypatch):
    def refuse_file(path, *args, **named):
        raise TalkingheadError(f"{path}: cannot be run")

    monkeypatch.setattr(export_module, "open_engine", refuse_file)
    with pytest.raises(TalkingheadError, match=f"^{re.escape(str(tmp_path / 'it.onnx'))}: cannot be run$"):
        export_person(people["fine-tuned"], tmp_path / "it.onnx", "onnx", batch=1)
    assert list(tmp_path.iterdir()) == []


def test_export_keeps_no_wrong_engine(people, tmp_path, monkeypatch):
    def wrong(person, path, **settings):
        other = load_person(tmp_path / "other.safetensors")
        manifest = write(other, path, **settings)
        monkeypatch.setattr(
            load, "check_same_weights", lambda *_: None
        )  # as a builder that loses a weight would
        return manifest

    write, person = export_module.write_onnx, people["fine-tuned"]
    save_person(person, tmp_path / "other.safetensors")
    other = load_person(tmp_path / "other.safetensors")
    with torch.no_grad():
        other.generator.out.bias += 0.05
    save_person(other, tmp_path / "other.safetensors")
    monkeypatch.setattr(export_module, "write_onnx", wrong)
    with pytest.raises(
        TalkingheadError, match="onnx: its frames are 3.* dB from torch's, expected at least 50"
    ):
        export_person(person, tmp_path / "it.onnx", "onnx", input="image")
    assert {path.name for path in tmp_path.iterdir()} == {"other.safetensors"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["person.safetensors", "--format", "onnx"], "the following arguments are required: -o/--out"),
        (["person.safetensors", "--format", "coreml", "--out", "o"], "'coreml' is none of onnx"),
        (
            ["person.safetensors", "--format", "onnx", "--out", "o", "--precision", "int8"],
            "'int8' is none of fp32",
        ),
        (
            ["person.safetensors", "--format", "onnx", "--out", "o", "--batch", "9"],
            "'9' is not a whole number from 1 to 8",
        ),
        (
            ["person.safetensors", "--format", "onnx", "--out", "o", "--portable"],
            "--portable belongs to --format aoti, not to onnx; leave it out",
        ),
        (
            ["person.safetensors", "--format", "aoti", "--out", "o.pt2", "--target", "sm_89"],
            "--target belongs to --format tensorrt",
        ),
        (
            ["person.safetensors", "--format", "onnx", "--out", "o", "--refit-from", "b"],
            "--refit-from belongs to --format tensorrt",
        ),
        (
            [
                "person.safetensors",
                "--format",
                "tensorrt",
                "--out",
                "o",
                "--refit-from",
                "b",
                "--target",
                "sm_89",
            ],
            "leave --target out, or --refit-from",
        ),
        (["person.safetensors", "--format", "aoti", "--out", "o.so"], "an aoti engine is a .pt2 file"),
        (["person.safetensors", "--format", "onnx", "--out", "/proc/nowhere/o.onnx"], "cannot write here"),
        (
            ["person.safetensors", "--format", "onnx", "--out", "./person.safetensors"],
            "is the same file as the input",
        ),
        (
            ["person.safetensors", "--format", "tensorrt", "--out", "it.onnx", "--refit-from", "it.onnx"],
            "is the same file as the input",
        ),
        (["person.safetensors", "--format", "onnx", "--out", "o", "--device", "cuda:99"], "device 'cuda:99'"),
        (["nobody.safetensors", "--format", "onnx", "--out", "o"], "nobody.safetensors: no such file"),
        (["verify", "nothing.onnx"], "nothing.onnx: no such file; an engine is what"),
        (["verify", "person.safetensors"], "is no engine of this version of talkinghead, was cut, or lacks"),
    ],
)
def test_export_reports_user_error(folder, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    assert main(arguments if arguments[0] == "verify" else ["export", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("talkinghead: error: ") and printed.count("\n") == 1 and message in printed
    assert sorted(folder.iterdir()) == before


def test_animate_rejects_precision_with_engine(folder, capsys, carphone):
    command = [
        "animate",
        str(folder / "person.safetensors"),
        "--drive",
        str(carphone),
        "--out",
        "o.mp4",
        "--engine",
        str(folder / "it.onnx"),
    ]
    assert main([*command, "--precision", "bf16"]) == 2
    assert "--precision is fixed by the engine" in capsys.readouterr().err


def test_failing_runtime_reports_user_error(folder, monkeypatch):
    engine = open_engine(folder / "it.onnx")

    def failing(inputs):
        raise RuntimeError("out of luck\nat line 7")

    monkeypatch.setattr(engine, "_call", failing)
    with pytest.raises(
        TalkingheadError, match=r"onnx: running failed \(out of luck\); export it again, or render with torch"
    ):
        engine.run(np.zeros((1, 68, 2), np.float32))
