"""Public names: each is there whatever was imported before, and the package is silent by default."""

import builtins
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from typing import Any

import pytest

import talkinghead as th

IMPORT_ALL_THEN_USE = """
import importlib, pkgutil, types
import talkinghead
for module in pkgutil.walk_packages(talkinghead.__path__, "talkinghead."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
kinds = {name: type(getattr(talkinghead, name)).__name__ for name in talkinghead.__all__}
print(sorted(kinds.items()))
"""


def test_every_name_is_right_after_every_submodule_was_imported() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL_THEN_USE], capture_output=True, text=True, check=True, timeout=300
    )
    kinds = dict(eval(result.stdout))
    assert set(kinds) == set(th.__all__)
    classes = {"Clip", "Engine", "Interrupted", "Model", "Person", "TalkingheadError", "Track"}
    for name, kind in kinds.items():
        usual = "type" if name in classes else "function"
        expected = {"metrics": "module", "__version__": "str"}.get(name, usual)
        assert kind.replace("ABCMeta", "type") == expected, name
    assert result.stderr == ""


def test_names_are_those_of_their_modules() -> None:
    for name, module in th._MODULES.items():
        assert getattr(th, name) is getattr(importlib.import_module(f"talkinghead.{module}"), name)
    submodules = {module.name for module in pkgutil.iter_modules(th.__path__)}
    assert set(th.__all__) & submodules == {"metrics"}  # no function has the name of a module
    assert set(th.__all__) <= set(dir(th))


@pytest.mark.parametrize(
    ("method", "function"), [(th.Person.animate, th.animate), (th.Person.export, th.export_person)]
)
def test_methods_of_a_person_have_the_parameters_of_the_functions(method: Any, function: Any) -> None:
    _, *parameters = inspect.signature(method).parameters.values()
    _, *expected = inspect.signature(function).parameters.values()
    assert [(p.name, p.kind, p.default) for p in parameters] == [
        (p.name, p.kind, p.default) for p in expected
    ]


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'talkinghead' has no attribute 'aminate'"):
        th.aminate  # noqa: B018


def test_warning_of_the_package_is_not_printed_by_default() -> None:
    program = (
        "import logging, talkinghead.data.load; logging.getLogger('talkinghead.data.load').warning('hello')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout + result.stderr == ""
    program = "import logging; logging.basicConfig(); " + program
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "WARNING:talkinghead.data.load:hello" in result.stderr


@pytest.mark.parametrize("name", sorted(set(th.__all__) - {"__version__", "metrics"}))
def test_help_prints_no_addresses(name: str) -> None:
    value = getattr(th, name)
    methods = [value] if not inspect.isclass(value) else [m for _, m in inspect.getmembers(value, callable)]
    for method in methods:
        try:
            text = str(inspect.signature(method))
        except (TypeError, ValueError):
            continue
        assert " at 0x" not in text, f"{name}: {text}"


@pytest.mark.parametrize("name", sorted(set(th.__all__) - {"__version__", "metrics"}))
def test_docstring_names_have_paths(name: str) -> None:
    value = getattr(th, name)
    members = {member: inspect.getdoc(getattr(value, member)) for member in vars(value) if member[0] != "_"}
    texts = [inspect.getdoc(value), *(members.values() if inspect.isclass(value) else ())]
    known = {*th.__all__, *members, *dir(builtins)}
    if not inspect.isclass(value):
        known |= set(inspect.signature(value).parameters)
    else:
        known |= {field for one in value.__mro__ for field in getattr(one, "__annotations__", {})}
        for member in members:
            method = getattr(value, member)
            known |= set(inspect.signature(method).parameters) if callable(method) else set()
    for text in texts:
        for word in re.findall(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)", text or ""):
            first = word.partition(".")[0]
            if first in ("dataclasses", "talkinghead"):
                resolve(word)
            elif not word.endswith((".json", ".jsonl", ".safetensors")):  # files
                assert first in known, f"{name}: `{word}` has no path"


def resolve(path: str) -> None:
    """Import what a dotted path names, a field of a dataclass too."""
    owner, _, member = path.rpartition(".")
    value = pkgutil.resolve_name(owner)
    assert hasattr(value, member) or member in value.__annotations__, path
