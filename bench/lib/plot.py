"""Bar plots of results.

python -m bench.lib.plot bench/results/networks_<device>.json OUT.png      # from the root of the repository
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.lib.report import BOUNDS, OURS, SHORT, milliseconds, read_bench
from bench.lib.results_file import one_line_errors
from talkinghead.system.atomic_file import atomic_write

COLOURS = {
    "ours": "#2a6fdb",
    "baseline": "#9aa3ad",
    "compile": "#d98e2b",
    "onnxruntime": "#5aa469",
    "openvino": "#8d63b5",
}
NAMES = {"compile": "torch.compile"}
MAX_RATIO = 20.0  # times ours; longer bars are cut off, so that ours stays visible


def draw(results: Mapping[str, Any], out: Path) -> None:
    """Write a plot with a group of bars for each row: the times of providers relative to ours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = results["rows"]
    figure = Figure(figsize=(10, 1.2 + 0.28 * sum(len(_bars(row)) + 1 for row in rows)), layout="constrained")
    axes = figure.add_subplot()
    place, ticks = 0.0, []
    for row in rows:
        bars = _bars(row)
        name = f"{row['op']}, {row['direction']}\n{row['layer']} {SHORT[row['dtype']]}, batch {row['batch']}"
        ticks.append((place + (len(bars) - 1) / 2, name))
        for name, seconds in bars.items():
            length = min(seconds / bars["ours"], MAX_RATIO)
            axes.barh(place, length, color=COLOURS.get(name, "#c0c0c0"), height=0.85)
            ellipsis = "… " if length == MAX_RATIO else ""
            label = NAMES.get(name, name)
            axes.text(
                length,
                place,
                f" {ellipsis}{label}  {milliseconds(seconds)}",
                va="center",
                fontsize=8,
            )
            place += 1
        place += 1
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=8)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.axvline(1, color="#2a6fdb", linewidth=0.8)
    axes.set_xlabel("time, ours being 1", fontsize=9)
    axes.set_xlim(0, 1.25 * axes.get_xlim()[1])
    axes.spines[["top", "right"]].set_visible(False)
    device, versions = results["device"], results["versions"]
    title = f"{device}, {results['threads']} threads, torch {versions['torch']}, {results['date']}"
    figure.suptitle(title, fontsize=9)
    FigureCanvasAgg(figure).print_png(str(out))


def _bars(row: Mapping[str, Any]) -> dict[str, float]:
    rivals = {
        name: timing["seconds"] for name, timing in row["times"].items() if name not in (*OURS, *BOUNDS)
    }
    return {"ours": row["times"][row["ours"]]["seconds"], **rivals}


def main() -> None:
    parser = argparse.ArgumentParser("bench.lib.plot", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    with one_line_errors(parser.prog):
        results = read_bench(args.results)
        with atomic_write(args.out) as temp_path:
            draw(results, temp_path)


if __name__ == "__main__":
    main()
