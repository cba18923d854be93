"""Training of the networks that find faces and landmarks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..constants import LANDMARK_NETWORKS
from ..data.output_paths import check_outputs, files_in
from ..errors import TalkingheadError, did_you_mean
from ..landmarks.detection_network import KIND as DETECTION
from ..landmarks.detection_network import DetectionNetwork, detection_loss
from ..landmarks.network import KIND as LANDMARKS
from ..landmarks.network import LandmarkNetwork, load_initial_weights
from ..landmarks.network_blocks import load_weights, save_network
from ..landmarks.training import landmark_loss
from ..system.file_hash import sha256
from ..system.progress import OnStep, check_callbacks
from ..system.torch_state import with_default_torch_state
from .detection_scenes import SceneBatch, SceneSource
from .landmark_crops import CropBatch, FaceSource
from .network_run import LEARNING_RATE, BatchSource, NetworkRun
from .run_folder import run_folder
from .whole_frames import WholeFrames

BATCH = 64
STEPS = 20_000
FILES = ("state.safetensors", "previous/state.safetensors", "times.json", "network.safetensors")
"""Files of a run, in its folder."""


@dataclass(frozen=True)
class _Task:
    """Kind and class of a network, its batches and its loss."""

    kind: str
    create: Callable[[], nn.Module]
    open_source: Callable[[FaceSource, int, WholeFrames | None], BatchSource]
    loss: Callable[[Any, Any], dict[str, Tensor]]


def _landmark_loss(network: LandmarkNetwork, batch: CropBatch) -> dict[str, Tensor]:
    return landmark_loss(network(batch.pictures), batch.points, batch.known, batch.presence)


def _detection_loss(network: DetectionNetwork, batch: SceneBatch) -> dict[str, Tensor]:
    return detection_loss(network(batch.pictures), batch.faces, batch.count)


_TASKS = {
    "landmarks": _Task(LANDMARKS, LandmarkNetwork, lambda faces, seed, frames: faces, _landmark_loss),
    "detection": _Task(DETECTION, DetectionNetwork, SceneSource, _detection_loss),
}
assert tuple(_TASKS) == LANDMARK_NETWORKS


@with_default_torch_state
def train_landmarks(
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    network: str = "landmarks",
    steps: int = STEPS,
    seed: int = 0,
    exclude_identities: Sequence[str] = (),
    init_from: str | Path | None = None,
    whole_frames: str | Path | None = None,
    learning_rate: float = LEARNING_RATE,
    save_seconds: float = 120.0,
    on_step: OnStep | None = None,
) -> nn.Module:
    """Train a network that finds landmarks or faces on prepared shards; an interrupted run resumes.

    Args:
        data: folder that `prepare` wrote, or several, which are sampled equally often.
        out: folder of the run, with `network.safetensors`.
        network: "landmarks", or "detection", which finds faces.
        steps: in all; the learning rate falls to 0 by then.
        seed: of the initialisation and of the batches.
        exclude_identities: people not to train on.
        init_from: file of a network with the initial weights; default random weights.
        whole_frames: folder of the videos that the data was prepared from, for the detection network: it
            learns on whole frames too.
        learning_rate: after the first steps.
        save_seconds: time between two saves.
        on_step: called with (step, steps, metrics) after every step, the metrics of the last measured one.

    Raises:
        TalkingheadError: bad data or settings, the loss is not finite, or `out` cannot be written to, is used
            by another process, or holds a run with other settings.
        KeyboardInterrupt: by SIGINT, SIGTERM or SIGHUP, after the current step and a save.
    """
    check_callbacks(on_step=on_step)
    task, out = _choose_task(network, whole_frames), Path(out)
    folders = [str(data)] if isinstance(data, (str, Path)) else [str(folder) for folder in data]
    check_outputs(files_in(out, FILES), [init_from])
    faces = FaceSource(folders, exclude_identities, seed)
    frames = None if whole_frames is None else WholeFrames(faces.clips, Path(whole_frames))
    initial = _initial_weights(task, seed, init_from)
    settings: dict[str, Any] = {"network": network, "seed": seed, "clips": len(faces.clips)}
    settings["init_from"] = "" if init_from is None else sha256(init_from)
    settings |= {"learning_rate": learning_rate, "whole_frames": frames is not None}
    with run_folder(out) as folder:
        run = NetworkRun(
            initial,
            task.open_source(faces, seed, frames),
            task.loss,
            folder,
            steps=steps,
            batch=BATCH,
            learning_rate=learning_rate,
            settings=settings,
            write=_writer(out / "network.safetensors", task.kind, faces, settings),
        )
        run.resume()
        run.advance(save_seconds, on_step)
    return run.average


def _choose_task(network: str, whole_frames: str | Path | None) -> _Task:
    if network not in _TASKS:
        raise TalkingheadError(
            f"network {network!r}: is unknown; choose {' or '.join(_TASKS)}{did_you_mean(network, _TASKS)}"
        )
    if whole_frames is not None and network != "detection":
        raise TalkingheadError(
            "whole frames: only the detection network learns on them; leave them out, or choose detection"
        )
    return _TASKS[network]


def _initial_weights(task: _Task, seed: int, init_from: str | Path | None) -> nn.Module:
    """Return the network with the weights of a file, or random ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = task.create()
    if init_from is None:
        return network
    path = Path(init_from)
    if isinstance(network, LandmarkNetwork):
        return load_initial_weights(network, path)
    return load_weights(network, path, task.kind)


def _writer(
    path: Path, kind: str, faces: FaceSource, settings: dict[str, Any]
) -> Callable[[nn.Module, int], None]:
    """Return a function that writes the averaged network after so many steps."""
    provenance = {
        "people": sorted({clip.person for clip in faces.clips}),
        "labels": sorted({clip.info.detector for clip in faces.clips}),
    }
    return lambda average, step: save_network(average, path, kind, {**provenance, **settings, "steps": step})
