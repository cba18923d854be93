"""Fake TensorRT: its names and rules on the CPU, to test calls and their order without a GPU.

Its engines return grey frames; the x of the first landmark, or the first style, is the brightness.
"""

import copy
import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from talkinghead.engines import tensorrt_api, tensorrt_engine
from talkinghead.engines.manifest import Manifest, manifest_with_checksum, sidecar
from talkinghead.errors import TalkingheadError
from talkinghead.exporters import tensorrt
from talkinghead.model import Model, Person

SIZE, STYLES = 8, 5


def person_of(model: Model, seed: int, feed_forward: bool = False) -> Person:
    """Return a person of whom every weight differs from the model's."""
    generator = copy.deepcopy(model.generator)
    generators = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in generator.parameters():
            weight.add_(torch.randn(weight.shape, generator=generators), alpha=0.01)
    styles = torch.randn(1, generator.style_length, generator=generators)
    return Person(model.config, generator, styles, np.full((68, 2), 0.5, np.float32), "", feed_forward)


class FakeGpu:
    """Fake of `GpuContext` on the CPU that records calls."""

    def __init__(self, device: Any = "cuda", target: str = "sm_86") -> None:
        self.device, self.target, self.name, self.stream = torch.device("cuda", 0), target, "Fake 3090", 7
        self.calls: list[Any] = []
        self.replaying = self.capturing = False

    def make_current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def pinned_pair(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)

    def copy(self, source: Tensor, target: Tensor) -> None:
        self.calls.append(("copy", tuple(source.shape)))
        target.copy_(source)

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
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

    def synchronize(self) -> None:
        self.calls.append("wait")


class Context:
    def __init__(self, trt: "FakeTensorRT", settings: Any) -> None:
        self.trt, self.settings, self.shapes, self.addresses = trt, settings, {}, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.trt.gpu.calls.append(("shape", name, shape))
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert isinstance(address, int)
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self.trt.capturable

    def execute_async_v3(self, stream: int) -> bool:
        gpu = self.trt.gpu
        assert stream == gpu.stream
        assert set(self.shapes) == set(self.trt.names) - {"frames"}
        assert set(self.addresses) == set(self.trt.names)
        if not gpu.replaying:
            gpu.calls.append("execute while capturing" if gpu.capturing else "execute")
        if gpu.capturing:
            return True  # is put into the graph, and does nothing
        lit = "styles" if "styles" in self.shapes else "points"
        count = self.shapes[lit][0]
        values = np.frombuffer(
            (ctypes.c_float * int(np.prod(self.shapes[lit]))).from_address(self.addresses[lit]), np.float32
        )
        buffer = (ctypes.c_uint8 * (count * SIZE * SIZE * 3)).from_address(self.addresses["frames"])
        grey = (values.reshape(count, -1)[:, 0] * 255).round().astype(np.uint8)
        np.frombuffer(buffer, np.uint8).reshape(count, -1)[:] = grey[:, None]
        return not self.trt.fails


class FakeTensorRT(ModuleType):
    """Fake of the bindings; `loaded` holds the plans that were deserialized."""

    def __init__(
        self,
        name: str = "tensorrt_rtx",
        version: str = "1.7.1.116",
        names: tuple[str, ...] = ("points", "frames"),
    ) -> None:
        super().__init__(name)
        self.__version__, self.names = version, names
        self.gpu = FakeGpu()
        self.loaded: list[bytes] = []
        self.contexts: list[Context] = []
        self.capturable, self.fails, self.refuses = True, False, False
        self.cached = b""
        self.missing: list[str] = []
        self.complaint = ""
        strategies = SimpleNamespace(EAGER="eager", LAZY="lazy")
        if name == "tensorrt_rtx":
            self.DynamicShapesKernelSpecializationStrategy = strategies
            self.ComputeCapability = SimpleNamespace(
                __members__={"NONE": 0, "CURRENT": 1, "SM86": 86, "SM120": 120}
            )
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
            get_tensor_name=lambda index: self.names[index],
            create_execution_context=self._context,
            create_runtime_config=lambda: SimpleNamespace(
                create_runtime_cache=lambda: self._cache(), set_runtime_cache=lambda cache: True
            ),
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
        return SimpleNamespace(
            get_missing_weights=lambda: self.missing, refit_cuda_engine=lambda: not self.fails
        )

    def OnnxParserRefitter(self, refitter: Any, log: Any) -> Any:
        error = SimpleNamespace(desc=lambda: self.complaint)
        return SimpleNamespace(
            refit_from_file=lambda path: not self.complaint, num_errors=1, get_error=lambda index: error
        )


DETAILS = {"builder": "tensorrt_rtx", "builder_version": "1.7.1.116", "target": "sm_86", "refittable": True}


def manifest(**other: Any) -> Manifest:
    values: dict[str, Any] = {
        "format": "tensorrt",
        "preset": "tiny",
        "size": SIZE,
        "precision": "fp16",
        "batch": 4,
        "input": "points",
        "output": "uint8",
        "styles": "constant",
        "style_length": STYLES,
        "person": "anna.safetensors",
        "weights": "",
        "reference": [],
        "talkinghead": "0",
        "details": DETAILS,
    }
    return Manifest(**{**values, **other})


def write_engine(folder: Path, described: Manifest) -> Path:
    path = folder / "anna.engine"
    path.write_bytes(b"a plan")
    sidecar(path).write_text(manifest_with_checksum(described, path))
    return path


def install(trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRT:
    def require(module: str, extra: str) -> FakeTensorRT:
        if module != trt.__name__:
            raise TalkingheadError(f"{module}: absent")
        return trt

    monkeypatch.setattr(tensorrt_api, "require", require)
    monkeypatch.setattr(tensorrt_engine, "GpuContext", lambda device="cuda": trt.gpu)
    monkeypatch.setattr(tensorrt, "GpuContext", lambda device="cuda": trt.gpu)
    monkeypatch.setattr(tensorrt, "current_gpu", lambda device: trt.gpu)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return trt
