"""Options, shapes and results of the bench."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.kernels.harness import DEVICE, ROOT, Case, keep_freed_memory, machine, measure
from bench.kernels.timing import Budget

LAYERS = ((64, 256), (128, 128), (256, 64), (512, 32), (512, 16))
UP = ((512, 512, 16), (512, 256, 32), (256, 128, 64), (128, 64, 128))
DOWN = ((64, 64, 256), (128, 128, 128), (256, 256, 64), (512, 512, 32))
FACES = ((1, 64), (16, 64), (64, 64), (1, 256), (16, 256), (64, 256))
SHAPES: dict[str, tuple[Any, ...]] = {
    "layer": LAYERS,  # channels and size of what is normalised
    "up": UP,  # channels in and out, size of the input
    "down": DOWN,
    "faces": FACES,  # how many, and the size of the image
    "batch": (1, 8, 32) if DEVICE == "cuda" else (1, 8),
}
QUICK: dict[str, tuple[Any, ...]] = {
    "layer": ((4, 8),),
    "up": ((4, 6, 4),),
    "down": ((4, 4, 8),),
    "faces": ((2, 16),),
    "batch": (2,),
}
STARTED = time.monotonic()
ROWS = pytest.StashKey[list[dict[str, Any]]]()


class Replay:
    """A timer that gives the times measured in turn, one after another, to pytest-benchmark."""

    def __init__(self) -> None:
        self.ticks: Iterator[float] = iter(())

    def load(self, samples: list[float]) -> None:
        """Each sample is a start at 0 and an end after it."""
        self.ticks = iter([tick for sample in samples for tick in (0.0, sample)])

    def __call__(self) -> float:
        return next(self.ticks)


REPLAY = Replay()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="small shapes and few rounds: whether the bench runs, not how fast anything is")
    parser.addoption("--results", type=Path, help="write the results here; default: bench/results/kernels_<device>.json, none with --quick")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    if DEVICE == "cpu":
        torch.set_num_threads(2)
        keep_freed_memory()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """bench_*.py hold what is measured; `make test` looks for test_*.py elsewhere."""
    return pytest.Module.from_parent(parent, path=file_path) if file_path.match("bench_*.py") else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    shapes = QUICK if metafunc.config.getoption("quick") else SHAPES
    for name in metafunc.fixturenames:
        if name in shapes:
            metafunc.parametrize(name, shapes[name], ids=lambda value: str(value).strip("()").replace(", ", "-"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=REPLAY))
    items.sort(key=lambda item: "channels_last" in item.name)  # what matters less comes last


@pytest.fixture(autouse=True)
def _side_stream() -> Iterator[None]:
    """On a GPU everything belongs to one stream, on which graphs can be captured."""
    torch.manual_seed(0)
    if DEVICE == "cpu":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream()):
        yield
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


@pytest.fixture
def bench(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[Case], None]:
    """Check and measure a case; pytest-benchmark's figures are those of the backend that would run, its extra_info the whole row."""

    def run(case: Case) -> None:
        if time.monotonic() - STARTED > float(os.environ.get("BENCH_SECONDS", "inf")):
            pytest.skip("the time given to the bench is up")
        quick = request.config.getoption("quick")
        row = measure(case, Budget(0.0, 2, 2) if quick else Budget(0.25) if DEVICE == "cuda" else Budget())
        samples = row.pop("samples")
        REPLAY.load(samples[row["ours"]])
        benchmark.extra_info.update(row)
        benchmark.pedantic(lambda: None, rounds=len(samples[row["ours"]]), iterations=1)
        request.config.stash[ROWS].append(row)

    return run


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    rows = config.stash[ROWS]
    quick, path = config.getoption("quick"), config.getoption("results")
    if not rows or (quick and path is None):
        return
    found = {**machine(), "quick": quick, "rows": rows}
    path = path or ROOT / "bench" / "results" / f"kernels_{found['class']}.json"
    head = json.dumps({key: value for key, value in found.items() if key != "rows"}, indent=1)[:-2]
    lines = ",\n".join("  " + json.dumps(_rounded(row)) for row in rows)
    path.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
