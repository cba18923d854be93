"""Attacks on a server of the page: it withstands each, and still works afterwards."""

from pathlib import Path

import pytest
from web_attack import ATTACKS, Attack, attack_own_server, table


@pytest.mark.slow
def test_server_withstands_every_attack(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp, which the page needs, is not installed")
    outcomes = attack_own_server(tmp_path)
    lines = table(outcomes)
    print(*lines, sep="\n")
    assert len(lines) == len(ATTACKS) > 45
    assert [line for line in lines if not line.startswith("withstood")] == []
    log = (tmp_path / "sessions.log").read_text()
    assert "Traceback" not in log and "failure" not in log


def test_table_shows_attack_that_succeeds() -> None:
    outcome = Attack(ATTACKS[0].name, ATTACKS[0].run, "403"), "200"
    (line,) = table([outcome])
    assert line.startswith("FAILED") and ATTACKS[0].name in line
