"""The TensorRT engine: a person's frames by TensorRT or TensorRT-RTX, one CUDA graph for each size of batch."""

import hashlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from talkinghead_kernels.warp_by_landmarks import GRID
from torch import Tensor

from ..errors import TalkingheadError
from ..files import cache_folder, replacing
from .engine import Engine
from .manifest import Manifest, read_sidecar
from .tensorrt import emptied_log, first, open_tensorrt, runs_on

log = logging.getLogger(__name__)


class Card:
    """What an engine needs of a GPU: its memory, a stream, and graphs. By torch, whose memory and streams TensorRT then shares.

    Args:
        device: "cuda", or "cuda:1" and so on.

    Attributes:
        target: its compute capability, such as "sm_86".

    Raises:
        TalkingheadError: torch sees no such GPU.
    """

    def __init__(self, device: str | torch.device = "cuda") -> None:
        device = torch.device(device)
        if device.type != "cuda" or (device.index or 0) >= torch.cuda.device_count():
            why = "" if torch.version.cuda else f" (torch {torch.__version__} is a CPU build)"
            raise TalkingheadError(f"tensorrt: needs an NVIDIA GPU, torch sees none as {str(device)!r}{why}; run it where there is one")
        self.device = device if device.index is not None else torch.device("cuda", torch.cuda.current_device())
        major, minor = torch.cuda.get_device_capability(self.device)
        self.target, self.name = f"sm_{major}{minor}", torch.cuda.get_device_name(self.device)
        self._stream = torch.cuda.Stream(self.device)
        self.stream: int = self._stream.cuda_stream

    def current(self) -> AbstractContextManager[None]:
        """Within it this GPU is the thread's current one, on which TensorRT works."""
        return torch.cuda.device(self.device)

    def pair(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Memory of one shape on the host, pinned, and on the GPU."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True), torch.zeros(shape, dtype=dtype, device=self.device)

    def copy(self, source: Tensor, to: Tensor) -> None:
        """Between the two, in the stream's order."""
        with torch.cuda.stream(self._stream):
            to.copy_(source, non_blocking=True)

    def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
        """What replays in one launch what `launch` puts into the stream. It must have run once."""
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            launch()

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def wait(self) -> None:
        """Until all that is in the stream is done."""
        self._stream.synchronize()


def this_card(device: str = "cuda") -> Card | None:
    """The GPU of that name, or None where torch sees none."""
    return Card(device) if torch.cuda.is_available() else None


class TensorRTEngine(Engine):
    """Runs what `build_tensorrt` wrote, on the kind of GPU and by the version it was built for.

    Args:
        path: the engine, its manifest beside it.
        device: "cuda", or "cuda:1" and so on.
        manifest: of an engine that has none beside it yet.

    Raises:
        TalkingheadError: the file or its manifest is missing, cut or edited; it is of another builder, version or GPU; there is no GPU.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cuda", manifest: Manifest | None = None) -> None:
        path = Path(path)
        self.manifest = manifest or checked(path)
        self._trt = bindings(path, self.manifest)
        self._card = Card(device)
        fits(path, self.manifest, self._card)
        plan = path.read_bytes()
        self._log = emptied_log(self._trt)
        with self._card.current():
            self._runtime = self._trt.Runtime(self._log)
            self._engine = deserialised(self._runtime, plan, path, self._log)
        self._check(path)
        kept = f"{self._trt.__name__}-{self._trt.__version__}-{self._card.target}-{hashlib.sha256(plan).hexdigest()[:16]}.kernels"
        self._kept = cache_folder() / "tensorrt" / kept
        size, most = self.size, self.manifest.batch
        made = ((most, size, size, 3), torch.uint8) if self.manifest.output == "uint8" else ((most, 3, size, size), torch.float32)
        shapes = input_shapes(self.manifest)
        self._memory = {name: self._card.pair((most, *shape), torch.float32) for name, shape in shapes.items()}
        self._memory["frames"] = self._card.pair(*made)
        self._graphs: dict[int, tuple[Any, Callable[[], None]]] = {}

    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        with self._card.current():
            return self._frames(inputs)

    def _frames(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        count = len(inputs[self.manifest.input])
        for name, rows in inputs.items():
            pinned, there = self._memory[name]
            np.copyto(pinned[:count].numpy(), rows)
            self._card.copy(pinned[:count], there[:count])
        if count not in self._graphs:
            self._graphs[count] = self._capture(count)
        _, replay = self._graphs[count]
        replay()
        pinned, there = self._memory["frames"]
        self._card.copy(there[:count], pinned[:count])
        self._card.wait()
        return pinned[:count].numpy().copy()

    def _capture(self, count: int) -> tuple[Any, Callable[[], None]]:
        # a graph holds on to its context's memory and shapes, so that each has a context of its own
        emptied_log(self._trt)
        settings, cache = self._settings()
        context = self._engine.create_execution_context(*settings)
        if context is None:
            raise TalkingheadError(f"tensorrt: no room for {count} frames at a time ({first(self._log.errors)}); export a smaller batch")
        for name, (_, there) in self._memory.items():
            if name != "frames" and not context.set_input_shape(name, (count, *there.shape[1:])):
                raise TalkingheadError(f"tensorrt: {name} of {count} frames is refused ({first(self._log.errors)}); export it again")
            context.set_tensor_address(name, there.data_ptr())

        def launch() -> None:
            if not context.execute_async_v3(self._card.stream):
                raise TalkingheadError(f"tensorrt: running failed ({first(self._log.errors)}); free GPU memory, or export it again")

        launch()  # what follows a new shape must be done before the capture
        self._card.wait()
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(self._card.stream):
            replay: Callable[[], None] = launch
        else:
            replay = self._card.captured(launch)
        if cache is not None:
            self._keep(cache)
        return context, replay

    def _settings(self) -> tuple[tuple[Any, ...], Any]:
        """What tells TensorRT-RTX how to finish its kernels, and the store of finished ones; TensorRT's are finished."""
        trt = self._trt
        if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            return (), None
        settings = self._engine.create_runtime_config()
        # by default a graph would capture makeshift kernels, which stand in while the right ones are compiled
        settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        cache = settings.create_runtime_cache()
        with suppress(OSError):
            cache.deserialize(self._kept.read_bytes())  # of another driver it is refused, and compiled anew
        settings.set_runtime_cache(cache)
        return (settings,), cache

    def _keep(self, cache: Any) -> None:
        try:
            with replacing(self._kept) as beside:
                beside.write_bytes(cache.serialize())
        except TalkingheadError as error:
            log.warning("%s: kernels will be compiled again the next time", error)

    def _check(self, path: Path) -> None:
        wanted = {*input_shapes(self.manifest), "frames"}
        found = {self._engine.get_tensor_name(each) for each in range(self._engine.num_io_tensors)}
        if found != wanted:
            raise TalkingheadError(f"{path}: takes and gives {sorted(found)}, its manifest says {sorted(wanted)}; export it again")


def input_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Return the shape of one row of each input, by name."""
    side = manifest.layer_size
    shapes: dict[str, tuple[int, ...]] = {manifest.input: (68, 2) if manifest.input == "points" else (3, side, side)}
    if manifest.styles == "input":
        shapes["styles"] = (manifest.style_length,)
    if manifest.guided:
        size = manifest.size
        shapes |= {"warped": (3, size, size), "plate": (4, size, size), "motion": (2, GRID, GRID)}
    return shapes


def checked(path: Path) -> Manifest:
    """The manifest beside a TensorRT engine.

    Raises:
        TalkingheadError: as for `read_sidecar`, or it is of another format.
    """
    manifest = read_sidecar(path)
    if manifest.format != "tensorrt":
        raise TalkingheadError(f"{path}: is {manifest.format}, a TensorRT engine was expected; name one that --format tensorrt wrote")
    return manifest


def bindings(path: Path, manifest: Manifest) -> Any:
    """The bindings that an engine was built by, in the same version.

    Raises:
        TalkingheadError: it was built by others; an engine runs by no other version.
    """
    builder, version = (str(manifest.details.get(name)) for name in ("builder", "builder_version"))
    if builder not in ("tensorrt", "tensorrt_rtx"):
        raise TalkingheadError(f"{path}: was built by {builder!r}, tensorrt or tensorrt_rtx was expected; export it again")
    trt = open_tensorrt(builder)
    if trt.__version__ != version:
        raise TalkingheadError(
            f"{path}: was built by {builder} {version}, not by {trt.__version__} which is here; export it again, or install that"
        )
    return trt


def fits(path: Path, manifest: Manifest, card: Card) -> None:
    """Do nothing if the card is what the engine was built for.

    Raises:
        TalkingheadError: it is another.
    """
    target = str(manifest.details.get("target"))
    if not runs_on(target, card.target):
        raise TalkingheadError(f"{path}: was built for {target}, {card.name} is {card.target}; export with --target {card.target}")


def deserialised(runtime: Any, plan: bytes, path: Path, complaints: Any) -> Any:
    """The engine in a file's bytes.

    Raises:
        TalkingheadError: TensorRT refuses it.
    """
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise TalkingheadError(f"{path}: TensorRT cannot load it ({first(complaints.errors)}); update the GPU's driver, or export it again")
    return engine
