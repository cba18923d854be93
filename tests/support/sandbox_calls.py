"""Calls that children of the sandbox run, and the check of their outputs."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from support.centre_detector import CentreDetector

MODEL = os.environ.get("TALKINGHEAD_TEST_MODEL")
"""Model that the persons of tests belong to."""


def output_problem(path: Path) -> str:
    """Return what is wrong with a written file or folder, empty when it is valid."""
    import av
    from PIL import Image

    if path.is_symlink() or not path.exists():
        return "does not exist"
    if path.is_dir():
        from talkinghead.dataset.shard_reader import read_index

        complete = all(len(clip.frames(range(len(clip)))) for clip in read_index(path))
        return "" if complete else "holds empty clips"
    if path.suffix == ".safetensors":
        return _person_problem(path)
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            (stream,) = container.streams.video
            count = sum(1 for _ in container.decode(stream))
            return "" if count == stream.frames > 0 else f"holds {count} of its {stream.frames} frames"
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".json":
        json.loads(path.read_text())
    return "" if path.stat().st_size else "is empty"


def _person_problem(path: Path) -> str:
    from talkinghead import load_person
    from talkinghead.errors import TalkingheadError

    try:
        load_person(path, MODEL)
    except TalkingheadError as error:
        return "" if "was made with model" in str(error) else str(error)
    return "" if path.stat().st_size else "is empty"


def _read(path: str) -> None:
    """Read an image or video in both ways, and check the results."""
    from talkinghead import read_clip
    from talkinghead.data.load import read_track
    from talkinghead.errors import TalkingheadError
    from talkinghead.landmarks.open_detector import open_detector

    try:
        clip = read_clip(path, size=32, limit=200)
    except TalkingheadError:
        clip = None
    else:
        assert len(clip) and clip.frames.shape == (len(clip), 32, 32, 3)
        assert np.isfinite(clip.track.landmarks).all()
        assert np.isfinite(clip.track.fps) and clip.track.fps >= 0
    track = read_track(path, open_detector())
    assert len(track) and np.isfinite(track.landmarks).all() and min(track.size) > 0
    assert np.isfinite(track.fps) and track.fps >= 0
    if clip is None:
        read_clip(path, size=32, limit=200)


def _load(path: str) -> None:
    """Load a file as a model or else as a person."""
    from talkinghead import load_model, load_person
    from talkinghead.errors import TalkingheadError

    try:
        load_model(path)
    except TalkingheadError:
        load_person(path, MODEL)


def _draw(folder: str) -> None:
    """Read all frames of prepared data, and sample episodes from it as training does."""
    from talkinghead.dataset.episodes import EpisodeSource
    from talkinghead.dataset.shard_reader import read_index

    for clip in read_index(folder):
        frames = clip.frames(range(len(clip)))
        assert frames.shape == (len(clip), clip.size, clip.size, 3) and np.isfinite(clip.landmarks).all()
    source = EpisodeSource(folder, 32, 2, 4, 2, 0)
    for step in range(3):
        episode = source.draw(step)
        assert episode.frames.isfinite().all() and episode.points.isfinite().all()


def _detect(path: str, name: str) -> None:
    """Run a detector on the first frames of a file, also with landmarks nearby and far away as a hint."""
    from itertools import islice

    from talkinghead.landmarks.dlib_detector import face_descriptor
    from talkinghead.landmarks.open_detector import open_detector
    from talkinghead.media.images import is_image_file, read_image
    from talkinghead.media.video import VideoReader

    detector = open_detector(name)
    frames = [read_image(Path(path))] if is_image_file(Path(path)) else list(islice(VideoReader(path), 3))
    for faces in detector.find(frames):
        for face in faces:
            assert np.isfinite(face.landmarks).all() and 0 <= face.confidence <= 1
    centre = CentreDetector.centre_face(frames[0]).landmarks
    for near in (centre, centre + 1000, centre - 1000, 1000 * centre):
        for face in detector.follow(frames, near):
            assert np.isfinite(face.landmarks).all()
    if name == "dlib":
        face_descriptor(frames[0])


def _read_people(path: str) -> None:
    from talkinghead.dataset.people_table import read_people

    assert all(isinstance(text, str) for item in read_people(path).items() for text in item)


def _load_state(path: str) -> None:
    import torch

    from talkinghead.config import AdamConfig
    from talkinghead.training.resume import adam, load_state

    network = torch.nn.Linear(20, 20)
    optimizer = adam([{"params": list(network.parameters())}], AdamConfig(1e-3))
    load_state(Path(path), {"net": network}, {"adam": optimizer})


def _prepare(out: str, workers: str, *videos: str) -> None:
    from talkinghead.dataset.prepare import prepare

    prepare(videos, out, size=32, detector=CentreDetector(), workers=int(workers))


CALLS: dict[str, Callable[..., None]] = {
    "read": _read,
    "load": _load,
    "draw": _draw,
    "detect": _detect,
    "people": _read_people,
    "state": _load_state,
    "prepare": _prepare,
}
