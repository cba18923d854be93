"""Options, fixtures and results of the bench: JSON, tables as Markdown, and of networks a plot."""

import functools
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.lib.harness import DEVICE, ROOT, Case, keep_freed_memory, machine, measure, short
from bench.lib.plot import draw
from bench.lib.report import report
from bench.lib.timing import Budget

_machine = functools.cache(machine)
STARTED = time.monotonic()
ROWS = pytest.StashKey[list[dict[str, Any]]]()


class Replay:
    """Timer that replays measured times to pytest-benchmark."""

    def __init__(self) -> None:
        self.ticks: Iterator[float] = iter(())

    def load(self, samples: list[float]) -> None:
        """Set the samples: each is a start at 0 and an end after it."""
        self.ticks = iter([tick for sample in samples for tick in (0.0, sample)])

    def __call__(self) -> float:
        return next(self.ticks)


REPLAY = Replay()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="small shapes and few rounds: whether the bench runs, not how fast anything is",
    )
    parser.addoption(
        "--thorough",
        action="store_true",
        help="on a CPU: every batch and layout of the ops, and what takes long to compile",
    )
    parser.addoption(
        "--results",
        type=Path,
        help="write them here, tables and plot beside; default: bench/results/<folder>_<device>.json, none "
        "with --quick",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    if DEVICE == "cpu":
        torch.set_num_threads(2)
        keep_freed_memory()
    else:
        torch.backends.cudnn.benchmark = True  # for every provider alike: each has one shape, run often


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect bench_*.py; `make test` collects test_*.py elsewhere."""
    is_bench_file = file_path.match("bench_*.py") and not parent.session.isinitpath(
        file_path
    )  # a file that is named, pytest takes by itself
    return pytest.Module.from_parent(parent, path=file_path) if is_bench_file else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=REPLAY))
    items.sort(key=lambda item: importance(item.name))


def importance(name: str, device: str = DEVICE) -> tuple[bool, ...]:
    """Return the sort key of a case: less important cases come last, in case the time runs out."""
    if device == "cpu":
        return ("channels_last" in name,)
    return "fp32" in name, "nchw" in name  # what a GPU runs: bfloat16 in channels_last


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """Return whether to measure less important cases, too: on request, with --quick, and on a GPU."""
    return DEVICE == "cuda" or any(map(request.config.getoption, ("thorough", "quick")))


@pytest.fixture(autouse=True)
def _side_stream() -> Iterator[None]:
    """Run a test on a side stream of the GPU, on which graphs can be captured."""
    torch.manual_seed(0)
    if DEVICE == "cpu":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream()):
        yield
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


@pytest.fixture
def bench(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Check and measure a case.

    pytest-benchmark shows the times of the backend that runs by default; extra_info holds the whole row.
    """

    def run(case: Case, budget: Budget | None = None) -> None:
        if time.monotonic() - STARTED > float(os.environ.get("BENCH_SECONDS", "inf")):
            pytest.skip("the time given to the bench is up")
        quick = request.config.getoption("quick")
        usual = Budget(0.0, 2, 2) if quick else Budget(0.25) if DEVICE == "cuda" else Budget()
        row = measure(case, budget or usual)
        samples = row.pop("samples")
        REPLAY.load(samples[row["ours"]])
        benchmark.extra_info.update(row)
        benchmark.pedantic(lambda: None, rounds=len(samples[row["ours"]]), iterations=1)
        request.config.stash[ROWS].append(row | {"folder": request.path.parent.name})
        _write(request.config)  # after each, so that a run that is stopped leaves what it had

    return run


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    written = _write(session.config)
    if written is None:
        return
    path, results = written
    path.with_suffix(".md").write_text(report(results) + "\n")
    if "networks" in results["folders"] and importlib.util.find_spec("matplotlib"):
        draw(results, path.with_suffix(".png"))


def _write(config: pytest.Config) -> tuple[Path, dict[str, Any]] | None:
    """Write the results so far as JSON; return the path and the results, None if nothing is written."""
    quick, path = config.getoption("quick"), config.getoption("results")
    if not config.stash[ROWS] or (quick and path is None):
        return None
    folders = dict.fromkeys(row["folder"] for row in config.stash[ROWS])
    rows = [{key: value for key, value in row.items() if key != "folder"} for row in config.stash[ROWS]]
    results = {**_machine(), "quick": quick, "rows": rows}
    path = path or ROOT / "bench" / "results" / f"{'_'.join(folders)}_{short(results['device'])}.json"
    head = json.dumps({key: value for key, value in results.items() if key != "rows"}, indent=1)[:-2]
    lines = ",\n".join("  " + json.dumps(_round_floats(row)) for row in rows)
    path.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')
    return path, results | {"folders": list(folders)}


def _round_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round_floats(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
