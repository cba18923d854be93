"""Processes that train together, as torchrun starts them, and the learners that they build."""

import dataclasses
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from support.minimal_training import minimal_config
from talkinghead.config import Config
from talkinghead.dataset.episodes import Episodes, EpisodeSource
from talkinghead.model import random_model
from talkinghead.training import meta_learner
from talkinghead.training.meta_learner import MetaLearner
from talkinghead.training.ranks import Ranks, joined_ranks

# A server imports torch once, and every process is forked from it.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["talkinghead.training.meta", "torch.utils.tensorboard", "torch._dynamo", "torch.distributed"]
)


def free_port() -> int:
    """Return a port that no process listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_ranks(function: Callable[..., object], count: int, *args: Any) -> list[Any]:
    """Start processes that call a function of a module, with the variables of torchrun."""
    port = free_port()
    processes = [
        _PROCESSES.Process(target=_call_as_rank, args=(function, number, count, port, args))
        for number in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def call_ranks(function: Callable[..., Any], count: int, *args: Any) -> list[Any]:
    """Call a function of a module on every rank, and return the results in the order of the ranks."""
    with tempfile.TemporaryDirectory() as folder:
        processes = start_ranks(_save_result, count, function, folder, *args)
        for process in processes:
            process.join(120)
        codes = [process.exitcode for process in processes]
        assert codes == [0] * count, f"exit codes {codes}"
        return [torch.load(Path(folder, str(number)), weights_only=False) for number in range(count)]


def _save_result(function: Callable[..., Any], folder: str, *args: Any) -> None:
    torch.save(function(*args), Path(folder, os.environ["RANK"]))


def _call_as_rank(
    function: Callable[..., object], number: int, count: int, port: int, args: tuple[Any, ...]
) -> None:
    """Call a function as torchrun's process of that number."""
    os.environ.update(
        RANK=str(number),
        LOCAL_RANK=str(number),
        WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",
    )
    torch.set_num_threads(1)
    function(*args)


def parity_config(config: Config | None = None, **settings: Any) -> Config:
    """Return a configuration with a batch of 6, which 2 and 3 ranks divide, in float32."""
    config = config or minimal_config()
    meta = dataclasses.replace(config.meta, batch=6, precision="fp32", **settings)
    return dataclasses.replace(config, perceptual=(), meta=meta)


def build_learner(
    config: Config, data: Path, ranks: Ranks, grad_accum_steps: int = 1
) -> tuple[MetaLearner, EpisodeSource]:
    """Return a learner in torch's default type, and its source of dealt episodes."""
    meta = config.meta
    source = EpisodeSource(
        data,
        config.networks.image_size,
        meta.shots,
        meta.batch,
        videos=20,
        seed=5,
        camera_motion=meta.camera_motion,
        share=ranks.share,
    )
    source.deal()
    torch.manual_seed(0)
    model = random_model(config, seed=1)
    for network in (model.embedder, model.generator, model.discriminator):
        network.to(torch.get_default_dtype())
    return MetaLearner(model, source.columns, [], grad_accum_steps, ranks=ranks), source


def in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes in float32, as data and landmark images have, and returns float64."""

    def call(*args: Any) -> Any:
        torch.set_default_dtype(torch.float32)
        result = function(*(arg.float() if isinstance(arg, torch.Tensor) else arg for arg in args))
        torch.set_default_dtype(torch.float64)
        if isinstance(result, tuple):
            return type(result)(*(tensor.double() for tensor in result))
        return result.double()

    return call


def draw_in_float64(source: EpisodeSource, step: int) -> Episodes:
    """Return the episodes of a step with frames and points in float64."""
    torch.set_default_dtype(torch.float32)
    episodes = source.draw(step)
    torch.set_default_dtype(torch.float64)
    frames, points, valid = (tensor.double() for tensor in (episodes.frames, episodes.points, episodes.valid))
    return Episodes(frames, points, episodes.columns, valid)


def learn_in_float64(
    config: Config, data: Path, steps: int, grad_accum_steps: int = 1
) -> dict[str, torch.Tensor]:
    """Take steps in float64, and return the modules' tensors, of W this rank's rows."""
    torch.set_default_dtype(torch.float64)
    meta_learner.landmark_image = in_float32(meta_learner.landmark_image)
    meta_learner.view_episodes = in_float32(meta_learner.view_episodes)
    with joined_ranks() as ranks:
        learner, source = build_learner(config, data, ranks, grad_accum_steps)
        for step in range(steps):
            learner.step(draw_in_float64(source, step))
        return {
            f"{name}.{key}": tensor
            for name, module in learner.modules.items()
            for key, tensor in module.state_dict().items()
        }


def record_gradients(config: Config, data: Path, grad_accum_steps: int = 1) -> list[list[torch.Tensor]]:
    """Return the gradients of every optimiser in a step, which is not taken; of W this rank's rows, dense."""
    gradients: list[list[torch.Tensor]] = []

    def record(optimiser: torch.optim.Optimizer, clip: float) -> None:
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        present = [parameter.grad for parameter in parameters if parameter.grad is not None]
        gradients.append([gradient.to_dense().clone() for gradient in present])
        optimiser.zero_grad()

    meta_learner.take_step = record
    with joined_ranks() as ranks:
        learner, source = build_learner(config, data, ranks, grad_accum_steps)
        learner.step(source.draw(0))
    return gradients
