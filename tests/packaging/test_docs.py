"""README and docs: Python blocks run, commands parse, links lead somewhere, every option is described."""

import argparse
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import face_clip, face_points
from talkinghead.checkpoint import load_model
from talkinghead.cli import COMMANDS, build_parser
from talkinghead.config import FinetuneConfig
from talkinghead.engines.report import verify_engine
from talkinghead.exporters.frame_module import FrameModule
from talkinghead.media.images import write_image
from talkinghead.media.video import VideoReader
from talkinghead.pipelines.finetune import finetune

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md")
]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
PAGES += [ROOT / "bench" / "README.md", ROOT / "tests" / "cuda_emulator" / "README.md"]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
README = ROOT / "README.md"
MAX_README_LINES = 180
MAX_SENTENCE_WORDS = 30
MAX_MEDIAN_WORDS = 15


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of every `talkinghead` command in the shell blocks of a page."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            arguments = shlex.split(line, comments=True)
            if arguments[:1] == ["talkinghead"] and not {"--help", "--print-config"} & {*arguments}:
                yield arguments[1:]


def prose(page: Path) -> str:
    """Return the text of a page without code, tables, headings, links' targets and list marks."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "#", "!"))]
    text = re.sub(r"\]\([^)]*\)", "]", "\n".join(lines))
    return re.sub(r"^- ", "\n", text, flags=re.MULTILINE)


def sentences(page: Path) -> list[str]:
    """Return the sentences of a page's prose."""
    paragraphs = re.split(r"\n\s*\n", prose(page))
    parts = [part for paragraph in paragraphs for part in re.split(r"(?<=[.?!:])\s+", paragraph)]
    return [sentence for sentence in (" ".join(part.split()) for part in parts) if len(sentence.split()) > 2]


@pytest.fixture
def clips(tmp_path: Path, carphone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with the videos that the pages name; fine-tuning takes one step."""
    for name in ("anna.mp4", "bob.mp4"):
        shutil.copy(carphone, tmp_path / name)
    for number, frame in enumerate(islice(VideoReader(carphone), 0, 60, 20), 1):  # 60 shows no face alone
        write_image(tmp_path / f"anna{number}.jpg", frame)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FinetuneConfig, "steps", lambda self, pictures: 1)
    return tmp_path


@pytest.mark.slow
def test_readme_python_example_writes_person_and_video(clips: Path) -> None:
    (example,) = blocks(README, "python")
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert (clips / "anna.safetensors").stat().st_size > 1_000_000
    assert (clips / "anna_as_bob.mp4").stat().st_size > 1_000
    assert names["frame"].shape == (256, 256, 3)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_description_python_example_writes_video(clips: Path) -> None:
    (example,) = blocks(ROOT / "docs" / "description.md", "python")
    exec(compile(example, "docs/description.md", "exec"), {})
    assert (clips / "anna_as_bob.mp4").stat().st_size > 1_000


@pytest.mark.slow
def test_python_api_examples_run_in_order(clips: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript, which ONNX export needs, is not installed")
    names: dict[str, object] = {}
    for example in blocks(ROOT / "docs" / "python_api.md", "python"):
        exec(compile(example, "docs/python_api.md", "exec"), names)
    assert names["frames"].shape == (10, 256, 256, 3)  # type: ignore[arg-type]


@pytest.mark.slow
def test_onnx_example_runs_as_its_table_says(clips: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript, which ONNX export needs, is not installed")
    page = ROOT / "docs" / "export_and_deploy.md"
    names: dict[str, Any] = {}
    export, render, with_pictures = blocks(page, "python")
    for example in (export, render):
        exec(compile(example, "docs/export_and_deploy.md", "exec"), names)
    assert names["frames"].shape == (8, 64, 64, 3) and names["frames"].std() > 10
    assert verify_engine("anna_tiny.onnx").manifest.person == "anna_tiny.safetensors"
    check_onnx_table(page, "`tiny`, fine-tuned", names)
    exec(compile(with_pictures, "docs/export_and_deploy.md", "exec"), names)
    assert names["frames"].shape == (8, 256, 256, 3) and names["frames"].std() > 10
    check_onnx_table(page, "`portrait`, fine-tuned", names)
    rendered = list(names["person"].animate("bob.mp4", precision="fp32"))[:8]
    assert np.abs(names["frames"].astype(int) - rendered).mean() < 0.5


def check_onnx_table(page: Path, person: str, names: dict[str, Any]) -> None:
    """Check the row of a person in the page's table against the file that an example opened."""
    types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
    inputs, outputs = (
        ", ".join(describe_array(value.name, types[value.type], value.shape) for value in values)
        for values in (names["session"].get_inputs(), names["session"].get_outputs())
    )
    assert onnx_table(page)[person] == (inputs, outputs)
    assert {value.shape[0] for value in names["session"].get_inputs()} == {"N"}


@pytest.mark.parametrize("model", ["tiny", "portrait"])
def test_onnx_table_names_inputs_of_engines(model: str) -> None:
    table, start = onnx_table(ROOT / "docs" / "export_and_deploy.md"), load_model(model)
    size = start.config.networks.image_size
    person = finetune(start, face_clip(face_points((0, 0)), size), steps=0)
    for kind, feed_forward in (("fine-tuned", False), ("`--steps 0`", True)):
        module = FrameModule(replace(person, feed_forward=feed_forward))
        arrays = zip(module.input_names(), module.example_inputs(1), strict=True)
        inputs = ", ".join(describe_array(name, np.float32, array.shape) for name, array in arrays)
        output = describe_array("frames", np.uint8, (1, size, size, 3))
        assert table[f"`{model}`, {kind}"] == (inputs, output)


def onnx_table(page: Path) -> dict[str, tuple[str, str]]:
    """Return inputs and output of engines, by the person they are of, from the page's table."""
    section = page.read_text(encoding="utf-8").partition("## Inputs and outputs")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \|$", section, re.MULTILINE)
    return {person: (inputs, output) for person, inputs, output in rows}


def describe_array(name: str, dtype: type[np.generic], shape: Sequence[int]) -> str:
    """Return an array of N rows as the page's table writes it."""
    return f"`{name}` {np.dtype(dtype)} [N, {', '.join(map(str, shape[1:]))}]"


@pytest.mark.slow  # renders four frames
def test_synthetic_data_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("anny", reason="anny, the head of synthetic people, is not installed")
    (example,) = blocks(ROOT / "docs" / "synthetic_data.md", "python")
    exec(compile(example, "docs/synthetic_data.md", "exec"), {})
    assert capsys.readouterr().out.count("(256, 256, 3)") == 4


def test_kernels_example_runs() -> None:
    (example,) = blocks(ROOT / "docs" / "kernels.md", "python")
    names: dict[str, object] = {}
    exec(compile(example, "docs/kernels.md", "exec"), names)
    assert names["z"].shape == (8, 32, 64, 64)  # type: ignore[attr-defined]


def test_every_page_with_python_is_run_by_a_test() -> None:
    tested = {"README.md", "docs/description.md", "docs/python_api.md", "docs/kernels.md"}
    tested |= {"docs/export_and_deploy.md", "docs/synthetic_data.md"}
    tested.add("tests/cuda_emulator/README.md")  # A sketch; tests/kernels uses the emulator in this way.
    assert {name for page, name in zip(PAGES, IDS, strict=True) if blocks(page, "python")} == tested


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_of_page_parse(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        if "--config" in command:
            (tmp_path / command[command.index("--config") + 1]).write_text(blocks(page, "toml")[0])
        assert build_parser().parse_args(command).command == command[0]


def test_pages_show_every_command() -> None:
    assert {command[0] for page in PAGES for command in commands(page)} == set(COMMANDS)


def test_readme_table_names_every_command() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(COMMANDS) <= {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_command_line_page_describes_every_option(command: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = re.search(rf"^## `{command}`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"docs/cli.md has no section on {command}"
    options = set(re.findall(r"`(--[\w-]+)", section[1]))
    common = {"--help", "--quiet", "--json", "--config", "--print-config", "--verbose"}
    assert options == options_of(command) - common
    overview = text.partition("\n## `")[0]
    assert all(f"`{name}" in overview for name in options_of(command) & common)


def options_of(command: str) -> set[str]:
    """Return the long options of a command."""
    parser = build_parser()
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    actions = subparsers.choices[command]._actions
    visible = (action for action in actions if action.help != argparse.SUPPRESS)
    return {name for action in visible for name in action.option_strings if name.startswith("--")}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_of_page_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, heading = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target} leads nowhere"
        if heading:
            assert heading in anchors(path), f"{target}: {path.name} has no such heading"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_short_and_its_first_screen_complete() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_README_LINES
    screen = "\n".join(lines[:16])
    assert "![" in screen and all(f"talkinghead {name}" in screen for name in ("finetune", "animate", "live"))


def test_readme_sentences_are_short() -> None:
    lengths = sorted(len(sentence.split()) for sentence in sentences(README))
    assert lengths[-1] <= MAX_SENTENCE_WORDS, [
        s for s in sentences(README) if len(s.split()) > MAX_SENTENCE_WORDS
    ]
    assert lengths[len(lengths) // 2] <= MAX_MEDIAN_WORDS


def test_readme_picture_is_small() -> None:
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", README.read_text(encoding="utf-8"))
    assert (ROOT / picture).stat().st_size <= 3_000_000


def test_troubleshooting_quotes_messages_of_the_source() -> None:
    sources = " ".join(
        path.read_text(encoding="utf-8")
        for folder in ("talkinghead", "kernels")
        for path in (ROOT / folder).rglob("*.py")
    )
    sources = re.sub(r'"\s*\n\s*f?r?"', "", sources)  # strings that are continued on the next line
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quotes = re.findall(r"^\| `(.*?)` \|", text, re.MULTILINE)
    assert len(quotes) >= 25
    missing = [part for quote in quotes for part in quote.split(" … ") if part.strip("… ") not in sources]
    assert missing == []
