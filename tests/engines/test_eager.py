import copy
import dataclasses

import numpy as np
import pytest
import talkinghead_kernels as ops
import torch
from talkinghead_kernels import resample
from talkinghead_kernels.convolution import is_packed

from talkinghead import device, finetune, load_model
from talkinghead.checkpoint import Person, shipped_models
from talkinghead.config import preset
from talkinghead.engines import eager
from talkinghead.engines.eager import EagerEngine, choose_precision
from talkinghead.landmarks.draw import landmark_image
from talkinghead.networks import Generator, final, final_generator, pack_
from talkinghead.networks.references import ReferenceViewer


@pytest.fixture(scope="module")
def person(carphone_clip) -> Person:
    """Of the model that ships, from real frames."""
    return finetune(load_model("tiny"), carphone_clip[:8], steps=0)


@pytest.fixture(params=[False, True], ids=["plain", "spectral"])
def generator(request) -> Generator:
    torch.manual_seed(0)
    networks = dataclasses.replace(preset("tiny").networks, spectral_generator=request.param)
    made = Generator(networks, projection=False)
    with torch.no_grad():
        for attention in (made.down_attention, made.up_attention):
            attention.gamma.fill_(0.5)
    return made


@pytest.mark.parametrize("backend", [name for name, reason in ops.backends().items() if reason is None and name != "triton"])
def test_the_final_form_gives_the_same_picture(generator, backend):
    drawn, styles = landmark_image(torch.rand(2, 68, 2), 64), torch.randn(2, generator.style_length)
    with torch.no_grad(), ops.use_backend(backend):
        wanted = generator(drawn, styles)
        before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
        torch.testing.assert_close(final_generator(generator, 64)(drawn, styles), wanted, atol=1e-4, rtol=0)
    assert wanted.std() > 0.1
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


@pytest.mark.parametrize("up", ["upsample", "upsample_shuffle", "plain"])
def test_its_weights_are_folded_and_its_own(generator, up, monkeypatch):
    monkeypatch.setattr(final, "choose_form", lambda op, *_: up if op == "upsample_conv" else "downsample")
    drawn, styles = landmark_image(torch.rand(1, 68, 2), 64), torch.randn(1, generator.style_length)
    made = final_generator(generator, 64)
    with torch.no_grad():
        torch.testing.assert_close(made(drawn, styles), generator(drawn, styles), atol=1e-4, rtol=0)
        for parameter in generator.parameters():
            parameter.zero_()
    sides = {"upsample": 4, "upsample_shuffle": 2, "plain": 3}
    assert made.up[0].conv1.weight.shape[2] == sides[up] and made.down[1].conv2.weight.shape[2] == 4
    assert all(layer.weight.abs().max() > 0 for layer in made.layers())
    assert not any(name.endswith((".u", ".v")) for name in made.state_dict()) and not any(p.requires_grad for p in made.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("up", ["upsample", "upsample_shuffle", "plain"])
def test_packed_weights_give_the_same_picture(generator, up, dtype, monkeypatch):
    for module in (final, resample):
        monkeypatch.setattr(module, "choose_form", lambda op, *_: up if op == "upsample_conv" else "downsample")
    drawn = landmark_image(torch.rand(3, 68, 2), 64).to(dtype, memory_format=torch.channels_last)
    styles = torch.randn(3, generator.style_length)
    packed = pack_(final_generator(generator, 64, dtype), 64, batch=2)
    assert all(is_packed(layer.weight) for layer in packed.layers())
    with torch.inference_mode():
        for count in (3, 1):
            made, wanted = (each(drawn[:count], styles[:count]) for each in (packed, final_generator(generator, 64, dtype)))
            torch.testing.assert_close(made, wanted, atol=1e-4 if dtype == torch.float32 else 0.05, rtol=0)


def psnr(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(found.astype(np.float64) - wanted).mean()))


@pytest.mark.parametrize("name", shipped_models())
def test_frames_of_a_real_clip_are_those_of_the_plain_generator(name, carphone_clip):
    person = finetune(load_model(name), dataclasses.replace(carphone_clip[:8], convention=0), steps=0)  # whatever the crop
    size, points = person.config.networks.layer_size, carphone_clip.track.landmarks[::10] / 64
    with torch.no_grad():
        drawn = landmark_image(torch.from_numpy(points), size)
        views = () if person.references is None else (ReferenceViewer(person.references)(torch.from_numpy(points)),)
        plain = person.generator(drawn, person.styles.expand(len(points), -1), *views)
    wanted = ((plain + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(EagerEngine(person).run(points) - wanted).max() <= 1  # 1e-4 may take a value over the edge between two levels
    frames = EagerEngine(person, precision="bf16").run(points)
    assert frames.dtype == np.uint8 and frames.flags.c_contiguous
    assert psnr(frames, wanted) > 40
    half = final_generator(person.generator, size, torch.float16)
    with torch.inference_mode():
        picture = half(drawn.half(), person.styles.expand(len(points), -1), *views)
    assert picture.dtype == torch.float32
    assert psnr(((picture + 1) * 127.5).round().permute(0, 2, 3, 1).numpy(), wanted) > 40


def test_an_engine_leaves_its_person_alone(person):
    before = copy.deepcopy(person.generator.state_dict())
    EagerEngine(person, precision="bf16").run(np.full((1, 68, 2), 0.5, np.float32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in person.generator.state_dict().items())


def test_a_precision_that_is_not_there_falls_back_with_one_line(monkeypatch, caplog):
    cpu = torch.device("cpu")
    monkeypatch.setattr(device, "cpu_features", lambda: {"avx512_bf16"})
    monkeypatch.setattr(eager, "cpu_features", lambda: {"avx512_bf16"})
    monkeypatch.setattr(device, "_measured", lambda threads: 2.0)
    assert [choose_precision(cpu, name) for name in ("auto", "bf16", "fp32")] == ["bf16", "bf16", "fp32"] and not caplog.records
    assert choose_precision(cpu, "fp16") == "fp32"
    monkeypatch.setattr(device, "_measured", lambda threads: 0.6)
    assert [choose_precision(cpu, name) for name in ("auto", "bf16")] == ["fp32", "bf16"]
    monkeypatch.setattr(device, "cpu_features", set)
    assert choose_precision(cpu, "auto") == "fp32" and len(caplog.records) == 1
    assert choose_precision(cpu, "bf16") == "fp32"
    assert [record.getMessage() for record in caplog.records] == [
        f"precision {name}: this CPU has no instructions for it; fp32 is used" for name in ("fp16", "bf16")
    ]
    assert choose_precision(torch.device("cuda"), "auto") == "bf16" and choose_precision(torch.device("cuda"), "fp16") == "fp16"


def test_an_unknown_precision_is_named(person):
    with pytest.raises(ValueError, match="precision 'int8': unknown, one of auto, fp32, fp16, bf16"):
        EagerEngine(person, precision="int8")
