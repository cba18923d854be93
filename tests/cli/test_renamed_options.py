"""Old spellings of options name the new ones."""

import pytest

import talkinghead.cli as cli

RENAMED = [
    ("finetune a.png --out a --stop auto", "--early-stopping"),
    ("finetune a.png --out a --stop=auto", "--early-stopping"),
    ("train data --out run --leave-out bob ann", "--exclude-identities"),
    ("train data --out run --start model.safetensors", "--init-from"),
    ("train data --out run --accumulate 2", "--grad-accum-steps"),
    ("live anna --every-frame", "--no-realtime"),
    ("animate anna --rank-drivers a.mp4 b.mp4", "`talkinghead rank-drivers`"),
    ("animate anna --rank-drivers a.mp4 --pictures a.png", "`talkinghead rank-drivers`"),
    ("export --check anna.onnx", "`talkinghead verify`"),
    ("export anna --check anna.onnx", "`talkinghead verify`"),
    ("export anna --format tensorrt --out a.engine --base b.engine", "--refit-from"),
    ("evaluate tiny data --out out --held-out 4", "--num-held-out"),
    ("evaluate tiny data --out out --rows nearest", "--methods"),
    ("evaluate tiny data --out out --curve 10,20", "--steps-curve"),
    ("prepare a.mp4 --out data --second-face 0.2", "--max-second-face-ratio"),
]


@pytest.mark.parametrize(("command", "replacement"), RENAMED)
def test_old_option_reports_its_replacement(
    command: str, replacement: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command.split()) == 2
    printed = capsys.readouterr()
    [line] = printed.err.splitlines()
    assert line.startswith("talkinghead: error: --") and "was replaced by" in line and replacement in line
    assert printed.out == ""


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_hides_old_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    old_options = {word for line, _ in RENAMED for word in line.split() if word.startswith("--")}
    current_options = {"--out", "--format", "--pictures"}
    assert not {word.strip("[],") for word in text.split()} & (old_options - current_options)
