"""Preset `portrait` on a GPU: frames, persons, steps, an engine. Run by `bench/gpu/run.sh`; all tests are
skipped without a GPU.
"""

import copy

import numpy as np
import pytest
import torch

from conftest import face_points
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.exporters.export import export_person
from talkinghead.pipelines.animate import render
from talkinghead.pipelines.finetune import finetune

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]
POINTS = face_points((0, 0), (0.05, 0.02), (0.02, 0), (-0.05, 0.04), (0.01, -0.05))


def psnr(frames, expected):
    error = np.square(np.stack(list(frames)).astype(np.float64) - np.stack(list(expected))).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def on_gpu(model):
    return copy.deepcopy(model).to("cuda")


@pytest.fixture(scope="module")
def person(guided_model, guided_clip):
    return finetune(guided_model, guided_clip, steps=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("fast", [False, True])
def test_gpu_frames_equal_cpu(person, precision, fast, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    expected = TorchEngine(person).run(POINTS)
    engine = TorchEngine(person, "cuda", precision, fast=fast)
    for _ in range(2):  # captured, then replayed
        assert psnr(engine.run(POINTS), expected) > (50 if precision == "fp32" else 38)
    assert psnr(engine.run(POINTS[::-1].copy()), expected[::-1]) > 38  # the graph reads what it is given
    assert psnr(engine.run(POINTS[:1]), expected[:1]) > 38  # another size of batch


def test_gpu_video_frames_equal_cpu(person):
    many = np.concatenate([POINTS] * 8)
    assert psnr(render(person, many, "fp32", "cuda", fast=True), render(person, many, "fp32", "cpu")) > 38


def test_auto_follows_where_a_person_was_moved(person):
    moved = copy.deepcopy(person).to("cuda")
    assert psnr(render(moved, POINTS, "fp32"), render(person, POINTS, "fp32", "cpu")) > 38
    assert next(render(moved.to("cpu"), POINTS)).shape == (64, 64, 3)


def test_gpu_person_equals_cpu(person, guided_model, guided_clip):
    result = finetune(on_gpu(guided_model), guided_clip, steps=0)
    torch.testing.assert_close(result.styles.cpu(), person.styles.cpu(), atol=2e-2, rtol=2e-2)
    assert psnr(TorchEngine(result, "cuda").run(POINTS), TorchEngine(person).run(POINTS)) > 38


def test_gpu_finetune_losses_equal_cpu(guided_model, guided_clip):
    metrics = []
    for model in (copy.deepcopy(guided_model), on_gpu(guided_model)):
        seen = []
        finetune(
            model,
            guided_clip,
            steps=2,
            perceptual=[],
            on_step=lambda step, steps, losses, seen=seen: seen.append(dict(losses)),
        )
        metrics.append(seen)
    for cpu, gpu in zip(*metrics, strict=True):
        assert gpu.keys() == cpu.keys()
        assert gpu == pytest.approx(cpu, rel=0.05, abs=0.03)


def test_aoti_engine_frames_equal_torch(person, tmp_path):
    result = export_person(person, tmp_path / "it.pt2", "aoti", batch=1, device="cuda")
    assert result.psnr_db > 38
