"""Capture of work on a GPU as a CUDA graph, which replays it without waiting for Python."""

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def capture(function: Callable[[], Result], stream: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Capture what a function does on a stream of the current GPU; capturing does not run it.

    Args:
        function: must have run before, so that libraries have chosen algorithms and allocated memory. It
            reads and writes the same memory whenever the graph is replayed.
        stream: on which it ran.

    Returns:
        the graph, and what the function returned: tensors that each replay fills.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        return graph, function()
