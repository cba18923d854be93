"""Measure what 8-bit convolutions would bring to an engine of a person on a CPU: speed, and PSNR to float32.

talkinghead export anna.safetensors --format onnx --batch 1 --out anna.onnx
python -m bench.experiments.int8 anna.safetensors anna.onnx driver.mp4 --out int8.json

onnxruntime quantises every convolution of the engine statically, weights by channel, with every second of
the driver's frames for calibration; frames between them are compared. Engines are timed one frame at a time,
in turn.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import talkinghead as th
from bench.lib.harness import machine
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.metrics import psnr
from talkinghead.networks.references import ReferenceViewer
from talkinghead.system.onnx_runtime import METHODS, RUNTIMES, quantise_convolutions

FRAMES = 150
ROUNDS = 25

Inputs = dict[str, np.ndarray]
Run = Callable[[Inputs], np.ndarray]


def engine_inputs(person: th.Person, points: np.ndarray) -> list[Inputs]:
    """Return the inputs of the engine for each of some driving points [N, 68 or 78, 2]."""
    viewer = None if person.references is None else ReferenceViewer(person.references)
    styles = person.styles.detach().float().numpy()
    inputs = []
    for row in points:
        views = {} if viewer is None else viewer(row[None])._asdict()
        arrays = {name: view.numpy() for name, view in views.items()}
        inputs.append({"points": row[None], "styles": styles, **arrays})
    return inputs


def open_runs(person: th.Person, engine: Path, quantised: dict[str, Path]) -> dict[str, Run]:
    """Return what is compared, by name; the first is the reference."""
    runs: dict[str, Run] = {}
    for runtime, precision in (("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32")):
        runs[f"{runtime} {precision}"] = RUNTIMES[runtime](engine, "cpu", precision)
    for method, path in quantised.items():
        for runtime, precision in (("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32")):
            runs[f"{runtime} int8 by {method}, rest {precision}"] = RUNTIMES[runtime](path, "cpu", precision)
    torch_engine = TorchEngine(person, "cpu", "bf16")
    runs["torch bf16"] = lambda inputs: torch_engine.run(inputs["points"])
    return runs


def compare(runs: dict[str, Run], inputs: Sequence[Inputs]) -> dict[str, dict[str, float]]:
    """Return milliseconds a frame and the least PSNR to the first run, by name."""
    reference = [next(iter(runs.values()))(row) for row in inputs]
    results = {
        name: {"psnr_db": min(psnr(run(row), frame) for row, frame in zip(inputs, reference, strict=True))}
        for name, run in runs.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS):
        row = inputs[number % len(inputs)]
        for name, run in runs.items():
            run(row)  # the caches hold this engine's weights, as they do in a video
            start = time.perf_counter()
            run(row)
            seconds[name].append(time.perf_counter() - start)
    return {name: result | {"ms": 1000 * median(seconds[name])} for name, result in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("person")
    parser.add_argument("engine", type=Path)
    parser.add_argument("driver")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    person = th.load_person(args.person)
    inputs = engine_inputs(person, person.points(args.driver)[:FRAMES])
    with tempfile.TemporaryDirectory() as folder:
        quantised = {method: Path(folder) / f"{method}.onnx" for method in METHODS}
        for method, path in quantised.items():
            quantise_convolutions(args.engine, path, inputs[::2], method)
        results = compare(open_runs(person, args.engine, quantised), inputs[1::10])
    report: dict[str, Any] = {"date": date.today().isoformat(), "machine": machine(), "runs": results}
    for name, result in results.items():
        print(f"{name}: {result['ms']:.1f} ms, {result['psnr_db']:.1f} dB at least")
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
