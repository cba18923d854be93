"""The command `completion`: its scripts, in the shells that are installed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import command_error, run_command

from talkinghead.constants import SHELLS


@pytest.fixture
def scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Path]:
    """Write the script of each shell."""
    pytest.importorskip("shtab", reason="needs the extra completion")
    paths = {}
    for shell in SHELLS:
        run_command("completion", shell)
        paths[shell] = tmp_path / f"completion.{shell}"
        paths[shell].write_text(capsys.readouterr().out)
    return paths


@pytest.mark.parametrize("shell", SHELLS)
def test_script_has_valid_syntax(shell: str, scripts: dict[str, Path]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    result = subprocess.run([shell, "-n", scripts[shell]], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_script_names_commands_and_options(shell: str, scripts: dict[str, Path]) -> None:
    text = scripts[shell].read_text()
    assert all(word in text for word in ("rank-drivers", "paste-back", "side-by-side", "talkinghead"))


@pytest.mark.parametrize(
    "line, expected",
    [
        ("talkinghead fine", {"finetune"}),
        ("talkinghead animate --lay", {"--layout"}),
        ("talkinghead animate --layout ", {"result", "side-by-side"}),
        ("talkinghead animate --drive ", {"bob.mp4", "folder"}),
        ("talkinghead animate ann", {"anna.safetensors"}),
        ("talkinghead train data --out ", {"folder"}),
        ("talkinghead completion ", set(SHELLS)),
        ("talkinghead demo -", {"-o", "--out", "-m", "--config"}),
    ],
)
def test_bash_completes(line: str, expected: set[str], scripts: dict[str, Path]) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    folder = scripts["bash"].parent
    for name in ("bob.mp4", "anna.safetensors"):
        (folder / name).touch()
    (folder / "folder").mkdir()
    code = """
        source completion.bash
        COMP_LINE=$1 COMP_POINT=${#1}
        read -ra COMP_WORDS <<< "$1"
        [[ $1 == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        function=$(complete -p talkinghead | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        $function talkinghead "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}" 2>/dev/null
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    result = subprocess.run(
        ["bash", "-c", code, "bash", line], cwd=folder, capture_output=True, text=True, timeout=60
    )
    replies = {reply.strip().rstrip("/") for reply in result.stdout.splitlines()} - {""}
    assert expected <= replies, result
    if not line.endswith("-"):
        assert replies - {f"completion.{shell}" for shell in SHELLS} <= expected | {"anna.safetensors"}


def test_json_holds_script(scripts: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run_command("completion", "bash", "--json")
    values = json.loads(capsys.readouterr().out)
    assert values == {"shell": "bash", "script": scripts["bash"].read_text()}


def test_missing_shtab_reports_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    error = command_error(capsys, "completion", "bash")
    assert "shtab is needed here" in error and "pip install 'talkinghead[completion]'" in error
    assert "did you mean bash?" in command_error(capsys, "completion", "bsh")
