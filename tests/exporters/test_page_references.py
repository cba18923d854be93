"""A reference-guided person on an exported page, in node: its frames are those of Python."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import face_clip, face_points, guided_config
from support.node import HAS_RUNTIME, NO_RUNTIME, run_node, run_page
from support.page_frames import page_frames
from support.webgpu_graph import check_webgpu_graph
from talkinghead.checkpoint import random_model
from talkinghead.engines.verify import pooled_psnr_db
from talkinghead.exporters import web
from talkinghead.exporters.web import export_web_page
from talkinghead.landmarks.face_points import HIDDEN_IRIS, join_points
from talkinghead.landmarks.gaze import look_ahead, shift_irises
from talkinghead.model import Person
from talkinghead.networks.references import References, ReferenceViewer
from talkinghead.pipelines.finetune import finetune

pytestmark = [pytest.mark.node, pytest.mark.slow]  # exporting the page takes long

MIN_PSNR_DB = 40.0
SIZE = 128  # of the images; motion fields of 64 x 64 are enlarged to it


@pytest.fixture(scope="module")
def guided_person() -> Person:
    """Return a reference-guided person of small networks, whose images show one scene."""
    config = guided_config()
    config = dataclasses.replace(config, networks=dataclasses.replace(config.networks, image_size=SIZE))
    points = face_points((0, 0), (0.002, 0), (-0.06, 0), (0.02, -0.06))  # the first two are mixed
    return finetune(random_model(config), face_clip(points, SIZE), steps=0)


@pytest.fixture(scope="module")
def guided_page(guided_person: Person, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of that person's page."""
    if not HAS_RUNTIME:
        pytest.skip(NO_RUNTIME)
    pytest.importorskip("onnxscript", reason="onnxscript, which ONNX export needs, is not installed")
    folder = tmp_path_factory.mktemp("guided") / "page"
    export_web_page(guided_person, folder)
    return folder


def several_scenes(person: Person) -> Person:
    """Return the person with references that do not share a scene."""
    references = person.references
    assert references is not None
    other = References(references.images, references.landmarks, one_scene=False)
    return dataclasses.replace(person, references=other)


@pytest.mark.parametrize("one_scene", [True, False])
def test_frames_are_those_of_python_onnxruntime(
    one_scene: bool, guided_person: Person, guided_page: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    person, page = guided_person, tmp_path / "page"
    if not one_scene:
        person = several_scenes(guided_person)
    shutil.copytree(guided_page, page)
    assert person.references is not None
    description = json.loads((page / "person.json").read_text())
    description["references"] = web._write_references(person.references, page / "references.bin")
    (page / "person.json").write_text(json.dumps(description))
    frames = np.stack([np.full((96, 128, 3), 90, np.uint8)] * 2)  # without a face: the person at rest
    result = run_page(page, frames, np.array([0.0, 0.1]), tmp_path)[-1]
    (expected,) = page_frames(page / web.QUANTISED, person, result.points[None])
    assert pooled_psnr_db(result.frame, expected) > MIN_PSNR_DB


@pytest.mark.parametrize("one_scene", [True, False])
@pytest.mark.parametrize(("move", "side"), [((0.0005, 0.0), 0.15), ((0.05, -0.03), 0.16)])
@pytest.mark.parametrize("closing", [(0.1, 0.1), (0.3, 0.7)], ids=["open", "closing"])
@pytest.mark.parametrize("irises", ["unknown", "known", "one hidden", "driver's unknown"])
def test_views_are_those_of_python(
    one_scene: bool,
    move: tuple[float, float],
    side: float,
    irises: str,
    closing: tuple[float, float],
    guided_person: Person,
    guided_page: Path,
    tmp_path: Path,
) -> None:
    references = guided_person.references
    assert references is not None
    known = None if irises == "unknown" else look_ahead(references.landmarks)
    references = References(references.images, references.landmarks, one_scene, irises=known)
    description = web._write_references(references, tmp_path / "references.bin")
    landmarks = face_points(move, side=side)
    goal = shift_irises(look_ahead(landmarks), landmarks, (0.2, -0.1))
    if irises == "one hidden":
        goal[:, 0] = HIDDEN_IRIS
    upper, lower = [37, 38, 43, 44], [41, 40, 47, 46]
    landmarks[:, upper, 1] += (
        np.array(closing)[[0, 0, 1, 1]] * (landmarks[:, lower] - landmarks[:, upper])[..., 1]
    )
    points = landmarks if irises == "driver's unknown" else join_points(landmarks, goal)
    text = json.dumps({"description": description, "points": points.ravel().tolist()})
    views = json.loads(run_node("references.mjs", guided_page, tmp_path / "references.bin", text=text))
    expected = ReferenceViewer(references)(points)
    for name, tolerance in (("warped", 1e-3), ("plate", 1 / 255), ("motion", 1e-5)):
        values, shape = views[name]
        view = getattr(expected, name).numpy()
        assert tuple(shape) == view.shape
        np.testing.assert_allclose(np.array(values).reshape(shape), view, atol=tolerance)


def test_graph_has_only_operators_of_webgpu(guided_page: Path) -> None:
    check_webgpu_graph(guided_page / "person.onnx")
