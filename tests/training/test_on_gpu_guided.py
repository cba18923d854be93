"""The preset `portrait` on a GPU: frames, persons, steps, an engine. Run by `bench/gpu.sh`; nothing here runs without one."""

import copy

import numpy as np
import pytest
import torch

from conftest import face_points
from talkinghead.animate import render
from talkinghead.engines.eager import EagerEngine
from talkinghead.engines.formats import export
from talkinghead.training.finetune import finetune

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
POINTS = face_points((0, 0), (0.05, 0.02), (0.02, 0), (-0.05, 0.04), (0.01, -0.05))


def psnr(found, wanted):
    error = np.square(np.stack(list(found)).astype(np.float64) - np.stack(list(wanted))).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def on_gpu(model):
    return copy.deepcopy(model).to("cuda")


@pytest.fixture(scope="module")
def person(guided_model, guided_clip):
    return finetune(guided_model, guided_clip, steps=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_frames_are_those_of_the_cpu(person, precision, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    wanted = EagerEngine(person).run(POINTS)
    engine = EagerEngine(person, "cuda", precision)
    for _ in range(2):  # captured, then replayed
        assert psnr(engine.run(POINTS), wanted) > (50 if precision == "fp32" else 38)
    assert psnr(engine.run(POINTS[::-1].copy()), wanted[::-1]) > 38  # the graph reads what it is given
    assert psnr(engine.run(POINTS[:1]), wanted[:1]) > 38  # another size of batch


def test_frames_of_a_video_are_those_of_the_cpu(person):
    many = np.concatenate([POINTS] * 8)
    assert psnr(render(person, many, "fp32", "cuda"), render(person, many, "fp32", "cpu")) > 38


def test_a_person_made_there_is_the_person(person, guided_model, guided_clip):
    made = finetune(on_gpu(guided_model), guided_clip, steps=0)
    torch.testing.assert_close(made.styles.cpu(), person.styles.cpu(), atol=2e-2, rtol=2e-2)
    assert psnr(EagerEngine(made, "cuda").run(POINTS), EagerEngine(person).run(POINTS)) > 38


def test_steps_of_fine_tuning_have_the_losses_of_the_cpu(guided_model, guided_clip):
    figures = []
    for model in (copy.deepcopy(guided_model), on_gpu(guided_model)):
        found = []
        finetune(model, guided_clip, steps=2, perceptual=[], progress=lambda step, steps, losses, found=found: found.append(dict(losses)))
        figures.append(found)
    for cpu, gpu in zip(*figures, strict=True):
        assert gpu.keys() == cpu.keys()
        assert gpu == pytest.approx(cpu, rel=0.05, abs=0.03)


def test_an_engine_of_aotinductor_gives_torchs_frames(person, tmp_path):
    made = export(person, tmp_path / "it.pt2", "aoti", batch=1, device="cuda")
    assert made.decibels > 38
