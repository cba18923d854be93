"""Measure the forms of `upsample_conv` and `conv_downsample` on the machine at hand and write its entry of
resample_forms.json.

python -m bench.kernels.tune_resample                                    # all layers of all presets; minutes
python -m bench.kernels.tune_resample --presets paper --dtypes float32   # renew a part of the entry

Run it from the root of the repository on an idle machine; OMP_NUM_THREADS counts. A layer is timed with the
folding of its weight, in NCHW and channels_last: forward alone at batch 1, as for a frame, and with backward
at batch 8, as in training, or at less for layers so large that folding no longer counts. The entry names the
form with the highest speed relative to "plain" in the worse of the two formats.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import platform
from typing import Any

import torch
from talkinghead_kernels import resample
from torch import Tensor

from bench.lib.timing import Budget, time_interleaved, time_interleaved_on_gpu
from talkinghead.config import PRESETS, NetworkConfig, preset

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = ("float32", "bfloat16")


def layers(config: NetworkConfig) -> dict[str, list[tuple[int, int, int]]]:
    """Return (in, out, size of the input) of every 3x3 convolution next to a resampling.

    These are the first convolution of an up block and the second of a down block.
    """
    size = config.image_size
    down = [
        (channels, channels, size >> level)
        for network in (config.down, config.encoder)
        for level, channels in enumerate(network)
    ]
    smallest = size >> len(config.down)
    up = [
        (*pair, smallest << level)
        for level, pair in enumerate(itertools.pairwise((config.down[-1], *config.up)))
    ]
    return {"upsample_conv": list(dict.fromkeys(up)), "conv_downsample": list(dict.fromkeys(down))}


def measure(
    op: str, layer: tuple[int, int, int], dtype: torch.dtype, training: bool, device: str, budget: Budget
) -> dict[str, Any]:
    """Return the speed of each form relative to "plain", in the worse of both formats, and the best form."""
    inputs, outputs, size = layer
    batch = max(1, min(8, 8 * 32**2 // size**2)) if training else 1
    ratios: dict[str, list[float]] = {}
    for memory_format in FORMATS.values():
        x = torch.randn(batch, inputs, size, size, device=device, dtype=dtype).contiguous(
            memory_format=memory_format
        )
        weight = (torch.randn(outputs, inputs, 3, 3, device=device) / (3 * inputs**0.5)).to(
            dtype, memory_format=memory_format
        )
        x.requires_grad_(training)
        weight.requires_grad_(training)
        grad = torch.randn_like(resample.apply_form(op, "plain", x, weight))

        def call(form: str, x: Tensor = x, weight: Tensor = weight, grad: Tensor = grad) -> None:
            y = resample.apply_form(op, form, x, weight)
            if training:
                torch.autograd.grad(y, (x, weight), grad)

        functions = {form: lambda form=form: call(form) for form in resample.CANDIDATES[op]}
        times = (
            time_interleaved(functions, budget)
            if device == "cpu"
            else time_interleaved_on_gpu(functions, budget)[0]
        )
        for form in functions:
            ratios.setdefault(form, []).append(times["plain"].median / times[form].median)
    worse = {form: round(min(item), 3) for form, item in ratios.items()}
    best = max(worse, key=lambda form: worse[form])
    return {
        "op": op, "dtype": str(dtype).removeprefix("torch."), "training": training,
        "in": inputs, "out": outputs, "size": size, "form": best, "speed": worse,
    }  # fmt: skip


def key(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key that identifies an entry and orders the file."""
    return entry["op"], entry["dtype"], entry["training"], -entry["in"], -entry["out"], entry["size"]


def format_table(table: dict[str, Any]) -> str:
    """Return the table as JSON with one layer a line."""
    classes = []
    for name, entry in sorted(table.items()):
        head = json.dumps({k: v for k, v in entry.items() if k != "layers"})[:-1]
        lines = ",\n".join(f"   {json.dumps(layer)}" for layer in entry["layers"])
        classes.append(f' {json.dumps(name)}: {head}, "layers": [\n{lines}\n  ]}}')
    return "{\n" + ",\n".join(classes) + "\n}\n"


def write(name: str, entry: dict[str, Any]) -> None:
    """Put one layer into the entry of a device class."""
    table = json.loads(resample.TABLE.read_text())
    layers_by_key = {key(item): item for item in [*table.get(name, {}).get("layers", []), entry]}
    machine = (
        torch.cuda.get_device_name() if name.startswith("sm_") else platform.processor() or platform.machine()
    )
    measured = {
        "machine": machine,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": str(datetime.date.today()),
    }
    table[name] = {**measured, "layers": [layers_by_key[item] for item in sorted(layers_by_key)]}
    resample.TABLE.write_text(format_table(table))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--ops", nargs="+", choices=resample.CANDIDATES, default=list(resample.CANDIDATES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = resample.device_class(torch.device(device))
    shapes_by_op: dict[str, list[tuple[int, int, int]]] = {op: [] for op in args.ops}
    for config in map(preset, args.presets):
        for op in args.ops:
            shapes_by_op[op] += [
                shape for shape in layers(config.networks)[op] if shape not in shapes_by_op[op]
            ]
    stream = torch.cuda.stream(torch.cuda.Stream()) if device == "cuda" else contextlib.nullcontext()
    with stream:
        for op, dtype, training in itertools.product(shapes_by_op, args.dtypes, (False, True)):
            for shape in shapes_by_op[op]:
                entry = measure(op, shape, getattr(torch, dtype), training, device, Budget(0.3, 3, 25))
                print(json.dumps(entry), flush=True)
                write(name, entry)


if __name__ == "__main__":
    main()
