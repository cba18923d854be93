import numpy as np
import pytest
import talkinghead_kernels as ops
import torch
from talkinghead_kernels.decompositions import decompositions
from torch import nn

from talkinghead import TalkingheadError
from talkinghead.engines.manifest import read_embedded
from talkinghead.engines.onnx_engine import OnnxEngine
from talkinghead.engines.verify import check_same_weights, pooled_psnr_db, verify_against_torch
from talkinghead.exporters.onnx import OPSETS, write_onnx
from talkinghead.landmarks.landmark_image import landmark_image

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'talkinghead[onnx]'")
EXPORTS = {  # person, precision, input, output
    "fp32": ("feed-forward", "fp32", "image", "float"),
    "constant": ("fine-tuned", "fp32", "points", "uint8"),
    "fp16": ("feed-forward", "fp16", "points", "uint8"),
    "bf16": ("fine-tuned", "bf16", "image", "uint8"),
}


@pytest.fixture(scope="module")
def files(people, tmp_path_factory):
    """Return a function that exports each of `EXPORTS` once."""
    folder, paths = tmp_path_factory.mktemp("onnx"), {}

    def get(name):
        if name not in paths:
            who, *settings = EXPORTS[name]
            paths[name] = folder / f"{name}.onnx"
            precision, input_name, output = settings
            write_onnx(people[who], paths[name], precision, 8, input_name, output, f"{who}.safetensors")
        return paths[name]

    return get


@pytest.fixture(scope="module")
def points(carphone_clip):
    return np.ascontiguousarray(carphone_clip.track.landmarks[::15] / 64)


def torch_pictures(person, points, styles=None):
    """Render float32 [N, 3, size, size] of the plain generator."""
    rows = person.styles.expand(len(points), -1) if styles is None else torch.from_numpy(styles)
    with torch.no_grad():
        return person.generator(landmark_image(torch.from_numpy(points), 64), rows).numpy()


def torch_frames(person, points):
    return (
        ((torch_pictures(person, points) + 1) * 127.5)
        .round()
        .clip(0, 255)
        .astype(np.uint8)
        .transpose(0, 2, 3, 1)
    )


def test_float32_output_matches_torch_within_1e_4(files, people, points):
    session = pytest.importorskip("onnxruntime").InferenceSession(str(files("fp32")))
    person = people["feed-forward"]
    images = landmark_image(torch.from_numpy(points), 64).numpy()
    styles = np.repeat(person.styles.numpy(), len(points), 0)
    for count in (1, 3, len(points)):
        frames = session.run(None, {"image": images[:count], "styles": styles[:count]})[0]
        assert np.abs(frames - torch_pictures(person, points[:count])).max() < 1e-4
    assert frames.std() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["fp32", "constant", "fp16", "bf16"])
def test_frames_of_real_landmarks_match_torch(files, people, points, name, runtime):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed: pip install 'talkinghead[onnx]'")
    person = people[EXPORTS[name][0]]
    if (name, runtime) == ("bf16", "onnxruntime"):
        with pytest.raises(
            TalkingheadError, match="bf16.onnx: onnxruntime cannot run it .*export it in another precision"
        ):
            OnnxEngine(files(name), runtime=runtime)
        return
    engine = OnnxEngine(files(name), runtime=runtime)
    check_same_weights(engine.manifest, person, "it")
    engine.styles = person.styles.numpy() if person.feed_forward else None
    frames = engine.run(points)
    assert frames.shape == (len(points), 64, 64, 3) and frames.dtype == np.uint8
    assert pooled_psnr_db(frames, torch_frames(person, points)) > (60 if EXPORTS[name][1] == "fp32" else 40)
    assert np.array_equal(
        engine.run(np.concatenate([points, points]))[len(points) :], frames
    )  # more than the batch
    assert verify_against_torch(engine, person) > 40


def test_batch_rows_accept_different_styles(files, people, points):
    person = people["feed-forward"]
    styles = person.styles.numpy() * np.linspace(1, 0.7, len(points), dtype=np.float32)[:, None]
    engine = OnnxEngine(files("fp32"), runtime="onnxruntime")
    expected = torch_pictures(person, points, styles)
    frames = engine.run(points, styles)
    assert np.abs(frames.transpose(0, 3, 1, 2).astype(float) - (expected + 1) * 127.5).max() < 0.6
    assert pooled_psnr_db(frames, torch_frames(person, points)) < 40  # they do differ


def value_types(model):
    inferred = onnx.shape_inference.infer_shapes(model)
    values = {
        v.name: v.type.tensor_type.elem_type
        for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    return values | {value.name: value.data_type for value in model.graph.initializer}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTS)
def test_file_has_only_plain_operators(files, name):
    model = onnx.load(files(name))
    onnx.checker.check_model(model, full_check=True)
    assert [(value.domain, value.version) for value in model.opset_import] == [("", OPSETS[EXPORTS[name][1]])]
    kinds = {node.op_type for node in model.graph.node}
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    assert {"Conv", "LayerNormalization"} <= kinds and not {
        "BatchNormalization",
        "Dropout",
        "If",
        "Loop",
    } & kinds
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert (
        batch.dim_param and model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == batch.dim_param
    )
    inputs = ["image" if EXPORTS[name][2] == "image" else "points", "styles"]
    assert [value.name for value in model.graph.input] == inputs[
        : 2 if EXPORTS[name][0] == "feed-forward" else 1
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_half_precision_norms_stay_float32(files, name):
    model = onnx.load(files(name))
    types, half = (
        value_types(model),
        {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[name],
    )
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    convolutions = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert len(norms) > 10 and len(convolutions) > 20
    assert {types[node.input[0]] for node in norms} == {onnx.TensorProto.FLOAT}
    assert {types[value] for node in convolutions for value in (*node.input, *node.output)} == {half}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_norm_of_large_mean_stays_accurate(tmp_path, dtype, runtime):
    from talkinghead.system.onnx_runtime import RUNTIMES

    pytest.importorskip(runtime, reason=f"{runtime} is not installed: pip install 'talkinghead[onnx]'")

    class Norm(nn.Module):
        def forward(self, x, scale, bias):
            return ops.adain(x, scale, bias, activation="relu")

    torch.manual_seed(0)
    inputs = {
        "x": (torch.randn(2, 8, 96, 96) * 0.05 + 50).to(dtype),
        "scale": torch.randn(2, 8),
        "bias": torch.randn(2, 8),
    }
    program = torch.export.export(Norm(), tuple(inputs.values())).run_decompositions(decompositions())
    torch.onnx.export(program, dynamo=True, verbose=False, opset_version=20, input_names=list(inputs)).save(
        tmp_path / "norm.onnx"
    )
    frames = RUNTIMES[runtime](tmp_path / "norm.onnx", "cpu", "fp32")(
        {name: value.numpy() for name, value in inputs.items()}
    )
    expected = ops.adain(*(value.double() for value in inputs.values()), activation="relu").numpy()
    assert expected.max() > 4
    assert np.abs(frames.astype(float) - expected).max() < (6e-3 if dtype == torch.float16 else 1e-3)


def test_file_contains_its_manifest(files, people):
    manifest = read_embedded(files("constant"))
    assert (manifest.person, manifest.preset, manifest.size, manifest.styles) == (
        "fine-tuned.safetensors",
        "tiny",
        64,
        "constant",
    )
    assert np.allclose(manifest.reference, people["fine-tuned"].neutral_landmarks)
    properties = {value.key: value.value for value in onnx.load(files("constant")).metadata_props}
    assert (
        '"weights": "' + manifest.weights in properties["talkinghead"]
        and '"crop"' in properties["talkinghead"]
    )


def test_onnx_engine_rejects_edited_weight(files, tmp_path):
    contents = bytearray(files("fp32").read_bytes())
    contents[len(contents) // 2] ^= 1
    path = tmp_path / "edited.onnx"
    path.write_bytes(contents)
    with pytest.raises(TalkingheadError, match="edited.onnx: does not match its own checksum"):
        OnnxEngine(path)


def test_verification_detects_wrong_weight(files, people):
    person = people["feed-forward"]
    engine = OnnxEngine(files("fp32"), runtime="onnxruntime")
    assert verify_against_torch(engine, person) > 60
    bias = person.generator.out.bias
    with torch.no_grad():
        bias += 0.02
        try:
            with pytest.raises(
                TalkingheadError, match="onnx: its frames are 4.* dB from torch's, expected at least 50"
            ):
                verify_against_torch(engine, person)
            with pytest.raises(
                TalkingheadError,
                match="it: was made from other weights than this person's \\(feed-forward.safetensors\\)",
            ):
                check_same_weights(engine.manifest, person, "it")
        finally:
            bias -= 0.02


@pytest.mark.parametrize(
    "landmarks, styles, message",
    [
        (
            np.zeros((2, 67, 2), np.float32),
            None,
            r"has the shape \[2, 67, 2\]; give landmarks \[B, 68, 2\], or \[B, 78, 2\] with "
            r"irises, or landmark images \['B', 3, 64, 64\]",
        ),
        (np.zeros((2, 68, 2), np.float32), None, "was made for many people; give the styles"),
        (
            np.zeros((2, 68, 2), np.float32),
            np.zeros((3, 3360), np.float32),
            r"styles have the shape \[3, 3360\]; give \[1 or 2, 3360\], those of a person",
        ),
        (
            np.zeros((2, 68, 2), np.float32),
            np.zeros(8, np.float32),
            r"styles have the shape \[1, 8\]; give \[1 or 2, 3360\], those of a person",
        ),
    ],
)
def test_run_reports_bad_arguments(files, landmarks, styles, message):
    with pytest.raises(TalkingheadError, match=message):
        OnnxEngine(files("fp32")).run(landmarks, styles)


def test_run_of_one_person_rejects_styles(files):
    engine = OnnxEngine(files("constant"))
    with pytest.raises(TalkingheadError, match="holds one person"):
        engine.run(np.zeros((1, 68, 2), np.float32), np.zeros(engine.manifest.style_length, np.float32))
    assert engine.run(np.zeros((0, 68, 2), np.float32)).shape == (0, 64, 64, 3)
