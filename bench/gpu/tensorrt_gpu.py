"""TensorRT on this machine's GPU: `python -m bench.gpu.tensorrt_gpu OUT.json [ANNA BERTA]` from the root;
`bench/gpu/tensorrt.sh OUT` runs it.

Builds a person as engines of each precision and batch, refits each with another person's weights, checks
every one against torch, and times building, refitting, the first frames, and frames beside the eager engine,
copies to and from the GPU included. What is refused is written down with its reason, and the exit code is 1.
ANNA and BERTA are two persons' files, fine-tuned from one model; by default two are learned from the demo's
clip, in 8 steps each.
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

from bench.lib.harness import machine
from bench.lib.timing import Budget, time_interleaved
from talkinghead import finetune, load_model, load_person, read_clip
from talkinghead.engines.gpu_context import GpuContext
from talkinghead.engines.tensorrt_engine import TensorRTEngine
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.engines.verify import verification_poses
from talkinghead.errors import TalkingheadError
from talkinghead.exporters.tensorrt import build_tensorrt, refit_tensorrt
from talkinghead.model import Person
from talkinghead.pipelines.demo import demo_clip
from talkinghead.system.atomic_file import atomic_write

PRECISIONS, BATCHES = ("fp16", "fp32"), (1, 8)
DISTRIBUTIONS = (
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu13",
    "onnx",
    "onnxscript",
)


def measure_engine(
    person: Person, other: Person, folder: Path, precision: str, batch: int, budget: Budget
) -> dict[str, Any]:
    """Measure one engine; return its settings, times in seconds, and the reason of a failure as "refused"."""
    path = folder / f"{precision}.{batch}.engine"
    result: dict[str, Any] = {"preset": person.config.preset, "precision": precision, "batch": batch}
    try:
        start = perf_counter()
        manifest = build_tensorrt(person, path, precision, batch)
        result |= {"build": perf_counter() - start, "bytes": path.stat().st_size, "details": manifest.details}
        start = perf_counter()
        build_tensorrt(person, path, precision, batch)
        result["build again"] = perf_counter() - start  # with the timings of kernels that were kept
        points = verification_poses(person.neutral_landmarks).repeat(2, axis=0)[:batch]
        start = perf_counter()
        engine = TensorRTEngine(path)
        engine.run(points)
        result["load and first frames"] = perf_counter() - start
        eager = TorchEngine(person, "cuda", precision, batch, fast=True)
        times = time_interleaved(
            {"tensorrt": lambda: engine.run(points), "eager": lambda: eager.run(points)}, budget
        )
        result["frame"] = {
            name: {"seconds": entry.median / batch, "spread": entry.spread / batch}
            for name, entry in times.items()
        }
        if manifest.details["refittable"]:
            start = perf_counter()
            refitted = refit_tensorrt(path, other, folder / "refitted.engine")
            result |= {"refit": perf_counter() - start, "refit psnr": refitted.details["psnr"]}
        else:
            result["refused"] = "a refit: built refittable, its frames were wrong"
    except TalkingheadError as error:
        result["refused"] = str(error)
    return result


def finetune_two() -> tuple[Person, Person]:
    """Return two persons of `small`, fine-tuned on the same face with different seeds."""
    model = load_model("small").to("cuda")
    clip = read_clip(demo_clip(), model.config.networks.image_size, limit=8)
    return finetune(model, clip, steps=8, seed=0), finetune(model, clip, steps=8, seed=1)


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that engines depend on."""
    installed = {
        entry.metadata["Name"].lower(): entry.version
        for entry in metadata.distributions()
        if entry.metadata["Name"]
    }
    return {name: installed[name] for name in DISTRIBUTIONS if name in installed}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("persons", type=Path, nargs="*", metavar="PERSON")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing for each engine")
    args = parser.parse_args(arguments)
    if len(args.persons) not in (0, 2):
        parser.error("two persons were expected, or none")
    card = GpuContext()
    person, other = map(load_person, args.persons) if args.persons else finetune_two()
    about = machine()
    about["versions"] |= versions()
    results: dict[str, Any] = {"machine": about | {"target": card.target}, "rows": []}
    for precision in PRECISIONS:
        for batch in BATCHES:
            with TemporaryDirectory() as folder:
                result = measure_engine(
                    person, other, Path(folder), precision, batch, Budget(args.seconds, 5, 500)
                )
            results["rows"].append(result)
            print(json.dumps(result))
            with atomic_write(args.out) as temp_path:  # after each, for the next may crash the process
                temp_path.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if any("refused" in entry for entry in results["rows"]) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TalkingheadError as error:
        sys.exit(str(error))
