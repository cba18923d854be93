"""Placement of an animated head in a complete picture: where the head belongs, and how it is blended in.

The head is rendered as a small square; the picture around it is shown at its own size and never changes.
Towards the border of the square the head fades into the picture, except where it is the picture's own.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.crop import Crop
from ..data.missing_face import missing_face_error
from ..errors import TalkingheadError
from ..landmarks.detector import MIN_CONFIDENCE, Detector, Face, largest_face
from ..media.images import is_image_file, read_image
from ..media.video import VideoReader
from ..model import Person

log = logging.getLogger(__name__)

MAX_SIDE_PX = 3840
"""Longer side of the largest video that is written."""
_RAMP = 0.08  # width of the ramp from picture to head, in sides of the crop
_SNAP_PX = 1  # a border of the crop this near to the picture's counts as the same


class PasteBack:
    """Blends heads into one picture.

    The crop's borders are rounded to whole pixels. The head counts fully inside the crop; where a border of
    the crop lies inside the picture, the head's share falls smoothly to 0 over 8% of the side.
    An instance serves one thread at a time.

    Attributes:
        size: (height, width) of the frames, pixels; both are even, a picture may lose its last row or column.
        picture: uint8 [*size, 3], that heads are put into.
        crop: where the head belongs.

    Args:
        picture: uint8 [H, W, 3], RGB; it is copied.
        crop: where in it the head belongs; it may reach beyond the picture.

    Raises:
        TalkingheadError: the picture is no such array or smaller than 2x2, or the crop lies outside of it.
    """

    def __init__(self, picture: np.ndarray, crop: Crop) -> None:
        is_image = picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        if not is_image or min(picture.shape[:2]) < 2:
            actual = f"{picture.dtype} {list(picture.shape)}"
            raise TalkingheadError(f"picture to paste into: {actual}, expected uint8 [H, W, 3]; give another")
        height, width = (side - side % 2 for side in picture.shape[:2])
        self.picture = np.array(picture[:height, :width], order="C")
        self.size: tuple[int, int] = (height, width)
        self.crop = crop
        top, bottom = _span(crop.y, crop.side, height)
        left, right = _span(crop.x, crop.side, width)
        if bottom <= 0 or top >= height or right <= 0 or left >= width:
            raise TalkingheadError(f"picture of {width}x{height}: the crop lies outside of it; give another")
        self._head_size = (bottom - top, right - left)
        rows = slice(max(top, 0), min(bottom, height))
        columns = slice(max(left, 0), min(right, width))
        self._place = (rows, columns)
        # The part of the resized head that lies within the picture.
        self._visible = (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )
        down = _shares(top, bottom, height, _RAMP * crop.side)[self._visible[0]]
        across = _shares(left, right, width, _RAMP * crop.side)[self._visible[1]]
        share = torch.from_numpy(down[:, None] * across).float()[..., None]
        still = torch.from_numpy(self.picture[self._place].copy())
        self._share = share.expand(-1, -1, 3).contiguous()
        # The half rounds the sum, which is truncated to whole numbers.
        self._still = (still * (1 - share)).add_(0.5)
        # Reuse this buffer: to allocate one takes as long as to compute the sum.
        self._blend = torch.empty_like(self._still)

    def frame(self, head: np.ndarray) -> np.ndarray:
        """Return the picture with a head in it, uint8 [H', W', 3] of `size`.

        Args:
            head: uint8 [S, S, 3], RGB, of any size; it is resized to the crop's.

        Raises:
            TalkingheadError: it is no such array.
        """
        if head.dtype != np.uint8 or not len(head) or head.shape != (len(head), len(head), 3):
            actual = f"{head.dtype} {list(head.shape)}"
            raise TalkingheadError(
                f"head to paste: {actual}, expected uint8 [S, S, 3]; give a square picture"
            )
        resized = _resize(head, self._head_size)[self._visible]
        torch.mul(resized, self._share, out=self._blend).add_(self._still)
        frame = self.picture.copy()
        torch.from_numpy(frame)[self._place].copy_(self._blend)
        return frame


def find_place(
    person: Person,
    picture: np.ndarray,
    detector: Detector,
    name: str = "picture to paste into",
) -> Crop:
    """Return the crop of a picture in which its largest face lies as the person's does in the person's crop.

    Scale and shift (no rotation, least squares) map the landmarks of each of the person's pictures onto the
    face; the picture of the least residual decides. For a person without pictures, it is the neutral face.

    Args:
        person: who is to be put there.
        picture: uint8 [H, W, 3], RGB.
        detector: finds the face.
        name: what an error calls the picture.

    Raises:
        TalkingheadError: no face is found, or one on which the person's landmarks cannot lie.
    """
    face = largest_face(detector, picture)
    if face is None:
        raise missing_face_error(name, 1, detector, picture)
    shapes = person.neutral_landmarks[None] if person.references is None else person.references.landmarks
    return _fit(shapes, face.landmarks, person.config.crop, name)


def open_place(person: Person, path: str | Path, detector: Detector) -> PasteBack:
    """Read the picture that a person's head is put into, and find the place of the head in it.

    Args:
        person: who is to be put there.
        path: a picture, or a video, of which the first frame that clearly shows a face is taken; what is
            larger than `MAX_SIDE_PX` is scaled down.
        detector: finds the face.

    Raises:
        TalkingheadError: the file cannot be read, or shows no face.
    """
    path = Path(path)
    picture = _limit_size(
        read_image(path) if is_image_file(path) else _read_clear_frame(path, detector), path.name
    )
    crop = find_place(person, picture, detector, str(path))
    place = PasteBack(picture, crop)
    height, width = place.size
    square = f"a square of {crop.side:.0f} at {crop.x:.0f}, {crop.y:.0f}"
    log.info("%s: of its %s pixels, the head takes %s", path.name, f"{width}x{height}", square)
    return place


def show_before(person: Person, place: PasteBack, detector: Detector) -> Person:
    """Return the person with the picture of the place as scene if the generator shows the person's pictures,
    else the person unchanged.
    """
    if person.references is None:
        return person
    size = person.config.networks.image_size
    face = largest_face(detector, place.picture)
    if face is None:
        return person
    scene = place.crop.pixels(place.picture, size), place.crop.points(face.landmarks, 1)
    return replace(person, references=person.references.with_scene(*scene))


def _read_clear_frame(path: Path, detector: Detector) -> np.ndarray:
    """Return the first frame of a video that clearly shows a face, or else the one that shows it best."""
    best: tuple[Face, int, np.ndarray] | None = None
    number = 0
    for number, frame in enumerate(VideoReader(path)):
        face = largest_face(detector, frame)
        if face is not None and (best is None or face.confidence > best[0].confidence):
            best = face, number, frame
            if face.confidence >= MIN_CONFIDENCE:
                break
    if best is None:
        raise missing_face_error(path, number + 1)
    log.info("%s: its frame %d is the picture that the head is put into", path.name, best[1])
    return best[2]


def _limit_size(picture: np.ndarray, name: str) -> np.ndarray:
    """Return a picture uint8 [H, W, 3], scaled down to `MAX_SIDE_PX` on its longer side if that is longer."""
    height, width = picture.shape[:2]
    factor = MAX_SIDE_PX / max(height, width)
    if factor >= 1:
        return picture
    size = (max(2, round(height * factor)), max(2, round(width * factor)))
    sizes = f"{width}x{height} is too large, scaled down to {size[1]}x{size[0]}"
    log.warning("%s: %s", name, sizes)
    return _resize(picture, size).numpy()


def _resize(picture: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Return a picture uint8 [h, w, 3] as a tensor uint8 [*size, 3], antialiased."""
    image = torch.tensor(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    resized = F.interpolate(image, size=size, mode="bicubic", align_corners=False, antialias=True)
    return resized[0].permute(1, 2, 0).contiguous()


def _fit(candidates: np.ndarray, points: np.ndarray, convention: int, name: str) -> Crop:
    """Return the crop in which points [68, 2], in pixels, lie like the nearest of candidates [T, 68, 2], in
    fractions of a crop.
    """
    centres, centre = candidates.mean(axis=1, dtype=np.float64), points.mean(axis=0, dtype=np.float64)
    shapes, shape = candidates - centres[:, None], points - centre
    along, extent = (shapes * shape).sum(axis=(1, 2)), (shapes**2).sum(axis=(1, 2))
    scales = along / np.where(extent > 0, extent, np.inf)
    residuals = ((shape - scales[:, None, None] * shapes) ** 2).sum(axis=(1, 2))
    nearest = int(np.where(scales > 0, residuals, np.inf).argmin())
    scale = float(scales[nearest])
    if not scale > 0:
        raise TalkingheadError(f"{name}: its face is upside down, expected one that is upright; turn it")
    corner = centre - scale * centres[nearest]
    return Crop(float(corner[0]), float(corner[1]), scale, convention)


def _span(start: float, side: float, length: int) -> tuple[int, int]:
    """Return the first pixel of a span and the one after its last; it may reach beyond a row of pixels."""
    first, end = round(start), round(start + side)
    first = 0 if abs(first) <= _SNAP_PX else first
    end = length if abs(end - length) <= _SNAP_PX else end
    return first, max(end, first + 1)


def _shares(first: int, end: int, length: int, ramp: float) -> np.ndarray:
    """Return the head's share in each pixel of a span, float64 [end - first].

    The share is 1 and falls to 0 over `ramp` pixels towards a border inside a row of `length` pixels.
    """
    places = np.arange(end - first) + 0.5
    shares = np.ones(end - first)
    for inside, distance in ((first > 0, places), (end < length, places[::-1])):
        if inside:
            t = np.clip(distance / ramp, 0, 1)
            shares *= t * t * (3 - 2 * t)  # smoothstep
    return shares
