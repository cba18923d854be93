"""Runs that stream shards, of one process and of several: they resume, lose shards, and end in step."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.minimal_training import minimal_config
from support.rank_commands import BATCH, Outcome, run_train
from support.shard_folders import serve, write_shards
from talkinghead import cli, config
from talkinghead.dataset import remote, shard_stream
from talkinghead.errors import TalkingheadError
from talkinghead.training import meta
from talkinghead.training.run_settings import check_same_run

STEPS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data"), BATCH)


def run(data: str | Path, out: Path, count: int = 2, steps: int = STEPS, sabotage: object = None) -> Outcome:
    """Train on a stream by several processes."""
    arguments = [str(data), "--out", str(out), "--steps", str(steps), "--streaming"]
    return run_train(arguments, count, out.parent / f"{out.name}-log", sabotage)  # type: ignore[arg-type]


def check_success(outcome: Outcome) -> None:
    assert outcome.codes == [0] * len(outcome.codes), outcome.printed


def last_steps(out: Path) -> torch.Tensor:
    """Return the last step that changed each row of W, of a run of one or two processes."""
    files = sorted((out / "shares").glob(f"*-step-{STEPS}.safetensors")) or [out / "state.safetensors"]
    return torch.stack([load_file(path)["columns_optimiser.0.last_step"] for path in files], 1).flatten(0, 1)


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of two processes."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    check_success(run(data, out))
    return out


def check_same_model(out: Path, other: Path) -> None:
    first, second = (load_file(folder / "model.safetensors") for folder in (out, other))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_streamed_run_resumes_bit_for_bit(data: Path, tmp_path: Path, uninterrupted: Path) -> None:
    check_success(run(data, tmp_path / "run", steps=STEPS // 2))
    check_success(run(data, tmp_path / "run"))
    check_same_model(tmp_path / "run", uninterrupted)


def test_url_is_streamed_by_ranks_as_the_folder_is(data: Path, tmp_path: Path, uninterrupted: Path) -> None:
    with serve(data) as server:
        check_success(run(server.url, tmp_path / "run"))
    check_same_model(tmp_path / "run", uninterrupted)
    assert len(list((tmp_path / "run").glob("index-*.safetensors"))) == 1


def test_one_process_draws_the_videos_that_two_draw(data: Path, tmp_path: Path, uninterrupted: Path) -> None:
    check_success(run(data, tmp_path / "run", count=1))
    assert torch.equal(last_steps(tmp_path / "run"), last_steps(uninterrupted))


def lose(rank: int, numbers: tuple[str, ...]) -> None:
    """Let rank 1 fail to read shards with these endings of their names."""
    read = shard_stream.read_into_memory

    def fail(shard: Path, places: object) -> object:
        if rank == 1 and shard.stem.endswith(numbers):
            raise TalkingheadError(f"{shard}: is damaged; copy it again")
        return read(shard, places)  # type: ignore[arg-type]

    shard_stream.read_into_memory = fail  # type: ignore[assignment]


def lose_one(rank: int) -> None:
    lose(rank, ("001",))


def lose_many(rank: int) -> None:
    lose(rank, ("1", "3", "5", "7"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of 120 shards of one clip."""
    return write_shards(tmp_path_factory.mktemp("many"), 120, clips=1, frames=4)


@pytest.mark.slow
def test_rank_that_loses_a_shard_stays_in_step(many: Path, tmp_path: Path) -> None:
    outcome = run(many, tmp_path / "run", sabotage=lose_one)
    check_success(outcome)
    assert "shard-000001.tar: is damaged\n" in outcome.printed[0] and outcome.printed[1] == ""
    assert "1 of 120 shards cannot be read and are skipped; more than 1 % end the run" in outcome.printed[0]
    assert len(list((tmp_path / "run" / "shares").glob(f"*-step-{STEPS}.safetensors"))) == 2


@pytest.mark.slow
def test_rank_that_loses_many_shards_ends_all_in_one_line(many: Path, tmp_path: Path) -> None:
    outcome = run(many, tmp_path / "run", sabotage=lose_many)
    assert outcome.codes == [2, 2]
    line = outcome.printed[0].splitlines()[-1]
    assert line.endswith("of 120 shards cannot be read, more than 1 %; copy it again")
    assert line.startswith("talkinghead: error: ") and outcome.printed[1] == ""


# one process


@pytest.fixture
def minimal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the preset `tiny` be small, and requests be repeated at once."""
    monkeypatch.setitem(config._PRESETS, "tiny", minimal_config())
    monkeypatch.setattr(meta, "measure_peak_flops", lambda *_: 1.0)
    monkeypatch.setattr(remote, "PAUSE_S", 0)


def train(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Return the exit code and the last line on stderr of `train`."""
    code = cli.main(["train", *map(str, arguments), "--steps", "2", "--quiet"])
    lines = capsys.readouterr().err.splitlines()
    return code, lines[-1] if lines else ""


def test_run_keeps_its_way_of_reading(data, tmp_path, minimal, capsys):
    assert train(capsys, data, "--out", tmp_path / "run", "--streaming")[0] == 0
    code, line = train(capsys, data, "--out", tmp_path / "run")
    assert code == 2 and line.endswith(
        "holds a run with --streaming, which orders the videos in another way; add --streaming, or choose "
        "another folder"
    )
    assert train(capsys, data, "--out", tmp_path / "random")[0] == 0
    code, line = train(capsys, data, "--out", tmp_path / "random", "--streaming")
    assert code == 2 and "holds a run without --streaming" in line and "leave out --streaming" in line


def test_run_with_other_shards_of_the_same_videos_does_not_resume():
    header = {"config": {"preset": "tiny"}, "streaming": "one layout"}
    with pytest.raises(
        TalkingheadError, match="other settings: its data had other videos in its shards; cho"
    ):
        check_same_run(Path("run"), header, header | {"streaming": "another"})


@pytest.mark.parametrize("streaming", [(), ("--streaming",)])
@pytest.mark.parametrize(
    "url, reason",
    [
        ("http://127.0.0.1:1/data", "Cannot connect to host"),
        ("memory://gone", "it is not there"),
        ("s3://bucket/data", "pip install s3fs"),
    ],
)
def test_url_that_cannot_be_read_is_one_line(url, reason, streaming, tmp_path, minimal, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    code, line = train(capsys, url, "--out", tmp_path / "run", *streaming)
    assert code == 2 and line.startswith(f"talkinghead: error: {url}: ") and reason in line


def test_server_that_closes_connections_in_mid_run_is_one_line(data, tmp_path, minimal, capsys, monkeypatch):
    with serve(data) as server:

        def close(*_: object) -> float:
            server.closes = True
            return 1.0

        monkeypatch.setattr(meta, "measure_peak_flops", close)  # called after the index was made
        code, line = train(capsys, server.url, "--out", tmp_path / "run", "--streaming")
    assert code == 2 and line.startswith(f"talkinghead: error: {server.url}/shard-00000")
    assert "cannot be read (Server disconnected)" in line
