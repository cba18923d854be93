"""Draw results of the bench as bars: `python -m bench.plot bench/results/networks_<device>.json OUT.png`, from the root."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import OURS, SHORT, YARDSTICKS, milliseconds, read_bench
from bench.results_file import one_line_errors
from talkinghead.files import replacing

COLOURS = {"ours": "#2a6fdb", "stock": "#9aa3ad", "compile": "#d98e2b", "onnxruntime": "#5aa469", "openvino": "#8d63b5"}
NAMES = {"compile": "torch.compile"}
LONGEST = 20.0  # times ours: a longer bar ends there, or ours could not be seen


def draw(found: Mapping[str, Any], out: Path) -> None:
    """One group of bars for each row: how many times the time of ours each provider takes, with its own time beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = found["rows"]
    figure = Figure(figsize=(10, 1.2 + 0.28 * sum(len(_bars(row)) + 1 for row in rows)), layout="constrained")
    axes = figure.add_subplot()
    place, ticks = 0.0, []
    for row in rows:
        bars = _bars(row)
        name = f"{row['op']}, {row['direction']}\n{row['layer']} {SHORT[row['dtype']]}, batch {row['batch']}"
        ticks.append((place + (len(bars) - 1) / 2, name))
        for name, seconds in bars.items():
            length = min(seconds / bars["ours"], LONGEST)
            axes.barh(place, length, color=COLOURS.get(name, "#c0c0c0"), height=0.85)
            goes_on = "… " if length == LONGEST else ""
            axes.text(length, place, f" {goes_on}{NAMES.get(name, name)}  {milliseconds(seconds)}", va="center", fontsize=8)
            place += 1
        place += 1
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=8)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.axvline(1, color="#2a6fdb", linewidth=0.8)
    axes.set_xlabel("time, ours being 1", fontsize=9)
    axes.set_xlim(0, 1.25 * axes.get_xlim()[1])
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{found['device']}, {found['threads']} threads, torch {found['versions']['torch']}, {found['date']}", fontsize=9)
    FigureCanvasAgg(figure).print_png(str(out))


def _bars(row: Mapping[str, Any]) -> dict[str, float]:
    rivals = {name: each["seconds"] for name, each in row["times"].items() if name not in (*OURS, *YARDSTICKS)}
    return {"ours": row["times"][row["ours"]]["seconds"], **rivals}


def main() -> None:
    parser = argparse.ArgumentParser("bench.plot", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    with one_line_errors(parser.prog):
        found = read_bench(given.results)
        with replacing(given.out) as beside:
            draw(found, beside)


if __name__ == "__main__":
    main()
