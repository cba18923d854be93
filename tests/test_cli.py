import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import save_file
from skimage import data

import talkinghead
import talkinghead.cli as cli
from conftest import RedSquare, draw_video, drawn_frame
from talkinghead import Clip, Model, Person, load_person
from talkinghead.checkpoint import load_model, random_model, save_model, shipped_models
from talkinghead.data.shards import read_index
from talkinghead.data.shots import read_shots, spread
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.face import DOUBTFUL, Face
from talkinghead.media.video import VideoReader

VERBS = ("demo", "finetune", "animate", "export", "live", "landmarks", "prepare", "train", "evaluate", "info")
FACES = [(40 + 2 * i, 30, 40) for i in range(20)]


@pytest.fixture
def red(monkeypatch: pytest.MonkeyPatch) -> RedSquare:
    """The command line, finding red squares."""
    detector = RedSquare()
    monkeypatch.setattr(cli, "open_detector", lambda name, device: detector)
    return detector


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(random_model("tiny", seed=3), path)
    return path


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return draw_video(tmp_path / "drive.mp4", FACES)


@pytest.fixture
def person(tmp_path: Path, model: Path, drive: Path, red: RedSquare) -> Path:
    """A feed-forward person."""
    path = tmp_path / "person.safetensors"
    assert cli.main(["finetune", str(drive), "--model", str(model), "--steps", "0", "--out", str(path), "--quiet"]) == 0
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that is to fail; its one line."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    # progress bars and speeds aside
    lines = [line for line in captured.err.splitlines() if line and "%|" not in line and not line.endswith(" a second")]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("talkinghead: error: ") and "Traceback" not in captured.err
    return lines[0]


# help and arguments


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main([verb, "--help"])
    shown = capsys.readouterr().out
    assert exited.value.code == 0
    assert f"  talkinghead {verb} " in shown.split("example:")[1] or f"  talkinghead {verb}\n" in shown.split("example:")[1]
    assert "--json" in shown


@pytest.mark.parametrize("verb", VERBS)
def test_examples_parse(verb: str) -> None:
    """What the help shows is what the command takes."""
    from talkinghead.arguments import build_parser
    from talkinghead.examples import EXAMPLES

    parser = build_parser(dict.fromkeys(VERBS, print))
    lines = [line.split("#")[0].split()[1:] for line in EXAMPLES[verb].splitlines() if line.startswith("  talkinghead ")]
    assert lines
    for line in lines:
        assert parser.parse_args(line).run is print


def test_seed_quiet_json_where_they_mean_something() -> None:
    from talkinghead.arguments import build_parser

    parse = build_parser(dict.fromkeys(VERBS, print)).parse_args
    least = {
        "demo": [],
        "finetune": ["p.png", "--out", "o"],
        "animate": ["p", "--drive", "d", "--out", "o"],
        "live": ["p"],
        "export": ["p", "--format", "onnx", "--out", "o"],
        "landmarks": ["v", "--out", "o.png"],
        "prepare": ["v", "--out", "o"],
        "train": ["d", "--out", "o"],
        "evaluate": ["tiny", "d", "--out", "o"],
        "info": [],
    }
    for verb, rest in least.items():
        given = parse([verb, *rest])
        assert given.json is False
        assert hasattr(given, "quiet") == (verb != "info")
        assert hasattr(given, "seed") == (verb in ("demo", "finetune", "prepare", "train", "evaluate"))
    assert parse(["demo", "--seed", "7"]).seed == 7


def test_bad_arguments_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "talkinghead animate --help" in told(capsys, "animate", "person")
    assert "wide" in told(capsys, "animate", "p", "--drive", "d", "--out", "o", "--layout", "wide")
    assert "'-3' is not a whole number" in told(capsys, "demo", "--steps=-3")
    assert "'0' is not a whole number from 1 to 32" in told(capsys, "finetune", "p.png", "--out", "o", "--shots", "0")
    assert "'33' is not a whole number from 1 to 32" in told(capsys, "finetune", "p.mp4", "--out", "o", "--shots", "33")
    assert "dance" in told(capsys, "dance")
    told(capsys)


def test_interruption_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "info", interrupted)
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "talkinghead: interrupted\n"


def test_out_of_memory_is_one_line_that_names_the_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB\nmore")

    monkeypatch.setattr(cli, "train", greedy)
    assert cli.main(["train", "data", "--out", "run"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "talkinghead: error: train: CUDA out of memory; --accumulate 2 takes half of it, and more parts less; --device cpu takes none"
    ]


def test_module_runs_and_imports_nothing_heavy() -> None:
    heavy = ("av", "PIL", "dlib", "face_alignment", "cv2", "triton", "onnx", "tensorrt", "webdataset", "torchmetrics", "tqdm", "skimage")
    code = (
        f"import sys, torch; by_torch = set(sys.modules); import talkinghead.cli; print(sorted({{*{heavy}}} & set(sys.modules) - by_torch))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ran.stdout == "[]\n", ran.stderr
    ran = subprocess.run([sys.executable, "-m", "talkinghead", "animate"], capture_output=True, text=True, env=environment)
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1


def test_public_names() -> None:
    for name in talkinghead.__all__:
        assert getattr(talkinghead, name) is not None
    assert callable(talkinghead.animate) and callable(talkinghead.finetune)  # not the modules of these names


# info


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    paper = found["presets"]["paper"]["parameters"]
    assert {name: round(count / 1e6, 2) for name, count in paper.items()} == {"E": 14.91, "G with P": 38.07, "V": 19.63}
    assert found["versions"]["torch"] == torch.__version__
    assert found["backends"]["reference"] == found["ops"]["adain"]["reference"] == "available"
    assert set(found["runs"]["cpu"]["adain"].split("/")) <= {"cpp", "reference"}
    assert found["landmarks"].split(":")[0] in ("dlib", "face-alignment", "none")
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert all(section in text for section in found) and "256x256, E 14.91 M" in text
    assert re.search(r"^  draw_landmarks +yes ", text, re.MULTILINE) and "{" not in text


def test_info_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import talkinghead.info as info

    monkeypatch.setattr(info, "_OPTIONAL", {"no_such_module": ("app", "does nothing")})
    assert cli.main(["info"]) == 0
    assert "not installed (does nothing): pip install 'talkinghead[app]'" in capsys.readouterr().out


@pytest.mark.parametrize(("module", "distribution"), [("tensorrt", "tensorrt-cu13"), ("tensorrt", "tensorrt"), ("cv2", "opencv-python")])
def test_info_finds_the_version_under_the_name_it_was_installed_by(monkeypatch, module, distribution):
    import talkinghead.info as info

    def version(name: str) -> str:
        if name != distribution:
            raise info.PackageNotFoundError(name)
        return "11.4.0"

    monkeypatch.setattr(info, "version", version)
    monkeypatch.setattr(info.importlib.util, "find_spec", lambda name: object())
    assert info._part(module, "tensorrt", "an optional part") == "11.4.0 (an optional part)"


# finetune and animate, end to end


def test_a_person_from_a_video_drives_a_video(
    tmp_path: Path, model: Path, drive: Path, red: RedSquare, capsys: pytest.CaptureFixture[str]
) -> None:
    out, video = tmp_path / "person.safetensors", tmp_path / "out.mp4"
    assert (
        cli.main(
            ["finetune", str(drive), "--model", str(model), "--steps", "1", "--shots", "3", "--no-adversarial", "--out", str(out), "--json"]
        )
        == 0
    )
    said = capsys.readouterr()
    assert json.loads(said.out)["pictures"] == 3 and json.loads(said.out)["steps"] == 1 and json.loads(said.out)["adversarial"] is False
    assert "fine-tuning" in said.err
    assert not load_person(out).feed_forward
    assert cli.main(["animate", str(out), "--drive", str(drive), "--out", str(video), "--layout", "side-by-side"]) == 0
    said = capsys.readouterr()
    assert "landmarks by red-square: for tests" in said.out
    assert f"{video}: 20 frames of 192x64, 25 a second" in said.out
    assert "no face" not in said.out
    assert "rendering" in said.err
    assert VideoReader(video).size == (64, 192)


def test_times_without_a_face_are_told(tmp_path: Path, person: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drive = draw_video(tmp_path / "gap.mp4", [None if 4 <= i < 20 else (40 + i, 30, 40) for i in range(30)])
    capsys.readouterr()
    assert cli.main(["animate", str(person), "--drive", str(drive), "--out", str(tmp_path / "out.mp4"), "--model", str(model)]) == 0
    said = capsys.readouterr().out
    assert "16 frames of the driving video show no face" in said and "no face from 0.2 to 0.8 s" in said


def test_quiet_says_nothing(tmp_path: Path, person: Path, model: Path, drive: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    command = ["animate", str(person), "--drive", str(drive), "--out", str(tmp_path / "out.mp4"), "--model", str(model), "--quiet"]
    assert cli.main(command) == 0
    assert capfd.readouterr() == ("", "")
    assert cli.main([*command, "--json"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["frames"] == 20 and said.err == ""


def test_seed_reaches_weights_and_fine_tuning(
    tmp_path: Path, drive: Path, red: RedSquare, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[tuple[torch.Tensor, object]] = []

    def seen(model: Model, clip: Clip, steps: int, adversarial: bool, seed: int, **rest: object) -> Person:
        given.append((model.generator.out.weight, seed))
        raise TalkingheadError("enough")

    monkeypatch.setattr(cli, "finetune", seen)
    for seed in ("1", "1", "2"):
        told(capsys, "finetune", drive, "--model", "none", "--seed", seed, "--out", tmp_path / "o")
    weights, seeds = zip(*given, strict=True)
    assert seeds == (1, 1, 2)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_shots_are_evenly_spaced_frames_of_a_video(tmp_path: Path, red: RedSquare) -> None:
    drive = draw_video(tmp_path / "wide.mp4", [(80 + 2 * i, 100, 40) for i in range(20)], size=(240, 300))
    clip = read_shots([drive], 64, 4, red)
    crop_left = clip.track.landmarks[:, 0, 0]
    steps = np.diff(crop_left) / np.diff(crop_left).mean()
    assert len(clip) == 4 and clip.frames.shape == (4, 64, 64, 3)
    np.testing.assert_allclose(steps, 1, atol=0.2)
    for frame, points in zip(clip.frames, clip.track.landmarks, strict=True):  # each frame with its own landmarks
        found = red(frame)
        assert found is not None
        np.testing.assert_allclose(found, points, atol=1.5)
    assert spread(10, 4).tolist() == [0, 3, 6, 9] and spread(3, 8).tolist() == [0, 1, 2]


def test_a_long_video_is_sampled(tmp_path: Path) -> None:
    looked: list[int] = []

    class Looking(RedSquare):
        def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
            looked.extend([1] * len(frames))
            return super().find(frames)

    video = draw_video(tmp_path / "long.mp4", [(80 + i // 2, 150, 40) for i in range(160)], size=(400, 400))
    clip = read_shots([video], 64, 2, Looking())
    assert len(looked) == 16  # 8 candidates for each of the two
    left = [np.nonzero((frame[..., 0] > 170) & (frame[..., 1] < 90))[1].min() for frame in clip.frames]
    np.testing.assert_allclose(left, clip.track.landmarks[:, 0, 0], atol=1.5)
    assert left[1] - left[0] > 10


@pytest.mark.parametrize("clear, taken", [(range(10, 20), [10, 13, 16, 19]), (range(10, 13), [0, 6, 13, 19]), (range(0), [0, 6, 13, 19])])
def test_frames_that_show_the_face_clearly_are_taken_if_there_are_enough(clear: range, taken: list[int], tmp_path: Path) -> None:
    class Unsure(RedSquare):
        """Is sure where it was told to be, by the place of the face."""

        def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
            return [[Face(face.landmarks, self.sure(face)) for face in faces] for faces in super().find(frames)]

        def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
            return [Face(face.landmarks, self.sure(face)) for face in super().follow(frames, near)]

        def sure(self, face: Face) -> float:
            return DOUBTFUL if round((float(face.landmarks[0, 0]) - 80) / 2) in clear else DOUBTFUL - 0.01

    drive = draw_video(tmp_path / "wide.mp4", [(80 + 2 * i, 100, 40) for i in range(20)], size=(240, 300))
    clip = read_shots([drive], 64, 4, Unsure())
    left = clip.track.landmarks[:, 0, 0]
    steps = np.diff(left) / np.ptp(left) * (taken[-1] - taken[0])
    np.testing.assert_allclose(steps, np.diff(taken), atol=0.3)
    np.testing.assert_allclose(clip.track.confidence, [DOUBTFUL if number in clear else DOUBTFUL - 0.01 for number in taken], rtol=1e-6)


def test_the_face_that_is_learned_is_the_one_asked_for(tmp_path: Path, drive: Path, red: RedSquare) -> None:
    with pytest.raises(TalkingheadError, match=f"^{drive}: shows 1 face, number 2 was asked for"):
        read_shots([drive], 64, 3, red, face=2)


def test_pictures_and_video_together(tmp_path: Path, drive: Path, red: RedSquare) -> None:
    Image.fromarray(drawn_frame((90, 90), (20, 20, 30))).save(tmp_path / "one.png")
    clip = read_shots([tmp_path / "one.png", drive], 64, 3, red)
    assert len(clip) == 4 and clip.track.fps == 0
    assert len(read_shots([tmp_path / "one.png"], 64, 3, red)) == 1


# bad input: one line that names the file, exit code 2, nothing left behind


def bad_files(folder: Path) -> dict[str, Path]:
    whole = draw_video(folder / "whole.mp4", FACES).read_bytes()
    files = {"missing": folder / "missing.mp4"}
    for name, content in {"empty.mp4": b"", "cut.mp4": whole[: len(whole) // 3], "foreign.mp4": b"not a video at all " * 50}.items():
        files[name] = folder / name
        files[name].write_bytes(content)
    return files


def test_bad_videos(tmp_path: Path, person: Path, model: Path, red: RedSquare, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made"
    for file in bad_files(tmp_path).values():
        assert str(file) in told(capsys, "animate", person, "--model", model, "--drive", file, "--out", out / "o.mp4")
        assert str(file) in told(capsys, "finetune", file, "--model", model, "--out", out / "o.safetensors")
        assert str(file) in told(capsys, "demo", file, "--model", "none", "--out", out / "demo")
    assert not [path for path in out.rglob("*") if path.is_file()] if out.exists() else True


def test_pictures_without_a_face(tmp_path: Path, model: Path, red: RedSquare, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(drawn_frame((90, 90), None)).save(tmp_path / "wall.png")
    (tmp_path / "none").mkdir()
    assert "wall.png" in told(capsys, "finetune", tmp_path / "wall.png", "--model", model, "--out", tmp_path / "o.safetensors")
    assert "none" in told(capsys, "finetune", tmp_path / "none", "--model", model, "--out", tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()


def test_bad_persons_and_models(
    tmp_path: Path, person: Path, model: Path, drive: Path, red: RedSquare, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.mp4"
    rest = ("--drive", drive, "--out", out)
    text = tmp_path / "text.safetensors"
    text.write_text("not a checkpoint")
    assert str(text) in told(capsys, "animate", text, *rest)
    assert str(text) in told(capsys, "demo", drive, "--model", text)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    assert str(foreign) in told(capsys, "animate", foreign, *rest)
    assert str(model) in told(capsys, "animate", model, *rest)  # a model is no person
    assert str(person) in told(capsys, "finetune", drive, "--model", person, "--out", out)  # and a person no model
    other = tmp_path / "other.safetensors"
    save_model(random_model("tiny", seed=4), other)
    assert "--model" in told(capsys, "animate", person, *rest, "--model", other)  # not the model it was made with
    edited = tmp_path / "edited.safetensors"
    edited.write_bytes(person.read_bytes().replace(b"feed_forward", b"feed_farword"))
    assert str(edited) in told(capsys, "animate", edited, *rest)
    assert str(tmp_path / "gone") in told(capsys, "animate", tmp_path / "gone", *rest)
    assert not out.exists()


def test_models_are_named_or_files(tmp_path: Path, person: Path, drive: Path, red: RedSquare, capsys: pytest.CaptureFixture[str]) -> None:
    """One rule for every verb: a model that ships, or a file; what does not ship says what does."""
    out = tmp_path / "o"
    for name in ("paper", "tinny"):
        wanted = f"{name}: no such file, and no model that comes with the package (there is: {', '.join(shipped_models())})"
        assert wanted in told(capsys, "finetune", drive, "--model", name, "--out", out)
        assert wanted in told(capsys, "demo", drive, "--model", name, "--out", out)
        assert wanted in told(capsys, "evaluate", name, drive, "--out", out)
        assert wanted in told(capsys, "animate", person, "--model", name, "--drive", drive, "--out", f"{out}.mp4")
    assert cli.main(["finetune", str(drive), "--model", "tiny", "--steps", "0", "--out", str(out), "--quiet"]) == 0
    assert load_person(out).model_digest == load_model("tiny").digest
    assert cli.main(["finetune", str(drive), "--steps", "0", "--out", str(out), "--quiet"]) == 0
    assert load_person(out).model_digest == load_model().digest == load_model("portrait").digest
    assert "was made with model" in told(capsys, "animate", person, "--model", "tiny", "--drive", drive, "--out", f"{out}.mp4")


def test_painted_faces_are_learned_from_and_drawn_ones_told(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One picture is enough (T = 1), and a painting is a picture."""
    painting = Image.fromarray(data.astronaut()[:300, 80:380]).filter(ImageFilter.ModeFilter(9)).quantize(24).convert("RGB")
    painting.save(tmp_path / "painted.png")
    common = ("--model", str(model), "--landmarks", "dlib", "--quiet")
    assert cli.main(["finetune", str(tmp_path / "painted.png"), *common, "--steps", "1", "--out", str(tmp_path / "o")]) == 0
    assert load_person(tmp_path / "o").provenance["pictures"] == 1
    drawing = Image.new("RGB", (200, 200), "white")
    pen = ImageDraw.Draw(drawing)
    for box in ((40, 30, 160, 170), (70, 70, 85, 85), (115, 70, 130, 85)):
        pen.ellipse(box, outline="black", width=3)
    pen.arc((75, 100, 125, 140), 0, 180, "black", 3)
    drawing.save(tmp_path / "drawn.png")
    assert "drawn.png: no face was found in it, expected one seen from the front; name another" in told(
        capsys, "finetune", tmp_path / "drawn.png", *common, "--out", tmp_path / "p"
    )


def test_pictures_of_two_people_are_warned_of(tmp_path: Path, model: Path, carphone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(data.astronaut()[:300, 80:380]).save(tmp_path / "other.png")
    out = tmp_path / "o"
    pictures = [str(carphone), str(tmp_path / "other.png")]
    assert (
        cli.main(["finetune", *pictures, "--model", str(model), "--landmarks", "dlib", "--shots", "2", "--steps", "0", "--out", str(out)])
        == 0
    )
    said = capsys.readouterr().err
    assert "picture 1, 2 and picture 3 look like different people (identity distance 0." in said and out.exists()


def test_an_output_that_cannot_be_written(
    tmp_path: Path,
    person: Path,
    model: Path,
    drive: Path,
    red: RedSquare,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = drive / "below" / "o"  # below a file
    assert f"{place}.mp4" in told(capsys, "animate", person, "--model", model, "--drive", drive, "--out", f"{place}.mp4")
    monkeypatch.setattr(cli, "finetune", lambda *_, **__: pytest.fail("the work of minutes began"))
    assert str(place) in told(capsys, "finetune", drive, "--model", model, "--out", place)
    assert "mp4" in told(capsys, "animate", person, "--model", model, "--drive", drive, "--out", tmp_path / "o.avi")


def test_perceptual_files_are_named(tmp_path: Path, model: Path, drive: Path, red: RedSquare, capsys: pytest.CaptureFixture[str]) -> None:
    assert "NAME=FILE" in told(capsys, "finetune", drive, "--model", model, "--out", tmp_path / "o", "--perceptual", "vgg19")


# prepare and train


def test_prepare_says_what_it_took(tmp_path: Path, red: RedSquare, capsys: pytest.CaptureFixture[str]) -> None:
    draw_video(tmp_path / "bob1.mp4", [(40 + i, 30, 52) for i in range(18)])
    draw_video(tmp_path / "wall.mp4", [None] * 18, shade=9)
    (tmp_path / "people.tsv").write_text("file\tperson\nbob1.mp4\tbob\n")
    command = ["prepare", str(tmp_path), "--out", str(tmp_path / "data"), "--size", "64", "--people", str(tmp_path / "people.tsv")]
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert "1 videos added, 0 were there, 1 rejected" in said.out and "report.jsonl" in said.out
    assert "videos" in said.err
    [clip] = read_index(tmp_path / "data")
    assert (clip.person, clip.size, len(clip.landmarks)) == ("bob", 64, 18)
    assert cli.main([*command, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["taken"] == [] and values["present"] == [str(tmp_path / "bob1.mp4")]
    assert list(values["rejected"]) == [str(tmp_path / "wall.mp4")]


def test_train_is_given_what_the_command_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[dict[str, object]] = []

    def seen(*given: object, **named: object) -> Model:
        calls.append(inspect.signature(talkinghead.train).bind(*given, **named).arguments)
        model = random_model("tiny")
        model.provenance = {"steps": 12}
        return model

    monkeypatch.setattr(cli, "train", seen)
    command = ["train", "people", "data", "--out", "run", "--preset", "small", "--variant", "ff", "--steps", "12", "--seed", "5"]
    command += ["--device", "auto", "--accumulate", "2", "--save-every", "7.5"]
    assert cli.main([*command, "--leave-out", "bob", "ann", "--start", "tiny", "--perceptual", "vgg19=a.pt", "vggface=b.pt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "run/model.safetensors"
    [call] = calls
    assert callable(call.pop("progress"))
    assert call == {
        "data": ["people", "data"],
        "out": "run",
        "preset": "small",
        "variant": "ff",
        "steps": 12,
        "seed": 5,
        "leave_out": ["bob", "ann"],
        "start": "tiny",
        "device": "auto",
        "perceptual_files": {"vgg19": "a.pt", "vggface": "b.pt"},
        "accumulate": 2,
        "save_seconds": 7.5,
    }


def test_people_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "people.tsv"
    table.write_text("person\tfile\nbob\tclips/bob1.mp4\nann\tann.mp4\n\n")
    assert cli.read_people(str(table)) == {"clips/bob1.mp4": "bob", "ann.mp4": "ann"}
    for content in ("file,person\na.mp4,bob\n", "", "file\tperson\na.mp4\n"):
        table.write_text(content)
        with pytest.raises(TalkingheadError, match="people.tsv"):
            cli.read_people(str(table))
    assert "people.tsv" in told(capsys, "prepare", tmp_path, "--out", tmp_path / "data", "--people", table)
