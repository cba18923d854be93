"""Fine-tuning and frames on a GPU compared with the CPU. Run by `bench/gpu/run.sh`; all tests are skipped
without a GPU.
"""

from functools import partial

import numpy as np
import pytest
import torch

from talkinghead.config import preset
from talkinghead.dataset.episodes import Episodes
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.model import Person, random_model
from talkinghead.training.cuda_graphs import GraphedSteps
from talkinghead.training.finetune_trainer import FinetuneTrainer
from talkinghead.training.meta_learner import MetaLearner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


def psnr(frames: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.square(frames.astype(np.float64) - expected).mean(), 1e-9)))


@pytest.mark.parametrize("name", ["tiny", "paper"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("fast", [False, True])
def test_gpu_frames_equal_cpu(name, precision, fast, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = random_model(name)
    with torch.no_grad():
        styles = model.generator.project(
            torch.randn(1, model.config.networks.embedding) * model.config.networks.embedding_gain
        )
    person = Person(model.config, model.generator, styles, np.zeros((68, 2), np.float32), "", True)
    points = np.random.default_rng(0).random((3, 68, 2), np.float32)
    expected = TorchEngine(person).run(points)
    engine = TorchEngine(person, "cuda", precision, fast=fast)
    for _ in range(2):  # captured, then replayed
        assert psnr(engine.run(points), expected) > (50 if precision == "fp32" else 38)
    other = points[::-1].copy()
    assert psnr(engine.run(other), expected[::-1]) > 38  # the graph reads what it is given
    assert psnr(engine.run(points[:1]), expected[:1]) > 38  # another size of batch


def test_gpu_finetune_step_losses_equal_cpu():
    torch.manual_seed(0)
    real, points = torch.rand(4, 3, 64, 64) * 2 - 1, torch.rand(4, 68, 2)
    embedding = torch.randn(1, preset("tiny").networks.embedding) / 100
    figures = []
    for device in ("cpu", "cuda"):
        model = random_model("tiny").to(device)
        trainer = FinetuneTrainer(model, embedding.to(device), model.config.finetune, adversarial=True)
        landmark_images = landmark_image(points.to(device), 64)
        figures.append(
            [
                {
                    name: float(value)
                    for name, value in trainer.step([], real.to(device), landmark_images).items()
                }
                for _ in range(2)
            ]
        )
    for cpu_loss, gpu_loss in zip(*figures, strict=True):
        assert gpu_loss == pytest.approx(cpu_loss, rel=0.03, abs=0.02)


def test_gpu_meta_step_losses_equal_cpu():
    torch.manual_seed(0)
    episodes = Episodes(torch.rand(2, 3, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 68, 2), torch.tensor([0, 3]))
    figures = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(1)
        trainer = MetaLearner(random_model("tiny").to(device), 5, [])
        figures.append(
            {name: float(value) for name, value in trainer.step(episodes.to(torch.device(device)))[0].items()}
        )
    assert figures[1] == pytest.approx(figures[0], rel=0.03, abs=0.02)


def test_graphed_steps_equal_plain_steps():
    torch.manual_seed(0)
    landmark_images = landmark_image(torch.rand(5, 68, 2, device="cuda"), 64)
    real, embedding = (
        torch.rand(5, 3, 64, 64, device="cuda") * 2 - 1,
        torch.randn(1, preset("tiny").networks.embedding, device="cuda") / 100,
    )
    learned = []
    for graphed in (False, True):
        model = random_model("tiny").to("cuda")
        trainer = FinetuneTrainer(model, embedding, model.config.finetune, adversarial=True)
        step = GraphedSteps(trainer, [], torch.device("cuda")) if graphed else partial(trainer.step, [])
        for number in range(16):  # two sizes in turn, each captured at its fourth
            chosen = slice(0, 3) if number % 2 else slice(3, 5)
            figures = {
                name: float(value) for name, value in step(real[chosen], landmark_images[chosen]).items()
            }
        learned.append((figures, trainer.styles.detach().clone()))
    assert learned[1][0] == pytest.approx(learned[0][0], rel=0.05, abs=0.05)
    assert torch.nn.functional.cosine_similarity(learned[0][1], learned[1][1]).item() > 0.999
