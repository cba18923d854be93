"""`make` sets up .venv once, does it again after a failure or a change, and says in one line what the system lacks.

Stand-ins for python and pip are used: the set-up itself is what every run of `make test` has been through.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

INTERPRETER = """#!/bin/sh
# stands in for python3; what it lacks is in the file `lacks`, what pip was asked in `asked`
here="{here}"
case "$*" in
  *"version_info < (3, 10)"*) ! grep -qs new "$here/lacks" ;;
  *ensurepip*) ! grep -qs venv "$here/lacks" || {{ echo "Traceback (most recent call last):" >&2; exit 1; }} ;;
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"pip --version"*) true ;;
  *"pip uninstall"*) echo "$*" >>"$here/asked" ;;
  *"pip install"*) echo "$*" >>"$here/asked"; ! grep -qs network "$here/lacks" ;;
esac
"""


class Project:
    """The files that `make` reads, and a python of which one may say what it lacks."""

    def __init__(self, folder: Path):
        self.folder = folder / "project"
        self.outside = folder / "outside"
        self.ready = self.folder / ".venv" / ".ready"
        for made in (self.folder, self.outside):
            made.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt", "setup.py"):
            shutil.copy(ROOT / name, self.folder)
        shutil.copytree(ROOT / "csrc", self.folder / "csrc")
        self.python = self.outside / "python3"
        self.python.write_text(INTERPRETER.format(here=self.outside))
        self.python.chmod(0o755)

    def lacks(self, what: str) -> None:
        (self.outside / "lacks").write_text(what)

    def make(self, *settings: str, python: str | None = None, target: str = ".venv/.ready") -> subprocess.CompletedProcess[str]:
        unset = ("PYTHON", "NO_PROPRIETARY", "TALKINGHEAD_BUILD")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name not in unset}
        command = ["make", target, f"PYTHON={python or self.python}", *settings]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False)

    @property
    def asked(self) -> list[str]:
        """The calls of pip so far."""
        path = self.outside / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def project(tmp_path: Path) -> Project:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return Project(tmp_path)


def test_it_is_set_up_once(project: Project) -> None:
    assert project.make().returncode == 0
    assert project.ready.is_file()
    torch, rest = project.asked  # the kernels are built against torch
    assert "-c constraints.txt torch" in torch
    assert "-c constraints.txt -e .[" in rest
    assert project.make().returncode == 0
    assert len(project.asked) == 2


def test_set_up_says_that_it_installs_proprietary_software(project: Project) -> None:
    done = project.make()
    assert "proprietary" in done.stdout and "NO_PROPRIETARY=1" in done.stdout
    assert "tensorrt-rtx" in project.asked[-1]


def test_no_proprietary_software_is_installed_or_kept_when_so_asked(project: Project) -> None:
    free = project.folder / ".venv" / ".ready-free"
    done = project.make("NO_PROPRIETARY=1", target=".venv/.ready-free")
    assert done.returncode == 0 and free.exists() and not project.ready.exists()
    _, rest, removed = project.asked
    assert "tensorrt" not in rest and "uninstall" in removed and "tensorrt-rtx-cu13-libs" in removed
    assert project.make().returncode == 0  # and back again
    assert project.ready.exists() and not free.exists()
    assert project.make("NO_PROPRIETARY=1", target=".venv/.ready-free").returncode == 0
    assert free.exists() and not project.ready.exists()


def test_wheel_is_repaired_and_comes_with_a_source_distribution(project: Project) -> None:
    done = project.make("--dry-run", target="wheel")
    steps = [line for line in done.stdout.splitlines() if ".venv/bin/" in line]
    order = [next(i for i, line in enumerate(steps) if part in line) for part in ("pip wheel", "auditwheel repair", "build_sdist")]
    assert order == sorted(order) and "TALKINGHEAD_BUILD:-cpu" in steps[order[0]]
    assert all(f"--exclude '{name}*.so'" in steps[order[1]] for name in ("libtorch", "libc10"))


def test_matrix_uses_the_wheel_that_is_built(project: Project) -> None:
    done = project.make("--dry-run", "PYTHONS=a b", target="matrix")
    assert done.stdout.index("auditwheel repair") < done.stdout.index("matrix.py dist/*.whl --pythons a b")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "setup.py", "csrc/common.h"])
def test_it_is_set_up_again_when_what_it_depends_on_changes(project: Project, name: str) -> None:
    project.make()
    later = project.ready.stat().st_mtime + 10
    os.utime(project.folder / name, (later, later))
    project.lacks("network")
    assert project.make().returncode != 0
    assert len(project.asked) == 3
    assert not project.ready.exists()  # half updated is not ready


def test_a_failed_set_up_is_done_again(project: Project) -> None:
    project.lacks("network")
    assert project.make().returncode != 0
    assert not project.ready.exists()
    project.lacks("")
    assert project.make().returncode == 0
    assert project.ready.exists()
    assert len(project.asked) == 3


@pytest.mark.parametrize(("lacking", "command"), [("new", "sudo apt install python3.11"), ("venv", "sudo apt install python3-venv")])
def test_what_the_system_lacks_is_one_line(project: Project, lacking: str, command: str) -> None:
    project.lacks(lacking)
    done = project.make()
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1
    assert command in lines[0]
    assert not (project.folder / ".venv").exists()


def test_no_python_at_all_is_one_line(project: Project) -> None:
    done = project.make(python="/no/such/python3")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert lines == [
        "/no/such/python3: not found, Python 3.10 or newer is needed; sudo apt install python3 python3-venv",
    ]


def test_continuous_integration_runs_every_test_as_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"
    readme = (ROOT / "README.md").read_text()
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test-all"
    assert "\nmake test " in readme and "\nmake test-all " in readme


def test_torch_is_held_to_one_version() -> None:
    """Without it a package that pulls torchvision would replace torch by gigabytes of another build."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert sum(line.startswith("torch==") for line in lines) == 1
