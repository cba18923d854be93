"""Measurement of what a user of `portrait` waits for."""

import re
import sys
from pathlib import Path

import pytest

from bench.experiments import portrait_speed


def test_portrait_speed_runs_without_arguments_and_dlib(
    carphone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    monkeypatch.setattr(portrait_speed, "WARM_UP_FRAMES", 1)
    portrait_speed.main(["--rounds", "1", "--frames", "9"])
    settings, person, video = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"portrait, \d+ threads, 8 pictures, landmarks by network, .*", settings)
    assert re.fullmatch(r"a person at once, .* its file of [1-9]\d* KB: \d+\.\d\d s", person)
    assert re.fullmatch(r"from 68 landmarks to an encoded video of 9 frames, .*: [1-9]\d* frames .*", video)
