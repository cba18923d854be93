"""Where the time of a frame of the generator or of a step of fine-tuning goes, op by op, and the least it could take.

python -m bench.profile generator paper bf16        from the root of the repository
python -m bench.profile step small

The floor of an op is what its operations take at the rate of this machine's best convolution, or its bytes (each tensor that goes in or
comes out, once) at the rate of a copy, whichever is longer. Ops are timed one by one; what Python takes between them is in the whole alone.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import talkinghead_kernels as ops
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.harness import keep_freed_memory, machine
from talkinghead.checkpoint import random_model
from talkinghead.config import PRESETS, preset
from talkinghead.engines.eager import choose_precision
from talkinghead.engines.frame import DTYPES
from talkinghead.landmarks.draw import landmark_image
from talkinghead.networks import Generator, final_generator, pack_
from talkinghead.perceptual import EfficientNetLite0
from talkinghead.training.finetune import PersonLearner
from talkinghead.training.rate import operations

RUNS, SHOTS = 7, 8
NAMES = {
    "_convolution_pointwise": "convolution",
    "_convolution_transpose_pointwise": "convolution",
    "convolution": "convolution",
    "convolution_backward": "convolution, backward",
    "add_adain": "adain",
    "add_adain_backward": "adain, backward",
    "winograd_forward": "convolution by Winograd",
    "adain_forward": "adain",
    "adain_backward": "adain, backward",
    "attention_backward": "attention, backward",
    "_fused_adam_": "Adam",
}


class Call(NamedTuple):
    """One op that ran."""

    name: str
    seconds: float
    operations: int
    moved: int


class Watch(TorchDispatchMode):
    """Times every op."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - start
        name = func._overloadpacket.__name__
        moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors((args, kwargs, result)))
        self.calls.append(Call(NAMES.get(name, name), seconds, operations(func, args, kwargs or {}, result), moved))
        return result


def tensors(of: Any) -> Iterator[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(of, Tensor):
        yield of
    elif isinstance(of, dict):
        yield from tensors(list(of.values()))
    elif isinstance(of, (list, tuple)):
        for each in of:
            yield from tensors(each)


def generator(network: str, precision: str) -> Callable[[], Any]:
    """A frame, from the landmark image to the picture."""
    config, dtype = preset(network).networks, DTYPES[precision]
    made = Generator(config, projection=False)
    final = pack_(final_generator(made, config.image_size, dtype), config.image_size)
    drawn = landmark_image(torch.rand(1, 68, 2), config.image_size).to(dtype, memory_format=torch.channels_last)
    styles = torch.randn(1, made.style_length)

    @torch.no_grad()  # not inference mode, which hides what a convolution is made of
    def frame() -> Tensor:
        return final(drawn, styles)

    return frame


def step(network: str, _: str) -> Callable[[], Any]:
    """A step of fine-tuning on eight pictures."""
    model = random_model(network)
    size = model.config.networks.image_size
    learner = PersonLearner(model, torch.randn(1, model.config.networks.embedding) / 100, model.config.finetune, adversarial=True)
    real, drawn = torch.rand(SHOTS, 3, size, size) * 2 - 1, landmark_image(torch.rand(SHOTS, 68, 2), size)
    networks = [EfficientNetLite0()]
    return lambda: learner.step(networks, real, drawn)


def watch(run: Callable[[], Any]) -> tuple[float, list[Call]]:
    """Seconds of a run by itself, and its ops; medians."""
    run(), run()
    whole, watched = [], []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        whole.append(time.perf_counter() - start)
        with Watch() as seen:
            run()
        watched.append(seen.calls)
    assert len({len(calls) for calls in watched}) == 1, "the runs differ"
    calls = [each[0]._replace(seconds=statistics.median(call.seconds for call in each)) for each in zip(*watched, strict=True)]
    return statistics.median(whole), calls


def rates(dtype: torch.dtype) -> tuple[float, float]:
    """Operations a second of the best of some convolutions, and bytes a second of a copy."""
    best = 0.0
    for channels, size in ((64, 128), (128, 128), (256, 64), (512, 32)):
        x = torch.randn(1, channels, size, size).to(dtype, memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 4, 4).to(dtype)  # of this size nothing but a direct convolution runs
        packed = ops.pack(weight, x.shape, 2, 1)
        seconds = _median(lambda x=x, packed=packed: ops.conv2d(x, packed, None, 2, 1))
        best = max(best, 2 * weight.numel() * (size // 2) ** 2 / seconds)
    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    return best, 2 * source.numel() * 4 / _median(lambda: target.copy_(source))


@torch.inference_mode()
def _median(run: Callable[[], Any]) -> float:
    run()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def table(whole: float, calls: list[Call], rate: float, bandwidth: float, least: float = 0.01) -> list[str]:
    """Ops by what they take; those below a share of the whole are put together."""
    groups: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        groups[call.name].append(call)
    together = sum(call.seconds for call in calls)
    for name in [name for name, each in groups.items() if sum(call.seconds for call in each) < least * together]:
        groups["the rest"] += groups.pop(name)
    lines = ["| op | calls | ms | share | GFLOP | GFLOP/s | MiB | floor, ms |", "|---|---|---|---|---|---|---|---|"]
    floors = 0.0
    for name, each in sorted(groups.items(), key=lambda item: -sum(call.seconds for call in item[1])):
        seconds, flops, moved = (sum(getattr(call, what) for call in each) for what in ("seconds", "operations", "moved"))
        floor = 0.0 if name == "the rest" else sum(max(call.operations / rate, call.moved / bandwidth) for call in each)
        floors += floor
        done, speed = (f"{flops / 1e9:.1f}", f"{flops / seconds / 1e9:.0f}") if flops else ("", "")
        words = f"{floor * 1e3:.1f}" if floor else ""
        took = f"{seconds * 1e3:.1f} | {seconds / together:.0%}"
        lines.append(f"| {name} | {len(each)} | {took} | {done} | {speed} | {moved / 2**20:.0f} | {words} |")
    flops = sum(call.operations for call in calls)
    lines.append(f"| all | {len(calls)} | {together * 1e3:.1f} | | {flops / 1e9:.1f} | {flops / whole / 1e9:.0f} | | {floors * 1e3:.1f} |")
    lines += ["", f"By itself the whole takes {whole * 1e3:.1f} ms: {whole / floors:.2f} times the floor."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("generator", "step"))
    parser.add_argument("network", choices=PRESETS)
    parser.add_argument(
        "precision", nargs="?", choices=("fp32", "bf16"), help="of the generator; by default, and of a step, what is faster here"
    )
    given = parser.parse_args()
    torch.set_num_threads(2)
    keep_freed_memory()
    precision = choose_precision(torch.device("cpu"), (given.what == "generator" and given.precision) or "auto")
    torch.manual_seed(0)
    whole, calls = watch({"generator": generator, "step": step}[given.what](given.network, precision))
    rate, bandwidth = rates(DTYPES[precision])
    about = machine()
    machine_words = f"{about['device']}, {about['threads']} threads, torch {about['versions']['torch']}, {about['date']}"
    print(f"{given.what} of {given.network}, {precision}: {machine_words}; ", end="")
    print(f"best convolution {rate / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s.\n")
    print("\n".join(table(whole, calls, rate, bandwidth)))


if __name__ == "__main__":
    main()
