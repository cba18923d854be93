"""Engines of a person whose generator is reference-guided: the same frames as torch's, and views of the person's pictures as inputs."""

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
from talkinghead.engines.eager import EagerEngine
from talkinghead.engines.formats import export, open_engine
from talkinghead.engines.frame import FrameNetwork
from talkinghead.engines.manifest import Manifest, check_seal_inside
from talkinghead.engines.onnx import OnnxEngine, write_onnx
from talkinghead.engines.probe import probe, psnr
from talkinghead.engines.tensorrt_runtime import checked, input_shapes
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.draw import landmark_image
from talkinghead.networks.references import ReferenceViewer
from talkinghead.training.finetune import finetune

VIEWS = ["warped", "plate", "motion"]
POINTS = face_points((0, 0), (0.05, 0.02), (0.02, 0), (-0.05, 0.04), (0.01, -0.05))


@pytest.fixture(scope="module")
def persons(guided_model, guided_clip):
    return {
        "feed-forward": finetune(copy.copy(guided_model), guided_clip, steps=0),
        "fine-tuned": finetune(guided_model, guided_clip[:2], steps=2, adversarial=False, perceptual=[]),
    }


@pytest.fixture(scope="module")
def files(persons, tmp_path_factory):
    """Each person as ONNX: one takes landmarks and styles and gives floats, the other landmark images and gives bytes."""
    pytest.importorskip("onnxscript", reason="onnxscript, which writes ONNX, is not installed")
    folder = tmp_path_factory.mktemp("guided")
    for who, settings in (("feed-forward", ("points", "float")), ("fine-tuned", ("image", "uint8"))):
        write_onnx(persons[who], folder / f"{who}.onnx", "fp32", 4, *settings, f"{who}.safetensors")
    return {who: folder / f"{who}.onnx" for who in persons}


def torch_pictures(person, points=POINTS, styles=None):
    """float32 [N, 3, 64, 64] of the plain generator."""
    target = torch.from_numpy(points)
    rows = person.styles.expand(len(points), -1) if styles is None else torch.from_numpy(styles)
    with torch.no_grad():
        return person.generator(landmark_image(target, 32), rows, ReferenceViewer(person.references)(target)).numpy()


def frames_of(pictures):
    return ((pictures + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def arrays(person, points=POINTS):
    """Inputs of a feed-forward person's network by name."""
    views = ReferenceViewer(person.references)(torch.from_numpy(points))
    styles = np.repeat(person.styles.detach().numpy(), len(points), 0)
    return {"points": points, "styles": styles} | {name: view.contiguous().numpy() for name, view in views._asdict().items()}


@pytest.mark.parametrize("who", ["feed-forward", "fine-tuned"])
def test_eager_frames_are_the_plain_generators(persons, who):
    engine = EagerEngine(persons[who])
    pictures = torch_pictures(persons[who])
    views = engine.viewer(torch.from_numpy(POINTS))
    with torch.inference_mode():
        drawn = landmark_image(torch.from_numpy(POINTS), 32).contiguous(memory_format=torch.channels_last)
        final = engine._generator(drawn, persons[who].styles.expand(5, -1), views)
    assert np.abs(final.numpy() - pictures).max() < 1e-4 and pictures.std() > 0.1
    frames = engine.run(POINTS)
    assert frames.shape == (5, 64, 64, 3) and np.abs(frames.astype(int) - frames_of(pictures)).max() <= 1
    assert psnr(EagerEngine(persons[who], precision="bf16").run(POINTS), frames) > 35
    assert np.array_equal(engine.run(np.concatenate([POINTS] * 20))[-5:], frames)  # more than at a time


def test_network_names_and_shapes_its_inputs(persons):
    network = FrameNetwork(persons["feed-forward"])
    assert network.input_names() == ["points", "styles", *VIEWS]
    shapes = [tuple(each.shape) for each in network.example(2)]
    length = persons["feed-forward"].generator.style_length
    assert shapes == [(2, 68, 2), (2, length), (2, 3, 64, 64), (2, 4, 64, 64), (2, 2, GRID, GRID)]
    views = ReferenceViewer(persons["feed-forward"].references)(torch.from_numpy(POINTS[:2]))
    assert [tuple(view.shape) for view in views] == shapes[2:]
    drawn = FrameNetwork(persons["fine-tuned"], input="image")
    assert drawn.input_names() == ["image", *VIEWS] and drawn.example(1)[0].shape == (1, 3, 32, 32)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_onnx_pictures_are_torchs_within_1e_4(files, persons, runtime):
    from talkinghead.engines.sessions import RUNTIMES

    pytest.importorskip(runtime, reason=f"{runtime} is not installed: pip install 'talkinghead[onnx]'")
    person = persons["feed-forward"]
    call = RUNTIMES[runtime](files["feed-forward"], "cpu", "fp32")
    for count in (1, 3):
        given = {name: array[:count] for name, array in arrays(person).items()}
        assert np.abs(call(given) - torch_pictures(person, POINTS[:count])).max() < 1e-4


def test_onnx_inputs_have_their_names(files):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'talkinghead[onnx]'")
    model = onnx.load(files["feed-forward"])
    onnx.checker.check_model(model, full_check=True)
    assert [each.name for each in model.graph.input] == ["points", "styles", *VIEWS]
    assert [each.name for each in onnx.load(files["fine-tuned"]).graph.input] == ["image", *VIEWS]
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    rows = {each.type.tensor_type.shape.dim[0].dim_param for each in (*model.graph.input, *model.graph.output)}
    assert len(rows) == 1 and rows != {""}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("who", ["fine-tuned", "feed-forward"])
def test_engines_show_the_person(files, persons, who, runtime):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed: pip install 'talkinghead[onnx]'")
    person = persons[who]
    engine = OnnxEngine(files[who], runtime=runtime)
    engine.show(person)
    frames = engine.run(POINTS)  # more than the batch of 4
    assert frames.shape == (5, 64, 64, 3) and frames.dtype == np.uint8
    assert psnr(frames, frames_of(torch_pictures(person))) > 60
    assert probe(engine, person) > 60


def test_rows_may_have_styles_of_others(files, persons):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'talkinghead[onnx]'")
    person = persons["feed-forward"]
    engine = OnnxEngine(files["feed-forward"], runtime="onnxruntime")
    engine.show(person)
    styles = person.styles.numpy() * np.linspace(1, 0.5, 5, dtype=np.float32)[:, None]
    expected = frames_of(torch_pictures(person, styles=styles))
    assert np.abs(engine.run(POINTS, styles).astype(int) - expected).max() <= 1
    assert np.abs(engine.run(POINTS).astype(int) - expected).max() > 5


def test_engine_without_references_says_so(files, persons):
    for name in ("feed-forward", "fine-tuned"):
        engine = OnnxEngine(files[name])
        styles = persons[name].styles.numpy() if name == "feed-forward" else None
        with pytest.raises(TalkingheadError, match="engine: shows a person's pictures and has none; open it with the person") as error:
            engine.run(POINTS, styles)
        assert "\n" not in str(error.value)


def test_landmark_images_are_no_input_of_a_guided_engine(files, persons):
    engine = OnnxEngine(files["fine-tuned"])
    engine.show(persons["fine-tuned"])
    with pytest.raises(TalkingheadError, match=r"landmarks \[B, 68, 2\] were expected, got \[2, 3, 32, 32\]"):
        engine.run(np.zeros((2, 3, 32, 32), np.float32))


def test_manifest_tells_the_networks_size(files, persons):
    manifest = check_seal_inside(files["fine-tuned"])
    assert manifest.guided and (manifest.size, manifest.layer_size) == (64, 32)
    assert manifest.details["network_size"] == 32 and manifest.details["opset"] == 20
    again, _ = Manifest.from_json(manifest.to_json(), "it")
    assert again == manifest and again.guided
    plain = dataclasses.replace(manifest, details={"opset": 20})
    assert not plain.guided and plain.layer_size == plain.size == 64
    eager = EagerEngine(persons["feed-forward"]).manifest
    assert eager.guided and eager.layer_size == 32 and eager.styles == "input"


def test_manifest_of_a_plain_person_has_no_size_of_networks(people):
    manifest = EagerEngine(people["feed-forward"]).manifest
    assert not manifest.guided and manifest.layer_size == 64 and "network_size" not in manifest.details


def test_engine_showing_a_person_for_a_while_shows_the_former_one_afterwards(persons, guided_model, guided_clip):
    engine, other = EagerEngine(persons["feed-forward"]), finetune(guided_model, guided_clip[1:3], steps=0)
    before = engine.run(POINTS)
    with pytest.raises(KeyboardInterrupt), engine.showing(other):
        assert np.abs(engine.run(POINTS).astype(int) - before).max() > 20
        raise KeyboardInterrupt
    assert np.array_equal(engine.run(POINTS), before)


def test_tensorrt_inputs_are_those_of_the_network(persons):
    for who, given in (("feed-forward", "points"), ("fine-tuned", "image")):
        network = FrameNetwork(persons[who], input=given)
        manifest = Manifest.of(persons[who], "tensorrt", "fp16", 2, given)
        shapes = {name: tuple(each.shape[1:]) for name, each in zip(network.input_names(), network.example(2), strict=True)}
        assert input_shapes(manifest) == shapes and list(input_shapes(manifest)) == network.input_names()


def test_an_engine_opened_with_a_persons_file_shows_it(files, guided_model, guided_clip, tmp_path):
    save_model(copy.copy(guided_model), tmp_path / "model")
    person = finetune(load_model(tmp_path / "model"), guided_clip[1:3], steps=0)  # another person of the same model
    save_person(person, tmp_path / "person")
    again = load_person(tmp_path / "person", tmp_path / "model")
    frames = open_engine(files["feed-forward"], again).run(POINTS)
    assert np.abs(frames.astype(int) - EagerEngine(person).run(POINTS)).max() <= 1
    with pytest.raises(TalkingheadError, match="has none"):
        open_engine(files["feed-forward"]).run(POINTS, person.styles)


def test_a_compiled_package_shows_the_person(persons, tmp_path):
    made = export(persons["fine-tuned"], tmp_path / "it.pt2", "aoti", batch=1, input="image")
    assert made.decibels > 60 and made.manifest.guided
    frames = open_engine(tmp_path / "it.pt2", persons["fine-tuned"]).run(POINTS)
    assert psnr(frames, frames_of(torch_pictures(persons["fine-tuned"]))) > 60


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU; bench/tensorrt.sh is for those with one")
def test_tensorrt_rtx_builds_the_guided_network(files, persons, tmp_path, monkeypatch):
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx, whose builder is tested, is not installed")
    from talkinghead.engines import tensorrt_builder

    def write(person, path, *settings):
        shutil.copy(files["feed-forward"], path)
        return check_seal_inside(path)

    monkeypatch.setattr(tensorrt_builder, "write_onnx", write)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # what is tested here is TensorRT-RTX
    path = tmp_path / "anna.engine"
    tensorrt_builder.build_tensorrt(persons["feed-forward"], path, "fp32", 4, output="float", name="anna", target="sm_86")
    manifest = checked(path)
    assert manifest.guided and manifest.layer_size == 32 and manifest.details["target"] == "sm_86"
    assert (manifest.details["builder_version"], manifest.details["warnings"]) == (trt.__version__, 0)
    assert path.stat().st_size > 100_000
