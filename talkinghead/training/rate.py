"""How much of what a machine can multiply a step makes use of."""

import math
import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_SIDE, _TIMES = 2048, 5


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of torch's product of two large matrices, measured now."""
    left, right = (torch.ones(_SIDE, _SIDE, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(_TIMES + 1):
        _wait(device)
        start = time.perf_counter()
        left @ right
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * _SIDE**3 / statistics.median(seconds[1:])  # the first prepares


def count_operations(run: Callable[[], Any]) -> tuple[Any, int]:
    """What `run` gives, and the multiplications and additions of its convolutions, products and attention, backward included."""
    with _Counter() as counter:
        result = run()
    return result, counter.total


class _Counter(TorchDispatchMode):
    """torch's FlopCounterMode without its hooks, which a gradient of some inputs alone does not bear."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.total += operations(func, args, kwargs or {}, result)
        return result


def operations(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Multiplications and additions of one call of an op of torch; 0 of those that multiply no matrices."""
    formula = _formulas().get(func._overloadpacket)
    return formula(*args, **kwargs, out_val=result) if formula else 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _packed_convolution(_x: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _packed_transposed(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * math.prod(weight) // weight[1]


def _winograd(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * x[0] * -(-x[2] // 4) * -(-x[3] // 4) * math.prod(weight)  # 36 products for 16 numbers


def _attention(query: Any, key: Any, value: Any, **_: Any) -> int:
    return 2 * math.prod(query[:2]) * key[1] * (query[2] + value[2])


def _attention_backward(_grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(query[:2]) * key[1] * (3 * query[2] + 2 * value[2])


@cache
def _formulas() -> dict[Any, Callable[..., int]]:
    from torch.utils.flop_counter import flop_registry, shape_wrapper  # imports triton where it is

    packed = {}
    if torch.backends.mkldnn.is_available():
        packed[torch.ops.mkldnn._convolution_pointwise] = shape_wrapper(_packed_convolution)
        packed[torch.ops.mkldnn._convolution_transpose_pointwise] = shape_wrapper(_packed_transposed)
    return {
        **flop_registry,
        **packed,
        torch.ops.talkinghead_native.winograd_forward: shape_wrapper(_winograd),
        torch.ops.talkinghead.attention: shape_wrapper(_attention),
        torch.ops.talkinghead.attention_backward: shape_wrapper(_attention_backward),
    }
