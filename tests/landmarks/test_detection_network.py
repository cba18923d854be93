"""The detection network, its loss and its file."""

import math
from pathlib import Path

import pytest
import torch

from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.detection_network import (
    CELLS,
    SHIPPED,
    SIZE,
    DetectionNetwork,
    DetectionOutput,
    detection_loss,
    load_detection_network,
)
from talkinghead.landmarks.network import LandmarkNetwork
from talkinghead.landmarks.network_blocks import save_network

FACE = torch.tensor([[[0.51, 0.26, 0.08, 0.3]]])
"""One face: centre, radius and roll."""
ONE = torch.tensor([1])
CELL = int(0.26 * CELLS) * CELLS + int(0.51 * CELLS)


def perfect_output() -> DetectionOutput:
    """Return what a perfect network says of `FACE`."""
    logits = torch.full((1, CELLS * CELLS), -9.0)
    logits[0, CELL] = 9.0
    rolls = torch.tensor([math.cos(0.3), math.sin(0.3)]).expand(1, CELLS * CELLS, 2)
    return DetectionOutput(
        logits,
        FACE[:, :, :2].expand(1, CELLS * CELLS, 2),
        torch.full((1, CELLS * CELLS), math.log(0.08)),
        rolls,
    )


def test_output_has_one_row_a_cell() -> None:
    output = DetectionNetwork().eval()(torch.rand(2, 3, SIZE, SIZE))
    assert [tuple(value.shape) for value in output] == [(2, 400), (2, 400, 2), (2, 400), (2, 400, 2)]


def test_cells_are_in_rows_from_the_top_left() -> None:
    network = DetectionNetwork().eval()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()
        centres = network(torch.rand(1, 3, SIZE, SIZE)).centres[0]
    torch.testing.assert_close(centres[CELLS + 2], torch.tensor([2.5 / CELLS, 1.5 / CELLS]))


def test_loss_of_perfect_output_is_nearly_nothing() -> None:
    assert float(detection_loss(perfect_output(), FACE, ONE)["loss"]) < 0.01


@pytest.mark.parametrize(
    "part, change",
    [
        ("presence", lambda output: output._replace(logits=-output.logits)),
        ("presence", lambda output: output._replace(logits=output.logits.roll(5 * CELLS))),
        ("place", lambda output: output._replace(centres=output.centres + 0.03)),
        ("size", lambda output: output._replace(log_radii=output.log_radii + 0.4)),
        ("roll", lambda output: output._replace(rolls=-output.rolls)),
    ],
)
def test_each_error_raises_its_part_of_the_loss(part: str, change: object) -> None:
    worse = detection_loss(change(perfect_output()), FACE, ONE)  # type: ignore[operator]
    best = detection_loss(perfect_output(), FACE, ONE)
    assert float(worse[part]) > float(best[part]) + 0.3
    for other in {"presence", "place", "size", "roll"} - {part}:
        assert float(worse[other]) == pytest.approx(float(best[other]), abs=1e-6)


def test_faces_beyond_the_count_are_no_faces() -> None:
    faces = torch.cat([FACE, torch.rand(1, 4, 4)], dim=1)
    assert float(detection_loss(perfect_output(), faces, ONE)["loss"]) < 0.01
    logits = torch.full((1, CELLS * CELLS), -9.0)
    empty = perfect_output()._replace(logits=logits)
    assert float(detection_loss(empty, faces, torch.tensor([0]))["loss"]) < 0.01


def test_file_returns_the_network_and_refuses_another_kind(tmp_path: Path) -> None:
    path, network = tmp_path / "network.safetensors", DetectionNetwork()
    save_network(network, path, "detection network", {"steps": 1})
    pictures = torch.rand(1, 3, SIZE, SIZE)
    loaded = load_detection_network(path).eval()(pictures)
    torch.testing.assert_close(loaded.logits, network.eval()(pictures).logits, atol=0.02, rtol=0.01)
    save_network(LandmarkNetwork(), path, "landmark network", {})
    with pytest.raises(TalkingheadError, match="cannot be read as a detection network"):
        load_detection_network(path)


def test_shipped_network_is_small() -> None:
    load_detection_network(SHIPPED)
    assert SHIPPED.stat().st_size < 1_000_000
