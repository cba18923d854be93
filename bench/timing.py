"""Times of several functions, taken in turn so that what disturbs the machine disturbs them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

MOST_CALLS = 20  # in one CUDA graph, so that its launch does not count; fewer where they take long
GRAPH_SECONDS = 0.004
LEAST_SAMPLE = 0.002  # seconds of a CPU sample; shorter ones repeat the call


@dataclass(frozen=True)
class Budget:
    """How long a case may take: rounds go on until `seconds` are over, but there are `least` of them and no more than `most`."""

    seconds: float = 0.4
    least: int = 5
    most: int = 50


@dataclass(frozen=True)
class Times:
    """Seconds a call, a sample per round."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Between the first and the third quartile."""
        low, _, high = statistics.quantiles(self.samples, n=4) if len(self.samples) > 1 else (self.median,) * 3
        return high - low


def take_turns(functions: Mapping[str, Callable[[], Any]], budget: Budget) -> dict[str, Times]:
    """Seconds a call on the CPU: a sample of each function, then again."""
    repeats = {}
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        repeats[name] = max(1, int(LEAST_SAMPLE / max(time.perf_counter() - start, 1e-7)))

    def sample(name: str) -> float:
        function, count = functions[name], repeats[name]
        start = time.perf_counter()
        for _ in range(count):
            function()
        return (time.perf_counter() - start) / count

    return _rounds({name: partial(sample, name) for name in functions}, budget)


def take_turns_on_gpu(functions: Mapping[str, Callable[[], Any]], budget: Budget) -> tuple[dict[str, Times], dict[str, Times]]:
    """Seconds a call on the GPU, of graphs of many calls: with warm caches, and with the L2 overwritten before each call.

    To be called, as everything before it that the functions build on, in the context of one side stream: graphs are captured on it. What
    the overwriting takes is measured in turn with the rest and subtracted.
    """
    stream = torch.cuda.current_stream()
    flushed = torch.empty(2 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.uint8, device="cuda")

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
        count = max(1, min(MOST_CALLS, int(GRAPH_SECONDS / max(elapsed(once), 1e-6))))
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
        {name: Times(tuple(max(each - base, 0.0) for each in times["flushed", name].samples)) for name in functions},
    )


def _rounds(samplers: Mapping[Any, Callable[[], float]], budget: Budget) -> dict[Any, Times]:
    samples: dict[Any, list[float]] = {key: [] for key in samplers}
    start = time.perf_counter()
    for number in range(budget.most):
        if number >= budget.least and time.perf_counter() - start > budget.seconds:
            break
        for key, sampler in samplers.items():
            samples[key].append(sampler())
    return {key: Times(tuple(each)) for key, each in samples.items()}


def peak_bytes(function: Callable[[], Any], device: str) -> int:
    """The most memory that one call of it holds at once beyond what was held before."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    held = most = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
