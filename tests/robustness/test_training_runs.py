"""Training runs survive signals, full disks, damaged files and concurrent runs."""

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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from support.minimal_training import minimal_config, write_data
from talkinghead import cli, config
from talkinghead.checkpoint import load_model, save_model
from talkinghead.errors import TalkingheadError
from talkinghead.model import random_model
from talkinghead.system import tensor_file
from talkinghead.system.folder_lock import folder_lock
from talkinghead.training import meta
from talkinghead.training.meta import train
from talkinghead.training.meta_learner import MetaLearner

Damage = Callable[[bytes], bytes]
RUN_FILES = ["log", "model.safetensors", "state.safetensors", "times.json"]


@pytest.fixture(autouse=True)
def minimal_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the preset `tiny` by the smallest network."""
    monkeypatch.setitem(config._PRESETS, "tiny", minimal_config())
    monkeypatch.setattr(meta, "measure_peak_flops", lambda *_: 1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[bool], None]]:
    """Return a function that sets or removes a limit of 100 KB for files of this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def set_limit(limited: bool) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]) if limited else before)

    yield set_limit
    set_limit(False)


def at_step(number: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `act` at the start of a training step."""
    count, original = 0, MetaLearner.step

    def step(self: MetaLearner, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            act()
        return original(self, *arguments)

    monkeypatch.setattr(MetaLearner, "step", step)


def checkpoints_of(out: Path) -> dict[str, bytes]:
    """Return the content of the checkpoints of a run by name."""
    return {name: (out / name).read_bytes() for name in ("state.safetensors", "model.safetensors")}


def step_of(state: Path) -> int:
    """Return the step at which a training state was saved."""
    with safe_open(state, framework="pt") as file:
        return int(json.loads(file.metadata()["talkinghead"])["run"]["step"])


# signals


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_second_signal_while_saving_waits_for_the_save(
    kind: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(3, lambda: os.kill(os.getpid(), kind), monkeypatch)
    original, saved = tensor_file.save_file, []

    def save(tensors: Any, path: Path, metadata: Any) -> None:
        os.kill(os.getpid(), kind)
        original(tensors, path, metadata)
        saved.append(path.name)

    monkeypatch.setattr(tensor_file, "save_file", save)
    assert (
        cli.main(["train", str(data), "--out", str(tmp_path / "run"), "--steps", "9", "--quiet"])
        == cli.INTERRUPTED
    )
    assert saved == ["state.safetensors", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == RUN_FILES
    assert (
        load_model(tmp_path / "run" / "model.safetensors").provenance["steps"]
        == step_of(tmp_path / "run" / "state.safetensors")
        == 3
    )


# full disks


def fill_disk(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let writing to `out` fail with the error of safetensors for a full disk."""
    original = tensor_file.save_file

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        if out in path.parents:
            path.write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        original(tensors, path, metadata)

    monkeypatch.setattr(tensor_file, "save_file", full)


def test_train_on_full_disk_saves_elsewhere(
    data: Path,
    tmp_path: Path,
    temporary_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    command = ["train", str(data), "--out", str(out), "--quiet", "--steps"]
    with monkeypatch.context() as patch:
        fill_disk(out, patch)
        assert cli.main([*command, "2"]) == cli.USER_ERROR
    (rescued,) = temporary_folder.glob("talkinghead-*/state.safetensors")
    assert capsys.readouterr().err == (
        f"talkinghead: error: {out / 'state.safetensors'}: writing failed (No space left on device); free "
        "some space or name another "
        f"place; it was written to {rescued} instead, move it from there\n"
    )
    assert sorted(path.name for path in out.iterdir()) == ["log", "samples"]
    rescued.rename(out / "state.safetensors")
    assert cli.main([*command, "3"]) == 0
    train(data, tmp_path / "whole", "tiny", steps=3)
    assert checkpoints_of(out) == checkpoints_of(tmp_path / "whole")


def test_save_model_over_size_limit_keeps_old_file(
    tmp_path: Path,
    temporary_folder: Path,
    limit_file_size: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, path = random_model(minimal_config()), tmp_path / "m.safetensors"
    save_model(model, path)
    before = path.read_bytes()
    limit_file_size(True)
    with pytest.raises(
        TalkingheadError,
        match=r"m.safetensors: writing failed \(File too large\); free some space or name another place$",
    ):
        save_model(model, path)
    assert path.read_bytes() == before and not any(temporary_folder.iterdir())
    original = tensor_file._rescue

    def rescue_without_limit(*arguments: Any) -> Path | None:
        limit_file_size(False)
        return original(*arguments)

    monkeypatch.setattr(tensor_file, "_rescue", rescue_without_limit)
    with pytest.raises(
        TalkingheadError,
        match=r"\(File too large\).* it was written to .*talkinghead-.*m.safetensors instead",
    ):
        save_model(model, path)
    (rescued,) = temporary_folder.glob("*/m.safetensors")
    assert rescued.read_bytes() == before == path.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.safetensors", "tmp"]


def test_train_into_unwritable_folder_reports_user_error(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "run", Path("/proc/run")):
        assert cli.main(["train", str(data), "--out", str(out), "--steps", "1"]) == cli.USER_ERROR
        assert f"{out / 'state.safetensors'}: cannot write here (" in capsys.readouterr().err


def test_full_disk_ends_log_but_not_run(
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
        f"{tmp_path / 'log'}: cannot be written to (No space left on device); "
        "the run continues without its log"
    ]


# concurrent runs, and the previous state


def test_train_into_folder_of_active_run_reports_error(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, "tiny", steps=1)
    before = checkpoints_of(tmp_path)
    with (
        folder_lock(tmp_path, tmp_path),
        pytest.raises(TalkingheadError, match="another run is writing to it; wait for it to end"),
    ):
        train(data, tmp_path, "tiny", steps=2)
    assert checkpoints_of(tmp_path) == before


def test_train_removes_hidden_files_of_killed_run(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for name in ("state", "model", "times"):
        (out / f".{name}.talkinghead-12345678").mkdir(parents=True)
        (out / f".{name}.talkinghead-12345678" / "half").write_text("")
    train(data, out, "tiny", steps=1)
    assert sorted(path.name for path in out.iterdir()) == sorted([*RUN_FILES, "samples"])


def flip_400_bits(content: bytes) -> bytes:
    """Return the content with 400 flipped bits after its first tenth."""
    rng, changed = random.Random(0), bytearray(content)
    for _ in range(400):
        changed[rng.randrange(len(changed) // 10, len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("damage", [flip_400_bits, lambda content: content[:1000], lambda content: b"", None])
def test_damaged_state_warns_and_previous_is_used(
    damage: Damage | None, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undamaged, out = tmp_path / "undamaged", tmp_path / "run"
    train(data, undamaged, "tiny", steps=4)
    train(data, out, "tiny", steps=3, save_seconds=0)
    state, previous = out / "state.safetensors", out / "previous" / "state.safetensors"
    assert (step_of(state), step_of(previous)) == (3, 2)
    before = previous.read_bytes()
    state.unlink() if damage is None else state.write_bytes(damage(state.read_bytes()))
    with caplog.at_level(logging.WARNING):
        train(data, out, "tiny", steps=4)
    (line,) = (r.getMessage() for r in caplog.records)
    assert line.startswith(f"{state}: is ") and line.endswith(
        f"; the run resumes from the state before it, of step 2, in {previous}"
    )
    assert checkpoints_of(out) == checkpoints_of(undamaged)
    assert previous.read_bytes() == before, "the damaged state took the place of the whole one"
    state.write_bytes(b"")
    previous.write_bytes(b"")
    with pytest.raises(TalkingheadError, match=f"{state}: is not a state of this run"):
        train(data, out, "tiny", steps=4)


# content of a state


def test_train_rejects_state_with_flipped_bits(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, "tiny", steps=1)
    state = tmp_path / "state.safetensors"
    state.write_bytes(flip_400_bits(state.read_bytes()))
    with pytest.raises(TalkingheadError, match=r"is not a state of this run \(its checksum does not match\)"):
        train(data, tmp_path, "tiny", steps=2)


def write_in_old_format(
    state: Path, change: Callable[[dict[str, Any]], object] = lambda header: header
) -> None:
    """Rewrite a state as earlier versions wrote it, without a checksum and with the seconds inside."""
    with safe_open(state, framework="pt") as file:
        header = json.loads(file.metadata()["talkinghead"])["run"] | {"seconds": 12.5}
    new_header = change(header)
    save_file(
        load_file(state),
        state,
        {"header": new_header if isinstance(new_header, str) else json.dumps(new_header)},
    )


def test_train_resumes_state_of_earlier_version(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "whole", "tiny", steps=3)
    train(data, tmp_path / "old", "tiny", steps=2)
    (tmp_path / "old" / "times.json").unlink()
    write_in_old_format(tmp_path / "old" / "state.safetensors")
    train(data, tmp_path / "old", "tiny", steps=3)
    assert checkpoints_of(tmp_path / "old") == checkpoints_of(tmp_path / "whole")
    assert json.loads((tmp_path / "old" / "times.json").read_text())["seconds"] > 12.5


def remove_field(name: str) -> Callable[[dict[str, Any]], object]:
    """Return a function that removes a field of a header."""
    return lambda header: {key: value for key, value in header.items() if key != name}


def set_fields(**values: Any) -> Callable[[dict[str, Any]], object]:
    """Return a function that sets fields of a header."""
    return lambda header: header | values


@pytest.mark.parametrize(
    "change",
    [
        *(remove_field(name) for name in ("step", "config", "clips")),
        set_fields(step=float("nan")),
        set_fields(step="2"),
        set_fields(step=-1),
        set_fields(step=True),
        set_fields(precision="fp7"),
        set_fields(precision=["fp32"]),
        set_fields(config="tiny"),
        lambda header: [header],
        lambda header: None,
        lambda header: "[" * 100_000,
        lambda header: "{'step'",
    ],
)
def test_train_with_damaged_header_reports_error(
    change: Callable[[dict[str, Any]], object], data: Path, tmp_path: Path
) -> None:
    train(data, tmp_path, "tiny", steps=1)
    write_in_old_format(tmp_path / "state.safetensors", change)
    with pytest.raises(TalkingheadError, match=r"is not a state of this run|holds a run with other settings"):
        train(data, tmp_path, "tiny", steps=2)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, "1", None, [], True])
def test_train_ignores_damaged_seconds(seconds: Any, data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, "tiny", steps=1)
    (tmp_path / "times.json").write_text(json.dumps({"seconds": seconds}))
    train(data, tmp_path, "tiny", steps=2)
    assert 0 <= json.loads((tmp_path / "times.json").read_text())["seconds"] < 1000


def test_train_rejects_state_with_wrong_dtype(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, "tiny", steps=1)
    state = tmp_path / "state.safetensors"
    write_in_old_format(state)
    content = state.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    first = next(
        name for name, entry in header.items() if isinstance(entry, dict) and entry.get("dtype") == "F32"
    )
    content = content.replace(f'"{first}":{{"dtype":"F32"'.encode(), f'"{first}":{{"dtype":"I32"'.encode())
    state.write_bytes(content)
    with pytest.raises(TalkingheadError, match=r"is not a state of this run \(.* is torch.int32\)"):
        train(data, tmp_path, "tiny", steps=2)


def test_equal_runs_write_equal_bytes(data: Path, tmp_path: Path) -> None:
    runs = [tmp_path / str(number) for number in range(2)]
    for number, out in enumerate(runs):
        train(data, out, "tiny", steps=2, save_seconds=100.0 * number)
    first, second = map(checkpoints_of, runs)
    assert first == second
    assert b"seconds" not in first["state.safetensors"] + first["model.safetensors"]


def test_save_model_twice_writes_equal_bytes(tmp_path: Path) -> None:
    model = random_model(minimal_config())
    written = set()
    for number in range(12):  # safetensors orders metadata at random
        save_model(model, tmp_path / str(number))
        written.add((tmp_path / str(number)).read_bytes())
    assert len(written) == 1 and torch.equal(
        load_model(tmp_path / "0").generator.out.bias, model.generator.out.bias
    )
