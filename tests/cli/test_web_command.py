"""The command `web`: address, token, a busy port, a folder that cannot be used, the end by Ctrl-C."""

import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import command_error

import talkinghead.cli as cli
import talkinghead.web.server as server
from talkinghead.web.settings import ServerSettings


@pytest.fixture
def aiohttp() -> None:
    """Skip without the package that serves the page."""
    pytest.importorskip("aiohttp", reason="aiohttp, which the page needs, is not installed")


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[ServerSettings]:
    """Replace the server by one that announces itself and ends; return the settings of those started."""
    started: list[ServerSettings] = []

    def serve(settings: ServerSettings, announce: Callable[[str, int], None]) -> None:
        started.append(settings)
        announce(settings.host, settings.port)

    monkeypatch.setattr(server, "serve", serve)
    return started


@pytest.mark.usefixtures("aiohttp")
def test_busy_port_reports_user_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = command_error(capsys, "web", "--port", str(port), "--folder", tmp_path / "sessions")
    assert line == (
        f"talkinghead: error: port {port}: is used by another program; choose another --port, or end that "
        "program"
    )


@pytest.mark.usefixtures("aiohttp")
def test_folder_that_cannot_be_used_reports_user_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    line = command_error(capsys, "web", "--port", "0", "--folder", tmp_path / "file")
    assert line.endswith("choose another --folder")


def test_default_is_this_machine_without_token(
    announced: list[ServerSettings], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert cli.main(["web"]) == 0
    text = capsys.readouterr().out
    assert "open http://127.0.0.1:8000 in a browser" in text
    assert "files are kept in /somewhere/talkinghead/web, each for 7 days without use" in text
    assert announced[0].token == "" and announced[0].limits.upload_bytes == 200 << 20


def test_other_host_prints_random_token(
    announced: list[ServerSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert cli.main(["web", "--host", "0.0.0.0", "--port", "8080"]) == 0
    tokens = re.findall(r"open http://0\.0\.0\.0:8080/\?token=([\w-]{32}) in", capsys.readouterr().out)
    assert len(set(tokens)) == 2 and [settings.token for settings in announced] == tokens


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--token", "short"), "token: has 5 characters; give 16 or more"),
        (("--host", "0.0.0.0", "--token", ""), "host 0.0.0.0: is reached by others, and there is no token"),
        (("--port", "70000"), "'70000' is not a whole number from 0 to 65535"),
        (("--max-upload", "0"), "'0' is not a number above 0"),
    ],
)
def test_wrong_option_reports_user_error(
    options: tuple[str, ...], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert problem in command_error(capsys, "web", "--folder", tmp_path / "sessions", *options)


def test_missing_aiohttp_names_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp.web", None)  # an import of it fails then
    line = command_error(capsys, "web", "--folder", tmp_path / "sessions")
    assert line.endswith("pip install 'talkinghead[web]'")
