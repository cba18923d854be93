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

from bench.harness import DEVICE, ROOT, Case, keep_freed_memory, machine, measure, short
from bench.plot import draw
from bench.report import report
from bench.timing import Budget

_machine = functools.cache(machine)
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
    parser.addoption("--thorough", action="store_true", help="on a CPU: every batch and layout of the ops, and what takes long to compile")
    parser.addoption(
        "--results",
        type=Path,
        help="write them here, tables and plot beside; default: bench/results/<folder>_<device>.json, none with --quick",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    if DEVICE == "cpu":
        torch.set_num_threads(2)
        keep_freed_memory()
    else:
        torch.backends.cudnn.benchmark = True  # for every provider alike: each has one shape, run often


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """bench_*.py hold what is measured; `make test` looks for test_*.py elsewhere."""
    ours = file_path.match("bench_*.py") and not parent.session.isinitpath(file_path)  # a file that is named, pytest takes by itself
    return pytest.Module.from_parent(parent, path=file_path) if ours else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=REPLAY))
    items.sort(key=lambda item: importance(item.name))


def importance(name: str, device: str = DEVICE) -> tuple[bool, ...]:
    """What a case is sorted by: what matters less comes last, where time may be up."""
    if device == "cpu":
        return ("channels_last" in name,)
    return "fp32" in name, "nchw" in name  # what a GPU runs: bfloat16 in channels_last


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether to measure what matters less, too: where that was asked for or takes no time, and on a GPU as far as its time goes."""
    return DEVICE == "cuda" or any(map(request.config.getoption, ("thorough", "quick")))


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
def bench(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Check and measure a case; pytest-benchmark's figures are those of the backend that would run, its extra_info the whole row."""

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
    path, found = written
    path.with_suffix(".md").write_text(report(found) + "\n")
    if "networks" in found["folders"] and importlib.util.find_spec("matplotlib"):
        draw(found, path.with_suffix(".png"))


def _write(config: pytest.Config) -> tuple[Path, dict[str, Any]] | None:
    """The results so far, as JSON; where, and what."""
    quick, path = config.getoption("quick"), config.getoption("results")
    if not config.stash[ROWS] or (quick and path is None):
        return None
    folders = dict.fromkeys(row["folder"] for row in config.stash[ROWS])
    rows = [{key: value for key, value in row.items() if key != "folder"} for row in config.stash[ROWS]]
    found = {**_machine(), "quick": quick, "rows": rows}
    path = path or ROOT / "bench" / "results" / f"{'_'.join(folders)}_{short(found['device'])}.json"
    head = json.dumps({key: value for key, value in found.items() if key != "rows"}, indent=1)[:-2]
    lines = ",\n".join("  " + json.dumps(_rounded(row)) for row in rows)
    path.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')
    return path, found | {"folders": list(folders)}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
