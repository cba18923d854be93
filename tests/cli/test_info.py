"""The command `info`."""

import json
import re

import pytest
import torch
from commands import run_command

import talkinghead.cli.info_report as info


def test_info_reports_versions_presets_and_backends(capsys: pytest.CaptureFixture[str]) -> None:
    run_command("info", "--json")
    report = json.loads(capsys.readouterr().out)
    parameters = report["presets"]["paper"]["parameters"]
    assert {name: round(count / 1e6, 2) for name, count in parameters.items()} == {
        "E": 14.91,
        "G with P": 38.07,
        "V": 19.63,
    }
    assert report["versions"]["torch"] == torch.__version__
    assert report["backends"]["reference"] == report["ops"]["adain"]["reference"] == "available"
    assert set(report["runs"]["cpu"]["adain"].split("/")) <= {"cpp", "reference"}
    assert report["landmarks"] == "network: the networks that ship with the package"
    run_command("info")
    text = capsys.readouterr().out
    assert all(section in text for section in report) and "256x256, E 14.91 M" in text
    assert re.search(r"^  draw_polylines +yes ", text, re.MULTILINE) and "{" not in text


def test_info_names_extra_of_missing_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(info, "_OPTIONAL", {"no_such_module": ("app", "does nothing")})
    run_command("info")
    assert "not installed (does nothing): pip install 'talkinghead[app]'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "distribution"),
    [("tensorrt", "tensorrt-cu13"), ("tensorrt", "tensorrt"), ("cv2", "opencv-python")],
)
def test_info_tries_all_distributions_of_module(
    module: str, distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name != distribution:
            raise info.PackageNotFoundError(name)
        return "11.4.0"

    monkeypatch.setattr(info, "version", version)
    monkeypatch.setattr(info.importlib.util, "find_spec", lambda name: object())
    assert info._version_of(module, "tensorrt", "an optional part") == "11.4.0 (an optional part)"
