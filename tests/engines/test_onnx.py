import numpy as np
import pytest
import talkinghead_kernels as ops
import torch
from talkinghead_kernels.export import decompositions
from torch import nn

from talkinghead import TalkingheadError
from talkinghead.engines.manifest import check_seal_inside
from talkinghead.engines.onnx import OPSETS, OnnxEngine, write_onnx
from talkinghead.engines.probe import belongs, probe, psnr
from talkinghead.landmarks.draw import landmark_image

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'talkinghead[onnx]'")
MADE = {  # person, precision, input, output
    "fp32": ("feed-forward", "fp32", "image", "float"),
    "constant": ("fine-tuned", "fp32", "points", "uint8"),
    "fp16": ("feed-forward", "fp16", "points", "uint8"),
    "bf16": ("fine-tuned", "bf16", "image", "uint8"),
}


@pytest.fixture(scope="module")
def files(people, tmp_path_factory):
    """Each of `MADE`, exported when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("onnx"), {}

    def of(name):
        if name not in made:
            who, *settings = MADE[name]
            made[name] = folder / f"{name}.onnx"
            precision, given, output = settings
            write_onnx(people[who], made[name], precision, 8, given, output, f"{who}.safetensors")
        return made[name]

    return of


@pytest.fixture(scope="module")
def points(carphone_clip):
    return np.ascontiguousarray(carphone_clip.track.landmarks[::15] / 64)


def torch_pictures(person, points, styles=None):
    """float32 [N, 3, size, size] of the plain generator."""
    rows = person.styles.expand(len(points), -1) if styles is None else torch.from_numpy(styles)
    with torch.no_grad():
        return person.generator(landmark_image(torch.from_numpy(points), 64), rows).numpy()


def torch_frames(person, points):
    return ((torch_pictures(person, points) + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def test_in_float32_it_is_torch_within_1e_4(files, people, points):
    session = pytest.importorskip("onnxruntime").InferenceSession(str(files("fp32")))
    person = people["feed-forward"]
    drawn = landmark_image(torch.from_numpy(points), 64).numpy()
    styles = np.repeat(person.styles.numpy(), len(points), 0)
    for count in (1, 3, len(points)):
        made = session.run(None, {"image": drawn[:count], "styles": styles[:count]})[0]
        assert np.abs(made - torch_pictures(person, points[:count])).max() < 1e-4
    assert made.std() > 0.1


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["fp32", "constant", "fp16", "bf16"])
def test_frames_of_real_landmarks(files, people, points, name, runtime):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed: pip install 'talkinghead[onnx]'")
    person = people[MADE[name][0]]
    if (name, runtime) == ("bf16", "onnxruntime"):
        with pytest.raises(TalkingheadError, match="bf16.onnx: onnxruntime cannot run it .*export it in another precision"):
            OnnxEngine(files(name), runtime=runtime)
        return
    engine = OnnxEngine(files(name), runtime=runtime)
    belongs(engine.manifest, person, "it")
    engine.styles = person.styles.numpy() if person.feed_forward else None
    made = engine.run(points)
    assert made.shape == (len(points), 64, 64, 3) and made.dtype == np.uint8
    assert psnr(made, torch_frames(person, points)) > (60 if MADE[name][1] == "fp32" else 40)
    assert np.array_equal(engine.run(np.concatenate([points, points]))[len(points) :], made)  # more than the batch
    assert probe(engine, person) > 40


def test_rows_of_a_batch_may_be_different_people(files, people, points):
    person = people["feed-forward"]
    styles = person.styles.numpy() * np.linspace(1, 0.7, len(points), dtype=np.float32)[:, None]
    engine = OnnxEngine(files("fp32"), runtime="onnxruntime")
    wanted = torch_pictures(person, points, styles)
    made = engine.run(points, styles)
    assert np.abs(made.transpose(0, 3, 1, 2).astype(float) - (wanted + 1) * 127.5).max() < 0.6
    assert psnr(made, torch_frames(person, points)) < 40  # they do differ


def value_types(model):
    inferred = onnx.shape_inference.infer_shapes(model)
    values = {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}
    return values | {each.name: each.data_type for each in model.graph.initializer}


@pytest.mark.parametrize("name", MADE)
def test_plain_operators_alone(files, name):
    model = onnx.load(files(name))
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSETS[MADE[name][1]])]
    kinds = {node.op_type for node in model.graph.node}
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    assert {"Conv", "LayerNormalization"} <= kinds and not {"BatchNormalization", "Dropout", "If", "Loop"} & kinds
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param and model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == batch.dim_param
    inputs = ["image" if MADE[name][2] == "image" else "points", "styles"]
    assert [each.name for each in model.graph.input] == inputs[: 2 if MADE[name][0] == "feed-forward" else 1]


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_norms_are_float32_and_convolutions_are_not(files, name):
    model = onnx.load(files(name))
    types, half = value_types(model), {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[name]
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    convolutions = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert len(norms) > 10 and len(convolutions) > 20
    assert {types[node.input[0]] for node in norms} == {onnx.TensorProto.FLOAT}
    assert {types[each] for node in convolutions for each in (*node.input, *node.output)} == {half}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_mean_of_1000_times_the_spread(tmp_path, dtype, runtime):
    from talkinghead.engines.sessions import RUNTIMES

    pytest.importorskip(runtime, reason=f"{runtime} is not installed: pip install 'talkinghead[onnx]'")

    class Norm(nn.Module):
        def forward(self, x, scale, bias):
            return ops.adain(x, scale, bias, activation="relu")

    torch.manual_seed(0)
    given = {"x": (torch.randn(2, 8, 96, 96) * 0.05 + 50).to(dtype), "scale": torch.randn(2, 8), "bias": torch.randn(2, 8)}
    program = torch.export.export(Norm(), tuple(given.values())).run_decompositions(decompositions())
    torch.onnx.export(program, dynamo=True, verbose=False, opset_version=20, input_names=list(given)).save(tmp_path / "norm.onnx")
    made = RUNTIMES[runtime](tmp_path / "norm.onnx", "cpu", "fp32")({name: value.numpy() for name, value in given.items()})
    wanted = ops.adain(*(value.double() for value in given.values()), activation="relu").numpy()
    assert wanted.max() > 4
    assert np.abs(made.astype(float) - wanted).max() < (6e-3 if dtype == torch.float16 else 1e-3)


def test_it_says_what_it_is(files, people):
    manifest = check_seal_inside(files("constant"))
    assert (manifest.person, manifest.preset, manifest.size, manifest.styles) == ("fine-tuned.safetensors", "tiny", 64, "constant")
    assert np.allclose(manifest.reference, people["fine-tuned"].reference)
    properties = {each.key: each.value for each in onnx.load(files("constant")).metadata_props}
    assert '"weights": "' + manifest.weights in properties["talkinghead"] and '"crop"' in properties["talkinghead"]


def test_an_edited_weight_is_refused(files, tmp_path):
    contents = bytearray(files("fp32").read_bytes())
    contents[len(contents) // 2] ^= 1
    path = tmp_path / "edited.onnx"
    path.write_bytes(contents)
    with pytest.raises(TalkingheadError, match="edited.onnx: does not match its own checksum"):
        OnnxEngine(path)


def test_a_wrong_weight_is_caught_by_the_probe(files, people):
    person = people["feed-forward"]
    engine = OnnxEngine(files("fp32"), runtime="onnxruntime")
    assert probe(engine, person) > 60
    bias = person.generator.out.bias
    with torch.no_grad():
        bias += 0.02
        try:
            with pytest.raises(TalkingheadError, match="onnx: its frames are 4.* dB from torch's, at least 50"):
                probe(engine, person)
            with pytest.raises(TalkingheadError, match="it: was made from other weights than this person's \\(feed-forward.safetensors\\)"):
                belongs(engine.manifest, person, "it")
        finally:
            bias -= 0.02


@pytest.mark.parametrize(
    "given, styles, message",
    [
        (
            np.zeros((2, 67, 2), np.float32),
            None,
            r"landmarks \[B, 68, 2\] or landmark images \['B', 3, 64, 64\] were expected, got \[2, 67, 2\]",
        ),
        (np.zeros((2, 68, 2), np.float32), None, "was made for many people; give the styles"),
        (np.zeros((2, 68, 2), np.float32), np.zeros((3, 3360), np.float32), r"styles must be \[1 or 2, 3360\], got \[3, 3360\]"),
        (np.zeros((2, 68, 2), np.float32), np.zeros(8, np.float32), r"styles must be \[1 or 2, 3360\], got \[1, 8\]"),
    ],
)
def test_bad_arguments_are_named(files, given, styles, message):
    with pytest.raises(TalkingheadError, match=message):
        OnnxEngine(files("fp32")).run(given, styles)


def test_a_person_inside_takes_no_styles(files):
    engine = OnnxEngine(files("constant"))
    with pytest.raises(TalkingheadError, match="holds one person"):
        engine.run(np.zeros((1, 68, 2), np.float32), np.zeros(engine.manifest.style_length, np.float32))
    assert engine.run(np.zeros((0, 68, 2), np.float32)).shape == (0, 64, 64, 3)
