"""Training runs that meet signals, full disks, damaged files and each other lose nothing."""

import errno
import json
import logging
import os
import random
import resource
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from least_training import least_config, write_data
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from talkinghead import cli, config, tensor_file
from talkinghead.checkpoint import load_model, random_model, save_model
from talkinghead.errors import TalkingheadError
from talkinghead.files import folder_lock
from talkinghead.training import meta
from talkinghead.training.meta import train
from talkinghead.training.meta_learner import MetaLearner

State = Callable[[bytes], bytes]


@pytest.fixture(autouse=True)
def least(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preset `tiny` is the least network."""
    monkeypatch.setitem(config._PRESETS, "tiny", least_config())
    monkeypatch.setattr(meta, "peak_rate", lambda *_: 1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def small_files() -> Iterator[Callable[[bool], None]]:
    """A function that forbids this process to write files of more than 100 KB, and allows it again."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def forbid(forbidden: bool) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]) if forbidden else before)

    yield forbid
    forbid(False)


def at_step(number: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Act when a run takes a step."""
    taken, real = [0], MetaLearner.step

    def step(self: MetaLearner, *given: Any) -> Any:
        taken[0] += 1
        if taken[0] == number:
            act()
        return real(self, *given)

    monkeypatch.setattr(MetaLearner, "step", step)


def files_of(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("state.safetensors", "model.safetensors")}


def step_of(state: Path) -> int:
    with safe_open(state, framework="pt") as file:
        return int(json.loads(file.metadata()["talkinghead"])["run"]["step"])


# signals


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_second_signal_while_saving_waits_for_the_save(kind: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(3, lambda: os.kill(os.getpid(), kind), monkeypatch)
    real, saved = tensor_file.save_file, []

    def save(tensors: Any, path: Path, metadata: Any) -> None:
        os.kill(os.getpid(), kind)
        real(tensors, path, metadata)
        saved.append(path.name)

    monkeypatch.setattr(tensor_file, "save_file", save)
    assert cli.main(["train", str(data), "--out", str(tmp_path / "run"), "--steps", "9", "--quiet"]) == cli.INTERRUPTED
    assert saved == ["state.safetensors", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["log", "model.safetensors", "state.safetensors", "times.json"]
    assert load_model(tmp_path / "run" / "model.safetensors").provenance["steps"] == step_of(tmp_path / "run" / "state.safetensors") == 3


# full disks


def no_space(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk that `out` is on is full, as safetensors tells it."""
    real = tensor_file.save_file

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        if out in path.parents:
            path.write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(tensors, path, metadata)

    monkeypatch.setattr(tensor_file, "save_file", full)


def test_train_on_a_full_disk_saves_elsewhere_and_says_where(
    data: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["train", str(data), "--out", str(out), "--quiet", "--steps"]
    with monkeypatch.context() as patch:
        no_space(out, patch)
        assert cli.main([*command, "2"]) == cli.USER_ERROR
    (rescued,) = temporary.glob("talkinghead-*/state.safetensors")
    assert capsys.readouterr().err == (
        f"talkinghead: error: {out / 'state.safetensors'}: writing failed (No space left on device); free some space or name another "
        f"place; it was written to {rescued} instead, move it from there\n"
    )
    assert sorted(path.name for path in out.iterdir()) == ["log"]
    rescued.rename(out / "state.safetensors")
    assert cli.main([*command, "3"]) == 0
    train(data, tmp_path / "whole", "tiny", steps=3)
    assert files_of(out) == files_of(tmp_path / "whole")


def test_save_model_over_the_size_limit_leaves_the_file_before_and_one_line(
    tmp_path: Path, temporary: Path, small_files: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = random_model(least_config()), tmp_path / "m.safetensors"
    save_model(model, path)
    before = path.read_bytes()
    small_files(True)
    with pytest.raises(TalkingheadError, match=r"m.safetensors: writing failed \(File too large\); free some space or name another place$"):
        save_model(model, path)
    assert path.read_bytes() == before and not any(temporary.iterdir())
    real = tensor_file._rescue

    def on_another_disk(*given: Any) -> Path | None:
        small_files(False)
        return real(*given)

    monkeypatch.setattr(tensor_file, "_rescue", on_another_disk)
    with pytest.raises(TalkingheadError, match=r"\(File too large\).* it was written to .*talkinghead-.*m.safetensors instead"):
        save_model(model, path)
    (rescued,) = temporary.glob("*/m.safetensors")
    assert rescued.read_bytes() == before == path.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.safetensors", "tmp"]


def test_train_into_a_place_that_cannot_be_written_is_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "run", Path("/proc/run")):
        assert cli.main(["train", str(data), "--out", str(out), "--steps", "1"]) == cli.USER_ERROR
        assert f"{out / 'state.safetensors'}: cannot write here (" in capsys.readouterr().err


def test_full_disk_ends_the_log_but_not_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    monkeypatch.setattr(SummaryWriter, "close", full)
    with caplog.at_level(logging.WARNING):
        assert train(data, tmp_path, "tiny", steps=1).provenance["steps"] == 1
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path / 'log'}: cannot be written to (No space left on device); the run goes on without its log"
    ]


# one run at a time, and the state before


def test_train_into_the_folder_of_a_living_run_is_refused(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, "tiny", steps=1)
    before = files_of(tmp_path)
    with folder_lock(tmp_path, tmp_path), pytest.raises(TalkingheadError, match="another run is writing to it; wait for it to end"):
        train(data, tmp_path, "tiny", steps=2)
    assert files_of(tmp_path) == before


def test_killed_run_leaves_hidden_files_that_the_next_removes(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for name in ("state", "model", "times"):
        (out / f".{name}.talkinghead-12345678").mkdir(parents=True)
        (out / f".{name}.talkinghead-12345678" / "half").write_text("")
    train(data, out, "tiny", steps=1)
    assert sorted(path.name for path in out.iterdir()) == ["log", "model.safetensors", "state.safetensors", "times.json"]


def flipped(content: bytes) -> bytes:
    chance, changed = random.Random(0), bytearray(content)
    for _ in range(400):
        changed[chance.randrange(len(changed) // 10, len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:1000], lambda content: b"", None])
def test_damaged_state_is_told_and_the_one_before_used(
    damage: State | None, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    train(data, whole, "tiny", steps=4)
    train(data, out, "tiny", steps=3, save_seconds=0)
    state, previous = out / "state.safetensors", out / "previous" / "state.safetensors"
    assert (step_of(state), step_of(previous)) == (3, 2)
    before = previous.read_bytes()
    state.unlink() if damage is None else state.write_bytes(damage(state.read_bytes()))
    with caplog.at_level(logging.WARNING):
        train(data, out, "tiny", steps=4)
    (line,) = (r.getMessage() for r in caplog.records)
    assert line.startswith(f"{state}: is ") and line.endswith(f"; the run resumes from the state before it, of step 2, in {previous}")
    assert files_of(out) == files_of(whole)
    assert previous.read_bytes() == before, "the damaged state took the place of the whole one"
    state.write_bytes(b"")
    previous.write_bytes(b"")
    with pytest.raises(TalkingheadError, match=f"{state}: is not a state of this run"):
        train(data, out, "tiny", steps=4)


# what is in a state


def test_state_with_400_flipped_bits_is_refused(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, "tiny", steps=1)
    state = tmp_path / "state.safetensors"
    state.write_bytes(flipped(state.read_bytes()))
    with pytest.raises(TalkingheadError, match=r"is not a state of this run \(its checksum does not match\)"):
        train(data, tmp_path, "tiny", steps=2)


def as_before(state: Path, change: Callable[[dict[str, Any]], object] = lambda header: header) -> None:
    """Rewrite a state as earlier versions wrote it, without a checksum and with the seconds inside."""
    with safe_open(state, framework="pt") as file:
        header = json.loads(file.metadata()["talkinghead"])["run"] | {"seconds": 12.5}
    changed = change(header)
    save_file(load_file(state), state, {"header": changed if isinstance(changed, str) else json.dumps(changed)})


def test_state_of_an_earlier_version_resumes(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "whole", "tiny", steps=3)
    train(data, tmp_path / "old", "tiny", steps=2)
    (tmp_path / "old" / "times.json").unlink()
    as_before(tmp_path / "old" / "state.safetensors")
    train(data, tmp_path / "old", "tiny", steps=3)
    assert files_of(tmp_path / "old") == files_of(tmp_path / "whole")
    assert json.loads((tmp_path / "old" / "times.json").read_text())["seconds"] > 12.5


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda header: {key: value for key, value in header.items() if key != name}


def changed(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda header: header | values


@pytest.mark.parametrize(
    "change",
    [
        *(without(name) for name in ("step", "config", "clips")),
        changed(step=float("nan")),
        changed(step="2"),
        changed(step=-1),
        changed(step=True),
        changed(precision="fp7"),
        changed(precision=["fp32"]),
        changed(config="tiny"),
        lambda header: [header],
        lambda header: None,
        lambda header: "[" * 100_000,
        lambda header: "{'step'",
    ],
)
def test_damaged_header_is_one_line(change: Callable[[dict[str, Any]], object], data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, "tiny", steps=1)
    as_before(tmp_path / "state.safetensors", change)
    with pytest.raises(TalkingheadError, match=r"is not a state of this run|holds a run with another"):
        train(data, tmp_path, "tiny", steps=2)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, "1", None, [], True])
def test_damaged_seconds_count_as_none(seconds: Any, data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, "tiny", steps=1)
    (tmp_path / "times.json").write_text(json.dumps({"seconds": seconds}))
    train(data, tmp_path, "tiny", steps=2)
    assert 0 <= json.loads((tmp_path / "times.json").read_text())["seconds"] < 1000


def test_relabelled_type_is_refused(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, "tiny", steps=1)
    state = tmp_path / "state.safetensors"
    as_before(state)
    content = state.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    first = next(name for name, entry in header.items() if isinstance(entry, dict) and entry.get("dtype") == "F32")
    content = content.replace(f'"{first}":{{"dtype":"F32"'.encode(), f'"{first}":{{"dtype":"I32"'.encode())
    state.write_bytes(content)
    with pytest.raises(TalkingheadError, match=r"is not a state of this run \(.* is torch.int32\)"):
        train(data, tmp_path, "tiny", steps=2)


def test_equal_runs_give_equal_bytes(data: Path, tmp_path: Path) -> None:
    runs = [tmp_path / str(number) for number in range(2)]
    for number, out in enumerate(runs):
        train(data, out, "tiny", steps=2, save_seconds=100.0 * number)
    first, second = map(files_of, runs)
    assert first == second
    assert b"seconds" not in first["state.safetensors"] + first["model.safetensors"]


def test_saving_again_gives_equal_bytes(tmp_path: Path) -> None:
    model = random_model(least_config())
    written = set()
    for number in range(12):  # safetensors orders metadata at random
        save_model(model, tmp_path / str(number))
        written.add((tmp_path / str(number)).read_bytes())
    assert len(written) == 1 and torch.equal(load_model(tmp_path / "0").generator.out.bias, model.generator.out.bias)
