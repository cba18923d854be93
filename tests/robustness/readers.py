"""The readers that are fuzzed: of each the whole files that it takes, how these are damaged, and the calls that read them."""

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

from alone import Call, Crew
from conftest import SMALL_NETWORKS, guided
from damaged_own import make_data
from good_media import encoded, frames, pictures, videos
from talkinghead.checkpoint import Model, Person, random_model, save_model, save_person
from talkinghead.config import AdamConfig
from talkinghead.engines.formats import export
from talkinghead.engines.manifest import Manifest, sealed, sidecar
from talkinghead.networks import Discriminator, Embedder, Generator, References, build_generator
from talkinghead.training.state import adam, save_state

ROOT = Path(__file__).resolve().parents[2]
CPU_SECONDS = 20.0
WALL_SECONDS = 180.0  # of a case that waits for nothing, on a machine that does much else
VIDEO_HOLE_BYTES = 200_000_000
"""FFmpeg looks through a hole for the next frame, some seconds a gigabyte, as it reads any video of that size."""
HEADER_SHARE = 0.45  # of the cases whose headers are edited, where a reader's files have any


@dataclass(frozen=True)
class Reader:
    """What reads a kind of file.

    Attributes:
        files: whole ones.
        call: (damaged file, folder for outputs, draws) -> the call that reads it.
        edits: damages to its headers, beside those that any file may have.
        beside: files and folders that must lie beside the damaged one.
        largest_hole: bytes that a sparse file of them may have.
    """

    files: Sequence[Path]
    call: Callable[[Path, Path, random.Random], Call]
    edits: Sequence[Mutation] = ()
    beside: Sequence[Path] = ()
    largest_hole: int = HOLE_BYTES

    def damage(self, folder: Path, chance: random.Random) -> tuple[Path, str]:
        """Write a damaged file into a folder; returns it, and what was done."""
        source = chance.choice(self.files)
        for other in self.beside:
            (shutil.copytree if other.is_dir() else shutil.copy)(other, folder / other.name)
        path = folder / source.name
        edits = self.edits if self.edits and chance.random() < HEADER_SHARE else BYTE_MUTATIONS
        mutation = chance.choice(edits)
        made = mutation(source.read_bytes(), chance)
        pieces: Pieces = [min(piece, self.largest_hole) if isinstance(piece, int) else piece for piece in made]
        path.unlink(missing_ok=True)
        write_pieces(path, pieces)
        return path, f"{mutation.__name__} of {source.name}"


def _call(verb: str, path: Path, *arguments: str, outputs: Sequence[Path] = ()) -> Call:
    return Call(
        verb, arguments, [str(each) for each in outputs], seconds=WALL_SECONDS, cpu_seconds=CPU_SECONDS, notes_on=[path.name, str(path)]
    )


def make_readers(folder: Path, crew: Crew) -> dict[str, Reader]:
    """Make whole files of every kind in a folder, and return their readers by name."""
    folder.mkdir(parents=True, exist_ok=True)
    small, persons = _checkpoints(folder)
    media = {name: _written(folder / name, content) for name, content in {**videos(folder), **pictures()}.items()}
    drive = str(media["h264.mp4"])

    def load_or_animate(path: Path, out: Path, chance: random.Random) -> Call:
        if chance.random() < 0.8:
            return _call("load", path, str(path))
        video = out / "v.mp4"
        return _call("cli", path, "animate", str(path), "--drive", drive, "--out", str(video), "--quiet", outputs=[video])

    def load_or_finetune(path: Path, out: Path, chance: random.Random) -> Call:
        if chance.random() < 0.8:
            return _call("load", path, str(path))
        person = out / "p.safetensors"
        return _call(
            "cli", path, "finetune", drive, "--model", str(path), "--steps", "0", "--out", str(person), "--quiet", outputs=[person]
        )

    def read_or_draw(path: Path, out: Path, chance: random.Random) -> Call:
        if chance.random() < 0.7:
            return _call("read", path, str(path))
        sheet = out / "l.png"
        return _call("cli", path, "landmarks", str(path), "--out", str(sheet), "--quiet", outputs=[sheet])

    moving = [path for name, path in media.items() if path.suffix in (".mp4", ".mkv", ".avi", ".mov", ".webm", ".mpg", ".ts", ".gif")]
    still = [path for path in media.values() if path not in moving]
    readers = {
        "model": Reader([small], load_or_finetune, [edit_safetensors]),
        "person": Reader(persons, load_or_animate, [edit_safetensors]),
        "state": Reader([_state(folder)], lambda path, *_: _call("state", path, str(path)), [edit_safetensors]),
        "video": Reader(moving, read_or_draw, largest_hole=VIDEO_HOLE_BYTES),
        "image": Reader(still, read_or_draw),
        "table": Reader([_table(folder)], lambda path, *_: _call("people", path, str(path)), [edit_table]),
        "shard": _shard_reader(folder),
        "report": _report_reader(folder, crew),
        "results": _results_reader(),
        "evaluated": Reader([_evaluated(folder)], lambda path, *_: _call("evaluated", path, str(path))),
        "weights": Reader(_weights(folder), lambda path, *_: _call("weights", path, str(path)), [edit_safetensors_or_bytes]),
        "package": _package_reader(folder, persons[0]),
    }
    if all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        readers["onnx"] = _onnx_reader(folder, persons[0])
    return readers


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _checkpoints(folder: Path) -> tuple[Path, list[Path]]:
    small, full, shown = (folder / f"{name}.safetensors" for name in ("model", "person", "guided"))
    like = random_model("tiny", seed=1)
    config = type(like.config).from_dict({**like.config.to_dict(), "networks": _plain(SMALL_NETWORKS)})
    model = Model(config, Embedder(SMALL_NETWORKS), Generator(SMALL_NETWORKS), Discriminator(SMALL_NETWORKS), {"variant": "ft"})
    save_model(model, small)
    generator = Generator(SMALL_NETWORKS, projection=False)
    reference = np.random.default_rng(1).uniform(0.2, 0.8, (68, 2)).astype(np.float32)
    save_person(Person(config, generator, torch.rand(1, generator.style_length), reference, model.digest, feed_forward=False), full)
    with_pictures = guided(1)
    shots = np.stack(frames(3, (64, 64)))
    references = References.stored(shots, np.repeat(reference[None], 3, axis=0))
    generator = build_generator(with_pictures.config.networks, projection=False)
    styles = torch.rand(1, generator.style_length)
    save_person(Person(with_pictures.config, generator, styles, reference, "0" * 64, feed_forward=False, references=references), shown)
    return small, [full, shown]


def _plain(networks: object) -> dict[str, object]:
    return json.loads(json.dumps(vars(networks)))


def _state(folder: Path) -> Path:
    network = torch.nn.Linear(20, 20)
    optimisers = {"adam": adam([{"params": list(network.parameters())}], AdamConfig(1e-3))}
    save_state(folder / "state.safetensors", {"net": network}, optimisers, {"step": 1, "seconds": 2.5, "draws": [1, 2]})
    return folder / "state.safetensors"


def _table(folder: Path) -> Path:
    return _written(folder / "people.tsv", b"file\tperson\n" + b"".join(b"a/%d.mp4\tp%d\n" % (each, each % 5) for each in range(40)))


def _evaluated(folder: Path) -> Path:
    from talkinghead.evaluation.evaluate import _KEYS

    torch.save({name: {"1": {"ours": torch.rand(10, 10)}} for name in sorted(_KEYS)}, folder / "evaluated.pt")
    return folder / "evaluated.pt"


def _weights(folder: Path) -> list[Path]:
    tensors = {"conv.weight": torch.rand(8, 3, 3, 3), "conv.bias": torch.rand(8)}
    torch.save(tensors, folder / "weights.pth")
    save_file(tensors, folder / "weights.safetensors")
    return [folder / "weights.pth", folder / "weights.safetensors"]


def edit_safetensors_or_bytes(content: bytes, chance: random.Random) -> Pieces:
    return (chance.choice(BYTE_MUTATIONS) if content.startswith(b"PK") else edit_safetensors)(content, chance)


# data sets


def _shard_reader(folder: Path) -> Reader:
    whole = make_data(folder / "shards", random.Random(1))["whole"] / "shard-000000.tar"

    def draw_or_train(path: Path, out: Path, chance: random.Random) -> Call:
        if chance.random() < 0.9:
            return _call("draw", path, str(path.parent))
        return _call("cli", path, "train", str(path.parent), "--out", str(out / "run"), "--steps", "0", "--quiet")

    return Reader([whole], draw_or_train, [edit_shard])


def _report_reader(folder: Path, crew: Crew) -> Reader:
    paths = []
    for number in range(3):
        shots = frames(20 + number, (96, 96))
        paths.append(_written(folder / f"p{number}.mp4", encoded(folder / "made.mp4", shots, settings={"preset": "ultrafast"})))
    data = folder / "data"
    (made,) = crew.run([Call("prepare", [str(data), "1", *map(str, paths)], [str(data / "dataset.json")], seconds=WALL_SECONDS)])
    assert made.code == 0, made.fault() or made.told
    beside = [path for path in data.iterdir() if path.name != "report.jsonl"]
    return Reader(
        [data / "report.jsonl"],
        lambda path, *_: _call("reopen", path, str(path.parent), *map(str, paths)),
        [edit_json_lines],
        beside,
    )


# results


def _results_reader() -> Reader:
    found = ROOT / "bench" / "results"
    files = sorted(path for path in found.glob("*.json") if path.name.startswith(("networks", "engines", "likeness", "retarget")))
    assert len(files) >= 4

    def show(path: Path, out: Path, chance: random.Random) -> Call:
        if path.name.startswith(("likeness", "retarget")):
            return _call("bench", path, path.name.split("_")[0].split(".")[0], "--table", str(path))
        action = chance.random()
        if action < 0.2:
            return _call("bench", path, "plot", str(path), str(out / "bars.png"), outputs=[out / "bars.png"])
        return _call("bench", path, "report", str(path), *chance.choice(([], ["--summary"], [str(files[-2])])))

    return Reader(files, show, [edit_json_file])


# engines


def _onnx_reader(folder: Path, person: Path) -> Reader:
    from talkinghead.checkpoint import load_person

    export(load_person(person), folder / "person.onnx", "onnx", batch=1)
    return Reader([folder / "person.onnx"], lambda path, *_: _call("engine", path, str(path), str(person)), [edit_onnx])


def _package_reader(folder: Path, person: Path) -> Reader:
    """Of packages with native code there is none here, for compiling one takes a minute: what says of itself that it is one is no
    package within, and must be refused in one line as well."""
    from talkinghead.checkpoint import load_person

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in ("data/aotinductor/model/a.cpp", "data/aotinductor/model/a.so", "data/weights/weight_0", "version"):
            archive.writestr(f"person/{name}", b"3\n" * 500)
    path = _written(folder / "person.pt2", content.getvalue())
    manifest = Manifest.of(load_person(person), "aoti", "fp32", 1, details={"torch": torch.__version__, "device": "cpu", "portable": True})
    sidecar(path).write_text(sealed(manifest, path), encoding="utf-8")
    return Reader(
        [path, sidecar(path)],
        lambda damaged, *_: _call("engine", damaged, str(damaged.parent / path.name), str(person)),
        [edit_json_or_bytes],
        [path, sidecar(path)],
    )


def edit_json_or_bytes(content: bytes, chance: random.Random) -> Pieces:
    return (edit_json_file if content.startswith(b"{") else chance.choice(BYTE_MUTATIONS))(content, chance)
