"""The options --config and --print-config: precedence, errors, and files that read back."""

import argparse
from pathlib import Path

import pytest
from commands import command_error, run_command

import talkinghead.cli as cli
from talkinghead.cli.config_option import config_keys

REQUIRED = {
    "demo": [],
    "finetune": ["a.png", "b é.png", "--out", "o.safetensors"],
    "animate": ["p", "--drive", 'd "x".mp4', "--out", "o.mp4"],
    "live": ["p"],
    "web": [],
    "export": ["p", "--format", "onnx", "--out", "o.onnx"],
    "verify": ["e"],
    "rank-drivers": ["p", "d", "e"],
    "landmarks": ["v", "--out", "o.png"],
    "prepare": ["v", "w", "--out", "o"],
    "train": ["d", "--out", "o"],
    "train-landmarks": ["d", "--out", "o"],
    "export-landmarks": ["--out", "o.onnx"],
    "evaluate": ["tiny", "d", "--out", "o"],
    "completion": ["bash"],
    "info": [],
}


def parse(*arguments: str | Path) -> argparse.Namespace:
    """Parse a command line."""
    return cli.build_parser().parse_args([str(argument) for argument in arguments])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("run.toml")


def values_of(args: argparse.Namespace) -> dict[str, object]:
    """Return the values of arguments, sequences as lists."""
    values = {name: value for name, value in vars(args).items() if name != "config"}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def print_config(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return what a command line prints, which must exit with 0."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exited:
        cli.main([str(argument) for argument in arguments])
    assert exited.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_printed_config_reads_back(command: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (command, *REQUIRED[command])
    text = print_config(capsys, *arguments, "--json", "--print-config")
    config.write_text(text, encoding="utf-8")
    from_file = parse(command, "--config", config)
    assert values_of(from_file) == values_of(parse(*arguments, "--json"))
    types = {name: type(value) for name, value in vars(from_file).items() if isinstance(value, str)}
    expected = vars(parse(*arguments))
    assert all(types[name] is type(expected[name]) for name in types if name != "config")
    assert print_config(capsys, command, "--config", config, "--print-config") == text


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_print_config_without_arguments_is_a_template(
    command: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = print_config(capsys, command, "--print-config")
    assert f"[{command}]\n" in text
    keys = {line.lstrip("# ").split()[0] for line in text.splitlines()[2:]}
    commands = cli.build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    assert keys == set(config_keys(commands[command])) and "json" in keys  # type: ignore[index]
    assert not keys & {"config", "print-config", "help"}


def test_command_line_wins_over_file_and_file_over_default(config: Path) -> None:
    config.write_text(
        'pictures = ["a.png", "b.png"]\nout = "a.safetensors"\nsteps = 40\nno-adversarial = true\n'
        'quiet = false\nperceptual = "vgg19=v.pt"\n'
    )
    args = parse("finetune", "--config", config)
    assert (args.pictures, args.out, args.steps) == (["a.png", "b.png"], "a.safetensors", 40)
    assert (args.adversarial, args.references, args.quiet) == (False, True, False)
    assert args.perceptual == ["vgg19=v.pt"] and args.shots == 8
    args = parse("finetune", "c.png", f"--config={config}", "-s", "7", "--out", "c.safetensors")
    assert (args.pictures, args.out, args.steps) == (["c.png"], "c.safetensors", 7)


def test_values_of_file_have_types_of_command_line(config: Path) -> None:
    config.write_text('model = "tiny"\nclips = "d"\nout = "o"\nshots = [8, 1]\nonly = ["bob"]\nseed = -3\n')
    args = parse("evaluate", "--config", config)
    expected = parse("evaluate", "tiny", "d", "--out", "o", "--shots", "8,1", "--only", "bob", "--seed=-3")
    assert values_of(args) == values_of(expected)
    config.write_text('shots = "1,8"\nmodel = "tiny"\nclips = ["d"]\nout = "o"\n')
    assert parse("evaluate", "--config", config).shots == (1, 8)


def test_file_does_not_change_parser_for_next_call(config: Path) -> None:
    config.write_text("seed = 3\nsteps = 4\n")
    parser = cli.build_parser()
    assert parser.parse_args(["demo", "--config", str(config)]).seed == 3
    args = parser.parse_args(["demo"])
    assert (args.seed, args.steps) == (0, None)


def test_table_of_command_is_read_among_others(config: Path) -> None:
    config.write_text('[demo]\nseed = 3\n[animate]\nlayout = "side-by-side"\n')
    assert parse("demo", "--config", config).seed == 3
    assert parse("animate", "p", "-d", "d", "-o", "o.mp4", "--config", config).layout == "side-by-side"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("sed = 3", "run.toml: unknown option sed; did you mean seed?"),
        ("xyzzy = 3", "run.toml: unknown option xyzzy; `talkinghead demo --help` shows all"),
        ("config = 'other.toml'", "run.toml: unknown option config"),
        ("[demoo]\nseed = 3", "run.toml: unknown option demoo; did you mean demo?"),
        (
            "steps = -3",
            "argument -s/--steps: '-3' is not a whole number of 0 or more; correct",
        ),
        ("steps = 2.5", "'2.5' is not a whole number"),
        ("steps = true", "'true' is not a whole number"),
        ("steps = [1, 2]", "argument -s/--steps: expected one value, got a list"),
        ("steps = 1979-05-27", "argument -s/--steps: expected text, a number or a list"),
        ("landmarks = 'dlip'", "and no file of a detector; did you mean dlib? correct"),
        ("out = 3", "argument -o/--out: 3 is not text, which is in quotes"),
        ("json = 'yes'", "argument --json: expected true or false, got 'yes'"),
        ("seed = 'x'", "argument --seed: invalid int value: 'x'"),
        ("[animate]\nface = 2", "run.toml: has no table [demo], only [animate]"),
        ("seed = 3\n[demo]\nseed = 4", "run.toml: seed is outside of the tables of commands"),
        ("seed = ", "run.toml: is not TOML ("),
        ("a" * (1 << 21), "run.toml: has more than 1 MB"),
    ],
)
def test_bad_file_reports_user_error(
    text: str, expected: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(text)
    assert expected in command_error(capsys, "demo", "--config", config)


def test_unreadable_file_reports_user_error(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("gone.toml", ".", "\0"):
        error = command_error(capsys, "demo", "--config", name)
        assert "cannot be read (" in error and "name a TOML file" in error
    assert "expected one argument" in command_error(capsys, "demo", "--config")


def test_old_option_in_file_reports_its_replacement(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("accumulate = 2\n")
    error = command_error(capsys, "train", "d", "--out", "o", "--config", config)
    assert "run.toml: accumulate was replaced by --grad-accum-steps; rename it" in error


def test_files_of_config_are_checked_like_arguments(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.png").write_bytes(b"picture")
    config.write_text('pictures = "a.png"\nout = "a.png"\n')
    assert "a.png: is the same file as the input a.png" in command_error(
        capsys, "finetune", "--config", config
    )
    config.write_text('pictures = "a.png"\nout = "a.mp4"\n')
    assert "a person is a .safetensors file" in command_error(capsys, "finetune", "--config", config)
    config.write_text('pictures = "a.png"\nout = "run.toml"\n')
    assert "run.toml: is the same file as the input" in command_error(capsys, "finetune", "--config", config)


def test_command_runs_with_config(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("json = true\n")
    run_command("info", "--config", config)
    assert capsys.readouterr().out.startswith("{")
