"""TensorRT on this machine's GPU: `python -m bench.tensorrt_card OUT.json [ANNA BERTA]` from the root; `bench/tensorrt.sh OUT` runs it.

Builds a person as engines of each precision and batch, refits each with another person's weights, checks every one against torch, and
times building, refitting, the first frames, and frames beside the eager engine, copies to and from the GPU included. What is refused is
written down with its reason, and the exit code is 1. ANNA and BERTA are two persons' files, fine-tuned from one model; by default two
are learned from the demo's clip, in 8 steps each.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from bench.harness import machine
from bench.timing import Budget, take_turns
from talkinghead import finetune, load_model, load_person, read_clip
from talkinghead.checkpoint import Person
from talkinghead.demo import demo_clip
from talkinghead.engines.eager import EagerEngine
from talkinghead.engines.probe import probe_points
from talkinghead.engines.tensorrt_builder import build_tensorrt, refit_tensorrt
from talkinghead.engines.tensorrt_runtime import Card, TensorRTEngine
from talkinghead.errors import TalkingheadError
from talkinghead.files import replacing

PRECISIONS, BATCHES = ("fp16", "fp32"), (1, 8)
DISTRIBUTIONS = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "onnx", "onnxscript")


def row(person: Person, other: Person, folder: Path, precision: str, batch: int, budget: Budget) -> dict[str, Any]:
    """One engine: what it is, what it takes in seconds, and where it failed as "refused"."""
    path = folder / f"{precision}.{batch}.engine"
    found: dict[str, Any] = {"preset": person.config.preset, "precision": precision, "batch": batch}
    try:
        start = perf_counter()
        manifest = build_tensorrt(person, path, precision, batch)
        found |= {"build": perf_counter() - start, "bytes": path.stat().st_size, "details": manifest.details}
        start = perf_counter()
        build_tensorrt(person, path, precision, batch)
        found["build again"] = perf_counter() - start  # with the timings of kernels that were kept
        points = probe_points(person.reference).repeat(2, axis=0)[:batch]
        start = perf_counter()
        engine = TensorRTEngine(path)
        engine.run(points)
        found["load and first frames"] = perf_counter() - start
        eager = EagerEngine(person, "cuda", precision, batch)
        times = take_turns({"tensorrt": lambda: engine.run(points), "eager": lambda: eager.run(points)}, budget)
        found["frame"] = {name: {"seconds": each.median / batch, "spread": each.spread / batch} for name, each in times.items()}
        if manifest.details["refittable"]:
            start = perf_counter()
            refitted = refit_tensorrt(path, other, folder / "refitted.engine")
            found |= {"refit": perf_counter() - start, "refit psnr": refitted.details["psnr"]}
        else:
            found["refused"] = "a refit: built refittable, its frames were wrong"
    except TalkingheadError as error:
        found["refused"] = str(error)
    return found


def learned() -> tuple[Person, Person]:
    """Two persons of `small`, of the same face but of weights of their own."""
    model = load_model("small").to("cuda")
    clip = read_clip(demo_clip(), model.config.networks.image_size, limit=8)
    return finetune(model, clip, steps=8, seed=0), finetune(model, clip, steps=8, seed=1)


def versions() -> dict[str, str]:
    """Of the packages that take part, as far as they are installed."""
    installed = {each.metadata["Name"].lower(): each.version for each in metadata.distributions() if each.metadata["Name"]}
    return {name: installed[name] for name in DISTRIBUTIONS if name in installed}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("persons", type=Path, nargs="*", metavar="PERSON")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing for each engine")
    given = parser.parse_args(arguments)
    if len(given.persons) not in (0, 2):
        parser.error("two persons were expected, or none")
    card = Card()
    person, other = map(load_person, given.persons) if given.persons else learned()
    about = machine()
    about["versions"] |= versions()
    results: dict[str, Any] = {"machine": about | {"target": card.target}, "rows": []}
    for precision in PRECISIONS:
        for batch in BATCHES:
            with TemporaryDirectory() as folder:
                found = row(person, other, Path(folder), precision, batch, Budget(given.seconds, 5, 500))
            results["rows"].append(found)
            print(json.dumps(found))
            with replacing(given.out) as beside:  # after each, for the next may crash the process
                beside.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if any("refused" in each for each in results["rows"]) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TalkingheadError as error:
        sys.exit(str(error))
