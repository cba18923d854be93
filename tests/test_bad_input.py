"""Whatever comes in: never a traceback, a hang, a crash of the interpreter or a partial output; one line that says what is wrong."""

import json
import os
import random
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import damaged
import damaged_own
from alone import NO_DISK, Call, Crew, Outcome, leftovers
from conftest import SMALL_NETWORKS
from damaged import write
from good_media import LONG
from talkinghead.checkpoint import Model, Person, load_model, random_model, save_model, save_person
from talkinghead.config import AdamConfig, NetworkConfig
from talkinghead.media.video import VIDEO_SUFFIXES
from talkinghead.networks import Discriminator, Embedder, Generator
from talkinghead.training.state import adam, save_state

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="calls are forked, and their memory read from /proc")

SEED = 20
LOG = os.environ.get("TALKINGHEAD_CORPUS_LOG")
"""A file to add every call to: its name, exit code, time at work, memory and fault."""
GROUPS = ("whole", "cut", "flipped", "overwritten", "swapped", "videos", "pictures", "strangers", "names", "special")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="session")
def small(place: Path) -> Path:
    """A model that draws ten thousand frames in seconds."""
    path = place / "small.safetensors"
    made = random_model("tiny", seed=1)
    save_model(random_model_of(SMALL_NETWORKS, made), path)
    return path


def random_model_of(networks: NetworkConfig, like: Model) -> Model:
    config = replace(like.config, networks=networks)
    return Model(config, Embedder(networks), Generator(networks), Discriminator(networks), {"variant": "ft"})


@pytest.fixture(scope="session")
def crew(small: Path) -> Iterator[Crew]:
    os.environ["TALKINGHEAD_TEST_MODEL"] = str(small)
    with Crew(int(os.environ.get("TALKINGHEAD_SERVERS", "2"))) as crew:
        yield crew


@pytest.fixture(scope="session")
def media(place: Path) -> dict[str, list[Path]]:
    return damaged.make_media(place / "media", SEED)


@pytest.fixture(scope="session")
def person(crew: Crew, media: dict[str, list[Path]], small: Path, place: Path) -> Path:
    """A feed-forward person."""
    path = place / "person.safetensors"
    (picture,) = [path for path in media["whole"] if path.suffix == ".png"]
    (made,) = crew.run([Call("cli", ["finetune", str(picture), "--model", str(small), "--steps", "0", "--out", str(path), "--quiet"])])
    assert made.code == 0, made.told
    return path


@pytest.fixture(scope="session")
def full(small: Path, place: Path) -> Path:
    """A person with a generator of their own."""
    path, model = place / "full.safetensors", load_model(small)
    generator = Generator(SMALL_NETWORKS, projection=False)
    styles, reference = torch.rand(1, generator.style_length), np.random.default_rng(SEED).uniform(0.2, 0.8, (68, 2)).astype(np.float32)
    save_person(Person(model.config, generator, styles, reference, model.digest, feed_forward=False), path)
    return path


Verb = Callable[[Path, Path, Path, Path], tuple[list[str], list[str]]]
"""(input, folder of the outputs, person, model) -> arguments, names of all outputs"""
VERBS: dict[str, Verb] = {
    "finetune": lambda it, out, person, model: (
        ["finetune", f"{it}", "--model", f"{model}", "--steps", "0", "--out", f"{out}/p.safetensors"],
        ["p.safetensors"],
    ),
    "animate": lambda it, out, person, model: (
        ["animate", f"{person}", "--model", f"{model}", "--drive", f"{it}", "--out", f"{out}/v.mp4"],
        ["v.mp4"],
    ),
    "demo": lambda it, out, person, model: (
        ["demo", f"{it}", "--model", f"{model}", "--steps", "0", "--out", f"{out}"],
        ["result.mp4", "sheet.png", "metrics.json"],
    ),
    "landmarks": lambda it, out, person, model: (["landmarks", f"{it}", "--out", f"{out}/l.png"], ["l.png"]),
}


TURNS = ("finetune", "animate", "landmarks", "finetune", "animate", "demo", "landmarks", "finetune")
"""All verbs read alike, so a file that opens goes through some of them only, in turn; TALKINGHEAD_CORPUS=all sends each through all."""


def chosen(verb: str, group: str, files: Sequence[Path]) -> list[Path]:
    if verb == "read" or group in ("whole", "special") or os.environ.get("TALKINGHEAD_CORPUS") == "all":
        return list(files)
    return [path for number, path in enumerate(files, GROUPS.index(group)) if TURNS[number % len(TURNS)] == verb]


@pytest.mark.parametrize("verb", [*VERBS, "read"])
@pytest.mark.parametrize("group", GROUPS)
def test_media(verb: str, group: str, media: dict[str, list[Path]], crew: Crew, person: Path, small: Path, tmp_path: Path) -> None:
    files, calls = chosen(verb, group, media[group]), []
    for number, path in enumerate(files):
        how: dict[str, Any] = {"notes_on": [" ".join(path.name.split())], "seconds": 120 if str(LONG) in path.name else 20}
        if verb == "read":
            calls.append(Call("read", [str(path)], **how))
            continue
        out = tmp_path / f"{number}"
        out.mkdir()
        arguments, outputs = VERBS[verb](path, out, person, small)
        calls.append(Call("cli", [*arguments, "--quiet"], [str(out / name) for name in outputs], **how))
    outcomes = crew.run(calls)
    wrong = faults(outcomes, [f"{verb} {path.parent.name}/{path.name!r}" for path in files])
    if group == "whole":
        named = zip(outcomes, files, strict=True)
        wrong += [
            f"{path.name} was refused: {it.told}"
            for it, path in named
            if it.code == 2 and not (verb in ("demo", "animate") and path.stem == "picture")
        ]
    tell(wrong, len(calls))


def faults(outcomes: Sequence[Outcome], names: Sequence[str]) -> list[str]:
    """What is wrong with some outcomes, one line each."""
    wrong = [(name, outcome.fault() or leftovers(outcome)) for name, outcome in zip(names, outcomes, strict=True)]
    if LOG:
        with open(LOG, "a") as log:
            for (name, fault), it in zip(wrong, outcomes, strict=True):
                print(f"{name!r}\t{it.code}\t{it.worked:.2f} s\t{it.peak >> 20} MB\t{fault!r}", file=log)
    return [f"{name}: {fault}" for name, fault in wrong if fault]


def tell(wrong: Sequence[str], count: int) -> None:
    """Fail with all that is wrong, like faults together."""
    alike: dict[str, list[str]] = {}
    for line in wrong:
        name, _, fault = line.partition(": ")
        alike.setdefault(fault, []).append(name)
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(f"{', '.join(names)}: {fault}" for fault, names in alike.items())


# the project's own files


@pytest.mark.parametrize("kind", ["model", "person"])
def test_checkpoints(kind: str, crew: Crew, small: Path, full: Path, media: dict[str, list[Path]], tmp_path: Path) -> None:
    files = damaged_own.make_checkpoints(tmp_path / "files", {"model": small, "person": full}[kind], kind, random.Random(SEED))
    damaged = len(damaged_own.broken(b"content", random.Random(SEED)))
    calls = [Call("load", [str(path)]) for path in files]
    names = [f"load {kind} {path.stem}" for path in files]
    (drive,) = [path for path in media["whole"] if path.name == "h264.mp4"]
    for number, path in enumerate(files[::4]):
        out = str(tmp_path / f"{number}" / "out")
        arguments = {
            "person": ["animate", str(path), "--drive", str(drive), "--out", f"{out}.mp4"],
            "model": ["finetune", str(drive), "--model", str(path), "--steps", "0", "--out", f"{out}.safetensors"],
        }[kind]
        calls.append(Call("cli", [*arguments, "--quiet"], [arguments[-1]]))
        names.append(f"{arguments[0]} with {kind} {path.stem}")
    outcomes = crew.run(calls)
    # one that was forged may load, one that was damaged must not
    taken = [f"{name}: was taken" for name, outcome in zip(names[:damaged], outcomes, strict=False) if outcome.code != 2]
    tell(faults(outcomes, names) + taken, len(calls))


def test_states(crew: Crew, tmp_path: Path) -> None:
    network = torch.nn.Linear(20, 20)
    whole = tmp_path / "whole.safetensors"
    save_state(whole, {"net": network}, {"adam": adam([{"params": list(network.parameters())}], AdamConfig(1e-3))}, {"step": 1})
    files = [write(tmp_path / name, broken) for name, broken in damaged_own.broken(whole.read_bytes(), random.Random(SEED)).items()]
    files += damaged_own.foreign(tmp_path, {"a": torch.zeros(3)})
    outcomes = crew.run([Call("state", [str(path)]) for path in [whole, *files]])
    assert outcomes[0].code == 0
    tell(faults(outcomes, [f"state {path.name}" for path in [whole, *files]]), len(files))


def test_data(crew: Crew, tmp_path: Path) -> None:
    folders = damaged_own.make_data(tmp_path / "data", random.Random(SEED))
    calls = [Call("draw", [str(folder)]) for folder in folders.values()]
    names = [f"draw {name}" for name in folders]
    for number, (name, folder) in enumerate(list(folders.items())[1::7]):
        calls.append(Call("cli", ["train", str(folder), "--out", str(tmp_path / f"run{number}"), "--steps", "0", "--quiet"]))
        names.append(f"train {name}")
    outcomes = crew.run(calls)
    wrong = faults(outcomes, names)
    if outcomes[0].code:
        wrong.append(f"the whole one was refused: {outcomes[0].told}")
    tell(wrong, len(calls))


def test_tables_of_people(crew: Crew, tmp_path: Path) -> None:
    tables = damaged_own.make_tables(tmp_path)
    outcomes = crew.run([Call("people", [str(path)], seconds=5) for path in tables.values()])
    tell(faults(outcomes, [f"people {name}" for name in tables]), len(tables))


# places


def test_paths_that_cannot_be(crew: Crew, tmp_path: Path) -> None:
    paths = [
        "",
        ".",
        "/",
        "..",
        "~",
        "nul\0.mp4",
        "nul\0.png",
        "x" * 300 + ".mp4",
        "x" * 300 + ".png",
        "x/" * 3000 + "x.mp4",
        "x/" * 3000 + "x.png",
        "http://x/y.mp4",
        "\udcff.mp4",
    ]
    calls = [Call(verb, [path]) for verb in ("read", "load", "draw", "people", "state") for path in paths]
    calls += [Call("prepare", [str(tmp_path), "1", path]) for path in paths if path not in (".", "/", "..")]
    tell(faults(crew.run(calls), [f"{call.verb} {call.arguments[0][:20]!r}" for call in calls]), len(calls))


def test_files_that_may_not_be_read(crew: Crew, media: dict[str, list[Path]], full: Path, tmp_path: Path) -> None:
    good = {path.name: path for path in media["whole"]}
    closed = tmp_path / "closed"
    closed.mkdir()
    calls = []
    for verb, source in (
        ("read", good["h264.mp4"]),
        ("read", good["picture.png"]),
        ("load", full),
        ("people", good["h264.mp4"]),
        ("state", full),
    ):
        for folder in (tmp_path, closed):
            path = folder / f"{verb}-{source.name}"
            shutil.copy(source, path)
            path.chmod(0)
            calls.append(Call(verb, [str(path)], powerless=True))
    calls += [Call(verb, [str(closed)], powerless=True) for verb in ("read", "draw", "load", "people", "state")]
    calls.append(Call("prepare", [str(tmp_path / "data"), "1", str(closed)], powerless=True))
    closed.chmod(0)
    outcomes = crew.run(calls)
    closed.chmod(0o700)
    wrong = faults(outcomes, [f"{call.verb} {call.arguments[-1]}" for call in calls])
    wrong += [f"{outcome.call.verb} was not refused" for outcome in outcomes if outcome.code == 0]
    tell(wrong, len(calls))


def test_places_that_cannot_be_written(crew: Crew, media: dict[str, list[Path]], person: Path, small: Path, tmp_path: Path) -> None:
    (drive,) = [path for path in media["whole"] if path.name == "h264.mp4"]
    calls, names, kept = [], [], []
    for verb, arguments_of in VERBS.items():
        for name in ("pipe", "folder", "device", "loop", "below-a-file", "closed", "long", "too-long"):
            base = tmp_path / f"{verb}-{name}"
            base.mkdir()
            arguments, outputs = arguments_of(drive, base, person, small)
            at = arguments.index("--out") + 1
            ending = "" if verb == "demo" else Path(outputs[0]).suffix
            place = base / f"{name}{ending}"
            if name == "pipe":
                os.mkfifo(place)
            elif name == "folder" and ending:
                place.mkdir()
            elif name == "device":
                place.symlink_to(_full_device(base))
            elif name == "loop":
                place.symlink_to(place)
            elif name == "below-a-file":
                place = write(base / "file", b"text") / f"x{ending}"
            elif name == "closed":
                base.chmod(0o500)
            elif name == "long":
                place = base / ("l" * (255 - len(ending)) + ending)
            elif name == "too-long":
                place = base / ("l" * 255 + ending + "x" * (not ending))
            arguments[at] = str(place)
            before = sorted(base.rglob("*"))
            calls.append(Call("cli", [*arguments, "--quiet"], powerless=True))
            names.append(f"{verb} to {name}")
            kept.append((base, before, {path: path.lstat().st_mode for path in before}))
    outcomes = crew.run(calls)
    wrong = faults(outcomes, names)
    for outcome, name, (base, before, modes) in zip(outcomes, names, kept, strict=True):
        base.chmod(0o700)
        if outcome.code == 2:
            left = set(base.rglob("*")) - set(before)
            if left:
                wrong.append(f"{name}: left {left}")
            if any(path.lstat().st_mode != mode for path, mode in modes.items()):
                wrong.append(f"{name}: what was there is another thing now")
        elif name.split()[-1] == "long" or (outcome.code == 0 and name in ("demo to folder", "demo to device")):
            continue
        else:
            wrong.append(f"{name}: was not refused")
    tell(
        wrong + [f"{name}: {it.told}" for it, name in zip(outcomes, names, strict=True) if name.endswith(" to long") and it.code],
        len(calls),
    )


def _full_device(folder: Path) -> Path:
    """A device to write to. Root could replace that of the system, so for root it is one of our own."""
    if os.getuid():
        return Path("/dev/full")
    os.mknod(folder / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    return folder / "full"


@pytest.mark.parametrize("how", ["limit", "disk"])
def test_disk_full(how: str, crew: Crew, media: dict[str, list[Path]], person: Path, small: Path, tmp_path: Path) -> None:
    (drive,) = [path for path in media["whole"] if path.name == "h264.mp4"]
    calls, names = [], []
    for verb, arguments_of in VERBS.items():
        for size in (4096, 12288, 32768):
            out = tmp_path / f"{verb}-{size}"
            out.mkdir()
            arguments, outputs = arguments_of(drive, out, person, small)
            limits = {"disk": (str(out), size)} if how == "disk" else {"file_bytes": size}
            calls.append(Call("cli", [*arguments, "--quiet"], [str(out / name) for name in outputs], **limits))
            names.append(f"{verb} {size}")
    for workers in ("1", "2"):
        for size in (4096, 20480):
            out = tmp_path / f"prepare-{workers}-{size}"
            out.mkdir()
            limits = {"disk": (str(out), size)} if how == "disk" else {"file_bytes": size}
            calls.append(Call("prepare", [str(out), workers, str(drive)], [], seconds=60, **limits))
            names.append(f"prepare {workers} {size}")
    outcomes = crew.run(calls)
    if outcomes[0].code == NO_DISK:
        pytest.skip("this system lets nobody mount a small disk here")
    wrong = faults(outcomes, names)
    for outcome, name in zip(outcomes, names, strict=True):
        if how == "disk" and outcome.code == 2:
            left = list(json.loads(outcome.printed.splitlines()[-1]))
            if left:
                wrong.append(f"{name}: left {left}")
    assert any(outcome.code == 2 for outcome in outcomes)
    tell(wrong, len(calls))


# many at once


def test_one_bad_file_among_a_thousand_stops_nothing(crew: Crew, media: dict[str, list[Path]], tmp_path: Path) -> None:
    bad = [path for group in ("cut", "flipped", "strangers", "videos") for path in media[group][::9] if path.suffix in VIDEO_SUFFIXES]
    good, count = damaged_own.make_thousand(tmp_path / "videos", bad)
    (tmp_path / "videos" / "dangling.mp4").symlink_to("nowhere")
    (tmp_path / "videos" / "round").symlink_to(tmp_path / "videos")
    os.mkfifo(tmp_path / "videos" / "pipe.mp4")
    out = tmp_path / "data"
    (outcome,) = crew.run([Call("prepare", [str(out), "2", str(tmp_path / "videos")], [str(out / "dataset.json")], seconds=120)])
    assert outcome.code == 0, outcome.fault() or outcome.told
    lines = [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()][1:]
    assert len(lines) == count + 2
    names = {Path(line["file"]).name: line for line in lines}
    assert all(names[f"good-{number}.mp4"]["verdict"] == "taken" for number in range(good))
    check_reasons(lines)
    assert {path.name for path in out.iterdir()} <= {
        "dataset.json",
        "report.jsonl",
        "shard-000000.tar",
        "shard-000001.tar",
        "shard-000002.tar",
        "shard-000003.tar",
    }


def check_reasons(lines: Sequence[dict[str, object]]) -> None:
    """Every file that was not taken has a line that says why, and none crashed or hung the reader, or made it fail in an unforeseen way."""
    wrong = []
    for line in lines:
        reason = str(line.get("reason", ""))
        if line["verdict"] == "rejected" and len(reason) < 15:
            wrong.append(f"{line['file']!r}: {reason!r} says too little")
        if any(word in reason for word in ("crashed", "hung", "examining it failed")):
            wrong.append(f"{line['file']!r}: {reason!r}")
    tell(wrong, len(lines))


def test_every_file_is_prepared_or_in_the_report(crew: Crew, media: dict[str, list[Path]], tmp_path: Path) -> None:
    files = [path for group in GROUPS for path in media[group] if os.path.lexists(path) and not os.path.isdir(path)]
    out = tmp_path / "data"
    (outcome,) = crew.run([Call("prepare", [str(out), "2", *map(str, files)], [str(out / "dataset.json")], seconds=200)])
    assert outcome.code == 0, outcome.fault() or outcome.told
    lines = [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()][1:]
    assert sorted(str(line["file"]) for line in lines) == sorted(map(str, files))
    check_reasons(lines)


@pytest.mark.parametrize("group", ["whole", "videos", "pictures"])
def test_dlib_sees_everything_that_can_be_read(group: str, crew: Crew, media: dict[str, list[Path]]) -> None:
    calls = [Call("look", [str(path)], detector="dlib", seconds=60, notes_on=[path.name]) for path in media[group]]
    outcomes = crew.run(calls)
    tell(faults(outcomes, [f"look {path.name}" for path in media[group]]), len(calls))
    assert sum(outcome.code == 0 for outcome in outcomes) > len(calls) / 2
