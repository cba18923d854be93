"""The public API in states of torch that callers set, with arrays of any strides, and in forked processes:
always the ordinary result.
"""

import inspect
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import talkinghead
from conftest import face_clip, face_points, guided
from talkinghead.checkpoint import load_model, load_person, save_model, save_person
from talkinghead.clip import Clip, Track
from talkinghead.config import preset
from talkinghead.engines.load import open_engine
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.errors import TalkingheadError
from talkinghead.exporters.export import export_person
from talkinghead.model import Model, random_model
from talkinghead.pipelines.finetune import finetune
from talkinghead.system.torch_state import default_torch_state, from_numpy, with_default_torch_state

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
pytestmark = pytest.mark.filterwarnings("error:The given NumPy array is not writable")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device meta": lambda: torch.device("meta"),
}


def set_state() -> tuple[Any, ...]:
    """Return the settings that the states above change, and others that a caller may change."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
    )


MODEL: Model = guided()
"""Small reference-guided model, which runs every part of the code."""
CLIP = face_clip(face_points((0, 0), (0.06, 0.02), (-0.06, 0)))


def work(folder: Path) -> dict[str, Any]:
    """Return the results of every public function of a person's life, and the engine's."""
    save_model(MODEL, folder / "model.safetensors")
    model = load_model(folder / "model.safetensors")
    person = finetune(model, CLIP, steps=2, perceptual=[])
    save_person(person, folder / "person.safetensors")
    loaded = load_person(folder / "person.safetensors")
    feed_forward = finetune(model, CLIP, steps=0)
    engine = TorchEngine(loaded, "cpu", "fp32")
    return {
        "random": dict(random_model(MODEL.config).embedder.state_dict()),
        "model": dict(model.generator.state_dict()),
        "tuned": dict(person.generator.state_dict()),
        "styles": {"styles": loaded.styles, "fed forward": feed_forward.styles},
        "frames": np.stack(list(talkinghead.animate(loaded, CLIP.track, precision="fp32"))),
        "engine": engine.run(CLIP.track.landmarks / 64),
    }


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return work(tmp_path_factory.mktemp("ordinary"))


def assert_same(results: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, values in expected.items():
        if isinstance(values, np.ndarray):
            assert np.array_equal(results[name], values), name
            continue
        for key, value in values.items():
            assert results[name][key].dtype == value.dtype and torch.equal(results[name][key], value), (
                f"{name} {key}"
            )


@pytest.mark.parametrize("state", STATES)
def test_every_torch_state_gives_default_result(state: str, ordinary: dict[str, Any], tmp_path: Path) -> None:
    with STATES[state]():
        before = set_state()
        results = work(tmp_path)
        assert set_state() == before
    assert_same(results, ordinary)
    assert not any(tensor.is_inference() for tensor in results["tuned"].values())


def test_deterministic_mode_gives_default_result(
    ordinary: dict[str, Any], tmp_path: Path, poisoned_allocations: None
) -> None:
    assert_same(work(tmp_path), ordinary)
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_exports_and_engines_ignore_torch_state(tmp_path: Path) -> None:
    model = random_model(preset("tiny"))
    person = finetune(model, face_clip(face_points((0, 0))), steps=0)
    points = face_points((0.02, 0))
    save_model(model, tmp_path / "model.safetensors")
    person.model_digest = model.digest
    export_person(person, tmp_path / "person.onnx", "onnx")
    expected = open_engine(tmp_path / "person.onnx", person).run(points)
    for state, enter in STATES.items():
        with enter():
            assert np.array_equal(open_engine(tmp_path / "person.onnx", person).run(points), expected), state


def test_generator_restores_caller_state_between_frames() -> None:
    person = finetune(MODEL, CLIP, steps=0)
    with torch.inference_mode(), default_dtype(torch.float64), torch.device("meta"):
        before = set_state()
        frames = talkinghead.animate(person, CLIP.track, precision="fp32")
        assert next(frames).shape == (64, 64, 3) and set_state() == before
        frames.close()
        assert set_state() == before


@pytest.mark.parametrize(
    "name", [name for name in talkinghead.__all__ if inspect.isfunction(getattr(talkinghead, name))]
)
def test_every_public_function_sets_torch_state(name: str) -> None:
    assert getattr(getattr(talkinghead, name), "sets_torch_state", False), (
        f"{name} lacks @with_default_torch_state"
    )


def test_last_thread_restores_default_dtype() -> None:
    inside, leave = threading.Barrier(2), threading.Event()

    @with_default_torch_state
    def compute() -> None:
        inside.wait()
        leave.wait()

    with default_dtype(torch.float64):
        with default_torch_state():
            assert torch.get_default_dtype() == torch.float32
            thread = threading.Thread(target=compute)
            thread.start()
            inside.wait()
        assert torch.get_default_dtype() == torch.float32  # the other still computes
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64


def test_error_restores_caller_state() -> None:
    with torch.no_grad(), default_dtype(torch.float64):
        with pytest.raises(TalkingheadError, match="steps -1"):
            finetune(MODEL, CLIP, steps=-1)
        assert torch.get_default_dtype() == torch.float64 and not torch.is_grad_enabled()


def views(clip: Clip) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the frames and landmarks of a clip in other layouts of memory."""
    frames, points = clip.frames, clip.track.landmarks
    still, still_points = frames.copy(), points.copy()
    still.flags.writeable = still_points.flags.writeable = False
    every_second = np.repeat(frames, 2, axis=0)[::2]
    return {
        "BGR turned round": (frames[..., ::-1].copy()[..., ::-1], points[:, ::-1].copy()[:, ::-1]),
        "upside down": (frames[:, ::-1].copy()[:, ::-1], points),
        "backwards": (frames[::-1].copy()[::-1], points[::-1].copy()[::-1]),
        "Fortran's order": (np.asfortranarray(frames), np.asfortranarray(points)),
        "strided": (every_second, np.repeat(points, 2, axis=1)[:, ::2]),
        "read-only": (still, still_points),
    }


@pytest.mark.parametrize("view", views(CLIP))
def test_any_memory_layout_gives_default_result(view: str) -> None:
    frames, points = views(CLIP)[view]
    mask = np.ones(frames.shape[:3], bool)
    mask[:, :3] = False
    valid = {"clip": mask, "view": np.asfortranarray(mask)}
    results = [
        finetune(MODEL, Clip(Track(p, (64, 64)), f, "somebody", valid=v), steps=1, perceptual=[])
        for f, p, v in ((CLIP.frames, CLIP.track.landmarks, valid["clip"]), (frames, points, valid["view"]))
    ]
    for name, value in results[0].generator.state_dict().items():
        assert torch.equal(results[1].generator.state_dict()[name], value), name
    engine = TorchEngine(results[0])
    assert np.array_equal(
        engine.run(points / np.float32(64)), engine.run(CLIP.track.landmarks / np.float32(64))
    )
    assert np.array_equal(
        engine.run(points), engine.run(CLIP.track.landmarks)
    )  # no copy: the caller's array itself


def test_from_numpy_shares_writable_memory() -> None:
    array = np.zeros((2, 3), np.float32)
    from_numpy(array)[0, 0] = 1
    assert array[0, 0] == 1
    array.flags.writeable = False
    from_numpy(array)[0, 0] = 2
    assert array[0, 0] == 1


FORKED = """
import os, signal, sys
import numpy as np, torch
torch.set_num_threads(2)
sys.path[:0] = sys.argv[1:]
from test_torch_state import CLIP, MODEL, finetune, TorchEngine
import talkinghead

person = finetune(MODEL, CLIP, steps=1, perceptual=[])
engine = TorchEngine(person)
points = CLIP.track.landmarks / 64
expected = engine.run(points)
child = os.fork()
if not child:
    signal.alarm(60)  # in place of a hang
    assert torch.get_num_threads() == 2
    assert np.array_equal(engine.run(points), expected)
    assert len(list(talkinghead.animate(person, CLIP.track, precision="fp32"))) == 3
    learned = finetune(MODEL, CLIP, steps=1, perceptual=[])
    # Adam's first step moves every style by one learning rate, in a direction that rounding decides where
    # gradients are near 0
    torch.testing.assert_close(learned.styles, person.styles, atol=3e-3, rtol=0)
    assert torch.get_num_threads() == 2
    os._exit(0)
print("child", os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.slow
@needs_fork
def test_forked_process_animates_and_fine_tunes() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", FORKED, *map(str, Path(__file__).parents[:2])],
        capture_output=True,
        text=True,
        env=environment,
        timeout=180,
    )
    assert "child 0" in done.stdout, done.stdout + done.stderr[-2000:]


def test_torch_fork_error_reports_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    @with_default_torch_state
    def compute() -> None:
        raise RuntimeError(
            "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, ..."
        )

    monkeypatch.setattr("talkinghead.system.torch_state._forks", 1)
    with pytest.raises(
        TalkingheadError, match="start the process by multiprocessing.get_context\\('spawn'\\)"
    ):
        compute()


class Opened(TorchEngine):
    """Stands for an engine whose runtime has threads."""

    survives_fork = False


@needs_fork
def test_engine_with_threads_refuses_forked_process() -> None:
    engine = Opened(finetune(MODEL, CLIP, steps=0))
    parent_end, child_end = multiprocessing.Pipe()
    child = os.fork()
    if not child:
        try:
            engine.run(CLIP.track.landmarks / 64)
            child_end.send("it ran")
        except TalkingheadError as error:
            child_end.send(str(error))
        os._exit(0)
    os.waitpid(child, 0)
    assert "was opened before this process was forked" in parent_end.recv()
