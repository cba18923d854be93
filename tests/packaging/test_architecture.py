"""Architecture: who may import whom, optional dependencies, and the rules that every source keeps."""

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from source_rules import MAX_FILE_LINES, NATIVE_FOLDERS, RULES, violations

import talkinghead

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
HEADS = ROOT / "talkinghead"
KERNELS = ROOT / "kernels" / "talkinghead_kernels"

LAYERS: tuple[set[str], ...] = (
    {"talkinghead_kernels"},
    {"errors", "version", "system", "clip", "config", "config_file", "constants", "metrics", "weights"},
    {"media"},
    {"data", "landmarks"},
    {"networks"},
    {"pretrained", "dataset", "model", "checkpoint"},
    {"training", "engines"},
    {"exporters"},
    {"pipelines", "evaluation", "synthetic"},
    {"__init__"},
    {"cli", "web"},
    {"__main__"},
)
"""Layers from the bottom up: a part imports parts of its own layer or of a lower one."""

HARD = {"torch", "numpy", "safetensors"}
HEAVY = {
    "cv2",
    "triton",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "webdataset",
    "scipy",
    "torchvision",
    "tensorboard",
}
DISTRIBUTIONS = {
    "PIL": "pillow",
    "dlib": "dlib-bin",
    "mlflow": "mlflow-skinny",
    "skimage": "scikit-image",
    "skvideo": "scikit-video",
    "cv2": "opencv-python",
    "tensorrt": "tensorrt-cu13",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
    "warp": "warp-lang",
}
"""Distribution of an import name, where its name differs."""


@dataclass(frozen=True)
class Import:
    """`module` imports `target`; `how` is import, or require with the extra that brings it."""

    module: str
    target: str
    how: str
    extra: str = ""
    deferred: bool = False


def modules(package: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        yield ".".join(parts), path


def imports(module: str, path: Path) -> Iterator[Import]:
    """Yield every import of a file, also inside functions, with relative names resolved."""
    package = module.split(".")[:-1]  # of __init__ as well, which is named in `module`
    tree = ast.parse(path.read_text(), str(path))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        deferred = id(node) in inside
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(module, name.name, "import", deferred=deferred)
        elif isinstance(node, ast.ImportFrom):
            base = (
                [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
                if node.level
                else [node.module or ""]
            )
            stem = ".".join(part for part in base if part)
            for name in node.names:
                yield Import(module, f"{stem}.{name.name}", "import", deferred=deferred)
        elif isinstance(node, ast.Call):
            called = (
                node.func.id
                if isinstance(node.func, ast.Name)
                else node.func.attr
                if isinstance(node.func, ast.Attribute)
                else ""
            )
            if (
                called in ("require", "import_module", "__import__")
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                extra = (
                    node.args[1].value
                    if len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
                    else ""
                )
                yield Import(module, str(node.args[0].value), called, str(extra), deferred)


HEAD_IMPORTS = [item for module, path in modules(HEADS) for item in imports(module, path)]
KERNEL_IMPORTS = [item for module, path in modules(KERNELS) for item in imports(module, path)]


def part(name: str) -> str:
    """Return the part of a name: `talkinghead.data.crop` is of data, `talkinghead.clip.Clip` of clip.

    `talkinghead` and its own names are of __init__.
    """
    pieces = name.split(".")
    if pieces[0] == "talkinghead_kernels":
        return pieces[0]
    known = {path.stem for path in HEADS.glob("*.py")} | {
        path.name for path in HEADS.iterdir() if path.is_dir()
    }
    return pieces[1] if len(pieces) > 1 and pieces[1] in known else "__init__"


def layer(name: str) -> int:
    (number,) = [number for number, parts in enumerate(LAYERS) if part(name) in parts] or [-1]
    return number


def is_own_module(target: str) -> bool:
    return target.split(".")[0] in ("talkinghead", "talkinghead_kernels")


def third_party(item: Import) -> bool:
    return not is_own_module(item.target) and item.target.split(".")[0] not in sys.stdlib_module_names


def test_every_file_has_its_place_on_the_map() -> None:
    homeless = [module for module, _ in modules(HEADS) if layer(module) < 0]
    assert not homeless, f"add to LAYERS and to docs/architecture.md: {homeless}"


def test_the_reader_of_imports_sees_them_all(tmp_path: Path) -> None:
    source = tmp_path / "talkinghead" / "data" / "made_up.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "import numpy as np\nfrom ..clip import Clip\nfrom . import crop\nfrom .. import metrics\n"
        "def f():\n    import cv2\n    from ..cli import main\n    return require('av', 'app')\n"
    )
    item = {(item.target, item.how, item.deferred) for item in imports("talkinghead.data.made_up", source)}
    assert item == {
        ("numpy", "import", False),
        ("talkinghead.clip.Clip", "import", False),
        ("talkinghead.data.crop", "import", False),
        ("talkinghead.metrics", "import", False),
        ("cv2", "import", True),
        ("talkinghead.cli.main", "import", True),
        ("av", "require", True),
    }
    assert [
        layer(target) for target in ("talkinghead.clip.Clip", "talkinghead.data.crop", "talkinghead.metrics")
    ] == [1, 3, 1]
    assert part("talkinghead.finetune") == "__init__"
    assert len(HEAD_IMPORTS) > 100 and len(KERNEL_IMPORTS) > 10


def test_nothing_imports_upwards() -> None:
    upwards = [
        f"{item.module} -> {item.target}"
        for item in HEAD_IMPORTS
        if is_own_module(item.target) and layer(item.target) > layer(item.module)
    ]
    assert upwards == []


def test_no_circle_of_imports() -> None:
    names = {module for module, _ in modules(HEADS)}

    def resolve(target: str) -> str | None:
        candidates = (
            target,
            f"{target}.__init__",
            target.rpartition(".")[0],
            f"{target.rpartition('.')[0]}.__init__",
        )
        return next((name for name in candidates if name in names), None)

    needs: dict[str, set[str]] = {name: set() for name in names}
    for item in HEAD_IMPORTS:
        module = resolve(item.target) if is_own_module(item.target) else None
        if module and module != item.module:
            needs[item.module].add(module)
    assert sum(map(len, needs.values())) > 50
    while free := [name for name, needed in needs.items() if not needed]:
        for name in free:
            del needs[name]
        for needed in needs.values():
            needed.difference_update(free)
    assert not needs, f"these import each other: {sorted(needs)}"


def test_the_kernels_know_nothing_of_heads_and_need_torch_only() -> None:
    for item in KERNEL_IMPORTS:
        root = item.target.split(".")[0]
        allowed = {"torch", "talkinghead_kernels"} | (
            {"triton"} if "triton_kernels" in item.module else set()
        )
        assert root in allowed or root in sys.stdlib_module_names, f"{item.module} imports {item.target}"


SCRIPTS = ("talkinghead.media.window_process",)
"""Modules that run in a process of their own; those that start them require what they import."""


def test_optional_parts_are_required_where_they_are_used_and_in_one_module_each() -> None:
    places: dict[str, set[str]] = {}
    for item in filter(third_party, HEAD_IMPORTS):
        root = item.target.split(".")[0]
        if root in HARD or item.module in SCRIPTS:
            continue
        assert item.how == "require", (
            f"{item.module} imports {item.target}: use require(), which names the extra"
        )
        assert item.deferred, f"{item.module}: require({item.target!r}) inside the function that needs it"
        places.setdefault(root, set()).add(item.module)
    assert {"av", "PIL", "dlib", "torchmetrics"} <= set(places)
    assert {root: item for root, item in places.items() if len(item) > 1} == {}


def test_every_extra_that_is_named_brings_what_is_required() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = {
        extra: {re.split(r"[<>=~!;\[ ]", line)[0] for line in lines} for extra, lines in extras.items()
    }
    required = [item for item in HEAD_IMPORTS if item.how == "require"]
    assert required
    for item in required:
        root = item.target.split(".")[0]
        name = DISTRIBUTIONS.get(root, root.replace("_", "-"))
        assert name in brought.get(item.extra, set()), (
            f"{item.module}: extra {item.extra!r} does not bring {name}"
        )
    # extras are also named in what users are told
    for module, path in modules(HEADS):
        for extra in re.findall(r"talkinghead\[([a-z-]+)\]", path.read_text()):
            assert extra in brought, f"{module} names an extra {extra!r} that does not exist"


def loaded_by(statement: str) -> set[str]:
    code = (
        f"{statement}\nimport json, sys\nprint(json.dumps(sorted(name.split('.')[0] for name in "
        "sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_talkinghead_imports_nothing_optional() -> None:
    optional = {item.target.split(".")[0] for item in filter(third_party, HEAD_IMPORTS)} - HARD | HEAVY
    assert {"av", "PIL", "tqdm", "cv2"} <= optional
    loaded = loaded_by("import talkinghead")
    assert "talkinghead" in loaded
    # what torch imports of its own accord, where it is installed, is not checked
    assert optional & (loaded - loaded_by("import torch, numpy, safetensors.torch")) == set()


def test_the_kernels_work_alone() -> None:
    loaded = loaded_by("import talkinghead_kernels as ops; assert ops.backends()")
    assert "talkinghead_kernels" in loaded
    assert not loaded & {"talkinghead", "safetensors", "triton"}


def test_the_public_names_are_there() -> None:
    assert len(talkinghead.__all__) > 5
    assert all(hasattr(talkinghead, name) for name in talkinghead.__all__)


@pytest.mark.parametrize("package", [HEADS, KERNELS])
def test_packages_say_that_they_are_typed_and_what_they_are(package: Path) -> None:
    assert (package / "py.typed").is_file()
    for folder in {path.parent for path in package.rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), f"{folder.relative_to(ROOT)} has no __init__.py"
    for module, path in modules(package):
        assert module.endswith("__main__") or ast.get_docstring(ast.parse(path.read_text())), (
            f"{module} does not say what it is"
        )


@pytest.mark.parametrize("rule", RULES)
def test_sources_keep_rule(rule: str) -> None:
    assert violations(rule) == []


def test_native_files_are_short() -> None:
    files = [path for folder in NATIVE_FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    native = [path for path in files if path.suffix in (".cpp", ".cu", ".cuh", ".h", ".inl")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in native}
    assert len(native) > 30
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_package_top_level_holds_few_files() -> None:
    files = [path.name for path in HEADS.iterdir() if path.is_file()]
    assert 5 < len(files) <= 12
    assert not [path for path in ROOT.rglob("utils*.py") if ".venv" not in path.parts]


def test_architecture_page_names_every_part() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    parts = {name for layer_parts in LAYERS for name in layer_parts} - {"__init__", "__main__", "version"}
    assert [name for name in sorted(parts) if name not in page] == []


def test_engines_run_without_exporters() -> None:
    wrong = [
        item for item in HEAD_IMPORTS if part(item.module) == "engines" and part(item.target) == "exporters"
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("def f():\n    given = 1\n    return given\n", "banned identifiers"),
        ('def f():\n    """What it returns."""\n', "docstring fragments"),
        ('X = 1\n"""How wide it is."""\n', "attribute fragments"),
        ("f(1, 2, 3, 4, 5)\n", "positional arguments"),
        ("def f():\n" + "    x = 1\n" * 60, "long functions"),
        ("x = 1\n" * 400, "long files"),
    ],
)
def test_rule_finds_violation(
    source: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("source_rules.ROOT", tmp_path)
    path = tmp_path / "bad.py"
    path.write_text(source)
    check, _ = RULES[rule]
    assert len(list(check(path, ast.parse(source)))) == 1
    path.write_text("x = 1\n")
    assert list(check(path, ast.parse("x = 1\n"))) == []


def test_test_modules_have_unique_names() -> None:
    """Hold the names of test modules apart: they share one name space, in which one would hide the other."""
    counts = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(counts) > 100
    assert [name for name, count in counts.items() if count > 1] == []
