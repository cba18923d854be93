"""Jobs that a worker runs: examine an upload, learn a person, animate, export.

A task takes the worker's resources, the fields of the request and the report, and returns plain values. Paths
in a request come from the server; names of users only stand in messages.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import load_person
from ..config import preset
from ..constants import DEFAULT_MODEL
from ..data.crop import crop_around
from ..data.few_shot import read_shots
from ..data.load import frames_at, read_track
from ..data.missing_face import missing_face_error
from ..engines.manifest import sidecar
from ..errors import TalkingheadError
from ..exporters.export import export_person
from ..landmarks.detector import MIN_CONFIDENCE, largest_face
from ..media.content_type import detect_media_type
from ..media.images import read_image
from ..media.video import VideoReader
from ..pipelines.animate import animate
from ..pipelines.animate_video import animate_video
from ..pipelines.face_drawing import draw_face
from ..system.atomic_file import atomic_write
from ..system.device import choose_device
from .learn_task import learn, warm_up_model
from .report import JobReport
from .task_files import named_error, write_jpeg
from .task_resources import TaskResources

Task = Callable[[TaskResources, Mapping[str, Any], JobReport], dict[str, Any]]

_LOOK_SIDE_PX = 640
"""Longer side of the picture that shows what was found."""
_SMALL_FACE_PX = 80  # side of a face's box, below which a result is soft
_SAMPLES = 8  # frames of a video that are searched for a face before it is accepted
_MIN_SHARE = 0.8  # of these that show a face; with fewer the user is warned


def examine(resources: TaskResources, request: Mapping[str, Any], report: JobReport) -> dict[str, Any]:
    """Find out what an upload is, whether it can be used, and draw what was found.

    Args:
        resources: of the worker.
        request: `path` is the upload, `stem` the path of the files to write without their suffix, `name` the
            user's name of it, `role` is "picture" to learn from or "driver", `max_seconds` limits videos.
        report: takes no progress.

    Returns:
        kind, suffix of the upload, seconds of a video, and a note, empty without one.

    Raises:
        TalkingheadError: it cannot be used; the message has the user's name of it.
    """
    path, stem = Path(request["path"]), Path(request["stem"])
    file = path
    try:
        media = detect_media_type(path)
        file = path.rename(stem.with_suffix(media.suffix))
        examine_kind = _examine_picture if media.kind == "picture" else _examine_video
        look, findings = examine_kind(resources, request, file)
    except TalkingheadError as error:
        file.unlink(missing_ok=True)
        raise named_error(error, {file: request["name"]}) from error
    write_jpeg(stem.with_suffix(".look"), look, comment="")
    return {"kind": media.kind, "suffix": media.suffix, **findings}


def _examine_picture(
    resources: TaskResources, request: Mapping[str, Any], file: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a picture with its face drawn, and a note on it."""
    detector, convention = resources.detector(request), preset(DEFAULT_MODEL).crop
    read_shots(file, 64, 1, detector, convention=convention)  # raises what learning would raise
    frame = read_image(file)
    face = largest_face(detector, frame)
    if face is None:
        raise missing_face_error(file, 1)
    notes = []
    if face.confidence < MIN_CONFIDENCE:
        notes.append("the face is turned away or covered; a picture from the front is better")
    if face.box[2] < _SMALL_FACE_PX:
        notes.append(f"the face is only {face.box[2]:.0f} pixels wide; a larger picture is sharper")
    square = crop_around(face.landmarks[None], frame.shape[:2], convention)
    return draw_face(frame, face.landmarks, square, _LOOK_SIDE_PX), {"note": "; ".join(notes)}


def _examine_video(
    resources: TaskResources, request: Mapping[str, Any], file: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a frame of a video with its face drawn, its length and a note on it."""
    reader = VideoReader(file)
    seconds = (reader.count or 0) / float(reader.fps)
    if seconds > request["max_seconds"]:
        raise TalkingheadError(
            f"{file}: is {seconds:.0f} seconds long, expected at most {request['max_seconds']:g}; cut it"
        )
    stride = max(1, (reader.count or 1) // _SAMPLES)
    track = read_track(reader, resources.detector(request), stride=stride)
    best = int(np.argmax(track.confidence))
    (frame,) = frames_at(reader, np.array([best * stride]))
    square = crop_around(track.landmarks[track.seen], track.size, preset(DEFAULT_MODEL).crop)
    share = float(track.seen.mean())
    note = "" if share > _MIN_SHARE else f"a face is seen in {share:.0%} of the frames that were looked at"
    return draw_face(frame, track.landmarks[best], square, _LOOK_SIDE_PX), {
        "seconds": round(seconds, 1),
        "note": note,
    }


def animate_person(resources: TaskResources, request: Mapping[str, Any], report: JobReport) -> dict[str, Any]:
    """Write the video, or the picture, of a person who does what a driver does.

    Args:
        resources: of the worker.
        request: `person` and `drive` are files, `kind_of_driver` is "video" or "picture", `out` is the file
            to write without its suffix, `retarget` and `layout` are as for `animate_video`.
        report: of the advance.
    """
    person, drive, out = load_person(request["person"]), Path(request["drive"]), Path(request["out"])
    detector = resources.detector(request)
    settings = {"detector": detector, "retarget": request["retarget"], "device": request["device"]}
    try:
        if request["kind_of_driver"] == "picture":
            (frame,) = animate(person, drive, **settings)
            write_jpeg(out.with_suffix(".jpg"), frame)
            return {"kind": "picture", "frames": 1, "without_face": 0}
        animation = animate_video(
            person,
            drive,
            out.with_suffix(".mp4"),
            request["layout"],
            progress=report.progress,
            **settings,
        )
    except TalkingheadError as error:
        raise named_error(error, {drive: request["name"]}) from error
    return {
        "kind": "video",
        "frames": animation.frames,
        "without_face": animation.without_face,
        "retargeted": animation.retargeted,
        "seconds": round(animation.seconds, 1),
    }


def export_engine(resources: TaskResources, request: Mapping[str, Any], report: JobReport) -> dict[str, Any]:
    """Write an engine of a person: an ONNX file, or a zip of a portable .pt2 and its manifest.

    Args:
        resources: of the worker.
        request: `person` is the file, `format` is "onnx" or "aoti", `out` the file to write without suffix.
        report: of the advance.
    """
    person, out = load_person(request["person"]), Path(request["out"])
    is_onnx = request["format"] == "onnx"
    report.advance("writing and checking the engine", 0, None, at_once=True)
    engine = out.with_suffix(".onnx" if is_onnx else ".pt2")
    exported = export_person(
        person, engine, request["format"], name="person.safetensors", portable=not is_onnx
    )
    file = engine
    if not is_onnx:
        file = out.with_suffix(".zip")
        with atomic_write(file) as temp_path, zipfile.ZipFile(temp_path, "w") as archive:
            archive.write(engine, "person.pt2")
            archive.write(sidecar(engine), sidecar(Path("person.pt2")).name)
        sidecar(engine).unlink()
        engine.unlink()
    return {"suffix": file.suffix, "bytes": file.stat().st_size, "psnr_db": exported.psnr_db}


def warm_up(resources: TaskResources, request: Mapping[str, Any], report: JobReport) -> dict[str, Any]:
    """Load detector and model, and find no face in a grey picture, so that the first job is fast."""
    detector = resources.detector(request)
    detector.find([np.full((240, 320, 3), 128, np.uint8)])
    if request.get("model"):
        warm_up_model(resources.model(request["model"]).on(choose_device(request["device"])))
    return {}


TASKS: dict[str, Task] = {
    "examine": examine,
    "learn": learn,
    "animate": animate_person,
    "export": export_engine,
    "warm-up": warm_up,
}
"""Tasks by kind of job."""
