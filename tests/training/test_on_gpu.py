"""Persons are learned and shown on a GPU as on the CPU. Run by `bench/gpu.sh`; nothing here runs without one."""

from functools import partial

import numpy as np
import pytest
import torch

from talkinghead.checkpoint import Person, random_model
from talkinghead.config import preset
from talkinghead.data.episodes import Episodes
from talkinghead.engines.eager import EagerEngine
from talkinghead.landmarks.draw import landmark_image
from talkinghead.training.finetune import PersonLearner
from talkinghead.training.graphs import GraphedSteps
from talkinghead.training.meta_learner import MetaLearner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


def psnr(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.square(found.astype(np.float64) - wanted).mean(), 1e-9)))


@pytest.mark.parametrize("name", ["tiny", "paper"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_frames_are_those_of_the_cpu(name, precision, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = random_model(name)
    with torch.no_grad():
        styles = model.generator.project(torch.randn(1, model.config.networks.embedding) * model.config.networks.embedding_gain)
    person = Person(model.config, model.generator, styles, np.zeros((68, 2), np.float32), "", True)
    points = np.random.default_rng(0).random((3, 68, 2), np.float32)
    wanted = EagerEngine(person).run(points)
    engine = EagerEngine(person, "cuda", precision)
    for _ in range(2):  # captured, then replayed
        assert psnr(engine.run(points), wanted) > (50 if precision == "fp32" else 38)
    other = points[::-1].copy()
    assert psnr(engine.run(other), wanted[::-1]) > 38  # the graph reads what it is given
    assert psnr(engine.run(points[:1]), wanted[:1]) > 38  # another size of batch


def test_a_step_of_fine_tuning_has_the_losses_of_the_cpu():
    torch.manual_seed(0)
    real, points = torch.rand(4, 3, 64, 64) * 2 - 1, torch.rand(4, 68, 2)
    embedding = torch.randn(1, preset("tiny").networks.embedding) / 100
    figures = []
    for device in ("cpu", "cuda"):
        model = random_model("tiny").to(device)
        learner = PersonLearner(model, embedding.to(device), model.config.finetune, adversarial=True)
        drawn = landmark_image(points.to(device), 64)
        figures.append([{name: float(value) for name, value in learner.step([], real.to(device), drawn).items()} for _ in range(2)])
    for ours, theirs in zip(*figures, strict=True):
        assert theirs == pytest.approx(ours, rel=0.03, abs=0.02)


def test_a_step_of_meta_learning_has_the_losses_of_the_cpu():
    torch.manual_seed(0)
    episodes = Episodes(torch.rand(2, 3, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 68, 2), torch.tensor([0, 3]))
    figures = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(1)
        learner = MetaLearner(random_model("tiny").to(device), 5, [])
        figures.append({name: float(value) for name, value in learner.step(episodes.to(torch.device(device)))[0].items()})
    assert figures[1] == pytest.approx(figures[0], rel=0.03, abs=0.02)


def test_steps_as_graphs_are_the_steps():
    torch.manual_seed(0)
    drawn = landmark_image(torch.rand(5, 68, 2, device="cuda"), 64)
    real, embedding = (
        torch.rand(5, 3, 64, 64, device="cuda") * 2 - 1,
        torch.randn(1, preset("tiny").networks.embedding, device="cuda") / 100,
    )
    learned = []
    for graphed in (False, True):
        model = random_model("tiny").to("cuda")
        learner = PersonLearner(model, embedding, model.config.finetune, adversarial=True)
        step = GraphedSteps(learner, [], torch.device("cuda")) if graphed else partial(learner.step, [])
        for number in range(16):  # two sizes in turn, each captured at its fourth
            some = slice(0, 3) if number % 2 else slice(3, 5)
            figures = {name: float(value) for name, value in step(real[some], drawn[some]).items()}
        learned.append((figures, learner.styles.detach().clone()))
    assert learned[1][0] == pytest.approx(learned[0][0], rel=0.05, abs=0.05)
    assert torch.nn.functional.cosine_similarity(learned[0][1], learned[1][1]).item() > 0.999
