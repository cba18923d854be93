"""Throughput of a training step in floating-point operations, and the machine's peak to compare it with."""

import math
import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_MATRIX_SIDE = 2048
_REPEATS = 5


def measure_peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return floating-point operations per second of torch's product of two large matrices, measured now."""
    first, second = (torch.ones(_MATRIX_SIDE, _MATRIX_SIDE, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(_REPEATS + 1):
        _synchronize(device)
        start = time.perf_counter()
        first @ second
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * _MATRIX_SIDE**3 / statistics.median(seconds[1:])  # the first one warms up


def count_flops(run: Callable[[], Any]) -> tuple[Any, int]:
    """Call `run`, and return its result and the multiplications and additions of its convolutions, matrix
    products and attention, backward included.
    """
    with _FlopCounter() as counter:
        result = run()
    return result, counter.total


class _FlopCounter(TorchDispatchMode):
    """torch's FlopCounterMode without its module hooks, which fail where only some inputs need a gradient."""

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.total += op_flops(func, args, kwargs or {}, result)
        return result


def op_flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Return multiplications and additions of one call of a torch op; 0 where it multiplies no matrices."""
    formula = _flop_formulas().get(func._overloadpacket)
    return formula(*args, **kwargs, out_val=result) if formula else 0


def _synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _packed_conv_flops(_x: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """Count the operations of oneDNN's convolution from the shapes of its arguments."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _packed_transposed_conv_flops(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Count the operations of oneDNN's transposed convolution."""
    return 2 * math.prod(x) * math.prod(weight) // weight[1]


def _winograd_flops(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Count the operations of a Winograd convolution: 36 products for each tile of 4 x 4 values."""
    return 2 * x[0] * -(-x[2] // 4) * -(-x[3] // 4) * math.prod(weight)


def _attention_flops(query: Any, key: Any, value: Any, **_: Any) -> int:
    """Count the operations of attention."""
    return 2 * math.prod(query[:2]) * key[1] * (query[2] + value[2])


def _attention_backward_flops(_grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Count the operations of attention's backward."""
    return 2 * math.prod(query[:2]) * key[1] * (3 * query[2] + 2 * value[2])


@cache
def _flop_formulas() -> dict[Any, Callable[..., int]]:
    """Return the formula of each op that multiplies matrices."""
    from torch.utils.flop_counter import flop_registry, shape_wrapper  # imports triton where it is installed

    packed = {}
    if torch.backends.mkldnn.is_available():
        packed[torch.ops.mkldnn._convolution_pointwise] = shape_wrapper(_packed_conv_flops)
        packed[torch.ops.mkldnn._convolution_transpose_pointwise] = shape_wrapper(
            _packed_transposed_conv_flops
        )
    return {
        **flop_registry,
        **packed,
        torch.ops.talkinghead_native.winograd_forward: shape_wrapper(_winograd_flops),
        torch.ops.talkinghead.attention: shape_wrapper(_attention_flops),
        torch.ops.talkinghead.attention_backward: shape_wrapper(_attention_backward_flops),
    }
