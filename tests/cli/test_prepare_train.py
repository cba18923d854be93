"""The commands `prepare` and `train`."""

import inspect
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import command_error, run_command

import talkinghead
import talkinghead.cli as cli
from conftest import RedSquare, draw_video
from support.dataset_helpers import contents
from talkinghead.dataset.people_table import read_people
from talkinghead.dataset.shard_reader import read_index
from talkinghead.errors import TalkingheadError
from talkinghead.model import Model, random_model
from talkinghead.training import meta
from talkinghead.training.meta_learner import MetaLearner
from talkinghead.training.run_folder import RunFolder
from talkinghead.training.run_monitor import Monitoring

SMALL_PRESET = """
[preset]
base = "tiny"
[preset.networks]
residual = 1
[preset.meta]
batch = 1
shots = 1
videos = 1
"""

pytest_plugins = ["command_fixtures"]


def test_prepare_reports_added_and_rejected_videos(
    tmp_path: Path, command_detector: RedSquare, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_video(tmp_path / "bob1.mp4", [(40 + i, 30, 52) for i in range(18)])
    draw_video(tmp_path / "wall.mp4", [None] * 18, shade=9)
    table, data = tmp_path / "people.tsv", tmp_path / "data"
    table.write_text("file\tperson\nbob1.mp4\tbob\n")
    command = ["prepare", str(tmp_path), "--out", str(data), "--size", "64", "--people", str(table)]
    run_command(*command)
    printed = capsys.readouterr()
    assert "1 video added, 0 were there, 1 rejected" in printed.out and "report.jsonl" in printed.out
    assert "people: 1 (the person of 1 video by " in printed.out and "by table of people" in printed.out
    assert "videos" in printed.err
    [clip] = read_index(data)
    assert (clip.person, clip.size, len(clip.landmarks)) == ("bob", 64, 18)
    run_command(*command, "--json")
    values = json.loads(capsys.readouterr().out)
    assert values["taken"] == [] and values["present"] == [str(tmp_path / "bob1.mp4")]
    assert list(values["rejected"]) == [str(tmp_path / "wall.mp4")]


@pytest.mark.parametrize(
    "arguments, function",
    [
        ("clips", "talkinghead.dataset.prepare.prepare"),
        ("--merge parts", "talkinghead.dataset.merge_parts.merge_parts"),
        ("--synthetic 2", "talkinghead.synthetic.dataset.prepare_synthetic"),
        ("--portraits pictures", "talkinghead.synthetic.portraits.prepare_portraits"),
    ],
)
def test_prepare_takes_size_of_shards_for_every_source(
    arguments: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[object] = []
    report = SimpleNamespace(as_dict=dict, lines=list)
    monkeypatch.setattr(function, lambda *_, shard_clips, **__: sizes.append(shard_clips) or report)
    run_command("prepare", *arguments.split(), "--out", "data", "--shard-clips", "3")
    run_command("prepare", *arguments.split(), "--out", "data")
    assert sizes == [3, None]


def test_prepare_merges_parts(
    tmp_path: Path, command_detector: RedSquare, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        draw_video(tmp_path / "videos" / f"{number}.mp4", [(40 + i, 30, 52) for i in range(18)], shade=number)
    command = ["prepare", tmp_path / "videos", "--size", "64", "--workers", "1", "--quiet", "--out"]
    run_command(*command, tmp_path / "data")
    for part in ("1/2", "2/2"):
        error = command_error(capsys, "prepare", "--merge", tmp_path / "parts", "--out", tmp_path / "merged")
        assert f"part {part} is missing" in error or "parts: holds no parts" in error
        run_command(*command, tmp_path / "parts", "--part", part)
    run_command("prepare", "--merge", tmp_path / "parts", "--out", tmp_path / "merged", "--json")
    values = json.loads(capsys.readouterr().out)
    assert len(values["taken"]) == 3 and values["people"] == 3
    assert contents(tmp_path / "merged") == contents(tmp_path / "data")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("v.mp4 --part 3/2", "argument --part: part '3/2': is no part; write I/N"),
        ("v.mp4 --merge parts", "videos and --merge are different sources; name one of videos, --synthetic"),
        ("--merge parts --part 1/2", "--part takes videos; name videos or folders of them"),
        ("--synthetic 2 --ray auto", "--ray takes videos; name videos or folders of them"),
        ("--merge parts", "parts: holds no parts; make them with: talkinghead prepare VIDEOS... --out parts"),
    ],
)
def test_prepare_reports_bad_options_of_clusters(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert message in command_error(capsys, "prepare", *arguments.split(), "--out", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_prepare_without_ray_names_pip_line(
    tmp_path: Path,
    command_detector: RedSquare,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    draw_video(tmp_path / "videos" / "0.mp4", [(40, 30, 52)] * 2)
    error = command_error(
        capsys, "prepare", tmp_path / "videos", "--ray", "auto", "--out", tmp_path / "data", "--quiet"
    )
    assert "ray is needed here" in error and "pip install 'talkinghead[cluster]'" in error
    assert not (tmp_path / "data").exists()


def test_read_people_rejects_table_without_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "people.tsv"
    table.write_text("person\tfile\nbob\tclips/bob1.mp4\nann\tann.mp4\n\n")
    assert read_people(str(table)) == {"clips/bob1.mp4": "bob", "ann.mp4": "ann"}
    for content in ("file,person\na.mp4,bob\n", "", "file\tperson\na.mp4\n"):
        table.write_text(content)
        with pytest.raises(TalkingheadError, match="people.tsv"):
            read_people(str(table))
    error = command_error(capsys, "prepare", tmp_path, "--out", tmp_path / "data", "--people", table)
    assert "people.tsv" in error


def test_train_says_where_it_stands_and_what_comes_next(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(SMALL_PRESET)
    command = ["train", str(face_shards), "--preset", "mine.toml", "--out", "a run", "--steps", "3"]
    steps: list[int] = []

    def interrupt(self: MetaLearner, episodes: object) -> object:
        steps.append(len(steps))
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(self, episodes)

    take_step = MetaLearner.step
    monkeypatch.setattr(MetaLearner, "step", interrupt)
    assert cli.main(command) == cli.INTERRUPTED
    log = capsys.readouterr().err
    assert "a run: stopped at step 2 of 3, and saved\n" in log
    resumption = (
        f"a run: resume by: talkinghead train {face_shards} --preset mine.toml --out 'a run' --steps 3"
    )
    assert resumption in log and "resuming" not in log
    run_command(*command)
    log = capsys.readouterr().err
    assert "a run: resuming at step 2 of 3\n" in log
    following = "a run: finished; learn a person from it: talkinghead finetune PICTURES --model"
    assert f"{following} 'a run/model.safetensors' --out person.safetensors" in log
    run_command(*command, "--quiet")
    assert capsys.readouterr() == ("", "")


def test_train_receives_arguments_of_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[dict[str, object]] = []
    signature = inspect.signature(
        talkinghead.train
    )  # Of the real function, which is imported when first used.

    def fake_train(*arguments: object, **keywords: object) -> Model:
        calls.append(signature.bind(*arguments, **keywords).arguments)
        model = random_model("tiny")
        model.provenance = {"steps": 12}
        return model

    monkeypatch.setattr("talkinghead.training.meta.train", fake_train)
    command = (
        "train people data --out run --preset small --variant ff --steps 12 --seed 5 --device auto "
        "--grad-accum-steps 2 --workers 3 --save-every 7.5 --exclude-identities bob ann --init-from tiny "
        "--perceptual vgg19=a.pt vggface=b.pt --irises --streaming --track mlflow --evaluate clips "
        "--evaluate-every 40 --evaluate-config evaluate.toml --json"
    )
    run_command(*command.split())
    assert json.loads(capsys.readouterr().out)["model"] == "run/model.safetensors"
    [call] = calls
    assert callable(call.pop("on_step"))
    assert call == {
        "data": ["people", "data"],
        "out": "run",
        "preset": "small",
        "variant": "ff",
        "steps": 12,
        "seed": 5,
        "exclude_identities": ["bob", "ann"],
        "init_from": "tiny",
        "device": "auto",
        "perceptual_files": {"vgg19": "a.pt", "vggface": "b.pt"},
        "grad_accum_steps": 2,
        "save_seconds": 7.5,
        "fast": False,
        "irises": True,
        "workers": 3,
        "streaming": True,
        "monitoring": Monitoring(["mlflow"], ["clips"], 40, "evaluate.toml"),
    }


def test_resume_command_hides_secrets_of_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(meta, "train", interrupt)
    RunFolder(tmp_path).state.write_bytes(b"")
    url = "simplecache::https://me:secret@host/data?sig=secret"
    assert cli.main(["train", url, "--out", str(tmp_path)]) == cli.INTERRUPTED
    log = capsys.readouterr().err
    assert "resume by: talkinghead train 'simplecache::https://***@host/data?***' --out" in log
    assert "secret" not in log
