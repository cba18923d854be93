"""Tests of the options of `talkinghead live`."""

from types import SimpleNamespace
from typing import Any

import pytest

from talkinghead import checkpoint
from talkinghead.cli import main
from talkinghead.media import frame_source
from talkinghead.media.frame_source import WebcamName
from talkinghead.pipelines import live as live_pipeline


@pytest.mark.parametrize(
    "webcams, printed",
    [
        (
            [WebcamName("webcam:0", "Laptop"), WebcamName("webcam:2", "Desk")],
            ["webcam:0  Laptop", "webcam:2  Desk"],
        ),
        ([], ["no webcam was found; plug one in, or name a video"]),
    ],
)
def test_list_sources_prints_webcams(
    webcams: list[WebcamName],
    printed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(frame_source, "list_webcams", lambda: webcams)
    with pytest.raises(SystemExit) as ended:
        main(["live", "--list-sources"])
    assert ended.value.code in (0, None) and capsys.readouterr().out.splitlines() == printed


@pytest.mark.parametrize(
    "options, passed",
    [
        ("anna.safetensors", {"people": ["anna.safetensors"], "face": 1, "microphone": None}),
        ("a b --face 2 --microphone", {"people": ["a", "b"], "face": 2, "microphone": "default"}),
        ("a --microphone hw:1 --seconds 3", {"people": ["a"], "microphone": "hw:1", "seconds": 3.0}),
    ],
)
def test_live_passes_options_on(
    options: str, passed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options_of_call: dict[str, Any] = {}

    def run(people: list[str], source: str, sink: str, **options: Any) -> Any:
        options_of_call.update(options, people=people)
        return SimpleNamespace(as_dict=dict, lines=lambda: ["done"])

    monkeypatch.setattr(checkpoint, "load_person", lambda path, model=None: str(path))
    monkeypatch.setattr(live_pipeline, "live", run)
    main(["live", *options.split()])
    assert {name: options_of_call[name] for name in passed} == passed and capsys.readouterr().out.endswith(
        "done\n"
    )
