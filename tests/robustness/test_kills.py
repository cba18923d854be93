"""Killed training runs resume and end with the bytes of an uninterrupted run."""

from pathlib import Path

import pytest
from kills import check_kills


@pytest.mark.slow
def test_train_killed_at_random_points_ends_with_equal_bytes(tmp_path: Path) -> None:
    check_kills(tmp_path, kills=4, seed=0)


@pytest.mark.slow
def test_train_killed_at_fifty_points_ends_with_equal_bytes(tmp_path: Path) -> None:
    check_kills(tmp_path, kills=50, seed=1)
