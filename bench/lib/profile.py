"""Profile of a frame of the generator or a step of fine-tuning: time of each op, and its lower bound.

python -m bench.lib.profile generator paper bf16        from the root of the repository
python -m bench.lib.profile step small

The floor of an op is the longer of two times: that of its operations at the rate of this machine's fastest
convolution, and that of its bytes (every input and output tensor, once) at the rate of a copy. Ops are timed
one by one; the time of Python between them counts in the total alone.
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

from bench.lib.harness import keep_freed_memory, machine
from talkinghead.config import PRESETS, preset
from talkinghead.engines.precision import DTYPES, choose_precision
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.model import random_model
from talkinghead.networks import Generator, pack_weights_, prepare_for_inference
from talkinghead.pretrained.perceptual import EfficientNetLite0
from talkinghead.training.finetune_trainer import FinetuneTrainer
from talkinghead.training.throughput import op_flops

RUNS, SHOTS = 7, 8
NAMES = {
    "_convolution_pointwise": "convolution",
    "_convolution_transpose_pointwise": "convolution",
    "convolution": "convolution",
    "convolution_backward": "convolution, backward",
    "add_adain": "adain",
    "add_adain_backward": "adain, backward",
    "winograd_forward": "convolution by Winograd",
    "conv_sequence": "small convolutions",
    "adain_forward": "adain",
    "adain_backward": "adain, backward",
    "attention_backward": "attention, backward",
    "_fused_adam_": "Adam",
}


class Call(NamedTuple):
    """Measurement of one op."""

    name: str
    seconds: float
    operations: int
    bytes_moved: int


class OpTimer(TorchDispatchMode):
    """Timer of every op that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - start
        name = func._overloadpacket.__name__
        bytes_moved = sum(
            tensor.numel() * tensor.element_size() for tensor in tensors((args, kwargs, result))
        )
        self.calls.append(
            Call(NAMES.get(name, name), seconds, op_flops(func, args, kwargs or {}, result), bytes_moved)
        )
        return result


def tensors(values: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested arguments."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from tensors(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for group in values:
            yield from tensors(group)


def generator(network: str, precision: str) -> Callable[[], Any]:
    """Return a function that renders a frame from a landmark image."""
    config, dtype = preset(network).networks, DTYPES[precision]
    network_module = Generator(config, projection=False)
    final = pack_weights_(prepare_for_inference(network_module, config.image_size, dtype), config.image_size)
    landmark_input = landmark_image(torch.rand(1, 68, 2), config.image_size).to(
        dtype, memory_format=torch.channels_last
    )
    styles = torch.randn(1, network_module.style_length)

    @torch.no_grad()  # not inference mode, in which a convolution is one op
    def frame() -> Tensor:
        return final(landmark_input, styles)

    return frame


def step(network: str, _: str) -> Callable[[], Any]:
    """Return a function that takes a step of fine-tuning on eight images."""
    model = random_model(network)
    size = model.config.networks.image_size
    learner = FinetuneTrainer(
        model, torch.randn(1, model.config.networks.embedding) / 100, model.config.finetune, adversarial=True
    )
    real, landmark_input = (
        torch.rand(SHOTS, 3, size, size) * 2 - 1,
        landmark_image(torch.rand(SHOTS, 68, 2), size),
    )
    networks = [EfficientNetLite0()]
    return lambda: learner.step(networks, real, landmark_input)


def time_ops(run: Callable[[], Any]) -> tuple[float, list[Call]]:
    """Return the median time of a run in seconds, and its ops with median times."""
    run(), run()
    whole, timed = [], []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        whole.append(time.perf_counter() - start)
        with OpTimer() as seen:
            run()
        timed.append(seen.calls)
    assert len({len(calls) for calls in timed}) == 1, "the runs differ"
    calls = [
        group[0]._replace(seconds=statistics.median(call.seconds for call in group))
        for group in zip(*timed, strict=True)
    ]
    return statistics.median(whole), calls


def rates(dtype: torch.dtype) -> tuple[float, float]:
    """Return the operations per second of the fastest convolution, and the bytes per second of a copy."""
    best = 0.0
    for channels, size in ((64, 128), (128, 128), (256, 64), (512, 32)):
        x = torch.randn(1, channels, size, size).to(dtype, memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 4, 4).to(
            dtype
        )  # of this size nothing but a direct convolution runs
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
    """Return a table of ops by their time; those below a share of the total are summed."""
    groups: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        groups[call.name].append(call)
    together = sum(call.seconds for call in calls)
    for name in [
        name for name, group in groups.items() if sum(call.seconds for call in group) < least * together
    ]:
        groups["the rest"] += groups.pop(name)
    lines = [
        "| op | calls | ms | share | GFLOP | GFLOP/s | MiB | floor, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    floors = 0.0
    for name, group in sorted(groups.items(), key=lambda item: -sum(call.seconds for call in item[1])):
        seconds, flops, bytes_moved = (
            sum(getattr(call, what) for call in group) for what in ("seconds", "operations", "bytes_moved")
        )
        floor = (
            0.0
            if name == "the rest"
            else sum(max(call.operations / rate, call.bytes_moved / bandwidth) for call in group)
        )
        floors += floor
        done, speed = (f"{flops / 1e9:.1f}", f"{flops / seconds / 1e9:.0f}") if flops else ("", "")
        words = f"{floor * 1e3:.1f}" if floor else ""
        took = f"{seconds * 1e3:.1f} | {seconds / together:.0%}"
        lines.append(
            f"| {name} | {len(group)} | {took} | {done} | {speed} | {bytes_moved / 2**20:.0f} | {words} |"
        )
    flops = sum(call.operations for call in calls)
    lines.append(
        f"| all | {len(calls)} | {together * 1e3:.1f} | | {flops / 1e9:.1f} | {flops / whole / 1e9:.0f} | | "
        f"{floors * 1e3:.1f} |"
    )
    lines += ["", f"By itself the whole takes {whole * 1e3:.1f} ms: {whole / floors:.2f} times the floor."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("generator", "step"))
    parser.add_argument("network", choices=PRESETS)
    parser.add_argument(
        "precision",
        nargs="?",
        choices=("fp32", "bf16"),
        help="of the generator; by default, and of a step, what is faster here",
    )
    args = parser.parse_args()
    torch.set_num_threads(2)
    keep_freed_memory()
    precision = choose_precision(torch.device("cpu"), (args.what == "generator" and args.precision) or "auto")
    torch.manual_seed(0)
    whole, calls = time_ops({"generator": generator, "step": step}[args.what](args.network, precision))
    rate, bandwidth = rates(DTYPES[precision])
    about = machine()
    machine_words = (
        f"{about['device']}, {about['threads']} threads, torch {about['versions']['torch']}, {about['date']}"
    )
    print(f"{args.what} of {args.network}, {precision}: {machine_words}; ", end="")
    print(f"best convolution {rate / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s.\n")
    print("\n".join(table(whole, calls, rate, bandwidth)))


if __name__ == "__main__":
    main()
