"""The command `talkinghead`: one verb for each step from pictures to a video."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from talkinghead_kernels import backend

from .animate import animate_video
from .arguments import build_parser
from .checkpoint import DEFAULT_MODEL, PAPER_FORM_MODEL, Person, load_person, open_model, save_person
from .console import Console
from .corpus.filters import Filters
from .corpus.prepare import prepare
from .data.shots import read_shots
from .demo import SHOTS, compare, demo_clip
from .demo import run as run_demo
from .device import choose_device
from .engines.eager import EagerEngine
from .engines.engine import Engine
from .engines.formats import check, export, open_engine
from .errors import TalkingheadError
from .evaluation.clips import ROWS, Measure, Protocol
from .evaluation.evaluate import evaluate
from .evaluation.material import find_subjects
from .file_arguments import check_arguments
from .files import check_writable
from .identity import open_identity, warn_of_strangers
from .info import info
from .interrupt import signals_as_interrupts, stop_flag
from .landmarks.detect import open_detector
from .landmarks.face import Detector
from .live import run_live
from .overlay import draw_found
from .ranking import PICTURE_SIDE, rank_drivers
from .ranking import lines as ranking_lines
from .streams import ClosedPipe, Stream, open_missing_descriptors
from .synthetic.dataset import FRAMES, Made, synthesise
from .synthetic.portraits import FRAMES_EACH, PortraitReport, prepare_portraits
from .training.finetune import Diverged, Interrupted, finetune
from .training.meta import train
from .training.run_folder import RunFolder
from .training.stopping import finetune_until_settled

USER_ERROR, INTERRUPTED = 2, 130
CLOSED_PIPE = 141  # as a shell tells that SIGPIPE ended ls or grep
MAX_TABLE_BYTES = 64 << 20
"""Of a table of people: some fifty bytes for each of the million videos of the largest corpora."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0, 2 for bad input (one line on stderr), 130 when interrupted, 141 when the reader of stdout went away.
    """
    open_missing_descriptors()
    out, err = Stream("stdout"), Stream("stderr")
    try:
        given = build_parser(_VERBS).parse_args(arguments)
        check_arguments(given)
        with (
            signals_as_interrupts(),
            Console(quiet=getattr(given, "quiet", False), as_json=given.json, out=out, err=err) as console,
        ):
            given.run(given, console)
        out.check()
    except ClosedPipe:
        return CLOSED_PIPE
    except TalkingheadError as error:
        err.line(f"talkinghead: error: {error}")
        return USER_ERROR
    except torch.OutOfMemoryError as error:
        said = str(error).splitlines()[0].partition(". ")[0]
        err.line(f"talkinghead: error: {given.verb}: {said}; {_LESS_MEMORY.get(given.verb, '--device cpu needs none of it')}")
        return USER_ERROR
    except KeyboardInterrupt:
        err.line("talkinghead: interrupted")
        return INTERRUPTED
    return 0


def _landmarks(given: argparse.Namespace, console: Console) -> None:
    found = draw_found(given.video, given.out, _detector(given, console), given.face, console.progress)
    first, *rest = found.lines()
    console.result(found.as_dict(), [f"{found.file}: {first}", *rest])


def _prepare(given: argparse.Namespace, console: Console) -> None:
    sources = {"videos": given.videos, "--synthetic": given.synthetic, "--portraits": given.portraits}
    named = [name for name, value in sources.items() if value]
    if len(named) > 1 or (named != ["videos"] and given.people is not None):
        raise TalkingheadError("prepare: --synthetic and --portraits read no videos and no --people; name one of the three kinds of source")
    if not named:
        raise TalkingheadError("prepare: no videos given; name videos or folders of them, --synthetic PEOPLE or --portraits FOLDER")
    if named != ["videos"]:
        drawn = _prepare_stills(given, console) if given.portraits else _prepare_synthetic(given, console)
        console.result(drawn.as_dict(), drawn.lines())
        return
    filters = Filters(given.min_face, given.min_frames, given.min_sharpness, given.second_face)
    people = None if given.people is None else read_people(given.people)
    detector = _detector(given, console)
    report = prepare(given.videos, given.out, given.size, detector, people, given.workers, filters, console.progress)
    console.result(report.as_dict(), report.lines())


def _prepare_synthetic(given: argparse.Namespace, console: Console) -> Made:
    return synthesise(
        given.synthetic,
        given.clips_each,
        given.out,
        given.size,
        given.seed,
        given.workers,
        given.frames_each or FRAMES,
        given.frame_stride,
        console.progress,
    )


def _prepare_stills(given: argparse.Namespace, console: Console) -> PortraitReport:
    return prepare_portraits(
        given.portraits,
        given.out,
        given.size,
        given.seed,
        given.frames_each or FRAMES_EACH,
        given.workers,
        _detector(given, console),
        console.progress,
    )


def _train(given: argparse.Namespace, console: Console) -> None:
    model = train(
        given.data,
        given.out,
        given.preset,
        given.variant,
        given.steps,
        given.seed,
        given.leave_out,
        given.start,
        given.device,
        _named_files(given.perceptual),
        given.accumulate,
        given.save_every,
        progress=console.counter("meta-learning"),
    )
    path = Path(given.out, "model.safetensors")
    values = {"model": str(path), **model.provenance, "seconds": round(RunFolder(Path(given.out)).seconds())}
    console.result(values, [f"{path}: model of preset {given.preset}, {model.provenance['steps']} steps"])


def _finetune(given: argparse.Namespace, console: Console) -> None:
    name = given.model or (DEFAULT_MODEL if given.references else PAPER_FORM_MODEL)
    model = open_model(name, given.seed).to(choose_device(given.device))
    if model.config.networks.reference_guided and not given.references:
        raise TalkingheadError(f"--no-references: model {name} shows the person's pictures; name another, such as --model small")
    perceptual = _named_files(given.perceptual)
    detector = _detector(given, console)
    side, crop = model.config.networks.image_size, model.config.crop
    clip = read_shots(given.pictures, side, given.shots, detector, given.face, console.progress, crop)
    warn_of_strangers(clip)
    check_writable(given.out)  # before the work of minutes
    advance = console.counter("fine-tuning")
    with stop_flag() as stopped:  # so that a second signal does not cut the saving short
        ended: BaseException | None = None
        try:
            learn = finetune_until_settled if given.stop == "auto" else finetune
            person = learn(model, clip, given.steps, given.adversarial, given.seed, perceptual_files=perceptual, progress=advance)
        except (Interrupted, Diverged) as unfinished:
            if unfinished.person is None:
                raise
            ended, person = unfinished, unfinished.person
        save_person(person, given.out)
    values = {"person": str(given.out), **person.provenance}
    so_far = "" if ended is None else ", all that was learned until it ended early"
    if "stopped" in person.provenance:
        so_far += f", where the distance to {person.provenance['stopped']['by']} was least"
    console.result(values, [f"{given.out}: a person from {len(clip)} pictures, {person.provenance['steps']} steps{so_far}"])
    if ended is not None or stopped():
        raise ended or KeyboardInterrupt


def _animate(given: argparse.Namespace, console: Console) -> None:
    if given.rank_drivers:
        if given.engine is not None:
            raise TalkingheadError("--engine goes with --drive: nothing is rendered to rank drivers; leave it out")
        if given.paste_back is not None:
            raise TalkingheadError("--paste-back goes with --drive: no video is made to rank drivers; leave it out")
        _rank(given, console)
        return
    if given.pictures or given.identity_network:
        raise TalkingheadError("--pictures and --identity-network go with --rank-drivers; see `talkinghead animate --help`")
    if not given.out:
        raise TalkingheadError("--out OUT.mp4 is needed with --drive; see `talkinghead animate --help`")
    person = load_person(given.person, given.model)
    detector = _detector(given, console)
    made = animate_video(
        person,
        given.drive,
        given.out,
        given.layout,
        detector,
        given.face,
        given.retarget,
        given.precision,
        given.keep_partial,
        given.device,
        console.progress,
        _engine(given, person),
        given.paste_back,
    )
    height, width = made.size
    lines = [f"{made.out}: {made.frames} frames of {width}x{height}, {made.fps:.4g} a second, in {made.seconds:.0f} s"]
    if made.without_face:
        lines.append(f"{made.without_face} frames of the driving video show no face; their landmarks lie between those around them")
    lines += [f"no face from {start:.1f} to {end:.1f} s" for start, end in made.gaps]
    console.result(made.as_dict(), lines)
    if made.interrupted:
        raise KeyboardInterrupt


def _engine(given: argparse.Namespace, person: Person) -> Engine | None:
    if given.engine is None:
        return None
    if given.precision != "auto":
        raise TalkingheadError("--precision is the engine's own: leave it out, or --engine")
    return open_engine(given.engine, person, str(choose_device(given.device)), given.trust)


def _live(given: argparse.Namespace, console: Console) -> None:
    person = load_person(given.person, given.model)
    detector = _detector(given, console)
    engine = _engine(given, person) or EagerEngine(person, choose_device(given.device), given.precision)
    made = run_live(person, engine, given.source, given.sink, detector, given.retarget == "on", given.pace, given.seconds, console.say)
    console.result(made.as_dict(), made.lines())


def _export(given: argparse.Namespace, console: Console) -> None:
    if given.check:
        person = None if given.person is None else load_person(given.person, given.model)
        found = check(given.check, person, str(choose_device(given.device)), given.model, given.trust)
        console.result(found.as_dict(), found.lines())
        return
    if not (given.person and given.format and given.out):
        raise TalkingheadError("export: PERSON, --format and --out are needed, or --check; see `talkinghead export --help`")
    made = export(
        load_person(given.person, given.model),
        given.out,
        given.format,
        given.precision,
        given.batch,
        given.input,
        given.output,
        given.person,
        given.portable,
        given.target,
        given.base,
        str(choose_device(given.device)),
    )
    console.result(made.as_dict(), made.lines())


def _rank(given: argparse.Namespace, console: Console) -> None:
    person = load_person(given.person, given.model)
    detector = _detector(given, console)
    network = open_identity(given.identity_network, detector)
    pictures = None
    if given.pictures:
        crop = person.config.crop
        pictures = read_shots(given.pictures, PICTURE_SIDE, SHOTS, detector, progress=console.progress, convention=crop).frames
    ranked = rank_drivers(person, given.rank_drivers, network, detector, pictures, given.retarget, given.face, console.progress)
    console.result({"identity_network": network.name, "drivers": [each.as_dict() for each in ranked]}, ranking_lines(ranked))


def _demo(given: argparse.Namespace, console: Console) -> None:
    video = given.video or demo_clip()
    name = given.model or DEFAULT_MODEL
    model = open_model(name, given.seed)
    made = run_demo(video, given.out, model, _detector(given, console), name, given.steps, given.seed, console.progress)
    files = {"video": str(made.video), "sheet": str(made.sheet), "metrics": str(made.metrics)}
    lines = ["result (nearest of the 8 pictures): " + ", ".join(compare(made.figures))]
    lines += [f"{name:8}{path}" for name, path in files.items()]
    console.result({"files": files, **made.figures}, lines)


def _evaluate(given: argparse.Namespace, console: Console) -> None:
    people = None if given.people is None else read_people(given.people)
    subjects = find_subjects(given.clips, people, given.only, given.clips_each)
    _detector(given, console)  # that there is none, or which one it is, is told first
    protocol = Protocol(given.shots, given.held_out, tuple(row for row in ROWS if row in given.rows), given.steps, given.curve, given.seed)
    measure = Measure(
        given.model,
        protocol,
        given.landmarks,
        given.detector_device,
        given.identity_network,
        given.fid_network,
        _named_files(given.perceptual),
    )
    made = evaluate(measure, subjects, given.out, given.workers, progress=console.progress)
    files = {name: str(path) for name, path in made.files.items()}
    lines = [*made.files["table"].read_text(encoding="utf-8").splitlines(), *(f"{name:8}{path}" for name, path in files.items())]
    console.result({"files": files, **made.results}, lines)


def _info(given: argparse.Namespace, console: Console) -> None:
    found = info()
    lines = []
    for section, values in found.items():
        if section == "runs":  # a column of the ops
            continue
        if section == "ops":
            lines += [section, *(f"  {line}" for line in backend.lines(found))]
            continue
        if section == "presets":
            values = {name: _describe(preset) for name, preset in values.items()}
        elif not isinstance(values, dict):
            values = {"": values}
        lines.append(section)
        lines += [f"  {name:26}{value}" for name, value in (values or {"": "none"}).items()]
    console.result(found, lines)


def _describe(preset: dict[str, Any]) -> str:
    side = preset["image_size"]
    return f"{side}x{side}, " + ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in preset["parameters"].items()) + " parameters"


def read_people(table: str) -> dict[str, str]:
    """Who each video shows: file name -> person, from a table with the tab-separated columns `file` and `person`.

    Raises:
        TalkingheadError: it cannot be read, is larger than any table of people, or lacks a column.
    """
    people: dict[str, str] = {}
    head: list[str] = []
    try:
        if not os.path.isfile(table):  # a pipe or a device might never end
            raise OSError("no regular file")
        if os.path.getsize(table) > MAX_TABLE_BYTES:
            raise OSError("too large")
        with open(table, encoding="utf-8") as file:
            for line in filter(str.strip, file):
                fields = [field.strip() for field in line.split("\t")]
                head = head or fields
                if not {"file", "person"} <= set(head) or len(fields) != len(head):
                    raise _not_a_table(table)
                if fields is not head:
                    people[fields[head.index("file")].removeprefix("./")] = fields[head.index("person")]
    except TalkingheadError:
        raise
    except (OSError, ValueError) as error:
        raise TalkingheadError(
            f"{table}: cannot be read as a table; give tab-separated text with the columns file and person, "
            f"of at most {MAX_TABLE_BYTES >> 20} MB"
        ) from error
    if not head:
        raise _not_a_table(table)
    return people


def _not_a_table(table: str) -> TalkingheadError:
    return TalkingheadError(f"{table}: the tab-separated columns file and person were expected in every line, the first naming them")


def _named_files(given: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for name, _, file in pairs:
        if not file:
            raise TalkingheadError(f"--perceptual {name}: NAME=FILE was expected, such as vgg19=vgg19.safetensors")
    return {name: file for name, _, file in pairs}


def _detector(given: argparse.Namespace, console: Console) -> Detector:
    detector = open_detector(given.landmarks, given.detector_device)
    console.say(f"landmarks by {detector.choice_reason}")
    return detector


_LESS_MEMORY = {
    "finetune": "--no-adversarial takes less, and so does a --model of a smaller preset; --device cpu takes none of it",
    "animate": "--precision bf16 takes half of fp32; --device cpu takes none of it",
    "live": "--precision bf16 takes half of fp32; --device cpu takes none of it",
    "train": "--accumulate 2 takes half of it, and more parts less; --device cpu takes none",
}
"""What to change where a GPU's memory is not enough."""

_VERBS = {
    "demo": _demo,
    "finetune": _finetune,
    "animate": _animate,
    "export": _export,
    "live": _live,
    "landmarks": _landmarks,
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "info": _info,
}
