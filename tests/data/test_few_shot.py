"""Reference images from pictures and videos."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import RedSquare, draw_video, drawn_frame
from talkinghead.data.few_shot import evenly_spaced_indices, read_shots
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.detector import MIN_CONFIDENCE, Face

WIDE_FACES = [(80 + 2 * number, 100, 40) for number in range(20)]


def test_read_shots_takes_evenly_spaced_frames(tmp_path: Path, red_square: RedSquare) -> None:
    drive = draw_video(tmp_path / "wide.mp4", WIDE_FACES, size=(240, 300))
    clip = read_shots([drive], 64, 4, red_square)
    crop_left = clip.track.landmarks[:, 0, 0]
    steps = np.diff(crop_left) / np.diff(crop_left).mean()
    assert len(clip) == 4 and clip.frames.shape == (4, 64, 64, 3)
    np.testing.assert_allclose(steps, 1, atol=0.2)
    for frame, points in zip(clip.frames, clip.track.landmarks, strict=True):
        detected = red_square(frame)
        assert detected is not None
        np.testing.assert_allclose(detected, points, atol=1.5)


def test_evenly_spaced_indices_include_both_ends() -> None:
    assert evenly_spaced_indices(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly_spaced_indices(3, 8).tolist() == [0, 1, 2]


def test_read_shots_samples_long_video(tmp_path: Path) -> None:
    class CountingDetector(RedSquare):
        num_frames = 0

        def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
            self.num_frames += len(frames)
            return super().find(frames)

    detector = CountingDetector()
    faces = [(80 + number // 2, 150, 40) for number in range(160)]
    video = draw_video(tmp_path / "long.mp4", faces, size=(400, 400))
    clip = read_shots([video], 64, 2, detector)
    assert detector.num_frames == 16  # 8 candidates for each of two images
    left = [np.nonzero((frame[..., 0] > 170) & (frame[..., 1] < 90))[1].min() for frame in clip.frames]
    np.testing.assert_allclose(left, clip.track.landmarks[:, 0, 0], atol=1.5)
    assert left[1] - left[0] > 10


class UnsureDetector(RedSquare):
    """Detector with high confidence only on some frames of `WIDE_FACES`."""

    def __init__(self, clear: range) -> None:
        self.clear = clear

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """Return the faces of frames."""
        return [[self._with_confidence(face) for face in faces] for faces in super().find(frames)]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        """Return one face per frame."""
        return [self._with_confidence(face) for face in super().follow(frames, near)]

    def _with_confidence(self, face: Face) -> Face:
        number = round((float(face.landmarks[0, 0]) - WIDE_FACES[0][0]) / 2)
        return Face(face.landmarks, self.confidence(number))

    def confidence(self, number: int) -> float:
        """Return the confidence on a frame by its number."""
        return MIN_CONFIDENCE if number in self.clear else MIN_CONFIDENCE - 0.01


@pytest.mark.parametrize(
    "clear, expected",
    [(range(10, 20), [10, 13, 16, 19]), (range(10, 13), [0, 6, 13, 19]), (range(0), [0, 6, 13, 19])],
)
def test_read_shots_prefers_clear_frames_if_enough(clear: range, expected: list[int], tmp_path: Path) -> None:
    drive = draw_video(tmp_path / "wide.mp4", WIDE_FACES, size=(240, 300))
    detector = UnsureDetector(clear)
    clip = read_shots([drive], 64, 4, detector)
    left = clip.track.landmarks[:, 0, 0]
    steps = np.diff(left) / np.ptp(left) * (expected[-1] - expected[0])
    np.testing.assert_allclose(steps, np.diff(expected), atol=0.3)
    confidences = [detector.confidence(number) for number in expected]
    np.testing.assert_allclose(clip.track.confidence, confidences, rtol=1e-6)


def test_read_shots_rejects_number_of_absent_face(tmp_path: Path, red_square: RedSquare) -> None:
    drive = draw_video(tmp_path / "drive.mp4", [(40 + 2 * number, 30, 40) for number in range(20)])
    with pytest.raises(TalkingheadError, match=f"^{drive}: shows 1 face, number 2 was asked for"):
        read_shots([drive], 64, 3, red_square, face=2)


def test_read_shots_combines_images_and_videos(tmp_path: Path, red_square: RedSquare) -> None:
    drive = draw_video(tmp_path / "drive.mp4", [(40 + 2 * number, 30, 40) for number in range(20)])
    image = tmp_path / "one.png"
    Image.fromarray(drawn_frame((90, 90), (20, 20, 30))).save(image)
    clip = read_shots([image, drive], 64, 3, red_square)
    assert len(clip) == 4 and clip.track.fps == 0
    assert len(read_shots([image], 64, 3, red_square)) == 1
