"""The TensorRT engine: runs in TensorRT or TensorRT-RTX, in one CUDA graph for each batch size."""

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from talkinghead_kernels.warp_by_landmarks import GRID

from ..errors import TalkingheadError
from ..system.atomic_file import atomic_write
from ..system.user_folders import cache_folder
from .base import Engine
from .gpu_context import GpuContext
from .manifest import EngineSpec, Manifest, read_sidecar
from .tensorrt_api import BUILDERS, deserialize, first_error, fresh_logger, open_tensorrt, runs_on

log = logging.getLogger(__name__)


class TensorRTEngine(Engine):
    """Engine of a TensorRT plan, on the kind of GPU and by the version of TensorRT it was built for.

    Args:
        path: what `talkinghead.exporters.tensorrt.build_tensorrt` wrote, its manifest in the same folder.
        device: "cuda", or "cuda:1" and so on.
        manifest: of an engine whose manifest is not written yet.

    Raises:
        TalkingheadError: the file or its manifest is missing, cut or edited; it is of another builder,
            version or GPU; there is no GPU.
    """

    def __init__(
        self, path: str | Path, device: str | torch.device = "cuda", manifest: Manifest | None = None
    ) -> None:
        path = Path(path)
        self.manifest = manifest or read_tensorrt_manifest(path)
        self.spec = self.manifest.spec
        self._trt = matching_bindings(path, self.manifest)
        self._gpu = GpuContext(device)
        check_gpu_matches(path, self.manifest, self._gpu)
        plan = path.read_bytes()
        self._logger = fresh_logger(self._trt)
        with self._gpu.make_current():
            self._runtime = self._trt.Runtime(self._logger)
            self._engine = deserialize(self._runtime, plan, path, self._logger)
        self._check_tensors(path)
        digest = hashlib.sha256(plan).hexdigest()[:16]
        cache_name = f"{self._trt.__name__}-{self._trt.__version__}-{self._gpu.target}-{digest}.kernels"
        self._kernel_cache_path = cache_folder() / "tensorrt" / cache_name
        batch, size = self.spec.batch, self.size
        self._buffers = {
            name: self._gpu.pinned_pair((batch, *shape), torch.float32)
            for name, shape in input_shapes(self.spec).items()
        }
        if self.spec.output == "uint8":
            self._buffers["frames"] = self._gpu.pinned_pair((batch, size, size, 3), torch.uint8)
        else:
            self._buffers["frames"] = self._gpu.pinned_pair((batch, 3, size, size), torch.float32)
        self._graphs: dict[int, tuple[Any, Callable[[], None]]] = {}

    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        with self._gpu.make_current():
            return self._run_on_gpu(inputs)

    def _run_on_gpu(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        count = len(inputs[self.spec.input])
        for name, rows in inputs.items():
            on_host, on_gpu = self._buffers[name]
            np.copyto(on_host[:count].numpy(), rows)
            self._gpu.copy(on_host[:count], on_gpu[:count])
        if count not in self._graphs:
            self._graphs[count] = self._capture_graph(count)
        _, replay = self._graphs[count]
        replay()
        on_host, on_gpu = self._buffers["frames"]
        self._gpu.copy(on_gpu[:count], on_host[:count])
        self._gpu.synchronize()
        return on_host[:count].numpy().copy()

    def _capture_graph(self, count: int) -> tuple[Any, Callable[[], None]]:
        """Return an execution context for a batch size, and a function that runs it."""
        # each graph has its own context, because it refers to the context's memory and shapes
        fresh_logger(self._trt)
        settings, cache = self._runtime_settings()
        context = self._create_context(count, settings)

        def launch() -> None:
            if not context.execute_async_v3(self._gpu.stream):
                raise TalkingheadError(
                    f"tensorrt: running failed ({first_error(self._logger.errors)}); free GPU memory, or "
                    "export it again"
                )

        launch()  # TensorRT's work after a change of shape must be done before the capture
        self._gpu.synchronize()
        replay: Callable[[], None] = launch
        if not hasattr(context, "is_stream_capturable") or context.is_stream_capturable(self._gpu.stream):
            replay = self._gpu.capture(launch)
        if cache is not None:
            self._write_kernel_cache(cache)
        return context, replay

    def _create_context(self, count: int, settings: tuple[Any, ...]) -> Any:
        """Return an execution context with the shapes and addresses of a batch size."""
        context = self._engine.create_execution_context(*settings)
        if context is None:
            raise TalkingheadError(
                f"tensorrt: no room for {count} frames at a time ({first_error(self._logger.errors)}); "
                "export a smaller batch"
            )
        for name, (_, on_gpu) in self._buffers.items():
            if name != "frames" and not context.set_input_shape(name, (count, *on_gpu.shape[1:])):
                raise TalkingheadError(
                    f"tensorrt: {name} of {count} frames is refused ({first_error(self._logger.errors)}); "
                    "export it again"
                )
            context.set_tensor_address(name, on_gpu.data_ptr())
        return context

    def _runtime_settings(self) -> tuple[tuple[Any, ...], Any]:
        """Return arguments of an execution context of TensorRT-RTX, and its cache of finished kernels.

        TensorRT has neither: its kernels are finished.
        """
        trt = self._trt
        if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            return (), None
        settings = self._engine.create_runtime_config()
        # by default a graph would capture fallback kernels, which run while the right ones are compiled
        settings.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        cache = settings.create_runtime_cache()
        with suppress(OSError):
            # the cache of another driver is refused, and kernels are compiled again
            cache.deserialize(self._kernel_cache_path.read_bytes())
        settings.set_runtime_cache(cache)
        return (settings,), cache

    def _write_kernel_cache(self, cache: Any) -> None:
        try:
            with atomic_write(self._kernel_cache_path) as temporary:
                temporary.write_bytes(cache.serialize())
        except TalkingheadError as error:
            log.warning("%s: kernels will be compiled again the next time", error)

    def _check_tensors(self, path: Path) -> None:
        """Check the names of inputs and outputs."""
        expected = {*input_shapes(self.spec), "frames"}
        names = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
        if names != expected:
            raise TalkingheadError(
                f"{path}: takes and gives {sorted(names)}, its manifest says {sorted(expected)}; export it "
                "again"
            )


def input_shapes(spec: EngineSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of one row of each input, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    if spec.input == "points":
        shapes["points"] = (spec.num_points, 2)
    else:
        shapes["image"] = (3, spec.layer_size, spec.layer_size)
    if spec.styles == "input":
        shapes["styles"] = (spec.style_length,)
    if spec.guided:
        shapes["warped"] = (3, spec.size, spec.size)
        shapes["plate"] = (4, spec.size, spec.size)
        shapes["motion"] = (2, GRID, GRID)
    return shapes


def read_tensorrt_manifest(path: Path) -> Manifest:
    """Read the manifest of a TensorRT engine.

    Raises:
        TalkingheadError: as for `read_sidecar`, or it is of another format.
    """
    manifest = read_sidecar(path)
    if manifest.format != "tensorrt":
        raise TalkingheadError(
            f"{path}: is {manifest.format}, expected a TensorRT engine; name one that --format tensorrt wrote"
        )
    return manifest


def matching_bindings(path: Path, manifest: Manifest) -> Any:
    """Return the bindings that an engine was built by, in the same version; it runs by no other version.

    Raises:
        TalkingheadError: these bindings are not installed, or in another version.
    """
    builder, version = (str(manifest.details.get(name)) for name in ("builder", "builder_version"))
    if builder not in BUILDERS:
        raise TalkingheadError(
            f"{path}: was built by {builder!r}, expected {' or '.join(BUILDERS)}; export it again"
        )
    trt = open_tensorrt(builder)
    if trt.__version__ != version:
        raise TalkingheadError(
            f"{path}: was built by {builder} {version}, not by {trt.__version__} which is here; export it "
            "again, or install that"
        )
    return trt


def check_gpu_matches(path: Path, manifest: Manifest, gpu: GpuContext) -> None:
    """Check that an engine was built for a GPU.

    Raises:
        TalkingheadError: it was built for another.
    """
    target = str(manifest.details.get("target"))
    if not runs_on(target, gpu.target):
        raise TalkingheadError(
            f"{path}: was built for {target}, {gpu.name} is {gpu.target}; export with --target {gpu.target}"
        )
