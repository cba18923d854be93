"""The command `info`."""

import argparse
from typing import TYPE_CHECKING, Any

from ..constants import PRESETS
from .parser import add_command

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead info
  talkinghead info --json
  talkinghead info --preset tiny   # its fields: save them as a file to begin a preset of your own"""


def add_parser(commands: Any) -> None:
    """Add the parser of `info`."""
    parser = add_command(commands, "info", EXAMPLE, quiet=False)
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        metavar="PRESET",
        help=f"print all fields of a preset ({', '.join(PRESETS)}) as a TOML file for `train --preset`",
    )


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `info`."""
    if args.preset is not None:
        from ..config import preset
        from .preset_template import format_preset

        console.document(preset(args.preset).to_dict(), format_preset(args.preset))
        return
    from talkinghead_kernels import backend

    from .info_report import collect

    report = collect()
    lines = []
    for section, values in report.items():
        if section == "runs":  # printed as a column of the ops
            continue
        if section == "ops":
            lines += [section, *(f"  {line}" for line in backend.format_report(report))]
            continue
        if section == "presets":
            values = {name: _describe_preset(numbers) for name, numbers in values.items()}
        elif not isinstance(values, dict):
            values = {"": values}
        lines.append(section)
        lines += [f"  {name:26}{value}" for name, value in (values or {"": "none"}).items()]
    console.result(report, lines)


def _describe_preset(numbers: dict[str, Any]) -> str:
    side = numbers["image_size"]
    counts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in numbers["parameters"].items())
    return f"{side}x{side}, {counts} parameters"
