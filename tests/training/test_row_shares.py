"""Files of the rows of W that several ranks write, and another number of ranks reads."""

from pathlib import Path

import pytest
import torch

from support.rank_processes import call_ranks
from talkinghead.errors import TalkingheadError
from talkinghead.system.tensor_file import write_tensors
from talkinghead.training.ranks import ONE_RANK, Ranks, joined_ranks
from talkinghead.training.row_shares import RowShares

ROWS = torch.arange(22.0).reshape(11, 2)


def write_rows(folder: Path) -> dict[str, str]:
    """Write this rank's rows of `ROWS`, and a tensor without rows."""
    with joined_ranks() as ranks:
        tensors = {"columns.weight": ROWS[ranks.share], "columns.step": torch.tensor(7)}
        return RowShares(folder, ranks, ("columns",)).write(tensors, step=4)


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return the folder of the files of two ranks, and their checksums."""
    folder = tmp_path_factory.mktemp("shares")
    first, second = call_ranks(write_rows, 2, folder)
    assert first == second
    return folder, first


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_ranks_reads_its_rows(count, shares):
    folder, files = shares
    for rank in range(count):
        ranks = Ranks(rank, count)
        stored = RowShares(folder, ranks, ("columns",)).open(files)
        assert torch.equal(stored.read("columns.weight"), ROWS[ranks.share])
        assert stored.read("columns.step") == 7 and stored.names == {"columns.weight", "columns.step"}


@pytest.mark.parametrize("name", ["other.safetensors", "../other.safetensors"])
def test_file_of_another_state_is_refused(name, shares):
    folder, files = shares
    others = dict.fromkeys([name], next(iter(files.values())))
    with pytest.raises((ValueError, OSError)):
        RowShares(folder, ONE_RANK, ("columns",)).open(others)


def test_changed_file_is_refused(shares, tmp_path):
    digest = write_tensors(
        tmp_path / "a", {"columns.weight": ROWS}, {"kind": "share", "version": 1, "step": 4}
    )
    shares = RowShares(tmp_path, ONE_RANK, ("columns",))
    assert torch.equal(shares.open({"a": digest}).read("columns.weight"), ROWS)
    with pytest.raises(ValueError, match="a is of another state"):
        shares.open({"a": digest[::-1]})
    content = bytearray((tmp_path / "a").read_bytes())
    content[-1] ^= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="its checksum does not match"):
        shares.open({"a": digest})


def test_rank_without_space_leaves_no_file(tmp_path):
    (tmp_path / "shares").write_text("")  # no folder
    with pytest.raises(TalkingheadError, match="name another place"):
        RowShares(tmp_path / "shares", ONE_RANK, ("columns",)).write({"columns.weight": ROWS}, step=1)
    assert [path.name for path in tmp_path.iterdir()] == ["shares"]


def test_unused_files_are_removed(tmp_path):
    shares = RowShares(tmp_path / "shares", ONE_RANK, ("columns",))
    names = [next(iter(shares.write({"columns.weight": ROWS}, step))) for step in range(3)]
    shares.remove_others({names[1]})
    assert [path.name for path in (tmp_path / "shares").iterdir()] == [names[1]]
    shares.remove_others(set())
    assert not (tmp_path / "shares").exists()
