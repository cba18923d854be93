"""Claims of pyproject.toml: bounds, classifiers, a description that an index can show; and what the built
files carry.
"""

import email
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors import safe_open

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(requirement)
    for lines in (PROJECT["dependencies"], PYPROJECT["build-system"]["requires"], *EXTRAS.values())
    for requirement in lines
    if not requirement.startswith("talkinghead[")  # The extra `all` names the others.
]
DESCRIPTION = (ROOT / PROJECT["readme"]).read_text(encoding="utf-8")
LINK = re.compile(r"\]\(([^)]*)\)|\b(?:src|href)=")


def test_requirements_have_a_lower_and_an_upper_bound() -> None:
    assert len(REQUIREMENTS) > 40
    for requirement in REQUIREMENTS:
        operators = sorted(specifier.operator for specifier in requirement.specifier)
        assert operators == ["<", ">="], requirement


def test_requirements_have_the_same_bounds_in_every_extra() -> None:
    bounds: dict[str, set[str]] = {}
    for requirement in REQUIREMENTS:
        bounds.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    assert {name: specifiers for name, specifiers in bounds.items() if len(specifiers) > 1} == {}


def test_setup_py_builds_with_every_torch_that_is_allowed() -> None:
    (torch,) = [requirement for requirement in REQUIREMENTS if requirement.name == "torch"]
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    oldest, untested = (
        re.search(rf"{name}_TORCH = \((\d+), (\d+)\)", text) for name in ("OLDEST", "UNTESTED")
    )
    assert oldest and untested
    assert set(str(torch.specifier).split(",")) == {
        f">={oldest[1]}.{oldest[2]}",
        f"<{untested[1]}.{untested[2]}",
    }


def test_constraints_are_within_the_bounds() -> None:
    bounds = {requirement.name: requirement.specifier for requirement in REQUIREMENTS}
    pinned = [
        line.partition("#")[0].strip()
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    ]
    for name, version in [line.split("==") for line in pinned if line]:
        assert bounds[name].contains(version), name


def test_makefile_installs_extras_that_exist() -> None:
    extras = re.search(r"^EXTRAS := ([\w,-]+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert extras and set(extras[1].split(",")) <= set(EXTRAS)
    assert "tensorrt-rtx" not in extras[1]  # Proprietary: it is added where nobody refuses it.


def test_makefile_installs_requirements_of_extra_identity_apart() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = re.findall(r"^IDENTITY := (.+)", makefile, re.MULTILINE)
    assert shlex.split(line) == EXTRAS["identity"] == EXTRAS["dlib"]
    installed = re.search(r"^EXTRAS := ([\w,-]+)", makefile, re.MULTILINE)
    assert installed and not {"dlib", "identity", "all"} & set(installed[1].split(","))


def test_extra_all_installs_every_user_extra() -> None:
    (line,) = EXTRAS["all"]
    developer = {"all", "bench", "test", "dev", "release", "tensorrt", "tensorrt-rtx"}
    assert Requirement(line).name == "talkinghead" and Requirement(line).extras == set(EXTRAS) - developer


def test_tensorrt_and_tensorrt_rtx_are_two_extras() -> None:
    names = {
        extra: {Requirement(requirement).name for requirement in EXTRAS[extra]}
        for extra in ("tensorrt", "tensorrt-rtx")
    }
    assert names == {
        "tensorrt": {"tensorrt-cu13", "onnx", "onnxscript"},
        "tensorrt-rtx": {"tensorrt-rtx-cu13", "onnx", "onnxscript"},
    }
    assert not any(
        Requirement(requirement).name.startswith("tensorrt")
        for extra, lines in EXTRAS.items()
        if extra not in names
        for requirement in lines
    )


def test_classifiers_name_the_supported_pythons_and_no_address_is_given() -> None:
    classifiers = PROJECT["classifiers"]
    named = [name for name in classifiers if re.search(r":: Python :: 3\.\d+$", name)]
    pythons = [name.rpartition(" ")[2] for name in named]
    assert pythons == ["3.10", "3.11", "3.12", "3.13"] and PROJECT["requires-python"] == ">=3.10"
    matrix = re.search(r"^PYTHONS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert matrix and matrix[1].split() == [f"python{version}" for version in pythons]
    assert {"Operating System :: POSIX :: Linux", "Typing :: Typed"} <= set(classifiers)
    # An index refuses them beside a license expression.
    assert not any(name.startswith("License ::") for name in classifiers)
    assert "urls" not in PROJECT


def test_description_has_no_picture_or_relative_link() -> None:
    assert LINK.search(DESCRIPTION) is None
    assert DESCRIPTION.index("pip install torch\n") < DESCRIPTION.index("pip install 'talkinghead[")


def test_compatibility_lists_every_requirement_with_its_bounds() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", text, re.MULTILINE))
    expected = {
        canonicalize_name(requirement.name): str(requirement.specifier).replace(",", ", ")
        for requirement in REQUIREMENTS
    }
    assert rows == expected, "run `make matrix`, which writes this table"
    for line in text.splitlines():
        if line.startswith("| `") and "untested" in line:
            assert line.split("|")[5].strip(), f"says not why: {line}"


def test_licences_name_what_is_not_permissive() -> None:
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    for name in (
        "PyAV",
        "libx264",
        "pyvirtualcam",
        "opencv-python",
        "shape_predictor_68_face_landmarks",
        "TensorRT",
        "pillow-heif",
        "CUDA",
    ):
        assert name in text, name


@pytest.mark.slow
def test_built_files_carry_their_metadata_and_what_belongs_to_them(tmp_path: Path) -> None:
    """Build sdist and wheel offline from the files that git does not ignore; without the extension."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("needs a git checkout, to leave out what is not of the project")
    source = tmp_path / "source"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("bench/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    wheel = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-index",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        "dist",
        ".",
    ]
    for command in ([sys.executable, "-c", code], wheel):
        environment = {"PATH": "/usr/bin:/bin", "TALKINGHEAD_BUILD": "none", "npm_config_offline": "true"}
        done = subprocess.run(
            command, cwd=source, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr

    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        PROJECT["readme"],
        "csrc/include/simd.h",
    } <= names
    assert {str(path.relative_to(source)) for path in (source / "csrc").iterdir()} <= names
    assert [name for name in names if name.startswith(("tests", "bench")) or name.endswith(".so")] == []

    (built,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as unpacked:
        (name,) = [name for name in unpacked.namelist() if name.endswith("METADATA")]
        metadata = email.message_from_bytes(unpacked.read(name))
        for name in ("LICENSE", "docs/licences.md"):
            assert any(path.endswith(f"licenses/{name}") for path in unpacked.namelist())
        assert {name.split("/")[0] for name in unpacked.namelist() if "dist-info" not in name} == {
            "talkinghead",
            "talkinghead_kernels",
        }
    assert metadata.get_all("Classifier") == PROJECT["classifiers"]
    assert (
        metadata["License-Expression"] == "Apache-2.0"
        and metadata["Description-Content-Type"] == "text/markdown"
    )
    assert str(metadata.get_payload()).strip() == DESCRIPTION.strip()
    assert set(metadata.get_all("Provides-Extra", [])) == set(EXTRAS)
    assert not metadata.get_all("Project-URL") and not metadata["Home-page"]


def test_shipped_weights_name_no_folder() -> None:
    files = sorted((ROOT / "talkinghead").rglob("*.safetensors"))
    assert len(files) >= 6
    for path in files:
        with safe_open(path, framework="pt") as file:
            text = str(file.metadata())
        assert not re.search(r"[\"' ](/|~|[A-Z]:\\)[\w.]", text), path.name
