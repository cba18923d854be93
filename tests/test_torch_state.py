"""The public API in states of torch that callers set, with arrays of any strides, and in forked processes: always the ordinary result."""

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
from talkinghead.checkpoint import Model, load_model, load_person, random_model, save_model, save_person
from talkinghead.clip import Clip, Track
from talkinghead.config import preset
from talkinghead.engines.eager import EagerEngine
from talkinghead.engines.formats import export, open_engine
from talkinghead.errors import TalkingheadError
from talkinghead.torch_state import default_torch_state, from_numpy, with_default_torch_state
from talkinghead.training.finetune import finetune

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
    """Everything that the states above set, and what else a caller may have chosen."""
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
"""Of few weights, guided by pictures, which brings every part of the code with it."""
CLIP = face_clip(face_points((0, 0), (0.06, 0.02), (-0.06, 0)))


def work(folder: Path) -> dict[str, Any]:
    """What every public function of a person's life gives, and the engine."""
    save_model(MODEL, folder / "model.safetensors")
    model = load_model(folder / "model.safetensors")
    person = finetune(model, CLIP, steps=2, perceptual=[])
    save_person(person, folder / "person.safetensors")
    loaded = load_person(folder / "person.safetensors")
    feed_forward = finetune(model, CLIP, steps=0)
    engine = EagerEngine(loaded, "cpu", "fp32")
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


def assert_same(made: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, values in wanted.items():
        if isinstance(values, np.ndarray):
            assert np.array_equal(made[name], values), name
            continue
        for key, value in values.items():
            assert made[name][key].dtype == value.dtype and torch.equal(made[name][key], value), f"{name} {key}"


@pytest.mark.parametrize("state", STATES)
def test_every_state_gives_the_ordinary_result(state: str, ordinary: dict[str, Any], tmp_path: Path) -> None:
    with STATES[state]():
        before = set_state()
        made = work(tmp_path)
        assert set_state() == before
    assert_same(made, ordinary)
    assert not any(tensor.is_inference() for tensor in made["tuned"].values())


def test_deterministic_mode_gives_the_ordinary_result(ordinary: dict[str, Any], tmp_path: Path, poisoned_allocations: None) -> None:
    assert_same(work(tmp_path), ordinary)
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_exports_and_engines_are_the_same_in_every_state(tmp_path: Path) -> None:
    model = random_model(preset("tiny"))
    person = finetune(model, face_clip(face_points((0, 0))), steps=0)
    points = face_points((0.02, 0))
    save_model(model, tmp_path / "model.safetensors")
    person.model_digest = model.digest
    export(person, tmp_path / "person.onnx", "onnx")
    wanted = open_engine(tmp_path / "person.onnx", person).run(points)
    for state, enter in STATES.items():
        with enter():
            assert np.array_equal(open_engine(tmp_path / "person.onnx", person).run(points), wanted), state


def test_a_caller_has_his_state_between_two_frames() -> None:
    person = finetune(MODEL, CLIP, steps=0)
    with torch.inference_mode(), default_dtype(torch.float64), torch.device("meta"):
        before = set_state()
        frames = talkinghead.animate(person, CLIP.track, precision="fp32")
        assert next(frames).shape == (64, 64, 3) and set_state() == before
        frames.close()
        assert set_state() == before


@pytest.mark.parametrize("name", [name for name in talkinghead.__all__ if inspect.isfunction(getattr(talkinghead, name))])
def test_every_public_function_sets_its_own_state(name: str) -> None:
    assert getattr(getattr(talkinghead, name), "sets_torch_state", False), f"{name} lacks @with_default_torch_state"


def test_the_default_dtype_is_given_back_by_the_last_of_several_threads() -> None:
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


def test_an_error_leaves_the_callers_state() -> None:
    with torch.no_grad(), default_dtype(torch.float64):
        with pytest.raises(TalkingheadError, match="steps -1"):
            finetune(MODEL, CLIP, steps=-1)
        assert torch.get_default_dtype() == torch.float64 and not torch.is_grad_enabled()


def views(clip: Clip) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The frames and landmarks of a clip in other layouts of memory."""
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
def test_frames_of_any_layout_give_the_ordinary_result(view: str) -> None:
    frames, points = views(CLIP)[view]
    mask = np.ones(frames.shape[:3], bool)
    mask[:, :3] = False
    valid = {"clip": mask, "view": np.asfortranarray(mask)}
    made = [
        finetune(MODEL, Clip(Track(p, (64, 64)), f, "somebody", valid=v), steps=1, perceptual=[])
        for f, p, v in ((CLIP.frames, CLIP.track.landmarks, valid["clip"]), (frames, points, valid["view"]))
    ]
    for name, value in made[0].generator.state_dict().items():
        assert torch.equal(made[1].generator.state_dict()[name], value), name
    engine = EagerEngine(made[0])
    assert np.array_equal(engine.run(points / np.float32(64)), engine.run(CLIP.track.landmarks / np.float32(64)))
    assert np.array_equal(engine.run(points), engine.run(CLIP.track.landmarks))  # not a copy of ours: the caller's array itself


def test_from_numpy_shares_memory_where_it_can() -> None:
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
sys.path.insert(0, sys.argv[1])
from test_torch_state import CLIP, MODEL, finetune, EagerEngine
import talkinghead

person = finetune(MODEL, CLIP, steps=1, perceptual=[])
engine = EagerEngine(person)
points = CLIP.track.landmarks / 64
wanted = engine.run(points)
child = os.fork()
if not child:
    signal.alarm(60)  # in place of a hang
    assert torch.get_num_threads() == 2
    assert np.array_equal(engine.run(points), wanted)
    assert len(list(talkinghead.animate(person, CLIP.track, precision="fp32"))) == 3
    learned = finetune(MODEL, CLIP, steps=1, perceptual=[])
    # Adam's first step moves every style by one learning rate, in a direction that rounding decides where gradients are near 0
    torch.testing.assert_close(learned.styles, person.styles, atol=3e-3, rtol=0)
    assert torch.get_num_threads() == 2
    os._exit(0)
print("child", os.waitpid(child, 0)[1], flush=True)
"""


@needs_fork
def test_a_forked_process_animates_and_learns() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(Path(__file__).parent)], capture_output=True, text=True, env=environment, timeout=180
    )
    assert "child 0" in done.stdout, done.stdout + done.stderr[-2000:]


def test_what_torch_refuses_after_a_fork_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    @with_default_torch_state
    def compute() -> None:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, ...")

    monkeypatch.setattr("talkinghead.torch_state._forks", 1)
    with pytest.raises(TalkingheadError, match="start the process by multiprocessing.get_context\\('spawn'\\)"):
        compute()


class Opened(EagerEngine):
    """Stands for an engine whose runtime has threads."""

    survives_fork = False


@needs_fork
def test_an_engine_with_threads_says_that_it_does_not_survive_a_fork() -> None:
    engine = Opened(finetune(MODEL, CLIP, steps=0))
    ours, theirs = multiprocessing.Pipe()
    child = os.fork()
    if not child:
        try:
            engine.run(CLIP.track.landmarks / 64)
            theirs.send("it ran")
        except TalkingheadError as error:
            theirs.send(str(error))
        os._exit(0)
    os.waitpid(child, 0)
    assert "was opened before this process was forked" in ours.recv()
