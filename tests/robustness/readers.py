"""Readers that are fuzzed: the valid files of each, how these are damaged, and the calls that read them."""

import io
import random
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from mutations import (
    BYTE_MUTATIONS,
    HOLE_BYTES,
    Mutation,
    Pieces,
    edit_json_file,
    edit_json_lines,
    edit_onnx,
    edit_safetensors,
    edit_shard,
    edit_table,
    write_pieces,
)
from safetensors.torch import save_file

from conftest import SMALL_NETWORKS, guided
from support.corrupt_datasets import write_corrupt_datasets
from support.sample_media import encoded, frames, pictures, videos
from support.sandbox import SandboxCall, SandboxPool
from talkinghead.checkpoint import save_model, save_person
from talkinghead.config import AdamConfig, preset
from talkinghead.engines.manifest import Manifest, manifest_with_checksum, sidecar
from talkinghead.exporters.export import export_person
from talkinghead.model import Model, Person, random_model
from talkinghead.networks import References, build_generator
from talkinghead.training.resume import adam, save_state

ROOT = Path(__file__).resolve().parents[2]
CPU_SECONDS = 20.0
WALL_SECONDS = 180.0  # per case, on a busy machine
VIDEO_HOLE_BYTES = 200_000_000
"""Limit for videos: FFmpeg searches a hole for the next frame, some seconds per gigabyte."""
HEADER_SHARE = 0.45
"""Share of cases that edit the header of a file, where the files of a reader have one."""


@dataclass(frozen=True)
class Reader:
    """Reader of a kind of file.

    Attributes:
        files: valid files.
        call: (damaged file, folder for outputs, random generator) -> the call that reads the file.
        edits: mutations of its headers, in addition to those of any file.
        companions: files and folders that must lie next to the damaged file.
        largest_hole: bytes that a sparse file may have.
    """

    files: Sequence[Path]
    call: Callable[[Path, Path, random.Random], SandboxCall]
    edits: Sequence[Mutation] = ()
    companions: Sequence[Path] = ()
    largest_hole: int = HOLE_BYTES

    def damage(self, folder: Path, rng: random.Random) -> tuple[Path, str]:
        """Write a damaged file into a folder, and return its path and the name of the damage."""
        source = rng.choice(self.files)
        for other in self.companions:
            (shutil.copytree if other.is_dir() else shutil.copy)(other, folder / other.name)
        path = folder / source.name
        edits = self.edits if self.edits and rng.random() < HEADER_SHARE else BYTE_MUTATIONS
        mutation = rng.choice(edits)
        pieces: Pieces = mutation(source.read_bytes(), rng)
        pieces = [min(piece, self.largest_hole) if isinstance(piece, int) else piece for piece in pieces]
        path.unlink(missing_ok=True)
        write_pieces(path, pieces)
        return path, f"{mutation.__name__} of {source.name}"


def _call(command: str, path: Path, *arguments: str, outputs: Sequence[Path] = ()) -> SandboxCall:
    return SandboxCall(
        command,
        arguments,
        [str(output) for output in outputs],
        seconds=WALL_SECONDS,
        cpu_seconds=CPU_SECONDS,
        note_prefixes=[path.name, str(path)],
    )


def _cli_call(arguments: str, path: Path, output: Path, drive: Path | None = None) -> SandboxCall:
    """Return a call of the command line, in whose arguments {path}, {output} and {drive} name files."""
    words = [word.format(path=path, output=output, drive=drive) for word in arguments.split()]
    return _call("cli", path, *words, "--quiet", outputs=[output])


def make_readers(folder: Path, sandbox: SandboxPool) -> dict[str, Reader]:
    """Write valid files of every kind into a folder, and return their readers by name."""
    folder.mkdir(parents=True, exist_ok=True)
    model, persons = _checkpoints(folder)
    media = {
        name: _write(folder / name, content) for name, content in {**videos(folder), **pictures()}.items()
    }
    drive = folder / "h264.mp4"

    def load_or_animate(path: Path, out: Path, rng: random.Random) -> SandboxCall:
        if rng.random() < 0.8:
            return _call("load", path, str(path))
        return _cli_call("animate {path} --drive {drive} --out {output}", path, out / "v.mp4", drive)

    def load_or_finetune(path: Path, out: Path, rng: random.Random) -> SandboxCall:
        if rng.random() < 0.8:
            return _call("load", path, str(path))
        command = "finetune {drive} --model {path} --steps 0 --out {output}"
        return _cli_call(command, path, out / "p.safetensors", drive)

    def read_or_draw(path: Path, out: Path, rng: random.Random) -> SandboxCall:
        if rng.random() < 0.7:
            return _call("read", path, str(path))
        return _cli_call("landmarks {path} --out {output}", path, out / "l.png")

    moving = [
        path
        for name, path in media.items()
        if path.suffix in (".mp4", ".mkv", ".avi", ".mov", ".webm", ".mpg", ".ts", ".gif")
    ]
    still = [path for path in media.values() if path not in moving]
    readers = {
        "model": Reader([model], load_or_finetune, [edit_safetensors]),
        "person": Reader(persons, load_or_animate, [edit_safetensors]),
        "state": Reader(
            [_state(folder)], lambda path, *_: _call("state", path, str(path)), [edit_safetensors]
        ),
        "video": Reader(moving, read_or_draw, largest_hole=VIDEO_HOLE_BYTES),
        "image": Reader(still, read_or_draw),
        "table": Reader([_table(folder)], lambda path, *_: _call("people", path, str(path)), [edit_table]),
        "shard": _shard_reader(folder),
        "report": _report_reader(folder, sandbox),
        "results": _results_reader(),
        "evaluated": Reader([_evaluated(folder)], lambda path, *_: _call("evaluated", path, str(path))),
        "weights": Reader(
            _weights(folder), lambda path, *_: _call("weights", path, str(path)), [edit_safetensors_or_bytes]
        ),
        "package": _package_reader(folder, persons[0]),
    }
    if all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        readers["onnx"] = _onnx_reader(folder, persons[0])
    return readers


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _checkpoints(folder: Path) -> tuple[Path, list[Path]]:
    """Write a model, a person with a generator of their own, and one with reference images."""
    model_path, full_path, guided_path = (
        folder / f"{name}.safetensors" for name in ("model", "person", "guided")
    )
    model = random_model(replace(preset("tiny"), networks=SMALL_NETWORKS), seed=1)
    save_model(model, model_path)
    landmarks = np.random.default_rng(1).uniform(0.2, 0.8, (68, 2)).astype(np.float32)
    save_person(_person(model, landmarks), full_path)
    shots = np.stack(frames(3, (64, 64)))
    references = References.encode(shots, np.repeat(landmarks[None], 3, axis=0))
    save_person(_person(guided(1), landmarks, references), guided_path)
    return model_path, [full_path, guided_path]


def _person(model: Model, landmarks: np.ndarray, references: References | None = None) -> Person:
    generator = build_generator(model.config.networks, projection=False)
    styles = torch.rand(1, generator.style_length)
    return Person(
        model.config,
        generator,
        styles,
        landmarks,
        model.digest or "0" * 64,
        feed_forward=False,
        references=references,
    )


def _state(folder: Path) -> Path:
    network = torch.nn.Linear(20, 20)
    optimizers = {"adam": adam([{"params": list(network.parameters())}], AdamConfig(1e-3))}
    save_state(
        folder / "state.safetensors",
        {"net": network},
        optimizers,
        {"step": 1, "seconds": 2.5, "draws": [1, 2]},
    )
    return folder / "state.safetensors"


def _table(folder: Path) -> Path:
    return _write(
        folder / "people.tsv",
        b"file\tperson\n" + b"".join(b"a/%d.mp4\tp%d\n" % (number, number % 5) for number in range(40)),
    )


def _evaluated(folder: Path) -> Path:
    from talkinghead.evaluation.measurement_store import MeasurementKey, MeasurementStore

    key = MeasurementKey("clip", "T1-nearest", {"versions": {"torch": "2"}})
    MeasurementStore(folder).write(key, {"figures": {"ssim": 0.5}, "features": torch.rand(10, 10)})
    return folder / key.file_name


def _weights(folder: Path) -> list[Path]:
    tensors = {"conv.weight": torch.rand(8, 3, 3, 3), "conv.bias": torch.rand(8)}
    torch.save(tensors, folder / "weights.pth")
    save_file(tensors, folder / "weights.safetensors")
    return [folder / "weights.pth", folder / "weights.safetensors"]


def edit_safetensors_or_bytes(content: bytes, rng: random.Random) -> Pieces:
    return (rng.choice(BYTE_MUTATIONS) if content.startswith(b"PK") else edit_safetensors)(content, rng)


# data sets


def _shard_reader(folder: Path) -> Reader:
    valid = write_corrupt_datasets(folder / "shards", random.Random(1))["whole"] / "shard-000000.tar"

    def draw_or_train(path: Path, out: Path, rng: random.Random) -> SandboxCall:
        if rng.random() < 0.9:
            return _call("draw", path, str(path.parent))
        return _call(
            "cli", path, "train", str(path.parent), "--out", str(out / "run"), "--steps", "0", "--quiet"
        )

    return Reader([valid], draw_or_train, [edit_shard])


def _report_reader(folder: Path, sandbox: SandboxPool) -> Reader:
    paths = []
    for number in range(3):
        shots = frames(20 + number, (96, 96))
        paths.append(
            _write(
                folder / f"p{number}.mp4",
                encoded(folder / "made.mp4", shots, settings={"preset": "ultrafast"}),
            )
        )
    data = folder / "data"
    arguments = [str(data), "1", *map(str, paths)]
    call = SandboxCall("prepare", arguments, [str(data / "dataset.json")], seconds=WALL_SECONDS)
    (outcome,) = sandbox.run([call])
    assert outcome.code == 0, outcome.fault() or outcome.stderr
    companions = [path for path in data.iterdir() if path.name != "report.jsonl"]
    return Reader(
        [data / "report.jsonl"],
        lambda path, *_: _call("reopen", path, str(path.parent), *map(str, paths)),
        [edit_json_lines],
        companions,
    )


# results


def _results_reader() -> Reader:
    files = sorted(
        path
        for path in (ROOT / "bench" / "results").glob("*.json")
        if path.name.startswith(("networks", "engines", "likeness", "retarget"))
    )
    assert len(files) >= 4

    def show(path: Path, out: Path, rng: random.Random) -> SandboxCall:
        if path.name.startswith(("likeness", "retarget")):
            experiment = path.stem.split("_")[0]
            return _call("bench", path, f"experiments.{experiment}", "--table", str(path))
        action = rng.random()
        if action < 0.2:
            bars = out / "bars.png"
            return _call("bench", path, "lib.plot", str(path), str(bars), outputs=[bars])
        arguments = rng.choice(([], ["--summary"], [str(files[-2])]))
        return _call("bench", path, "lib.report", str(path), *arguments)

    return Reader(files, show, [edit_json_file])


# engines


def _onnx_reader(folder: Path, person: Path) -> Reader:
    from talkinghead.checkpoint import load_person

    export_person(load_person(person), folder / "person.onnx", "onnx", batch=1)
    return Reader(
        [folder / "person.onnx"], lambda path, *_: _call("engine", path, str(path), str(person)), [edit_onnx]
    )


def _package_reader(folder: Path, person: Path) -> Reader:
    """Return a reader of a package with native code.

    Compiling a real one takes a minute. This one is invalid inside, and must be refused in one line as well.
    """
    from talkinghead.checkpoint import load_person

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in (
            "data/aotinductor/model/a.cpp",
            "data/aotinductor/model/a.so",
            "data/weights/weight_0",
            "version",
        ):
            archive.writestr(f"person/{name}", b"3\n" * 500)
    path = _write(folder / "person.pt2", content.getvalue())
    manifest = Manifest.of(
        load_person(person),
        "aoti",
        "fp32",
        1,
        details={"torch": torch.__version__, "device": "cpu", "portable": True},
    )
    sidecar(path).write_text(manifest_with_checksum(manifest, path), encoding="utf-8")
    return Reader(
        [path, sidecar(path)],
        lambda damaged, *_: _call("engine", damaged, str(damaged.parent / path.name), str(person)),
        [edit_json_or_bytes],
        [path, sidecar(path)],
    )


def edit_json_or_bytes(content: bytes, rng: random.Random) -> Pieces:
    return (edit_json_file if content.startswith(b"{") else rng.choice(BYTE_MUTATIONS))(content, rng)
