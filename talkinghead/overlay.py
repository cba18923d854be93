"""What the landmark detector found, drawn over a video or as a sheet of its frames: for the user to see why something fails."""

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from .clip import POINTS, Track
from .data.crop import crop_around
from .data.outputs import check_outputs
from .data.read import Faces, Progress, read_faces, select, silent
from .data.shots import spread
from .errors import TalkingheadError
from .files import replacing
from .landmarks.draw import PARTS
from .landmarks.face import DOUBTFUL, Detector
from .media.panels import BRIGHT, FAINT, Row, blank, sheet
from .media.pictures import WRITABLE_SUFFIXES, Line, Pictures, Text, draw_lines, is_picture, pictures_in, write_picture, write_text
from .media.video import VideoReader, VideoWriter, write_video
from .torch_state import from_numpy, with_default_torch_state

_RED, _AMBER, _GREY, _DARK = (255, 92, 82), (255, 190, 70), (176, 180, 188), (12, 13, 16)
_SMALLEST, _LARGEST = 640, 1280  # longer side of a video: smaller ones are enlarged by a whole factor, larger ones reduced
_BAR = 32  # pixels above a video's pictures for what is said of them
_TILE = 320  # longer side of a sheet's pictures; of a single one twice that
_EVEN, _WORST = 8, 4  # frames of a sheet
_MARGIN = 0.1  # shown around the crop of a face on a sheet, in sides
_APART = 0.5  # seconds between two times of doubt
_NEW_SHOT = 0.5  # seconds that a change of shot is told of
_PICTURES_A_SECOND = 2  # of a folder shown as a video


@dataclass(frozen=True)
class Found:
    """What `draw_found` drew.

    Attributes:
        file: the video or picture written.
        source: what was looked at.
        frames: how many there are.
        found: in how many of them the face was seen.
        face, faces: its number, and how many faces there are.
        confidence: its mean where the face was seen, 0..1; None where it never was.
        fps: frames per second; 0 for pictures.
        gaps: (start, end) in seconds, when the face was not seen for longer than 0.5 s.
        doubtful: (start, end) in seconds, when it was seen with a confidence below 0.5; times less than 0.5 s apart are one.
        cuts: seconds at which a new shot begins.
        frames_per_second: how fast they were looked at, decoding included.
    """

    file: Path
    source: Path
    frames: int
    found: int
    face: int
    faces: int
    confidence: float | None
    fps: float
    gaps: list[tuple[float, float]]
    doubtful: list[tuple[float, float]]
    cuts: list[float]
    frames_per_second: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def lines(self, most: int = 8) -> list[str]:
        """For people; no more than `most` times of each kind."""
        many = f"any of the {self.frames} {'frames' if self.fps else 'pictures'} of " if self.frames > 1 else ""
        if self.confidence is None:
            return [f"no face was found in {many}{self.source.name}"]
        of = f"face {self.face} of {self.faces}" if self.faces > 1 else "a face"
        confidence = f"{'mean ' if many else ''}confidence {self.confidence:.2f}"
        lines = [f"{of} in {many.replace('any', str(self.found))}{self.source.name}, {confidence}"]
        for what, spans in (("no face", self.gaps), ("profile, occluded or a poor fit", self.doubtful)):
            if spans:
                lines.append(f"{what}: {_shortened([f'{start:.1f} to {end:.1f} s' for start, end in spans], most)}")
        return lines + ([f"new shot: {_shortened([f'{time:.1f} s' for time in self.cuts], most)}"] if self.cuts else [])


@with_default_torch_state
def draw_found(path: str | Path, out: str | Path, detector: Detector, face: int = 1, progress: Progress = silent) -> Found:
    """Draw the landmarks of a video, GIF, picture or folder of pictures of one size; memory does not grow with its length.

    The followed face has coloured lines, and around it is the square that would be cut out; other faces are grey with their number.

    Args:
        path: what to look at. That it shows no face is no error.
        out: the file to write: an .mp4 of all frames, or a picture of 12 of them, evenly spaced and those of least confidence.
        detector: finds the landmarks.
        face: the number of the face to follow, 1 for the largest times longest.
        progress: shows the advance.

    Raises:
        TalkingheadError: `path` cannot be read, or shows faces but none of that number; `out` cannot be written, or is what is looked at.
    """
    path, out = Path(path), Path(out)
    as_video = out.suffix.lower() == ".mp4"
    if not as_video and out.suffix.lower() not in WRITABLE_SUFFIXES:
        raise TalkingheadError(f"{out}: expected a name that ends in .mp4 for a video, .png or .jpg for a sheet of frames; rename it")
    check_outputs([out], [path])
    files = pictures_in(path) if os.path.isdir(path) else [path] if is_picture(path) else []
    frames = Pictures(files) if files else VideoReader(path, find_cuts=True)
    size = _shown_size(frames.size)
    # opened before the search of minutes, so that a place that cannot be written to is told at once
    opened: AbstractContextManager[Any] = replacing(out)
    if as_video:
        opened = write_video(out, frames.fps or _PICTURES_A_SECOND, (_BAR + size[0], size[1]))
    with opened as target:
        started = perf_counter()
        faces = read_faces(frames, detector, progress=progress)
        scene = _Scene(faces, face, [file.name for file in files])
        found = scene.found(out, perf_counter() - started)
        if as_video:
            _write_frames(target, scene, progress(frames, faces.total, "drawing"), size)
        else:
            write_picture(target, _sheet(scene, found, frames))
    return found


class _Scene:
    """What was found, frame by frame.

    Args:
        faces: of all frames.
        face: the number of the one to follow.
        names: of the pictures, when these are pictures.
    """

    def __init__(self, faces: Faces, face: int, names: Sequence[str]) -> None:
        self.faces, self.face, self._names = faces, face, names
        none = Track(np.zeros((faces.total, POINTS, 2)), faces.size, faces.fps, np.zeros(faces.total))
        self.track = faces.track(face) if faces.chains else none
        self._square = crop_around(self.track.landmarks[self.track.seen]) if faces.chains else None
        # the same in all frames, however the face turns
        self._face = float(np.median(np.ptp(self.track.landmarks, axis=1).max(axis=1)))

    def found(self, file: Path, seconds: float) -> Found:
        """The figures, when looking took so many seconds."""
        track, fps, total = self.track, self.faces.fps, self.faces.total
        mean = float(track.confidence[track.seen].mean()) if track.seen.any() else None
        doubtful = _spans(track.seen & (track.confidence < DOUBTFUL), fps) if fps else []
        cuts = [cut / fps for cut in self.faces.cuts]
        seen, count = int(track.seen.sum()), len(self.faces.chains)
        return Found(file, self.faces.path, total, seen, self.face, count, mean, fps, track.gaps(), doubtful, cuts, total / seconds)

    def drawn(self, number: int, picture: np.ndarray, scale: float, corner: tuple[int, int] = (0, 0)) -> np.ndarray:
        """A copy of the picture of a frame, with all that was found; it shows the frame from `corner` (x, y) on, `scale` times as large."""
        lines, texts = [], []
        for other, chain in enumerate(self.faces.chains, 1):
            place = int(np.searchsorted(chain.numbers, number))
            if other != self.face and place < len(chain) and chain.numbers[place] == number:
                points = (chain.landmarks[place] - corner) * scale
                lines += _face_lines(points, 1, _GREY)
                left, top = points.min(axis=0).round().astype(int).tolist()
                texts += _raised(max(left, 4), max(top - 24, 4), str(other), BRIGHT)
        if self._square is not None and (self.faces.fps or self.track.seen[number]):
            # each picture has its own crop, the frames of a video share theirs
            square = self._square if self.faces.fps else crop_around(self.track.landmarks[number : number + 1])
            corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * square.side + (square.x, square.y)
            lines += [Line((corners - corner) * scale, colour, width) for colour, width in ((_DARK, 3), (_GREY, 1))]
        if self.track.seen[number]:
            lines += _face_lines((self.track.landmarks[number] - corner) * scale, 2 if self._face * scale > 140 else 1)
        return write_text(draw_lines(picture, lines), texts)

    def said(self, number: int) -> tuple[str, tuple[int, int, int]]:
        """What the face of a frame is worth, in words and a colour."""
        if not self.track.seen[number]:
            return "no face", _RED
        confidence = float(self.track.confidence[number])
        return f"confidence {confidence:.2f}", _AMBER if confidence < DOUBTFUL else BRIGHT

    def place(self, number: int) -> str:
        """Where in the source a frame is."""
        return self._names[number] if self._names else f"{number / self.faces.fps:.2f} s"

    def is_new_shot(self, number: int) -> bool:
        """Whether a shot has just begun."""
        return any(0 <= number - cut < max(1, _NEW_SHOT * self.faces.fps) for cut in self.faces.cuts)


def _write_frames(video: VideoWriter, scene: _Scene, frames: Iterable[np.ndarray], size: tuple[int, int]) -> None:
    empty = blank(_BAR, size[1])
    for number, frame in zip(range(scene.faces.total), frames, strict=False):
        words, colour = scene.said(number)
        texts = [Text(8, 7, f"{number}", 15, FAINT), Text(70, 7, scene.place(number), 15, BRIGHT), Text(150, 7, words, 15, colour)]
        if scene.is_new_shot(number):
            texts.append(Text(280, 7, "new shot", 15, _AMBER))
        picture = scene.drawn(number, _resized(frame, size), size[0] / frame.shape[0])
        video.write(np.concatenate([write_text(empty, texts), picture]))


def _sheet(scene: _Scene, found: Found, frames: Iterable[np.ndarray]) -> np.ndarray:
    left, top, right, bottom = _view(scene.faces)
    scale = (2 * _TILE if found.frames == 1 else _TILE) / max(right - left, bottom - top)
    size = (max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale)))
    track = scene.track
    even, worst = _chosen(track)
    numbers = np.union1d(even, worst)
    tiles: dict[int, np.ndarray] = {}
    for number, frame in zip(numbers.tolist(), select(frames, numbers), strict=False):
        tiles[number] = scene.drawn(number, _resized(frame[top:bottom, left:right], size), scale, (left, top))
        words, colour = scene.said(number)
        if colour != BRIGHT:
            tiles[number] = write_text(tiles[number], _raised(8, 6, words, colour))

    def row(name: str, explanation: str, chosen: np.ndarray) -> Row:
        shown = [number for number in chosen.tolist() if number in tiles]
        worth = {number: f"   {track.confidence[number]:.2f}" * bool(track.seen[number]) for number in shown}
        captions = [scene.place(number)[-size[1] // 10 :] + worth[number] for number in shown]
        return Row(name, explanation, [tiles[number] for number in shown], captions)

    columns = _WORST if size[1] > size[0] / 2 else _EVEN
    kind = "frames" if found.fps else "pictures" if found.frames > 1 else "picture"
    rows = [row("", "", even[start : start + columns]) for start in range(0, len(even), columns)]
    rows[0] = replace(rows[0], name=kind, explanation="evenly spaced" if found.frames > len(even) else "")
    if len(worst):
        rows.append(row("the worst of all", "least confidence,\nor no face", worst))
    return sheet(f"talkinghead landmarks: {found.source.name}", "   |   ".join(found.lines(most=3)), rows, size[1], size[0])


def _chosen(track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the frames of a sheet: those evenly spaced, and those of least confidence, not all from one moment."""
    count = len(track)
    if count <= _EVEN + _WORST or np.ptp(track.confidence) == 0:
        return spread(count, _EVEN + _WORST), np.arange(0)
    left = track.confidence.astype(np.float64)
    worst: list[int] = []
    while len(worst) < _WORST:
        worst.append(int(left.argmin()))
        left[max(0, worst[-1] - count // 24) : worst[-1] + count // 24 + 1] = np.inf
    return spread(count, _EVEN), np.sort(worst)


def _view(faces: Faces) -> tuple[int, int, int, int]:
    """What a sheet shows of the frames, (left, top, right, bottom): what is around all faces, in the shape of the frame."""
    size = np.array(faces.size[::-1])
    if not faces.chains:
        return (0, 0, int(size[0]), int(size[1]))
    squares = np.array([(square.x, square.y, square.side) for square in (crop_around(chain.landmarks) for chain in faces.chains)])
    margin = _MARGIN * squares[:, 2:]
    low = (squares[:, :2] - margin).min(axis=0).clip(0)
    high = (squares[:, :2] + squares[:, 2:] + margin).max(axis=0).clip(None, size)
    wanted = np.ceil(size * ((high - low) / size).max().clip(0, 1)).astype(int)
    corner = np.clip(np.floor((low + high - wanted) / 2).astype(int), 0, size - wanted)
    return (*corner.tolist(), *(corner + wanted).tolist())


def _face_lines(points: np.ndarray, width: int, colour: tuple[int, int, int] | None = None) -> list[Line]:
    """The lines of a face [68, 2] in pixels of the picture, dark at their edges so that they show on any skin."""
    parts = [(points[list(part)], colour or own) for part, own in PARTS]
    return [Line(part, _DARK, width + 2) for part, _ in parts] + [Line(part, own, width) for part, own in parts]


def _raised(left: int, top: int, text: str, colour: tuple[int, int, int]) -> list[Text]:
    """Text with a shadow, to be read on any picture."""
    return [Text(left + 1, top + 1, text, 17, _DARK), Text(left, top, text, 17, colour)]


def _shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in which a video's frames of this size are shown."""
    longer = max(size)
    scale = min(1.0, _LARGEST / longer) * -(-_SMALLEST // longer)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame uint8 as uint8 [*size, 3]: enlarged by a whole factor its pixels stay sharp, else it is antialiased."""
    if frame.shape[:2] == size:
        return frame
    factor = size[0] // frame.shape[0]
    if (frame.shape[0] * factor, frame.shape[1] * factor) == size:
        return frame.repeat(factor, axis=0).repeat(factor, axis=1)
    planes = from_numpy(frame).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _spans(flags: np.ndarray, fps: float) -> list[tuple[float, float]]:
    """When bool [N] are set, in seconds; times that follow each other closely are one."""
    numbers = np.flatnonzero(flags)
    groups = np.split(numbers, np.flatnonzero(np.diff(numbers) > _APART * fps) + 1)
    return [(group[0] / fps, (group[-1] + 1) / fps) for group in map(np.ndarray.tolist, groups) if group]


def _shortened(items: list[str], most: int) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _plain(value: Any) -> Any:
    """A value as JSON holds it, numbers rounded to a thousandth."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return round(value, 3) if isinstance(value, float) else str(value) if isinstance(value, Path) else value
