"""Tables of an evaluation: what they say of one person, and of ties."""

import re
from pathlib import Path
from typing import Any

import pytest

from talkinghead.evaluation.evaluate import Evaluation
from talkinghead.evaluation.markdown import format_markdown


def results(people: int = 1, equal: float = 1.0) -> dict[str, Any]:
    """Return results of two methods at T = 1, one clip of each person."""
    names = [f"p{number}" for number in range(people)]
    low, high = (0.9, 1.0) if people > 1 else (None, None)
    row = {"faces": {"mean": 1.0, "low": low, "high": high, "people": people}}
    return {
        "settings": {
            "protocol": {"held_out": 4},
            "steps": {"1": 40},
            "model": {"name": "tiny", "digest": "0" * 64},
            "image_size": 64,
            "frechet": {"name": "FED"},
            "identity": {"name": "dlib"},
        },
        "clips": [{"person": name} for name in names],
        "people": {name: {} for name in names},
        "groups": {"all": names},
        "summary": {"all": {"1": {"fine-tuned": row, "nearest": row}}},
        "frechet": {"1": {"fine-tuned": 1.0, "nearest": 2.0}},
        "frechet_frames": 4 * people,
        "fine_tuned_better": {"1": {"nearest": {"faces": 0.0}}},
        "fine_tuned_equal": {"1": {"nearest": {"faces": equal}}},
        "curve": {},
    }


def test_table_of_one_person_speaks_of_no_interval() -> None:
    text = format_markdown(results())
    assert "interval]" not in text and "It has no interval" not in text
    assert "Values of one person, which have no interval." in text
    several = format_markdown(results(people=2))
    assert "[95% bootstrap interval]" in several and "It has no interval" in several


@pytest.mark.parametrize(("equal", "cell"), [(1.0, "0% (= 100%)"), (0.0, "0%")])
def test_table_shows_ties_of_fine_tuned(equal: float, cell: str) -> None:
    line = next(
        line for line in format_markdown(results(equal=equal)).splitlines() if re.search(r"\b0%", line)
    )
    assert line.endswith(f"| {cell} |")


def test_note_on_other_people_needs_its_column() -> None:
    assert "nearer than others" not in format_markdown(results())
    values = results(people=2)
    for row in values["summary"]["all"]["1"].values():
        row["nearer"] = row["faces"]
    assert format_markdown(values).count("nearer than others") == 2


def test_evaluation_has_short_repr() -> None:
    evaluation = Evaluation({"table": Path("out/table.md")}, results(people=2))
    assert repr(evaluation) == "Evaluation(2 people, 2 clips, table='out/table.md')"
