"""Engines of a person whose generator is reference-guided: the same frames as torch's, and views of the
person's pictures as inputs.
"""

import copy
import dataclasses
import shutil
import sys

import numpy as np
import pytest
import torch
from talkinghead_kernels.warp_by_landmarks import GRID

from conftest import face_points
from talkinghead.checkpoint import load_model, load_person, save_model, save_person
from talkinghead.engines.load import open_engine
from talkinghead.engines.manifest import Manifest, read_embedded
from talkinghead.engines.onnx_engine import OnnxEngine
from talkinghead.engines.tensorrt_engine import input_shapes, read_tensorrt_manifest
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.engines.verify import pooled_psnr_db, verify_against_torch
from talkinghead.errors import TalkingheadError
from talkinghead.exporters.export import export_person
from talkinghead.exporters.frame_module import FrameModule
from talkinghead.exporters.onnx import write_onnx
from talkinghead.landmarks.face_points import join_points
from talkinghead.landmarks.gaze import look_ahead, shift_irises
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.networks.references import ReferenceViewer
from talkinghead.pipelines.finetune import finetune

VIEWS = ["warped", "plate", "motion"]
POINTS = face_points((0, 0), (0.05, 0.02), (0.02, 0), (-0.05, 0.04), (0.01, -0.05))


@pytest.fixture(scope="module")
def persons(guided_model, guided_clip):
    return {
        "feed-forward": finetune(copy.copy(guided_model), guided_clip, steps=0),
        "fine-tuned": finetune(guided_model, guided_clip[:2], steps=2, adversarial=False, perceptual=[]),
    }


@pytest.fixture(scope="module")
def onnx_files(persons, tmp_path_factory):
    """Write each person as ONNX.

    One takes landmarks and styles and returns floats, the other takes landmark images and returns bytes.
    """
    pytest.importorskip("onnxscript", reason="onnxscript, which writes ONNX, is not installed")
    folder = tmp_path_factory.mktemp("guided")
    for who, settings in (("feed-forward", ("points", "float")), ("fine-tuned", ("image", "uint8"))):
        write_onnx(persons[who], folder / f"{who}.onnx", "fp32", 4, *settings, f"{who}.safetensors")
    return {who: folder / f"{who}.onnx" for who in persons}


def torch_pictures(person, points=POINTS, styles=None):
    """Render images float32 [N, 3, 64, 64] with the plain generator."""
    target = torch.from_numpy(points)
    rows = person.styles.expand(len(points), -1) if styles is None else torch.from_numpy(styles)
    with torch.no_grad():
        return person.generator(
            landmark_image(target, 32), rows, ReferenceViewer(person.references)(target)
        ).numpy()


def frames_of(pictures):
    return ((pictures + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def arrays(person, points=POINTS):
    """Return the inputs of a feed-forward person's network by name."""
    views = ReferenceViewer(person.references)(torch.from_numpy(points))
    styles = np.repeat(person.styles.detach().numpy(), len(points), 0)
    return {"points": points, "styles": styles} | {
        name: view.contiguous().numpy() for name, view in views._asdict().items()
    }


@pytest.mark.parametrize("who", ["feed-forward", "fine-tuned"])
def test_torch_engine_matches_plain_generator(persons, who):
    engine = TorchEngine(persons[who])
    pictures = torch_pictures(persons[who])
    views = engine.viewer(torch.from_numpy(POINTS))
    with torch.inference_mode():
        image = landmark_image(torch.from_numpy(POINTS), 32).contiguous(memory_format=torch.channels_last)
        final = engine._generator(image, persons[who].styles.expand(5, -1), views)
    assert np.abs(final.numpy() - pictures).max() < 1e-4 and pictures.std() > 0.1
    frames = engine.run(POINTS)
    assert frames.shape == (5, 64, 64, 3) and np.abs(frames.astype(int) - frames_of(pictures)).max() <= 1
    assert pooled_psnr_db(TorchEngine(persons[who], precision="bf16").run(POINTS), frames) > 35
    assert np.array_equal(engine.run(np.concatenate([POINTS] * 20))[-5:], frames)  # more than at a time


def test_frame_module_names_and_shapes_inputs(persons):
    network = FrameModule(persons["feed-forward"])
    assert network.input_names() == ["points", "styles", *VIEWS]
    shapes = [tuple(value.shape) for value in network.example_inputs(2)]
    length = persons["feed-forward"].generator.style_length
    assert shapes == [(2, 68, 2), (2, length), (2, 3, 64, 64), (2, 4, 64, 64), (2, 2, GRID, GRID)]
    views = ReferenceViewer(persons["feed-forward"].references)(torch.from_numpy(POINTS[:2]))
    assert [tuple(view.shape) for view in views] == shapes[2:]
    image_module = FrameModule(persons["fine-tuned"], input="image")
    assert image_module.input_names() == ["image", *VIEWS] and image_module.example_inputs(1)[0].shape == (
        1,
        3,
        32,
        32,
    )


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_onnx_output_matches_torch_within_1e_4(onnx_files, persons, runtime):
    from talkinghead.system.onnx_runtime import RUNTIMES

    pytest.importorskip(runtime, reason=f"{runtime} is not installed: pip install 'talkinghead[onnx]'")
    person = persons["feed-forward"]
    call = RUNTIMES[runtime](onnx_files["feed-forward"], "cpu", "fp32")
    for count in (1, 3):
        inputs = {name: array[:count] for name, array in arrays(person).items()}
        assert np.abs(call(inputs) - torch_pictures(person, POINTS[:count])).max() < 1e-4


@pytest.mark.slow
def test_onnx_inputs_have_expected_names(onnx_files):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'talkinghead[onnx]'")
    model = onnx.load(onnx_files["feed-forward"])
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["points", "styles", *VIEWS]
    assert [value.name for value in onnx.load(onnx_files["fine-tuned"]).graph.input] == ["image", *VIEWS]
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    rows = {
        value.type.tensor_type.shape.dim[0].dim_param for value in (*model.graph.input, *model.graph.output)
    }
    assert len(rows) == 1 and rows != {""}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("who", ["fine-tuned", "feed-forward"])
def test_onnx_engine_frames_match_torch(onnx_files, persons, who, runtime):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed: pip install 'talkinghead[onnx]'")
    person = persons[who]
    engine = OnnxEngine(onnx_files[who], runtime=runtime)
    engine.set_person(person)
    frames = engine.run(POINTS)  # more than the batch of 4
    assert frames.shape == (5, 64, 64, 3) and frames.dtype == np.uint8
    assert pooled_psnr_db(frames, frames_of(torch_pictures(person))) > 60
    assert verify_against_torch(engine, person) > 60


@pytest.mark.slow
def test_rows_accept_styles_of_other_persons(onnx_files, persons):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'talkinghead[onnx]'")
    person = persons["feed-forward"]
    engine = OnnxEngine(onnx_files["feed-forward"], runtime="onnxruntime")
    engine.set_person(person)
    styles = person.styles.numpy() * np.linspace(1, 0.5, 5, dtype=np.float32)[:, None]
    expected = frames_of(torch_pictures(person, styles=styles))
    assert np.abs(engine.run(POINTS, styles).astype(int) - expected).max() <= 1
    assert np.abs(engine.run(POINTS).astype(int) - expected).max() > 5


@pytest.mark.slow
def test_engine_without_references_reports_user_error(onnx_files, persons):
    for name in ("feed-forward", "fine-tuned"):
        engine = OnnxEngine(onnx_files[name])
        styles = persons[name].styles.numpy() if name == "feed-forward" else None
        with pytest.raises(
            TalkingheadError,
            match="engine: needs a person's reference images and has none; open it with the person",
        ) as error:
            engine.run(POINTS, styles)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_guided_engine_rejects_landmark_images(onnx_files, persons):
    engine = OnnxEngine(onnx_files["fine-tuned"])
    engine.set_person(persons["fine-tuned"])
    with pytest.raises(TalkingheadError, match=r"the shape \[2, 3, 32, 32\]; give landmarks \[B, 68, 2\]"):
        engine.run(np.zeros((2, 3, 32, 32), np.float32))


@pytest.mark.slow
def test_manifest_records_network_size(onnx_files, persons):
    manifest = read_embedded(onnx_files["fine-tuned"])
    assert manifest.guided and (manifest.size, manifest.layer_size) == (64, 32)
    assert manifest.details["network_size"] == 32 and manifest.details["opset"] == 20
    reloaded, _ = Manifest.from_json(manifest.to_json(), "it")
    assert reloaded == manifest and reloaded.guided
    plain = dataclasses.replace(manifest, details={"opset": 20})
    assert not plain.guided and plain.layer_size == plain.size == 64
    eager = TorchEngine(persons["feed-forward"]).spec
    assert eager.guided and eager.layer_size == 32 and eager.styles == "input"


def test_manifest_of_plain_person_omits_network_size(people):
    manifest = Manifest.of(people["feed-forward"], "onnx", "fp32", 1)
    assert not manifest.guided and manifest.layer_size == 64 and "network_size" not in manifest.details
    spec = TorchEngine(people["feed-forward"]).spec
    assert not spec.guided and spec.layer_size == 64


def test_use_person_restores_previous_person(persons, guided_model, guided_clip):
    engine, other = TorchEngine(persons["feed-forward"]), finetune(guided_model, guided_clip[1:3], steps=0)
    before = engine.run(POINTS)
    with pytest.raises(KeyboardInterrupt), engine.use_person(other):
        assert np.abs(engine.run(POINTS).astype(int) - before).max() > 20
        raise KeyboardInterrupt
    assert np.array_equal(engine.run(POINTS), before)


def test_tensorrt_input_shapes_match_frame_module(persons):
    for who, input_name in (("feed-forward", "points"), ("fine-tuned", "image")):
        network = FrameModule(persons[who], input=input_name)
        manifest = Manifest.of(persons[who], "tensorrt", "fp16", 2, input=input_name)
        shapes = {
            name: tuple(value.shape[1:])
            for name, value in zip(network.input_names(), network.example_inputs(2), strict=True)
        }
        assert (
            input_shapes(manifest.spec) == shapes
            and list(input_shapes(manifest.spec)) == network.input_names()
        )


@pytest.mark.slow
def test_open_engine_with_person_renders_person(onnx_files, guided_model, guided_clip, tmp_path):
    save_model(copy.copy(guided_model), tmp_path / "model")
    person = finetune(
        load_model(tmp_path / "model"), guided_clip[1:3], steps=0
    )  # another person of the same model
    save_person(person, tmp_path / "person")
    reloaded = load_person(tmp_path / "person", tmp_path / "model")
    frames = open_engine(onnx_files["feed-forward"], reloaded).run(POINTS)
    assert np.abs(frames.astype(int) - TorchEngine(person).run(POINTS)).max() <= 1
    with pytest.raises(TalkingheadError, match="has none"):
        open_engine(onnx_files["feed-forward"]).run(POINTS, person.styles)


@pytest.mark.slow
def test_compiled_package_frames_match_torch(persons, tmp_path):
    report = export_person(persons["fine-tuned"], tmp_path / "it.pt2", "aoti", batch=1, input="image")
    assert report.psnr_db > 60 and report.manifest.guided
    frames = open_engine(tmp_path / "it.pt2", persons["fine-tuned"]).run(POINTS)
    assert pooled_psnr_db(frames, frames_of(torch_pictures(persons["fine-tuned"]))) > 60


@pytest.mark.slow
@pytest.mark.skipif(
    torch.cuda.is_available(),
    reason="is about machines without a GPU; bench/gpu/tensorrt.sh is for those with one",
)
def test_tensorrt_rtx_builds_guided_network(onnx_files, persons, tmp_path, monkeypatch):
    trt = pytest.importorskip(
        "tensorrt_rtx", reason="tensorrt-rtx, whose builder is tested, is not installed"
    )
    from talkinghead.exporters import tensorrt

    def write(person, path, **settings):
        shutil.copy(onnx_files["feed-forward"], path)
        return read_embedded(path)

    monkeypatch.setattr(tensorrt, "write_onnx", write)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # what is tested here is TensorRT-RTX
    path = tmp_path / "anna.engine"
    tensorrt.build_tensorrt(
        persons["feed-forward"], path, "fp32", 4, output="float", name="anna", target="sm_86"
    )
    manifest = read_tensorrt_manifest(path)
    assert manifest.guided and manifest.layer_size == 32 and manifest.details["target"] == "sm_86"
    assert (manifest.details["builder_version"], manifest.details["warnings"]) == (trt.__version__, 0)
    assert path.stat().st_size > 100_000


def test_gaze_of_driver_moves_guided_frames_of_engines_without_irises(persons, guided_model):
    person = persons["feed-forward"]
    references = dataclasses.replace(person.references, irises=look_ahead(person.references.landmarks))
    engine = TorchEngine(dataclasses.replace(person, references=references))
    assert engine.spec.num_points == 68
    irises = look_ahead(POINTS)
    ahead, aside = (join_points(POINTS, shift_irises(irises, POINTS, (shift, 0.0))) for shift in (0, 0.25))
    difference = np.abs(engine.run(ahead).astype(int) - engine.run(aside)).max(axis=(0, 3))
    assert difference.max() > 3
    plain = TorchEngine(person)  # its references have no irises
    assert np.array_equal(plain.run(aside), plain.run(POINTS))


def test_reference_viewer_takes_arrays(persons):
    viewer = ReferenceViewer(persons["fine-tuned"].references)
    views = viewer(POINTS.astype(np.float64))
    for view, expected in zip(views, viewer(torch.from_numpy(POINTS)), strict=True):
        assert torch.equal(view, expected)


@pytest.mark.parametrize(
    ("points", "problem"),
    [
        ([[0.5, 0.5]], "got list"),
        (POINTS[0], r"have shape \[68, 2\]"),
        (POINTS[:, :5], r"have shape \[5, 5, 2"),
    ],
)
def test_reference_viewer_rejects_other_points(persons, points, problem):
    with pytest.raises(TalkingheadError, match=f"points: {problem}.*; give an array or a tensor"):
        ReferenceViewer(persons["fine-tuned"].references)(points)


def test_manifest_names_inputs_as_the_network_does(persons, tmp_path):
    for who, input_name in (("feed-forward", "points"), ("fine-tuned", "image")):
        module = FrameModule(persons[who], input=input_name)
        manifest = Manifest.of(
            persons[who], "onnx", "fp32", 4, input=input_name, output="uint8", name="", details={}
        )
        assert manifest.input_names() == module.input_names()
