"""Messages of the public functions: one line of subject, problem and remedy, as of the command line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import talkinghead as th
from conftest import drawn_frame
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.system.device import _log_useless_fast

ADDRESS = "is an address, and only local files are read; download it first"


def message(call: Callable[[], Any]) -> str:
    """Return the message of a call that must fail."""
    with pytest.raises(th.TalkingheadError) as caught:
        call()
    return str(caught.value)


@pytest.fixture
def person_file(people: dict[str, th.Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a fine-tuned person into the current folder."""
    monkeypatch.chdir(tmp_path)
    people["fine-tuned"].save("anna.safetensors")
    return "anna.safetensors"


@pytest.mark.parametrize(
    "call",
    [
        lambda person, url: th.finetune("tiny", [f"{url}.jpg"], steps=0),
        lambda person, url: th.finetune("tiny", Path(f"{url}.mp4"), steps=0),
        lambda person, url: th.read_clip(f"{url}.png"),
        lambda person, url: th.animate(person, f"{url}.mp4"),
        lambda person, url: th.animate_video(person, f"{url}.mp4", "out.mp4"),
        lambda person, url: th.live(person, f"{url}.mp4", "out.mp4"),
        lambda person, url: th.load_model(url),
        lambda person, url: th.load_person(url),
        lambda person, url: th.open_engine(url),
    ],
)
def test_address_in_the_web_says_to_download_it(
    call: Callable[[th.Person, str], Any], people: dict[str, th.Person]
) -> None:
    url = "https://example.org/a"
    text = message(lambda: call(people["feed-forward"], url))
    assert text.startswith(url) and text.endswith(ADDRESS)


@pytest.mark.parametrize(
    ("face", "problem"),
    [
        (0, "face 0: is below 1; give 1 or more"),
        (2, "the driver: shows 1 face, number 2 was asked for; give 1"),
        (True, "face True: is no whole number; give one, such as 1"),
        ("1", "face '1': is no whole number"),
    ],
)
def test_face_of_a_stream_is_checked(
    face: Any, problem: str, people: dict[str, th.Person], red_square: Any
) -> None:
    frames = [drawn_frame((120, 160), (40, 30, 52))] * 3
    text = message(lambda: th.animate(people["feed-forward"], iter(frames), face=face, detector=red_square))
    assert text.startswith(problem)


def test_person_file_given_as_model_says_how_it_learns_further(person_file: str, tmp_path: Path) -> None:
    text = message(lambda: th.finetune(person_file, "a.jpg"))
    assert text == (
        "anna.safetensors: is a person; name a model, such as portrait, or its file; a person learns further "
        "by `talkinghead finetune PICTURES --from anna.safetensors`, in Python "
        "finetune(load_person('anna.safetensors'), pictures)"
    )
    th.save_model(th.load_model("tiny"), "model.safetensors")
    text = message(lambda: th.load_person("model.safetensors"))
    assert (
        "name the file of a person, which `talkinghead finetune PICTURES --model model.safetensors`" in text
    )


def test_other_model_beside_person_names_both(people: dict[str, th.Person]) -> None:
    text = message(lambda: th.finetune(people["fine-tuned"], "a.jpg", steps=1, model="small"))
    assert "the person is of model tiny " in text and ", not of small " in text


def test_engine_of_another_person_is_refused(people: dict[str, th.Person], carphone_clip: th.Clip) -> None:
    anna, track = people["fine-tuned"], carphone_clip.track[:1]
    bob = replace(anna, styles=anna.styles + 1)
    engine = TorchEngine(anna)
    assert len(list(th.animate(anna, track, engine=engine))) == 1
    for call in (
        lambda: th.animate(bob, track, engine=engine),
        lambda: th.animate_video(bob, "bob.mp4", "out.mp4", engine=engine),
        lambda: th.live(bob, "bob.mp4", "out.mp4", engine=engine),
    ):
        assert message(call).startswith("engine: is set to another person; call engine.set_person(person)")


@pytest.mark.slow
def test_engine_file_of_another_person_is_refused(people: dict[str, th.Person], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript, which ONNX export needs, is not installed")
    people["fine-tuned"].export(tmp_path / "anna.onnx", "onnx", batch=1)
    engine = th.open_engine(tmp_path / "anna.onnx")
    text = message(lambda: th.animate(people["feed-forward"], np.zeros((1, 68, 2)), engine=engine))
    assert text.startswith("engine: was made from other weights than this person's")


@pytest.mark.parametrize("path", [b"", b"content", None, 3])
def test_reading_of_what_is_no_path_says_what_would_do(path: Any) -> None:
    kind = type(path).__name__
    expected = f'load_person: got {kind}; give the path of a file, such as "anna.safetensors"'
    assert message(lambda: th.load_person(path)) == expected
    assert message(lambda: th.open_engine(path)).startswith(f"open_engine: got {kind}; give the path")
    assert message(lambda: th.load_model(path)).startswith(f"load_model: got {kind}; give a name or a file")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"size": 0}, "size 0: is below 1; give 1 or more"),
        ({"size": 64.0}, "size 64.0: is no whole number; give one, such as 256"),
        ({"size": True}, "size True: is no whole number"),
        ({"limit": 0}, "limit 0: is below 1"),
    ],
)
def test_size_and_limit_of_a_clip_are_checked(settings: dict[str, Any], problem: str) -> None:
    assert message(lambda: th.read_clip("a.jpg", **settings)).startswith(problem)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("steps", [True, 2.5, "3"])
def test_steps_that_are_no_whole_number_are_refused(
    steps: Any, early_stopping: bool, carphone_clip: th.Clip
) -> None:
    text = message(lambda: th.finetune("tiny", carphone_clip[:2], steps=steps, early_stopping=early_stopping))
    assert text.startswith(f"steps {steps!r}: is no whole number; give one, such as ")


def test_endings_of_outputs_are_those_of_the_command_line(
    people: dict[str, th.Person], tmp_path: Path
) -> None:
    person = people["fine-tuned"]
    assert message(lambda: person.save(tmp_path / "x.mp4")).endswith(
        "x.mp4: a person is a .safetensors file; name it x.safetensors instead"
    )
    assert "a model is a .safetensors file" in message(
        lambda: th.save_model(th.load_model("tiny"), tmp_path / "x.onnx")
    )
    assert "an engine of format onnx is a .onnx file; name it x.onnx" in message(
        lambda: person.export(tmp_path / "x.mp4", "onnx")
    )
    assert list(tmp_path.iterdir()) == []
    person.save(tmp_path / "anna")
    assert (tmp_path / "anna").exists()


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (
            lambda: th.animate("a", "b", retraget="on"),
            r"animate\(\) has no .*'retraget'; did you mean retarget\?",
        ),
        (lambda: th.finetune("a", "b", step=1), r"finetune\(\) has no argument 'step'; did you mean steps\?"),
        (lambda: th.read_clip("a", sise=1), r"read_clip\(\) has no argument 'sise'; did you mean size\?"),
    ],
)
def test_unknown_keyword_is_answered_with_the_closest_one(call: Callable[[], Any], problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        call()


def test_engine_warns_once_of_landmarks_in_pixels(
    people: dict[str, th.Person], caplog: pytest.LogCaptureFixture
) -> None:
    engine, points = TorchEngine(people["fine-tuned"]), people["fine-tuned"].neutral_landmarks[None]
    for fractions in (points, points + 2.5, points[:0]):
        engine.run(fractions)
    assert caplog.text == ""
    for _ in range(2):
        engine.run(points * 64)
    assert [record.getMessage().partition(" reach ")[0] for record in caplog.records] == ["engine: landmarks"]
    assert caplog.text.endswith("which is 0 to 1; divide pixels of the crop by its side\n")


def test_device_given_as_detector_says_how_to_place_one() -> None:
    text = message(lambda: th.read_clip("a.jpg", detector="cuda"))
    assert text == (
        "detector 'cuda': is a device; give a detector that was opened there by "
        "talkinghead.landmarks.open_detector.open_detector(\"network\", 'cuda')"
    )


def test_device_of_a_file_moves_what_it_holds(person_file: str) -> None:
    person, model = th.load_person(person_file, device="cpu"), th.load_model("tiny", device="cpu")
    assert str(person.placed) == str(model.placed) == "cpu" and th.load_person(person_file).placed is None
    assert message(lambda: th.load_person(person_file, device="tpu")).startswith("device 'tpu': is unknown")


def test_fast_on_a_cpu_says_that_it_has_no_effect(
    people: dict[str, th.Person], carphone_clip: th.Clip, caplog: pytest.LogCaptureFixture
) -> None:
    _log_useless_fast.cache_clear()
    for _ in range(2):
        next(th.animate(people["fine-tuned"], carphone_clip.track[:1], device="cpu", fast=True))
    assert caplog.text.count("fast: has no effect on the CPU") == 1
