"""Runs of several processes survive kills, signals and bad input: all end alike, and resume."""

import errno
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.minimal_training import write_data
from support.rank_commands import BATCH, Outcome, run_train, start_train, wait
from talkinghead import version
from talkinghead.dataset import shard_reader
from talkinghead.errors import TalkingheadError
from talkinghead.system import tensor_file
from talkinghead.system.folder_lock import folder_lock
from talkinghead.training import meta_setup

STEPS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def arguments(data: Path, out: Path, steps: int = STEPS, *options: str) -> list[str]:
    """Return arguments of `train` that save after every step."""
    return [str(data), "--out", str(out), "--steps", str(steps), "--save-every", "0.001", *options]


def tensors_of(out: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a run's state, those of W merged from all ranks."""
    tensors = load_file(out / "state.safetensors")
    shares = [load_file(path) for path in sorted((out / "shares").glob(f"*-step-{STEPS}.safetensors"))]
    for name in shares[0] if shares else ():
        parts = [share[name] for share in shares]
        tensors[name] = parts[0]
        if parts[0].dim():
            tensors[name] = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype)
            for number, part in enumerate(parts):
                tensors[name][number :: len(parts)] = part
    return tensors


def check_success(outcome: Outcome) -> None:
    assert outcome.codes == [0] * len(outcome.codes), outcome.printed


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of two processes."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    check_success(run_train(arguments(data, folder / "run"), 2, folder / "log"))
    return folder / "run"


def check_equal(out: Path, expected: Path) -> None:
    """Check that two runs have the same bits."""
    tensors, others = tensors_of(out), tensors_of(expected)
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []


def check_close(out: Path, expected: Path) -> None:
    """Check that two runs have the same values up to rounding.

    Adam moves parameters whose gradient is a rounding error by up to a learning rate a step.
    """
    tensors, others = tensors_of(out), tensors_of(expected)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        if "optimiser" not in name:
            torch.testing.assert_close(tensor, others[name], rtol=0, atol=STEPS * 4e-4, msg=name)


def check_kills(data: Path, work: Path, uninterrupted: Path, kills: int) -> None:
    """Kill one of two processes at random times, and start both again, as torchrun does."""
    chance, killed, out = random.Random(kills), 0, work / "run"
    state = out / "state.safetensors"
    while killed < kills:
        processes = start_train(arguments(data, out), 2, work / "log")
        before = state.stat().st_mtime_ns if state.exists() else 0
        while all(process.is_alive() for process in processes):
            if state.exists() and state.stat().st_mtime_ns != before:
                break
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.2))
        victim = processes[chance.randrange(2)]
        victim.kill()
        outcome = wait(processes, work / "log")
        if set(outcome.codes) == {0}:  # the run ended before it was killed
            check_success(outcome)
            shutil.rmtree(out)
            continue
        killed += 1
        assert sorted(outcome.codes)[0] == -signal.SIGKILL and max(outcome.codes) in (0, 2), outcome
        assert "Traceback" not in "".join(outcome.printed), outcome.printed
    check_success(run_train(arguments(data, out), 2, work / "log"))
    check_equal(out, uninterrupted)
    assert not list(out.rglob(".*")), "hidden files were left"


@pytest.mark.slow
def test_run_with_killed_rank_resumes_bit_for_bit(data: Path, tmp_path: Path, uninterrupted: Path) -> None:
    check_kills(data, tmp_path, uninterrupted, kills=2)


@pytest.mark.slow
def test_run_with_rank_killed_twenty_times_resumes(data: Path, tmp_path: Path, uninterrupted: Path) -> None:
    check_kills(data, tmp_path, uninterrupted, kills=20)


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(2, 1), (2, 3), (3, 2)])
def test_run_resumes_with_other_number_of_ranks(
    counts: tuple[int, int], data: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    out = tmp_path / "run"
    check_success(run_train(arguments(data, out, STEPS // 2), counts[0], tmp_path / "log"))
    check_success(run_train(arguments(data, out), counts[1], tmp_path / "log"))
    check_close(out, uninterrupted)


def test_sigterm_to_one_rank_saves_all(data: Path, tmp_path: Path, uninterrupted: Path) -> None:
    out = tmp_path / "run"
    processes = start_train(arguments(data, out, 10_000, "--save-every", "1"), 2, tmp_path / "log")
    while not (out / "model.safetensors").exists():
        assert all(process.is_alive() for process in processes)
        time.sleep(0.02)
    os.kill(processes[1].pid, signal.SIGTERM)
    outcome = wait(processes, tmp_path / "log")
    assert outcome.codes == [130, 130]
    assert "resume by: torchrun ... -m talkinghead train" in outcome.printed[0]
    assert outcome.printed[0].endswith("talkinghead: interrupted\n") and outcome.printed[1] == ""
    numbers = {path.name[:5] for path in (out / "shares").iterdir()}
    assert (out / "state.safetensors").exists() and numbers == {"00000", "00001"}


# errors of one rank


def fill_disk(rank: int) -> None:
    """Let writing fail on rank 1 from the third save on."""
    saves = 0

    def write(*args: object) -> None:
        nonlocal saves
        saves += 1
        if rank == 1 and saves > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save_file(*args)

    save_file = tensor_file.save_file
    tensor_file.save_file = write


def lose_shard(rank: int) -> None:
    """Let reading fail on rank 1 from the third step on."""
    reads = 0

    def read(self: shard_reader.ShardClip, *args: object) -> object:
        nonlocal reads
        reads += 1
        if rank == 1 and reads > 2 * BATCH // 2:
            raise TalkingheadError("shard-000000.tar: a frame cannot be read; copy it again")
        return frames(self, *args)

    frames = shard_reader.ShardClip.frames
    shard_reader.ShardClip.frames = read


def change_version(rank: int) -> None:
    """Let rank 1 be of another version."""
    if rank == 1:
        meta_setup.__version__ = "0.0.1"


def change_data(rank: int) -> None:
    """Let rank 1 see other clips."""
    if rank == 1:
        read = shard_reader.ClipInfo.key.fget
        shard_reader.ClipInfo.key = property(lambda self: f"other-{read(self)}")
        fingerprint = meta_setup.fingerprint
        from talkinghead.training import meta

        meta.fingerprint = lambda *args: fingerprint(*args) | {"the checksum of the data": "0123"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "sabotage, message",
    [
        (fill_disk, "writing failed (No space left on device); free some space or name another place"),
        (lose_shard, "shard-000000.tar: a frame cannot be read; copy it again"),
        (change_version, f"torchrun: the version of rank 1 is 0.0.1, of rank 0 {version.__version__}; start"),
        (change_data, "torchrun: the checksum of the data of rank 1 is 0123, of rank 0"),
    ],
)
def test_error_of_one_rank_is_one_line_of_first(
    sabotage: object, message: str, data: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    out = tmp_path / "run"
    outcome = run_train(arguments(data, out, STEPS, "--quiet"), 2, tmp_path / "log", sabotage)
    assert outcome.codes == [2, 2], outcome
    (line,) = outcome.printed[0].splitlines()
    assert line.startswith("talkinghead: error: ") and message in line and outcome.printed[1] == ""
    check_success(run_train(arguments(data, out), 2, tmp_path / "log"))
    check_equal(out, uninterrupted)


def test_second_run_in_folder_is_one_line_of_first(data: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path, tmp_path):
        outcome = run_train(arguments(data, tmp_path, STEPS, "--quiet"), 2, tmp_path / "log")
    assert outcome.codes == [2, 2]
    assert "another run is writing to it" in outcome.printed[0] and outcome.printed[1] == ""


def test_ranks_that_do_not_divide_batch_report_error(data: Path, tmp_path: Path) -> None:
    outcome = run_train(arguments(data, tmp_path / "run", STEPS, "--quiet"), 4, tmp_path / "log")
    assert outcome.codes == [2] * 4
    assert outcome.printed[0].startswith(
        "talkinghead: error: torchrun: 4 processes cannot share a batch of 6 episodes evenly; start as many"
    )
    assert outcome.printed[1:] == [""] * 3
