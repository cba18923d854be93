"""Print results of the bench as tables, or what changed between two runs, from the root of the repository:

python -m bench.lib.report bench/results/kernels_<device>.json [--summary]
python -m bench.lib.report before.json after.json
"""

import argparse
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.lib.results_file import MappingOf, Number, Optional, one_line_errors, read_results
from talkinghead.errors import TalkingheadError

SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
OURS = ("reference", "cpp", "cuda", "triton", "ours")
BOUNDS = ("copy", "folded", "opencv", "instance_norm", "convolutions", "eager", "portable")
OLD_NAMES = {"stock": "baseline"}
"""Names of providers in files written before version 0.2."""
OLD_OPS = {"draw_landmarks": "draw_polylines"}
"""Names of ops in such files."""
RESOLUTION_S = 1e-9
"""Least time: what was too short to be measured counts as this."""
PASSES = {"forward": 2, "residual": 4, "backward": 3, "power iteration": 1, "step with gradient": 6}
"""Tensors' worth of bytes that an op moves for each tensor that a copy reads and writes, by direction."""
_SECONDS = Number(0, 1e9)
_TIME = {
    "seconds": _SECONDS,
    "spread": Number(),
    "peak_bytes": Number(),
    "flushed_seconds": Optional(_SECONDS),  # only where there is a cache to flush
    "flushed_spread": Optional(Number()),
}
_ROW = {
    **dict.fromkeys(("op", "direction", "layer", "dtype", "memory_format", "ours"), str),
    **dict.fromkeys(("moved", "flops"), Number()),
    "batch": Number(integer=True),
    "times": MappingOf(_TIME, least=1),
}
_RESULTS = {
    **dict.fromkeys(("device", "class", "date"), str),
    "threads": Number(integer=True),
    "versions": {"torch": str},
    "commit": Optional(str, null=True),
    "changed": bool,
    "backends": MappingOf(str),
    "rows": [_ROW],
}


def read_bench(path: Path) -> dict[str, Any]:
    """Return the results of a run of the bench.

    Raises:
        TalkingheadError: the file cannot be read, or is none of the bench.
    """
    results: dict[str, Any] = read_results(path, _RESULTS)
    for row in results["rows"]:
        row["op"] = OLD_OPS.get(row["op"], row["op"])
        row["times"] = {OLD_NAMES.get(name, name): times for name, times in row["times"].items()}
    for name, value in results["versions"].items():
        if not (value is None or isinstance(value, str)) or not f"{name}{value}".isprintable():
            raise TalkingheadError(
                f"{path}: cannot be read as results (version of {name!r}); measure again, or name another "
                "file"
            )
    flushed = any("flushed_seconds" in timing for row in results["rows"] for timing in row["times"].values())
    for number, row in enumerate(results["rows"]):
        problem = _problem(row, flushed)
        if problem:
            raise TalkingheadError(
                f"{path}: cannot be read as results (row {number}: {problem}); measure again, or name "
                "another file"
            )
    return results


def _problem(row: Mapping[str, Any], flushed: bool) -> str:
    """Return what keeps a row out of the tables, empty when nothing does."""
    times = row["times"]
    if row["dtype"] not in SHORT:
        return f"its dtype is {row['dtype']}"
    if row["ours"] not in OURS or not {row["ours"], "baseline"} <= set(times):
        return f"it has no times of baseline, or none of ours, {row['ours']}"
    if "copy" in times and row["direction"] not in PASSES:
        return f"its direction is {row['direction']}"
    timed = [times[name] for name in (row["ours"], "baseline")]
    if flushed and any(not {"flushed_seconds", "flushed_spread"} <= set(timing) for timing in timed):
        return "it has no times with a flushed cache"
    return ""


def figures(row: Mapping[str, Any], key: str = "seconds") -> dict[str, Any]:
    """Return the values of a table row: seconds, ratios and shares; None for what was not measured.

    Args:
        row: of the results.
        key: "seconds", with warm caches, or "flushed_seconds".
    """
    times = row["times"]
    seconds = {name: max(timing[key], RESOLUTION_S) for name, timing in times.items() if key in timing}
    mine, copy = seconds[row["ours"]], seconds.get("copy")
    rivals = {name: timing for name, timing in seconds.items() if name not in (*OURS, *BOUNDS)}
    spread = times[row["ours"]]["spread" if key == "seconds" else "flushed_spread"]
    return {
        "seconds": mine,
        "spread": spread / mine,
        "baseline": rivals["baseline"] / mine,
        "compile": rivals["compile"] / mine if "compile" in rivals else None,
        "onnxruntime": rivals["onnxruntime"] / mine if "onnxruntime" in rivals else None,
        "openvino": rivals["openvino"] / mine if "openvino" in rivals else None,
        "best": min(rivals.values()) / mine,
        "copy": mine / copy if copy else None,
        "gbs": row["moved"] / mine / 1e9 if row["moved"] else None,
        "of_copy": row["moved"] / mine / (copied_bytes(row) / copy) if copy else None,
        "gflops": row["flops"] / mine / 1e9 if row["flops"] else None,
        "folded": rivals["baseline"] / seconds["folded"] if "folded" in seconds else None,
        "opencv": seconds["opencv"] / mine if "opencv" in seconds else None,
        "instance_norm": seconds["instance_norm"] / mine if "instance_norm" in seconds else None,
        "convolutions": seconds["convolutions"] / mine if "convolutions" in seconds else None,
        "eager": seconds["eager"] / mine if "eager" in seconds else None,
        "portable": seconds["portable"] / mine if "portable" in seconds else None,
        "peak": times[row["ours"]]["peak_bytes"] or None,  # none where another thread does the work
    }


def copied_bytes(row: Mapping[str, Any]) -> float:
    """Return the bytes that the copy of a row reads and writes."""
    return 2 * row["moved"] / PASSES[row["direction"]]


COLUMNS = {
    "median": lambda f: milliseconds(f["seconds"]),
    "spread": lambda f: f"{f['spread']:.0%}",
    "against baseline": lambda f: times_faster(f["baseline"]),
    "torch.compile": lambda f: times_faster(f["compile"]),
    "onnxruntime": lambda f: times_faster(f["onnxruntime"]),
    "openvino": lambda f: times_faster(f["openvino"]),
    "our eager path": lambda f: times_faster(f["eager"]),
    "portable": lambda f: times_faster(f["portable"]),
    "best other": lambda f: times_faster(f["best"]),
    "OpenCV": lambda f: times_faster(f["opencv"]),
    "instance_norm": lambda f: times_faster(f["instance_norm"]),
    "folded beforehand": lambda f: times_faster(f["folded"]),
    "time of a copy": lambda f: times_faster(f["copy"]),
    "torch's convolutions alone": lambda f: f"{f['convolutions']:.0%}",
    "GB/s": lambda f: f"{f['gbs']:.1f}",
    "of a copy's": lambda f: f"{f['of_copy']:.0%}",
    "GFLOP/s": lambda f: f"{f['gflops']:.0f}",
    "peak": lambda f: f"{f['peak'] / 2**20:.1f} MiB",
}
NEEDS = {
    "torch.compile": "compile",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "our eager path": "eager",
    "portable": "portable",
    "torch's convolutions alone": "convolutions",
    "OpenCV": "opencv",
    "instance_norm": "instance_norm",
    "GB/s": "gbs",
    "folded beforehand": "folded",
    "time of a copy": "copy",
    "of a copy's": "of_copy",
    "GFLOP/s": "gflops",
    "peak": "peak",
}


def milliseconds(seconds: float) -> str:
    if seconds >= 0.9995:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.3g} us"


def times_faster(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def table(rows: Iterable[Mapping[str, Any]], key: str) -> list[str]:
    """Return a table of the rows of one op and direction, followed by the median and worst ratios."""
    results = [(row, figures(row, key)) for row in rows]
    columns = [
        name for name in COLUMNS if name not in NEEDS or any(f[NEEDS[name]] is not None for _, f in results)
    ]
    lines = ["| layer | batch | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for row, f in results:
        name = f"{row['layer']} {SHORT[row['dtype']]}" + (
            " channels_last" if row["memory_format"] == "channels_last" else ""
        )
        cells = [
            "" if column in NEEDS and f[NEEDS[column]] is None else COLUMNS[column](f) for column in columns
        ]
        lines.append(f"| {name} | {row['batch']} | " + " | ".join(cells) + " |")
    lines.append("")
    for dtype, memory_format in dict.fromkeys((row["dtype"], row["memory_format"]) for row, _ in results):
        group = [f for row, f in results if (row["dtype"], row["memory_format"]) == (dtype, memory_format)]
        facts = []
        for word, name in (("baseline", "baseline"), ("torch.compile", "compile")):
            ratios = [f[name] for f in group if f[name] is not None]
            if ratios:
                facts.append(
                    f"{statistics.median(ratios):.2f}x {word} at the median shape, {min(ratios):.2f}x at "
                    "the worst"
                )
        lines.append(f"{SHORT[dtype]} {memory_format}: " + "; ".join(facts) + ".")
    return lines


def summary(rows: Iterable[Mapping[str, Any]], key: str = "seconds") -> list[str]:
    """Return a table of the median and the worst ratio of every op, direction, dtype and format."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(
            tuple(row[name] for name in ("op", "direction", "dtype", "memory_format")), []
        ).append(figures(row, key))
    lines = [
        "| op | | cases | against baseline: median, worst | against torch.compile | time of a copy |",
        "|---|---|---|---|---|---|",
    ]
    for (op, direction, dtype, memory_format), group in groups.items():
        what = f"{direction}, {SHORT[dtype]}" + (
            ", channels_last" if memory_format == "channels_last" else ""
        )
        cells = []
        for name, worst in (("baseline", min), ("compile", min), ("copy", max)):
            ratios = [f[name] for f in group if f[name] is not None]
            cells.append(f"{statistics.median(ratios):.2f}x, {worst(ratios):.2f}x" if ratios else "")
        lines.append(f"| {op} | {what} | {len(group)} | " + " | ".join(cells) + " |")
    return lines


def heading(results: Mapping[str, Any]) -> list[str]:
    """Return lines that name device, versions and commit, and what was not measured."""
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items() if value)
    changed = " with changes" if results["changed"] else ""
    lines = [
        f"{results['device']} ({results['class']}), {results['threads']} threads, {versions}, "
        f"commit {(results.get('commit') or 'unknown')[:9]}{changed}, {results['date']}.",
    ]
    for name, reason in results["backends"].items():
        if reason != "runs":
            lines.append(f"Not measured: {name}, {reason}.")
    return lines


def report(results: Mapping[str, Any]) -> str:
    """Return all tables as Markdown."""
    lines = heading(results)
    flushed = any("flushed_seconds" in row["times"][row["ours"]] for row in results["rows"])
    for op, direction in dict.fromkeys((row["op"], row["direction"]) for row in results["rows"]):
        rows = [row for row in results["rows"] if (row["op"], row["direction"]) == (op, direction)]
        for key, words in (
            ("seconds", ", warm caches" if flushed else ""),
            ("flushed_seconds", ", flushed L2"),
        )[: 1 + flushed]:
            backend = "" if rows[0]["ours"] == "ours" else f" ({rows[0]['ours']})"
            lines += ["", f"**{op}, {direction}{backend}{words}**", "", *table(rows, key)]
    return "\n".join(lines)


def comparison(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Compare the rows that two runs have in common.

    How the baseline changed shows how alike the two machines were.
    """
    names = ("op", "direction", "layer", "batch", "dtype", "memory_format")
    old = {tuple(row[name] for name in names): row for row in before["rows"]}
    lines = ["before: " + heading(before)[0], "after: " + heading(after)[0], ""]
    lines += [
        "| op | | layer | batch | before | after | faster | baseline faster |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for row in after["rows"]:
        key = tuple(row[name] for name in names)
        if key not in old:
            continue
        was, now = (
            {name: max(r["times"][name]["seconds"], RESOLUTION_S) for name in (r["ours"], "baseline")}
            for r in (old[key], row)
        )
        mine = was[old[key]["ours"]], now[row["ours"]]
        ratios.append(mine[0] / mine[1])
        layout = " channels_last" if row["memory_format"] == "channels_last" else ""
        lines.append(
            f"| {row['op']} | {row['direction']} | {row['layer']} {SHORT[row['dtype']]}{layout} | "
            f"{row['batch']} | {milliseconds(mine[0])} "
            f"| {milliseconds(mine[1])} | {times_faster(ratios[-1])} | "
            f"{times_faster(was['baseline'] / now['baseline'])} |"
        )
    if not ratios:
        return "\n".join([*lines[:2], "", "The two runs have no row in common."])
    return "\n".join(
        [
            *lines,
            "",
            f"{len(ratios)} rows: {times_faster(statistics.median(ratios))} at the median, "
            f"{times_faster(min(ratios))} at the worst.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        "bench.lib.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+", help="one file, or two to compare")
    parser.add_argument(
        "--summary", action="store_true", help="of one file: one table of medians and worst cases"
    )
    args = parser.parse_args()
    if len(args.results) > 2:
        parser.error(f"one file or two were expected, got {len(args.results)}")
    with one_line_errors(parser.prog):
        results, *later = map(read_bench, args.results)
    if later:
        print(comparison(results, *later))
        return
    print("\n".join([*heading(results), "", *summary(results["rows"])]) if args.summary else report(results))


if __name__ == "__main__":
    main()
