"""JavaScript of an exported page in node: what it computes is what Python computes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from support.node import PageResult, call, run_node, run_page
from support.page_frames import page_frames
from support.web_media import carphone_frames
from talkinghead.engines.verify import pooled_psnr_db
from talkinghead.exporters import web
from talkinghead.landmarks.face_points import join_points
from talkinghead.landmarks.gaze import points_looking_ahead
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.landmarks.online import OnlineRetargeter
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.model import Person

pytestmark = [pytest.mark.node, pytest.mark.slow]  # the exported page is written first, in half a minute

MAX_POINT_ERROR_PIXELS = 0.002
MIN_PSNR_DB = 40.0
MAX_QUANTISED_PSNR_DB = 65.0
MAX_TRANSFERRED_BYTES = 20_000_000


@dataclass(frozen=True)
class Sequence:
    """Frames of a driver, and what Python and the page make of them.

    Attributes:
        frames: uint8 [N, H, W, 3].
        faces: the driver's points in each frame, None without a face.
        is_new: whether each may be another person.
        points: the person's points in each frame.
        results: the page's.
    """

    frames: np.ndarray
    faces: list[np.ndarray | None]
    is_new: list[bool]
    points: list[np.ndarray]
    results: list[PageResult]


@pytest.fixture(scope="module")
def sequence(
    carphone: Path, web_page: Path, web_page_person: Person, tmp_path_factory: pytest.TempPathFactory
) -> Sequence:
    """Return a clip with a face that is near, gone for more than a second, then far away and small; gone
    again, and there again in the same place.
    """
    clip = np.stack(carphone_frames(carphone, 24))[:, :, 40:312]
    near = np.stack([enlarged(frame, 480, 496) for frame in clip[:12]])
    gone = np.full((6, *near.shape[1:]), 90, np.uint8)
    far = np.full((12, *near.shape[1:]), 40, np.uint8)
    far[:, 300:388, 380:470] = np.stack([enlarged(frame, 88, 90) for frame in clip[12:]])
    frames = np.concatenate([near, gone, far[:9], gone[:4], far[9:]])
    times = np.cumsum([0.04] * 9 + [0.15] * 3 + [0.25] * 6 + [0.1] * 9 + [0.35] * 4 + [0.3] * 3)
    networks = web_page_person.config.networks
    at_rest = points_looking_ahead(web_page_person.neutral_landmarks, networks.num_points)
    retargeter = OnlineRetargeter(open_detector("network"), at_rest)
    faces, is_new, points = [], [], []
    for frame, t in zip(frames, times.tolist(), strict=True):
        without_face = retargeter.without_face
        points.append(retargeter(frame, t))
        face = retargeter._track_face._last_face
        is_seen = retargeter.without_face == without_face and face is not None
        faces.append(join_points(face.landmarks, face.irises) if is_seen and face is not None else None)
        is_new.append(retargeter._track_face.is_new)
    folder = tmp_path_factory.mktemp("clip")
    results = run_page(web_page, frames, times, folder)
    return Sequence(frames, faces, is_new, points, results)


def enlarged(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a frame at another size."""
    pixels = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None]
    return F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()


def test_sequence_shows_what_it_is_for(sequence: Sequence) -> None:
    seen = [face is not None for face in sequence.faces]
    assert all(seen[:12]) and not any(seen[12:18]) and all(seen[20:27]) and not any(seen[27:31]) and seen[-1]
    assert sum(sequence.is_new) >= 3
    sides = [np.ptp(face, axis=0).max() for face in sequence.faces if face is not None]
    assert sides[0] > 128 and sides[-1] < 0.08 * 496  # antialiased, and found in a part of the frame


def test_driver_is_found_and_followed_where_python_does(sequence: Sequence) -> None:
    for face, is_new, result in zip(sequence.faces, sequence.is_new, sequence.results, strict=True):
        assert result.is_seen == (face is not None) and result.is_new == is_new
        if face is not None:
            assert np.abs(result.driver - face).max() < MAX_POINT_ERROR_PIXELS


def test_person_has_the_points_that_python_computes(sequence: Sequence, web_page_person: Person) -> None:
    size = web_page_person.config.networks.image_size
    moved = max(np.abs(points - sequence.points[0]).max() for points in sequence.points)
    assert moved * size > 1
    for points, result in zip(sequence.points, sequence.results, strict=True):
        assert np.abs(result.points - points).max() * size < MAX_POINT_ERROR_PIXELS


def test_frames_are_those_of_python_onnxruntime(
    sequence: Sequence, web_page: Path, web_page_person: Person
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    expected = page_frames(web_page / web.QUANTISED, web_page_person, np.stack(sequence.points))
    frames = np.stack([result.frame for result in sequence.results])
    assert pooled_psnr_db(frames, expected) > MIN_PSNR_DB
    exact = page_frames(web_page / "person.onnx", web_page_person, np.stack(sequence.points))
    assert pooled_psnr_db(frames, exact) < MAX_QUANTISED_PSNR_DB  # so the page ran the network in 8 bits
    assert pooled_psnr_db(np.roll(frames, 9, axis=0), expected) < MIN_PSNR_DB  # frames differ by more


@pytest.mark.parametrize("num_points", [68, 78])
def test_landmark_image_is_the_same_drawing(num_points: int, web_page: Path, web_page_person: Person) -> None:
    points = points_looking_ahead(web_page_person.neutral_landmarks, num_points)
    points[3] = [1.4, 0.5]  # outside the image
    points[20] = points[19]  # a segment without length
    points[50] = [2e4, 0.5]  # too far away to be drawn
    image = call(web_page, "landmark_image", "landmarkImage", points.ravel(), 64)
    expected = landmark_image(torch.from_numpy(points)[None], 64)[0]
    assert np.abs(np.array(image).reshape(3, 64, 64) - expected.numpy()).max() < 2 / 255


@pytest.mark.parametrize(("rows", "cols"), [(13, 20), (40, 9), (40, 61), (1, 1)])
def test_shrinking_is_that_of_torch(rows: int, cols: int, web_page: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (44, 70, 4)).astype(np.uint8)
    window = {"data": frame.ravel(), "width": 70, "left": 5, "top": 4, "cols": 61, "rows": 40}
    result = call(web_page, "resize", "resizeAntialiased", window, cols, rows)
    pixels = torch.from_numpy(frame[4:, 5:66, :3].copy()).permute(2, 0, 1)[None]
    expected = F.interpolate(pixels, (rows, cols), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    shrunk = np.array(result["data"]).reshape(rows, cols, 4)[..., :3]
    np.testing.assert_array_equal(shrunk, expected.numpy())


@pytest.mark.parametrize("percent", [0, 1, 30, 50, 100])
def test_percentile_is_that_of_numpy(percent: float, web_page: Path) -> None:
    values = np.random.default_rng(percent).normal(size=9)
    assert call(web_page, "statistics", "percentile", values, percent) == pytest.approx(
        np.percentile(values, percent), abs=1e-12
    )


@pytest.mark.parametrize("backend", ["wasm", "webgpu"])
def test_page_transfers_less_than_20_mb(backend: str, web_page: Path) -> None:
    other = {"wasm": ("webgpu", "asyncify"), "webgpu": (".wasm.min.", "threaded.wasm", "threaded.mjs")}[
        backend
    ]
    files = [path for path in web_page.rglob("*") if path.is_file()]
    files = [path for path in files if not any(part in path.name for part in other)]
    networks = {"webgpu": web_page / "person.onnx", "wasm": web_page / web.QUANTISED}
    files = [path for path in files if path not in networks.values()]
    person = networks[backend]  # as it is, because Brotli hardly shrinks fine-tuned weights
    assert int(run_node("brotli.mjs", *files)) + person.stat().st_size < MAX_TRANSFERRED_BYTES
