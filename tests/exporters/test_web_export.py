"""Export of a person as a page: its files, its graphs, and what is refused."""

import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from support.node import HAS_RUNTIME, NO_RUNTIME
from support.page_frames import page_frames
from support.webgpu_graph import check_webgpu_graph
from talkinghead import cli
from talkinghead.checkpoint import save_person
from talkinghead.engines.verify import pooled_psnr_db, verification_poses
from talkinghead.errors import TalkingheadError
from talkinghead.exporters import web
from talkinghead.exporters.landmark_network import DetectionCells
from talkinghead.exporters.web import WebPageReport, export_web_page
from talkinghead.exporters.web_constants import MODULES, constants_module
from talkinghead.landmarks.detection_network import SHIPPED, SIZE, load_detection_network
from talkinghead.landmarks.network_blocks import prepare_for_inference
from talkinghead.model import Person
from talkinghead.system.onnx_runtime import run_by_onnxruntime

needs_runtime = pytest.mark.skipif(not HAS_RUNTIME, reason=NO_RUNTIME)
DOCS = Path(__file__).resolve().parents[2] / "docs" / "web_export.md"
NETWORKS = ("detection.onnx", "landmarks.onnx", "person.onnx")


@pytest.mark.parametrize("name", NETWORKS)
def test_graph_has_only_operators_of_webgpu(name: str, web_page: Path) -> None:
    check_webgpu_graph(web_page / name)


def test_person_has_no_path_and_no_other_input_than_landmark_image(web_page: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    model = onnx.load(web_page / "person.onnx")
    assert [value.name for value in model.graph.input] == ["image"]
    manifest = json.loads(next(entry.value for entry in model.metadata_props))
    assert manifest["person"] == "Anna" and manifest["styles"] == "constant"
    assert json.loads((web_page / "person.json").read_text())["name"] == "Anna"


def test_norms_of_the_page_are_instance_norms(web_page: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    kinds = Counter(node.op_type for node in onnx.load(web_page / "person.onnx").graph.node)
    assert kinds["InstanceNormalization"] > 10 and not kinds["LayerNormalization"]


def test_detection_network_computes_what_torch_does(web_page: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pictures = torch.rand(3, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = DetectionCells(prepare_for_inference(load_detection_network(SHIPPED)))(pictures).numpy()
    cells = run_by_onnxruntime(web_page / "detection.onnx", "cpu", "fp32")({"pictures": pictures.numpy()})
    assert cells.shape == (3, 400, 6)
    np.testing.assert_allclose(cells, expected, atol=2e-3)


def test_page_names_only_files_that_are_there(web_page: Path) -> None:
    texts = {
        path: path.read_text() for path in web_page.rglob("*") if path.suffix in (".html", ".js", ".css")
    }
    for path, text in texts.items():
        if "onnxruntime" in path.parts:
            continue
        names = re.findall(r'(?:src|href|from|register\()\s*=?\s*"([\w./]+)"', text)
        for name in names:
            base = web_page if name.startswith("service") else path.parent
            assert (base / name).is_file(), f"{path.name} names {name}"
        assert not re.search(r'(?:src|href)="/|https?://(?!127.0.0.1)', text), (
            f"{path.name} is tied to a host"
        )


def test_every_constant_that_a_module_reads_is_written(web_page: Path) -> None:
    constants = dict(re.findall(r"export const (\w+) = (\{.*\});", constants_module()))
    assert len(constants) == len(MODULES)
    count = 0
    for path in (web_page / "js").glob("*.js"):
        text = path.read_text()
        names = re.search(r"const \{([^}]*)\} = constants;", text)
        if names:
            (module,) = re.findall(r"(\w+) as constants\b", text)
            values = json.loads(constants[module])
            for name in filter(None, re.split(r"[,\s]+", names[1])):
                assert name in values, f"{path.name}: {name}"
                count += 1
    assert count > 50


def test_report_of_equal_frames_is_json() -> None:
    report = WebPageReport(
        Path("page"), "Anna", num_bytes=10, size=64, psnr_db=math.inf, quantised_psnr_db=41.26, seconds=1.0
    )
    assert report.as_dict()["psnr"] is None and report.as_dict()["equal"]
    assert report.lines()[0].endswith("the same frames as torch's; in 8 bits 41.3 dB")
    assert report.as_dict()["quantised_psnr_db"] == 41.26
    assert replace(report, quantised_psnr_db=math.inf).as_dict()["quantised_psnr_db"] is None


def test_network_in_8_bits_is_small_and_near(web_page: Path, web_page_person: Person) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    paths = [web_page / name for name in ("person.onnx", web.QUANTISED)]
    assert json.loads((web_page / "person.json").read_text())["network"] == {
        "webgpu": "person.onnx",
        "wasm": web.QUANTISED,
    }
    assert paths[1].stat().st_size < paths[0].stat().st_size / 3
    poses = verification_poses(web_page_person.neutral_landmarks)
    exact, near = (page_frames(path, web_page_person, poses) for path in paths)
    assert 35 < pooled_psnr_db(near, exact) < 80


def test_network_in_8_bits_far_from_float32_is_not_kept(
    web_page: Path,
    web_page_person: Person,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    out = tmp_path / web.QUANTISED
    monkeypatch.setattr(web, "MIN_PSNR_DB", 90.0)
    assert web._quantise(web_page_person, web_page / "person.onnx", out) < 90
    assert not out.exists() and "in 8 bits are" in caplog.text


@needs_runtime
def test_folder_with_other_files_is_refused(web_page_person: Person, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "diary.txt").write_text("mine")
    with pytest.raises(TalkingheadError, match=r"has diary.txt in it.*name another folder"):
        export_web_page(web_page_person, tmp_path / "page")
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["diary.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TalkingheadError, match="it is no folder; name another"):
        export_web_page(web_page_person, tmp_path / "file")


def test_missing_runtime_is_reported(
    web_page_person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "STATIC", tmp_path)
    with pytest.raises(TalkingheadError, match="built without npm or offline; install npm, then"):
        export_web_page(web_page_person, tmp_path / "page")
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--precision", "fp16"), ("--batch", "2"), ("--refit-from", "a.engine")]
)
def test_options_of_engines_are_refused(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "anna", "--format", "web", "--out", str(tmp_path / "page"), option, value]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == (
        f"talkinghead: error: export: {option} belongs to engines, not to --format web; leave it out\n"
    )


@pytest.mark.slow
def test_documented_command_replaces_an_earlier_page(
    web_page_person: Person,
    web_page: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_person(web_page_person, "anna.safetensors")
    folder = tmp_path / "anna_page"
    folder.mkdir()
    for name in ("index.html", "person.onnx"):
        (folder / name).write_text("old")
    (command,) = re.findall(r"^talkinghead (export .*)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert cli.main([*command.split(), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    files = {path.relative_to(folder): path for path in folder.rglob("*")}
    assert set(files) == {path.relative_to(web_page) for path in web_page.rglob("*")}
    assert (folder / "index.html").read_bytes() == (web_page / "index.html").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {
        "anna.safetensors",
        "anna_page",
    }  # and no hidden one
    assert report["name"] == "anna" and report["size"] == 64
    assert report["equal"] or report["psnr"] > 50
    assert report["bytes"] == sum(path.stat().st_size for path in files.values() if path.is_file())
