"""A GPU for TensorRT: memory, a stream and CUDA graphs of torch, which TensorRT shares."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ..errors import TalkingheadError
from ..system.cuda_graph import capture


class GpuContext:
    """A GPU and a stream on it.

    Args:
        device: "cuda", or "cuda:1" and so on.

    Attributes:
        device: the GPU, with its index.
        target: its compute capability, such as "sm_86".
        name: of the GPU.
        stream: handle of the stream.

    Raises:
        TalkingheadError: torch sees no such GPU.
    """

    def __init__(self, device: str | torch.device = "cuda") -> None:
        device = torch.device(device)
        if device.type != "cuda" or (device.index or 0) >= torch.cuda.device_count():
            reason = "" if torch.version.cuda else f" (torch {torch.__version__} is a CPU build)"
            raise TalkingheadError(
                f"tensorrt: needs an NVIDIA GPU, torch sees none as {str(device)!r}{reason}; run it where "
                "there is one"
            )
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        major, minor = torch.cuda.get_device_capability(self.device)
        self.target = f"sm_{major}{minor}"
        self.name = torch.cuda.get_device_name(self.device)
        self._stream = torch.cuda.Stream(self.device)
        self.stream: int = self._stream.cuda_stream

    def make_current(self) -> AbstractContextManager[None]:
        """Return a context in which this GPU is the thread's current one, on which TensorRT works."""
        return torch.cuda.device(self.device)

    def pinned_pair(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Allocate two tensors of one shape: in pinned memory of the host, and on the GPU."""
        on_host = torch.zeros(shape, dtype=dtype, pin_memory=True)
        return on_host, torch.zeros(shape, dtype=dtype, device=self.device)

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy between host and GPU, in the stream's order."""
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        """Capture what `launch` enqueues on the stream, and return a function that replays it.

        `launch` must have run once before.
        """
        self.synchronize()
        graph, _ = capture(launch, self._stream)

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def synchronize(self) -> None:
        """Wait until the stream has finished its work."""
        self._stream.synchronize()


def current_gpu(device: str = "cuda") -> GpuContext | None:
    """Return the GPU of a name, or None where torch sees none."""
    return GpuContext(device) if torch.cuda.is_available() else None
