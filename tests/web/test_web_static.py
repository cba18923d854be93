"""Files of the page and of the exported one: short, without inline code, without an address of another
machine, in the wheel.
"""

import fnmatch
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "talkinghead" / "web" / "static"
EXPORTED = ROOT / "talkinghead" / "exporters" / "static"
RUNTIME = EXPORTED / "onnxruntime"
FILES = sorted(path for path in STATIC.rglob("*") if path.is_file())
EXPORTED_FILES = sorted(
    path
    for path in EXPORTED.rglob("*")
    if path.is_file() and (path.parent != RUNTIME or path.name == "LICENSE")
)
OWN_EXPORTED_FILES = [path for path in EXPORTED_FILES if path.parent != RUNTIME]
MAX_LINES, MAX_COLUMNS = 399, 140
MAX_PAGE_BYTES = 300_000


def test_page_is_small() -> None:
    assert len(FILES) > 10
    assert sum(path.stat().st_size for path in FILES) < MAX_PAGE_BYTES


@pytest.mark.parametrize("path", [*FILES, *OWN_EXPORTED_FILES], ids=lambda path: path.name)
def test_file_is_short_and_names_no_other_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".svg":
        lines = text.splitlines()
        assert len(lines) <= MAX_LINES
        assert max(map(len, lines)) <= MAX_COLUMNS
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text))
    assert addresses <= {"http://www.w3.org", "http://127.0.0.1"}  # a namespace, and a hint for the user


@pytest.mark.parametrize("folder", [STATIC, EXPORTED], ids=lambda path: path.parent.name)
def test_page_has_no_inline_code(folder: Path) -> None:
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]* src=)", page) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", page) == []
    scripts = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("js/*.js"))]
    assert len(scripts) > 10
    assert not any(re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(", text) for text in scripts)


@pytest.mark.parametrize("folder", [STATIC, EXPORTED], ids=lambda path: path.parent.name)
def test_every_element_that_scripts_name_is_on_the_page(folder: Path) -> None:
    page = (folder / "index.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'\bid="([\w-]+)"', page))
    for path in folder.rglob("js/*.js"):
        for name in re.findall(r'byId\("([\w-]+)"\)', path.read_text(encoding="utf-8")):
            assert name in ids, f"{path.name} names {name}"


def test_references_of_page_lead_to_files() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r'"/static/([\w./-]+)"', text):
            assert (STATIC / name).is_file(), f"{path.name}: {name}"
        for name in re.findall(r'from "\./([\w.-]+)"', text):
            assert (path.parent / name).is_file(), f"{path.name}: {name}"


def test_package_data_holds_every_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["talkinghead"]
    for path in [*FILES, *EXPORTED_FILES]:
        name = path.relative_to(ROOT / "talkinghead").as_posix()
        folder = name.rpartition("/")[0]
        matching = [
            one for one in patterns if one.rpartition("/")[0] == folder and fnmatch.fnmatch(name, one)
        ]
        assert matching, f"{name} is in no wheel"
