"""Detected landmarks drawn over a video or over a sheet of its frames, to show why something fails."""

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ..clip import POINTS, Track
from ..data.crop import crop_around
from ..data.few_shot import evenly_spaced_indices
from ..data.load import FaceTracks, frames_at, read_faces
from ..data.output_paths import check_outputs
from ..errors import TalkingheadError
from ..landmarks.detector import MIN_CONFIDENCE, Detector
from ..landmarks.geometry import bounding_boxes
from ..landmarks.landmark_image import IRIS_POLYLINES
from ..media.contact_sheet import BRIGHT, FAINT, SheetRow, blank_canvas, draw_contact_sheet
from ..media.drawing import Polyline, Text, draw_polylines, draw_text
from ..media.images import WRITABLE_SUFFIXES, ImageReader, is_image_file, list_images, write_image
from ..media.video import VideoReader, VideoWriter, write_video
from ..system.atomic_file import atomic_write
from ..system.progress import Progress, no_progress
from ..system.torch_state import from_numpy, with_default_torch_state
from .face_drawing import DARK, GREY, face_lines, square_lines

_RED = (255, 92, 82)
_AMBER = (255, 190, 70)
_MIN_SIDE_PX = 640  # longer side of the output video; smaller videos are enlarged by a whole factor
_MAX_SIDE_PX = 1280  # longer side of the output video; larger videos are reduced
_BAR_HEIGHT_PX = 32  # of the text above the frames of the output video
_TILE_SIDE_PX = 320  # longer side of a frame on a sheet; of a single one twice that
_EVEN_TILES = 8  # evenly spaced frames on a sheet
_WORST_TILES = 4  # frames of least confidence on a sheet
_MARGIN = 0.1  # around the crop of a face on a sheet, in sides of the crop
_MIN_PAUSE_S = 0.5  # between two spans of low confidence
_NEW_SHOT_S = 0.5  # for which a change of shot is labelled
_IMAGES_PER_SECOND = 2  # of a folder that is written as a video


@dataclass(frozen=True)
class OverlayResult:
    """Result of `draw_landmark_overlay`.

    Attributes:
        file: the video or picture written.
        source: the video, picture or folder.
        frames: how many it has.
        frames_with_face: how many of them show the face.
        face, faces: its number, and how many faces there are.
        confidence: its mean where the face was seen, 0..1; None where it never was.
        fps: frames per second; 0 for pictures.
        gaps: (start, end) in seconds, when the face was not seen for longer than 0.5 s.
        doubtful: (start, end) in seconds, when it was seen with a confidence below 0.5; times less than 0.5 s
            apart are one.
        cuts: seconds at which a new shot begins.
        frames_per_second: speed of the detection, decoding included.
    """

    file: Path
    source: Path
    frames: int
    frames_with_face: int
    face: int
    faces: int
    confidence: float | None
    fps: float
    gaps: list[tuple[float, float]]
    doubtful: list[tuple[float, float]]
    cuts: list[float]
    frames_per_second: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; `frames_with_face` is stored as "found"."""
        fields = {name: _to_json(value) for name, value in asdict(self).items()}
        return {"found" if name == "frames_with_face" else name: value for name, value in fields.items()}

    def lines(self, max_times: int = 8) -> list[str]:
        """Return lines of text for the user, with at most `max_times` times of each kind."""
        kind = "frames" if self.fps else "pictures"
        several = self.frames > 1
        if self.confidence is None:
            where = f"any of the {self.frames} {kind} of " if several else ""
            return [f"no face was found in {where}{self.source.name}"]
        face = f"face {self.face} of {self.faces}" if self.faces > 1 else "a face"
        where = f"{self.frames_with_face} of the {self.frames} {kind} of " if several else ""
        confidence = f"{'mean ' if several else ''}confidence {self.confidence:.2f}"
        lines = [f"{face} in {where}{self.source.name}, {confidence}"]
        for label, spans in (("no face", self.gaps), ("profile, occluded or a poor fit", self.doubtful)):
            if spans:
                times = [f"{start:.1f} to {end:.1f} s" for start, end in spans]
                lines.append(f"{label}: {_join_some(times, max_times)}")
        if self.cuts:
            lines.append(f"new shot: {_join_some([f'{time:.1f} s' for time in self.cuts], max_times)}")
        return lines


@with_default_torch_state
def draw_landmark_overlay(
    path: str | Path, out: str | Path, detector: Detector, face: int = 1, progress: Progress = no_progress
) -> OverlayResult:
    """Draw the landmarks of a video, GIF, picture or folder of pictures of one size; memory does not grow
    with its length.

    The followed face has coloured lines, and around it is the square that would be cut out; other faces are
    grey with their number.

    Args:
        path: the video, picture or folder. It is no error if it shows no face.
        out: the file to write: an .mp4 of all frames, or an image of 12 of them, evenly spaced and those of
            least confidence.
        detector: finds the landmarks.
        face: the number of the face to follow, 1 for the largest times longest.
        progress: shows the advance.

    Raises:
        TalkingheadError: `path` cannot be read, or shows faces but none of that number; `out` cannot be
            written, or is the source.
    """
    path, out = Path(path), Path(out)
    as_video = out.suffix.lower() == ".mp4"
    if not as_video and out.suffix.lower() not in WRITABLE_SUFFIXES:
        raise TalkingheadError(
            f"{out}: expected a name that ends in .mp4 for a video, .png or .jpg for a sheet of frames; "
            "rename it"
        )
    check_outputs([out], [path])
    files = list_images(path) if os.path.isdir(path) else [path] if is_image_file(path) else []
    frames = ImageReader(files) if files else VideoReader(path, find_cuts=True)
    size = _output_size(frames.size)
    # Open the output before the landmarks are detected, so that a bad path fails before the long work.
    opened: AbstractContextManager[Any] = atomic_write(out)
    if as_video:
        opened = write_video(out, frames.fps or _IMAGES_PER_SECOND, (_BAR_HEIGHT_PX + size[0], size[1]))
    with opened as target:
        started = perf_counter()
        faces = read_faces(frames, detector, progress=progress)
        scene = _Scene(faces, face, [file.name for file in files])
        result = scene.result(out, perf_counter() - started)
        if as_video:
            _write_frames(target, scene, progress(frames, desc="drawing", total=faces.total), size)
        else:
            write_image(target, _sheet(scene, result, frames))
    return result


class _Scene:
    """Faces of a source, drawn frame by frame.

    Args:
        faces: of all frames.
        face: the number of the face to follow.
        names: of the image files; empty for a video.
    """

    def __init__(self, faces: FaceTracks, face: int, names: Sequence[str]) -> None:
        self.faces, self.face, self._names = faces, face, names
        none = Track(np.zeros((faces.total, POINTS, 2)), faces.size, faces.fps, np.zeros(faces.total))
        self.track = faces.track(face) if faces.tracks else none
        self._square = crop_around(self.track.landmarks[self.track.seen]) if faces.tracks else None
        # One size for all frames keeps the width of the lines, however the face turns.
        self._face_side = float(np.median(bounding_boxes(self.track.landmarks)[:, 2]))

    def result(self, file: Path, seconds: float) -> OverlayResult:
        """Return the result of a detection that took so many seconds."""
        track, fps, total = self.track, self.faces.fps, self.faces.total
        mean = float(track.confidence[track.seen].mean()) if track.seen.any() else None
        doubtful = _spans(track.seen & (track.confidence < MIN_CONFIDENCE), fps) if fps else []
        return OverlayResult(
            file=file,
            source=self.faces.path,
            frames=total,
            frames_with_face=int(track.seen.sum()),
            face=self.face,
            faces=len(self.faces.tracks),
            confidence=mean,
            fps=fps,
            gaps=track.gaps(),
            doubtful=doubtful,
            cuts=[cut / fps for cut in self.faces.cuts],
            frames_per_second=total / seconds,
        )

    def draw(
        self, number: int, image: np.ndarray, scale: float, corner: tuple[int, int] = (0, 0)
    ) -> np.ndarray:
        """Return a copy of an image of a frame with the faces drawn; the image shows the frame from `corner`
        (x, y) on, `scale` times as large.
        """
        lines, texts = [], []
        for other, track in enumerate(self.faces.tracks, 1):
            index = int(np.searchsorted(track.numbers, number))
            if other != self.face and index < len(track) and track.numbers[index] == number:
                points = (track.landmarks[index] - corner) * scale
                lines += face_lines(points, 1, GREY)
                left, top = points.min(axis=0).round().astype(int).tolist()
                texts += _text_with_shadow(max(left, 4), max(top - 24, 4), str(other), BRIGHT)
        if self._square is not None and (self.faces.fps or self.track.seen[number]):
            # Each picture has its own crop, the frames of a video share one.
            square = (
                self._square if self.faces.fps else crop_around(self.track.landmarks[number : number + 1])
            )
            lines += square_lines(square, scale, corner)
        if self.track.seen[number]:
            width = 2 if self._face_side * scale > 140 else 1
            lines += face_lines((self.track.landmarks[number] - corner) * scale, width)
            if self.track.irises is not None:
                irises = (self.track.irises[number].reshape(-1, 2) - corner) * scale
                lines += [Polyline(irises[list(part)], own, 1) for part, own in IRIS_POLYLINES]
        return draw_text(draw_polylines(image, lines), texts)

    def describe_face(self, number: int) -> tuple[str, tuple[int, int, int]]:
        """Return the confidence of a frame's face as text and a colour."""
        if not self.track.seen[number]:
            return "no face", _RED
        confidence = float(self.track.confidence[number])
        return f"confidence {confidence:.2f}", _AMBER if confidence < MIN_CONFIDENCE else BRIGHT

    def position(self, number: int) -> str:
        """Return the file name or the time of a frame."""
        return self._names[number] if self._names else f"{number / self.faces.fps:.2f} s"

    def is_new_shot(self, number: int) -> bool:
        """Return whether a shot has just begun."""
        return any(0 <= number - cut < max(1, _NEW_SHOT_S * self.faces.fps) for cut in self.faces.cuts)


def _write_frames(
    video: VideoWriter, scene: _Scene, frames: Iterable[np.ndarray], size: tuple[int, int]
) -> None:
    """Write every frame with its landmarks below a bar of text."""
    empty = blank_canvas(_BAR_HEIGHT_PX, size[1])
    for number, frame in zip(range(scene.faces.total), frames, strict=False):
        words, colour = scene.describe_face(number)
        texts = [
            Text(8, 7, f"{number}", 15, colour=FAINT),
            Text(70, 7, scene.position(number), 15, colour=BRIGHT),
            Text(150, 7, words, 15, colour=colour),
        ]
        if scene.is_new_shot(number):
            texts.append(Text(280, 7, "new shot", 15, colour=_AMBER))
        image = scene.draw(number, _resize(frame, size), size[0] / frame.shape[0])
        video.write(np.concatenate([draw_text(empty, texts), image]))


def _sheet(scene: _Scene, result: OverlayResult, frames: Iterable[np.ndarray]) -> np.ndarray:
    """Return the image of a sheet of evenly spaced frames and those of least confidence."""
    left, top, right, bottom = _view(scene.faces)
    tile_side = 2 * _TILE_SIDE_PX if result.frames == 1 else _TILE_SIDE_PX
    scale = tile_side / max(right - left, bottom - top)
    size = (max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale)))
    track = scene.track
    even, worst = _choose_frames(track)
    numbers = np.union1d(even, worst)
    tiles: dict[int, np.ndarray] = {}
    for number, frame in zip(numbers.tolist(), frames_at(frames, numbers), strict=False):
        tiles[number] = scene.draw(number, _resize(frame[top:bottom, left:right], size), scale, (left, top))
        words, colour = scene.describe_face(number)
        if colour != BRIGHT:
            tiles[number] = draw_text(tiles[number], _text_with_shadow(8, 6, words, colour))

    def row(name: str, explanation: str, chosen: np.ndarray) -> SheetRow:
        decoded = [number for number in chosen.tolist() if number in tiles]
        captions = []
        for number in decoded:
            confidence = f"   {track.confidence[number]:.2f}" if track.seen[number] else ""
            captions.append(scene.position(number)[-size[1] // 10 :] + confidence)
        return SheetRow(name, explanation, [tiles[number] for number in decoded], captions)

    columns = _WORST_TILES if size[1] > size[0] / 2 else _EVEN_TILES
    kind = "frames"
    if not result.fps:
        kind = "pictures" if result.frames > 1 else "picture"
    rows = [row("", "", even[start : start + columns]) for start in range(0, len(even), columns)]
    rows[0] = replace(rows[0], name=kind, explanation="evenly spaced" if result.frames > len(even) else "")
    if len(worst):
        rows.append(row("the worst of all", "least confidence,\nor no face", worst))
    return draw_contact_sheet(
        f"talkinghead landmarks: {result.source.name}",
        "   |   ".join(result.lines(max_times=3)),
        rows,
        side=size[1],
        height=size[0],
    )


def _choose_frames(track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of the frames of a sheet: evenly spaced ones, and those of least confidence, not all
    from one moment.
    """
    count = len(track)
    if count <= _EVEN_TILES + _WORST_TILES or np.ptp(track.confidence) == 0:
        return evenly_spaced_indices(count, _EVEN_TILES + _WORST_TILES), np.arange(0)
    remaining = track.confidence.astype(np.float64)
    worst: list[int] = []
    while len(worst) < _WORST_TILES:
        worst.append(int(remaining.argmin()))
        remaining[max(0, worst[-1] - count // 24) : worst[-1] + count // 24 + 1] = np.inf
    return evenly_spaced_indices(count, _EVEN_TILES), np.sort(worst)


def _view(faces: FaceTracks) -> tuple[int, int, int, int]:
    """Return the part of the frames that a sheet shows, (left, top, right, bottom): the area around all
    faces, in the aspect ratio of the frame.
    """
    size = np.array(faces.size[::-1])
    if not faces.tracks:
        return (0, 0, int(size[0]), int(size[1]))
    squares = np.array(
        [
            (square.x, square.y, square.side)
            for square in (crop_around(track.landmarks) for track in faces.tracks)
        ]
    )
    margin = _MARGIN * squares[:, 2:]
    low = (squares[:, :2] - margin).min(axis=0).clip(0)
    high = (squares[:, :2] + squares[:, 2:] + margin).max(axis=0).clip(None, size)
    view_size = np.ceil(size * ((high - low) / size).max().clip(0, 1)).astype(int)
    corner = np.clip(np.floor((low + high - view_size) / 2).astype(int), 0, size - view_size)
    return (*corner.tolist(), *(corner + view_size).tolist())


def _text_with_shadow(left: int, top: int, text: str, colour: tuple[int, int, int]) -> list[Text]:
    """Return text with a shadow, legible on any image."""
    return [
        Text(left + 1, top + 1, text, 17, colour=DARK),
        Text(left, top, text, 17, colour=colour),
    ]


def _output_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of the frames of the output video for source frames of this size."""
    longer = max(size)
    scale = min(1.0, _MAX_SIDE_PX / longer) * -(-_MIN_SIDE_PX // longer)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a frame uint8 [H, W, 3] as uint8 [*size, 3]: pixels are repeated if the size is a multiple of
    the frame's, else interpolated with antialiasing.
    """
    if frame.shape[:2] == size:
        return frame
    factor = size[0] // frame.shape[0]
    if (frame.shape[0] * factor, frame.shape[1] * factor) == size:
        return frame.repeat(factor, axis=0).repeat(factor, axis=1)
    planes = from_numpy(frame).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _spans(flags: np.ndarray, fps: float) -> list[tuple[float, float]]:
    """Return the spans in seconds where bool [N] are set; spans that follow each other closely are merged."""
    numbers = np.flatnonzero(flags)
    groups = np.split(numbers, np.flatnonzero(np.diff(numbers) > _MIN_PAUSE_S * fps) + 1)
    return [(group[0] / fps, (group[-1] + 1) / fps) for group in map(np.ndarray.tolist, groups) if group]


def _join_some(items: list[str], limit: int) -> str:
    """Join at most `limit` items by commas and count the others."""
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def _to_json(value: Any) -> Any:
    """Return a value as JSON holds it, numbers rounded to a thousandth."""
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if isinstance(value, float):
        return round(value, 3)
    return str(value) if isinstance(value, Path) else value
