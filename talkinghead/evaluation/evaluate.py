"""The verb `evaluate`: measures every clip, in as many processes as there are cores, and writes what was found.

Each clip's figures are kept in the folder `clips` as soon as they are known: the same command, started again, goes on from there.
"""

import hashlib
import io
import json
import logging
import platform
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..corpus.workers import Lost, cores, in_order
from ..data.outputs import check_outputs, files_in
from ..data.read import Progress, silent
from ..errors import TalkingheadError
from ..files import check_writable, replacing
from ..media.pictures import write_picture
from ..torch_state import with_default_torch_state
from ..version import __version__
from .clips import Measure
from .contact import COLUMNS, contact_sheet
from .material import Subject
from .plots import plot_shots, plot_steps
from .summary import summarise
from .table import markdown

FILES = ("results.json", "table.md", "sheet.png", "shots.png", "steps.png")
"""What `evaluate` writes into its folder."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What was written, and the values of results.json."""

    files: dict[str, Path]
    results: dict[str, Any]


_KEYS = {"person", "name", "frames", "held_out", "seconds", "figures", "curve", "features", "descriptors", "shown"}
"""Of what `Measure` returns of a clip that can be used."""


@with_default_torch_state
def evaluate(
    measure: Measure, subjects: Sequence[Subject], out: str | Path, workers: int | None = None, progress: Progress = silent
) -> Evaluation:
    """Measure and write results.json, table.md, sheet.png and, where matplotlib is installed, shots.png and steps.png.

    Args:
        measure: what, with which networks.
        subjects: on whom.
        out: the folder, made when missing.
        workers: processes; by default one for each core.
        progress: shows the advance.

    Raises:
        TalkingheadError: a network or package is missing, no clip can be used, or `out` cannot be written.
    """
    out = Path(out)
    named = (measure.model, measure.identity, measure.fid, *(measure.perceptual or {}).values())
    check_outputs(files_in(out, FILES), [*named, *(subject.source for subject in subjects if isinstance(subject.source, Path))])
    if out.exists() and not out.is_dir():
        raise TalkingheadError(f"{out}: is a file, a folder was expected; name another place")
    people = sorted({subject.person for subject in subjects})
    measure.shown = max(1, COLUMNS // len(people))
    measure.prepare()
    check_writable(out / "results.json")  # before the work of hours
    _warn(measure, people)
    started = time.perf_counter()
    found = list(progress(_clips(measure, subjects, out / "clips", workers), len(subjects), "clips"))
    clips = [clip for clip in found if "left_out" not in clip]
    left_out = {clip["name"]: clip["left_out"] for clip in found if "left_out" in clip}
    for reason in left_out.values():
        log.warning("left out: %s", reason)
    if not clips:
        raise TalkingheadError(f"no clip could be used: {next(iter(left_out.values()))}")
    protocol = measure.protocol
    results = _plain(
        {
            "settings": settings(measure)
            | {
                "date": time.strftime("%Y-%m-%d"),
                "machine": platform.machine(),
                "versions": {"talkinghead": __version__, "torch": torch.__version__, "numpy": np.__version__},
                "seconds": round(time.perf_counter() - started),
            },
            "clips": [{key: clip[key] for key in ("person", "name", "frames", "held_out", "seconds")} for clip in clips],
            "left_out": left_out,
            **summarise(clips, protocol.shots, protocol.seed),
        }
    )
    files = {"results": out / "results.json", "table": out / "table.md", "sheet": out / "sheet.png"}
    table = markdown(results)
    with replacing(files["table"]) as beside:
        beside.write_text(table, encoding="utf-8")
    write_picture(files["sheet"], contact_sheet(clips, protocol.shots, results))
    if find_spec("matplotlib") is None:
        log.warning("no plots: matplotlib is not installed: pip install 'talkinghead[evaluate]'")
    else:
        files["shots"] = out / "shots.png"
        plot_shots(results, files["shots"])
        if protocol.curve:
            files["steps"] = out / "steps.png"
            plot_steps(results, files["steps"])
    with replacing(files["results"]) as beside:
        beside.write_text(json.dumps(results, indent=1) + "\n")
    return Evaluation(files, results)


def settings(measure: Measure) -> dict[str, Any]:
    """What the figures depend on beside the clips; plain values."""
    model, judge, protocol = measure.loaded, measure.judge, measure.protocol
    return {
        "model": {"name": Path(measure.model).name, "digest": model.digest, "preset": model.config.preset, "provenance": model.provenance},
        "image_size": model.config.networks.image_size,
        "protocol": asdict(protocol),
        "steps": {shots: measure.steps(shots) for shots in protocol.shots},
        "landmarks": judge.detector.name,
        "identity": {"name": judge.identity.name, "digest": judge.identity.digest},
        "frechet": {"name": judge.frechet, "weights": None if measure.fid is None else Path(measure.fid).name},
    }


def _warn(measure: Measure, people: Sequence[str]) -> None:
    known = sorted(set(people) & set(measure.loaded.provenance.get("people", ())))
    if known:
        log.warning("the model has learned from %s: these figures are not of people left out (--only names some)", ", ".join(known))
    if len(people) < 10:
        log.warning("%d people: the intervals say how little that is; the paper has 50 videos", len(people))


def _clips(measure: Measure, subjects: Sequence[Subject], folder: Path, workers: int | None) -> Iterator[dict[str, Any]]:
    """Of each subject what `Measure` returns, kept in `folder` once it is known."""
    common = json.dumps(_plain({"version": __version__, "shown": measure.shown, **settings(measure)}), sort_keys=True)
    places = []
    for number, subject in enumerate(subjects):
        digest = hashlib.sha256(f"{common} {subject.person} {subject.name} {subject.digest}".encode()).hexdigest()
        places.append((number, folder / f"{digest[:32]}.pt"))
    jobs = [(place, None if place[1].is_file() else subjects[place[0]]) for place in places]
    waiting = sum(job is not None for _, job in jobs)
    crew = min(workers or cores(), waiting)
    done: Any = in_order(measure, jobs, crew) if crew > 1 else ((place, job and measure(job, lambda: None)) for place, job in jobs)
    for (number, path), result in done:
        if isinstance(result, Lost):
            result = {
                "person": subjects[number].person,
                "name": subjects[number].name,
                "left_out": f"{subjects[number].name}: {result.reason}",
            }
        elif result is None:
            result = _read(path)
        elif "left_out" not in result:
            content = io.BytesIO()  # torch.save to a file tells of a full disk by a RuntimeError
            torch.save(result, content)
            with replacing(path) as beside:
                beside.write_bytes(content.getbuffer())
        yield result


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":  # or torch takes it for a pickle of old
                raise ValueError("it is no archive")
        with zipfile.ZipFile(path) as archive:  # torch compares no checksums, and unpacks whatever a record claims to hold
            damaged = archive.testzip() if sum(each.file_size for each in archive.infolist()) <= path.stat().st_size else "its index"
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        found = torch.load(path, weights_only=True)
        if not (isinstance(found, dict) and set(found) >= _KEYS):
            raise ValueError("it holds something else")
        return found
    except Exception as error:  # torch has several kinds of complaint
        raise TalkingheadError(f"{path}: cannot be read again; remove it, it is then measured once more") from error


def _plain(value: Any) -> Any:
    """For JSON: names as texts, what is not finite as null, six digits."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
