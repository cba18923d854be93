"""The bench of the kernels runs, refuses what is wrong, and its results make tables."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.lib.harness import Case, check, error, measure, short  # noqa: E402
from bench.lib.plot import draw  # noqa: E402
from bench.lib.report import comparison, figures, report  # noqa: E402
from bench.lib.timing import Budget, Times, peak_bytes, time_interleaved  # noqa: E402


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "results.json"
    files = [f"bench/kernels/bench_{name}.py" for name in ("adain", "resample")]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *files,
        "--quick",
        f"--results={path}",
        "-q",
        "-k",
        "nchw and fp32 and not backward",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    return json.loads(path.read_text())


def test_results_say_where_and_what(results):
    assert {"device", "class", "threads", "versions", "commit", "date", "backends", "rows"} <= set(results)
    assert (
        results["versions"]["torch"] == torch.__version__.split("+")[0]
        or results["versions"]["torch"] == torch.__version__
    )
    assert {row["op"] for row in results["rows"]} == {"adain", "upsample_conv", "conv_downsample"}
    for row in results["rows"]:
        assert row["moved"] > 0 and {"baseline", row["ours"]} <= set(row["times"])
        for name, timing in row["times"].items():
            assert (
                timing["seconds"] > 0
                and timing["spread"] >= 0
                and timing["rounds"] == 2
                and timing["peak_bytes"] >= 0
            )
            assert name in ("copy", "folded", "opencv", "instance_norm") or timing["error"] < 1e-4


def test_results_make_tables(results):
    text = report(results)
    for row in results["rows"]:
        assert (
            f"**{row['op']}, {row['direction']}" in text
            and f"| {row['layer']} fp32 | {row['batch']} |" in text
        )
    assert "nan" not in text and "None" not in text


def test_figures_of_a_row():
    def timing(seconds):
        return {"seconds": seconds, "spread": 0.1 * seconds, "peak_bytes": 8}

    times = {
        "cpp": timing(0.001),
        "reference": timing(0.004),
        "baseline": timing(0.008),
        "compile": timing(0.003),
        "copy": timing(0.0005),
    }
    row = {"ours": "cpp", "times": times, "moved": 2_000_000, "flops": 0, "direction": "forward"}
    row_figures = figures(row)
    assert row_figures["baseline"] == pytest.approx(8) and row_figures["best"] == row_figures[
        "compile"
    ] == pytest.approx(3)
    assert (
        row_figures["copy"] == pytest.approx(2)
        and row_figures["gbs"] == pytest.approx(2)
        and row_figures["of_copy"] == pytest.approx(0.5)
    )
    assert row_figures["spread"] == pytest.approx(0.1) and row_figures["gflops"] is None


def make_case(**providers):
    x = torch.ones(4)
    return Case("op", "forward", "4", 1, torch.float32, 16, (x,), {"baseline": lambda: x, **providers})


def test_a_wrong_provider_is_not_timed():
    with pytest.raises(AssertionError, match="'mine'.*not timed"):
        check(make_case(mine=lambda: torch.tensor([1, 1, 1, 1.1])))
    with pytest.raises(AssertionError, match="'mine'"):
        check(make_case(mine=lambda: torch.full((4,), torch.nan)))
    with pytest.raises(AssertionError, match="shape"):
        check(make_case(mine=lambda: torch.ones(3)))


def test_a_provider_that_does_not_exist_is_listed():
    def absent():
        raise NotImplementedError("no kernel\nmore")

    errors, missing = check(make_case(mine=absent))
    assert errors == {"baseline": 0.0} and missing == {"mine": "no kernel"}


def test_the_reference_is_timed_only_where_nothing_else_of_ours_runs():
    x = torch.ones(4)
    with_cpp = measure(make_case(reference=lambda: x, cpp=lambda: x), Budget(0, 2, 2))
    reference_only = measure(make_case(reference=lambda: x), Budget(0, 2, 2))
    assert set(with_cpp["times"]) == {"baseline", "cpp"} and set(reference_only["times"]) == {
        "baseline",
        "reference",
    }


def test_results_are_named_after_the_device():
    names = ["Intel(R) Xeon(R) Processor", "AMD EPYC", "NVIDIA H100 80GB HBM3"]
    assert [short(name) for name in names] == ["intel_xeon", "amd_epyc", "nvidia_h100_80gb_hbm3"]


def test_error_is_relative_and_the_worst():
    assert error(
        (torch.tensor([3.0, 4.0]), torch.tensor([2.2])), (torch.tensor([3.0, 4.0]), torch.tensor([2.0]))
    ) == pytest.approx(0.1)


def test_turns_are_taken_in_rounds():
    calls = []
    times = time_interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, Budget(0, 3, 3)
    )
    assert [len(timing.samples) for timing in times.values()] == [3, 3]
    order = [name for name, before in zip(calls[4:], calls[3:], strict=False) if name != before]
    assert order == ["a", "b", "a", "b", "a", "b"]


def test_median_and_spread():
    times = Times((1.0, 2.0, 3.0, 4.0, 100.0))
    assert times.median == 3 and times.spread == pytest.approx(50.5)


def test_peak_of_a_call():
    x = torch.ones(1024, 1024)
    peak = peak_bytes(lambda: (x + 1) * 2, "cpu")
    assert 8 * 2**20 <= peak < 9 * 2**20


def test_two_runs_are_compared_row_by_row(results):
    faster = json.loads(json.dumps(results))
    for row in faster["rows"]:
        row["times"][row["ours"]]["seconds"] /= 2
    text = comparison(results, {**faster, "rows": faster["rows"][1:]})
    assert text.count("| 2.00x | 1.00x |") == len(results["rows"]) - 1
    assert f"{len(results['rows']) - 1} rows: 2.00x at the median, 2.00x at the worst." in text
    assert "no row in common" in comparison(results, {**results, "rows": []})


@pytest.mark.parametrize("times", [1.1, 1e5])
def test_results_are_drawn(results, tmp_path, times):
    """Draw the bars of this project visibly, however long another provider takes."""
    rows = copy.deepcopy(results["rows"])
    for row in rows:
        for name, timing in row["times"].items():
            timing["seconds"] = 1e-3 * (1 if name == row["ours"] else times)
    draw({**results, "rows": rows}, tmp_path / "bars.png")
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.width == 1000 and picture.height > 200
        assert any(colour == (42, 111, 219) for _, colour in picture.convert("RGB").getcolors(1 << 24))
