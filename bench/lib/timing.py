"""Interleaved timing of several functions, so that disturbances of the machine affect all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

MAX_CALLS = 20  # in one CUDA graph, so that its launch does not count; fewer where they take long
GRAPH_SECONDS = 0.004
MIN_SAMPLE_S = 0.002  # seconds of a CPU sample; shorter ones repeat the call


@dataclass(frozen=True)
class Budget:
    """Limits of the rounds of a case: repeated for `seconds`, at least `least` and at most `most` times."""

    seconds: float = 0.4
    least: int = 5
    most: int = 50


@dataclass(frozen=True)
class Times:
    """Seconds per call, one sample for each round."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """The interquartile range."""
        low, _, high = (
            statistics.quantiles(self.samples, n=4) if len(self.samples) > 1 else (self.median,) * 3
        )
        return high - low


def time_interleaved(functions: Mapping[str, Callable[[], Any]], budget: Budget) -> dict[str, Times]:
    """Return seconds per call on the CPU: rounds of one sample of each function."""
    repeats = {}
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        repeats[name] = max(1, int(MIN_SAMPLE_S / max(time.perf_counter() - start, 1e-7)))

    def sample(name: str) -> float:
        function, count = functions[name], repeats[name]
        start = time.perf_counter()
        for _ in range(count):
            function()
        return (time.perf_counter() - start) / count

    return _rounds({name: partial(sample, name) for name in functions}, budget)


def time_interleaved_on_gpu(
    functions: Mapping[str, Callable[[], Any]], budget: Budget
) -> tuple[dict[str, Times], dict[str, Times]]:
    """Return seconds per call on the GPU, measured in CUDA graphs of many calls.

    The first are with warm caches, the second with the L2 cache overwritten before each call. The time of
    overwriting is measured too, and subtracted.

    The caller must be in the context of a side stream, on which the graphs are captured, and must have
    created the functions' inputs in it.
    """
    stream = torch.cuda.current_stream()
    flushed = torch.empty(
        2 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.uint8, device="cuda"
    )

    def elapsed(run: Callable[[], Any]) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def capture(*calls: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, int]:
        def once() -> None:
            for call in calls:
                call()

        once()
        once()
        count = max(1, min(MAX_CALLS, int(GRAPH_SECONDS / max(elapsed(once), 1e-6))))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(count):
                once()
        return graph, count

    def flush() -> None:
        flushed.fill_(1)

    graphs = {("flush", "itself"): capture(flush)}
    for name, function in functions.items():
        graphs["warm", name] = capture(function)
        graphs["flushed", name] = capture(flush, function)

    def sample(graph: torch.cuda.CUDAGraph, count: int) -> float:
        graph.replay()  # brings the clocks up, and what is warm into the caches
        return elapsed(graph.replay) / count

    times = _rounds({key: partial(sample, *graph) for key, graph in graphs.items()}, budget)
    base = times["flush", "itself"].median
    return (
        {name: times["warm", name] for name in functions},
        {
            name: Times(tuple(max(values - base, 0.0) for values in times["flushed", name].samples))
            for name in functions
        },
    )


def _rounds(samplers: Mapping[Any, Callable[[], float]], budget: Budget) -> dict[Any, Times]:
    samples: dict[Any, list[float]] = {key: [] for key in samplers}
    start = time.perf_counter()
    for number in range(budget.most):
        if number >= budget.least and time.perf_counter() - start > budget.seconds:
            break
        for key, sampler in samplers.items():
            samples[key].append(sampler())
    return {key: Times(tuple(values)) for key, values in samples.items()}


def peak_bytes(function: Callable[[], Any], device: str) -> int:
    """Return the peak memory in bytes that one call allocates beyond what was allocated before."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        function()
    held = most = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
