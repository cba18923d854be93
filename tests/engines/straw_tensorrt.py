"""TensorRT of straw: its names and its rules, on the CPU, to test what is called in which order where there is no GPU.

Its engines answer with grey frames: each as bright as the x of the first landmark, or the first style, says.
"""

import copy
import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talkinghead.checkpoint import Model, Person

SIZE, STYLES = 8, 5


def person_of(model: Model, seed: int, feed_forward: bool = False) -> Person:
    """Somebody whose every weight is the own."""
    generator = copy.deepcopy(model.generator)
    generators = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in generator.parameters():
            each.add_(torch.randn(each.shape, generator=generators), alpha=0.01)
    styles = torch.randn(1, generator.style_length, generator=generators)
    return Person(model.config, generator, styles, np.full((68, 2), 0.5, np.float32), "", feed_forward)


class StrawCard:
    """In the place of `Card`."""

    def __init__(self, device: Any = "cuda", target: str = "sm_86") -> None:
        self.device, self.target, self.name, self.stream = torch.device("cuda", 0), target, "Straw 3090", 7
        self.calls: list[Any] = []
        self.replaying = self.capturing = False

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def pair(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)

    def copy(self, source: Tensor, to: Tensor) -> None:
        self.calls.append(("copy", tuple(source.shape)))
        to.copy_(source)

    def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
        self.calls.append("capture")
        self.capturing = True
        launch()
        self.capturing = False

        def replay() -> None:
            self.calls.append("replay")
            self.replaying = True
            launch()
            self.replaying = False

        return replay

    def wait(self) -> None:
        self.calls.append("wait")


class Context:
    def __init__(self, trt: "Straw", settings: Any) -> None:
        self.trt, self.settings, self.shapes, self.addresses = trt, settings, {}, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.trt.card.calls.append(("shape", name, shape))
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert isinstance(address, int)
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self.trt.capturable

    def execute_async_v3(self, stream: int) -> bool:
        card = self.trt.card
        assert stream == card.stream
        assert set(self.shapes) == set(self.trt.names) - {"frames"}
        assert set(self.addresses) == set(self.trt.names)
        if not card.replaying:
            card.calls.append("execute while capturing" if card.capturing else "execute")
        if card.capturing:
            return True  # is put into the graph, and does nothing
        lit = "styles" if "styles" in self.shapes else "points"
        count = self.shapes[lit][0]
        given = np.frombuffer((ctypes.c_float * int(np.prod(self.shapes[lit]))).from_address(self.addresses[lit]), np.float32)
        made = (ctypes.c_uint8 * (count * SIZE * SIZE * 3)).from_address(self.addresses["frames"])
        grey = (given.reshape(count, -1)[:, 0] * 255).round().astype(np.uint8)
        np.frombuffer(made, np.uint8).reshape(count, -1)[:] = grey[:, None]
        return not self.trt.fails


class Straw(ModuleType):
    """In the place of the bindings; `loaded` tells what was deserialised."""

    def __init__(self, name: str = "tensorrt_rtx", version: str = "1.7.1.116", names: tuple[str, ...] = ("points", "frames")) -> None:
        super().__init__(name)
        self.__version__, self.names = version, names
        self.card = StrawCard()
        self.loaded: list[bytes] = []
        self.contexts: list[Context] = []
        self.capturable, self.fails, self.refuses = True, False, False
        self.cached = b""
        self.missing: list[str] = []
        self.complaint = ""
        strategies = SimpleNamespace(EAGER="eager", LAZY="lazy")
        if name == "tensorrt_rtx":
            self.DynamicShapesKernelSpecializationStrategy = strategies
            self.ComputeCapability = SimpleNamespace(__members__={"NONE": 0, "CURRENT": 1, "SM86": 86, "SM120": 120})
        self.SerializationFlag = SimpleNamespace(EXCLUDE_WEIGHTS="no weights")

        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

        self.ILogger = ILogger

    def Runtime(self, log: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: self._load(plan, log))

    def _load(self, plan: bytes, log: Any) -> Any:
        self.loaded.append(bytes(plan))
        if self.refuses:
            log.log(self.ILogger.ERROR, "the driver is\n too old")
            return None
        return SimpleNamespace(
            num_io_tensors=len(self.names),
            get_tensor_name=lambda each: self.names[each],
            create_execution_context=self._context,
            create_runtime_config=lambda: SimpleNamespace(create_runtime_cache=lambda: self._cache(), set_runtime_cache=lambda cache: True),
            create_serialization_config=lambda: SimpleNamespace(clear_flag=lambda flag: True),
            serialize_with_config=lambda config: b"refitted",
        )

    def _cache(self) -> Any:
        def deserialize(kept: bytes) -> bool:
            self.cached = kept
            return True

        return SimpleNamespace(deserialize=deserialize, serialize=lambda: b"kernels")

    def _context(self, settings: Any = None) -> Context | None:
        with suppress(AttributeError):
            assert settings.dynamic_shapes_kernel_specialization_strategy == "eager"
        self.contexts.append(Context(self, settings))
        return self.contexts[-1]

    def Refitter(self, engine: Any, log: Any) -> Any:
        return SimpleNamespace(get_missing_weights=lambda: self.missing, refit_cuda_engine=lambda: not self.fails)

    def OnnxParserRefitter(self, refitter: Any, log: Any) -> Any:
        error = SimpleNamespace(desc=lambda: self.complaint)
        return SimpleNamespace(refit_from_file=lambda path: not self.complaint, num_errors=1, get_error=lambda each: error)
