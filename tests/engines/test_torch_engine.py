import copy
import dataclasses

import numpy as np
import pytest
import talkinghead_kernels as ops
import torch
from talkinghead_kernels import resample
from talkinghead_kernels.packed_conv import is_packed

from talkinghead import finetune, load_model
from talkinghead.config import preset
from talkinghead.engines import precision
from talkinghead.engines.precision import choose_precision
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.model import Person
from talkinghead.networks import Generator, inference, pack_weights_, prepare_for_inference
from talkinghead.networks.references import ReferenceViewer
from talkinghead.system import device
from talkinghead.weights import shipped_models


@pytest.fixture(scope="module")
def person(carphone_clip) -> Person:
    """Return a person of the shipped model, from real frames."""
    return finetune(load_model("tiny"), carphone_clip[:8], steps=0)


@pytest.fixture(params=[False, True], ids=["plain", "spectral"])
def generator(request) -> Generator:
    torch.manual_seed(0)
    networks = dataclasses.replace(preset("tiny").networks, spectral_generator=request.param)
    generator = Generator(networks, projection=False)
    with torch.no_grad():
        for attention in (generator.down_attention, generator.up_attention):
            attention.gamma.fill_(0.5)
    return generator


@pytest.mark.parametrize(
    "backend", [name for name, reason in ops.backends().items() if reason is None and name != "triton"]
)
def test_prepared_generator_matches_original(generator, backend):
    images, styles = landmark_image(torch.rand(2, 68, 2), 64), torch.randn(2, generator.style_length)
    with torch.no_grad(), ops.use_backend(backend):
        expected = generator(images, styles)
        before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
        torch.testing.assert_close(
            prepare_for_inference(generator, 64)(images, styles), expected, atol=1e-4, rtol=0
        )
    assert expected.std() > 0.1
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


@pytest.mark.parametrize("up", ["upsample", "upsample_shuffle", "plain"])
def test_prepared_weights_are_folded_copies(generator, up, monkeypatch):
    monkeypatch.setattr(
        inference, "choose_form", lambda op, *_, **__: up if op == "upsample_conv" else "downsample"
    )
    images, styles = landmark_image(torch.rand(1, 68, 2), 64), torch.randn(1, generator.style_length)
    prepared = prepare_for_inference(generator, 64)
    with torch.no_grad():
        torch.testing.assert_close(prepared(images, styles), generator(images, styles), atol=1e-4, rtol=0)
        for parameter in generator.parameters():
            parameter.zero_()
    sides = {"upsample": 4, "upsample_shuffle": 2, "plain": 3}
    assert prepared.up[0].conv1.weight.shape[2] == sides[up] and prepared.down[1].conv2.weight.shape[2] == 4
    assert all(layer.weight.abs().max() > 0 for layer in prepared.layers())
    assert not any(name.endswith((".u", ".v")) for name in prepared.state_dict()) and not any(
        p.requires_grad for p in prepared.parameters()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("up", ["upsample", "upsample_shuffle", "plain"])
def test_packed_weights_match_unpacked(generator, up, dtype, monkeypatch):
    for module in (inference, resample):
        monkeypatch.setattr(
            module, "choose_form", lambda op, *_, **__: up if op == "upsample_conv" else "downsample"
        )
    images = landmark_image(torch.rand(3, 68, 2), 64).to(dtype, memory_format=torch.channels_last)
    styles = torch.randn(3, generator.style_length)
    packed = pack_weights_(prepare_for_inference(generator, 64, dtype), 64, batch=2)
    supported = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert {is_packed(layer.weight) for layer in packed.layers()} == {supported}
    with torch.inference_mode():
        for count in (3, 1):
            output, expected = (
                network(images[:count], styles[:count])
                for network in (packed, prepare_for_inference(generator, 64, dtype))
            )
            torch.testing.assert_close(
                output, expected, atol=1e-4 if dtype == torch.float32 else 0.05, rtol=0
            )


def psnr(frames: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(frames.astype(np.float64) - expected).mean()))


@pytest.mark.parametrize("name", shipped_models())
def test_frames_of_real_clip_match_plain_generator(name, carphone_clip):
    person = finetune(
        load_model(name), dataclasses.replace(carphone_clip[:8], convention=0), steps=0
    )  # whatever the crop
    size, points = person.config.networks.layer_size, carphone_clip.track.landmarks[::10] / 64
    with torch.no_grad():
        images = landmark_image(torch.from_numpy(points), size)
        views = (
            ()
            if person.references is None
            else (ReferenceViewer(person.references)(torch.from_numpy(points)),)
        )
        plain = person.generator(images, person.styles.expand(len(points), -1), *views)
    expected = ((plain + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert (
        np.abs(TorchEngine(person).run(points) - expected).max() <= 1
    )  # 1e-4 may take a value over the edge between two levels
    frames = TorchEngine(person, precision="bf16").run(points)
    assert frames.dtype == np.uint8 and frames.flags.c_contiguous
    assert psnr(frames, expected) > 40
    half = prepare_for_inference(person.generator, size, torch.float16)
    with torch.inference_mode():
        picture = half(images.half(), person.styles.expand(len(points), -1), *views)
    assert picture.dtype == torch.float32
    assert psnr(((picture + 1) * 127.5).round().permute(0, 2, 3, 1).numpy(), expected) > 40


def test_engine_does_not_modify_person(person):
    before = copy.deepcopy(person.generator.state_dict())
    TorchEngine(person, precision="bf16").run(np.full((1, 68, 2), 0.5, np.float32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in person.generator.state_dict().items())


def test_unsupported_precision_falls_back_and_warns(monkeypatch, caplog):
    cpu = torch.device("cpu")
    monkeypatch.setattr(device, "cpu_features", lambda: {"avx512_bf16"})
    monkeypatch.setattr(precision, "cpu_features", lambda: {"avx512_bf16"})
    monkeypatch.setattr(device, "_bfloat16_speedup", lambda threads: 2.0)
    assert [choose_precision(cpu, name) for name in ("auto", "bf16", "fp32")] == [
        "bf16",
        "bf16",
        "fp32",
    ] and not caplog.records
    assert choose_precision(cpu, "fp16") == "fp32"
    monkeypatch.setattr(device, "_bfloat16_speedup", lambda threads: 0.6)
    assert [choose_precision(cpu, name) for name in ("auto", "bf16")] == ["fp32", "bf16"]
    monkeypatch.setattr(device, "cpu_features", set)
    assert choose_precision(cpu, "auto") == "fp32" and len(caplog.records) == 1
    assert choose_precision(cpu, "bf16") == "fp32"
    assert [record.getMessage() for record in caplog.records] == [
        f"precision {name}: this CPU has no instructions for it; fp32 is used" for name in ("fp16", "bf16")
    ]
    assert (
        choose_precision(torch.device("cuda"), "auto") == "bf16"
        and choose_precision(torch.device("cuda"), "fp16") == "fp16"
    )


def test_unknown_precision_reports_name(person):
    with pytest.raises(TalkingheadError, match="precision 'int8': is unknown; choose one of auto, fp32"):
        TorchEngine(person, precision="int8")


def test_runtimes_get_rows_in_memory_order(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, strides = TorchEngine(person), []

    def record(inputs: dict[str, np.ndarray]) -> np.ndarray:
        strides.extend(rows.flags.c_contiguous for rows in inputs.values())
        return np.zeros((len(inputs["points"]), 64, 64, 3), np.uint8)

    monkeypatch.setattr(engine, "_run", record)
    points = np.random.default_rng(0).random((3, 78, 2), np.float32)
    engine.run(points[:, :68])  # the rest of each row is left out
    engine.run(np.asfortranarray(points[:, :68]))
    assert strides == [True] * 4
