"""The landmark network and its file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.network import (
    CELLS,
    SHIPPED,
    SIZE,
    IrisVotes,
    LandmarkNetwork,
    load_initial_weights,
    load_landmark_network,
)
from talkinghead.landmarks.network_blocks import (
    FusedLayers,
    FusedMeanOfVotes,
    InvertedResidual,
    MeanOfVotes,
    load_on_device,
    prepare_for_inference,
    save_network,
)
from talkinghead.landmarks.oriented_crop import OrientedCrop, sample_crops
from talkinghead.landmarks.training import landmark_loss


@pytest.fixture
def network() -> LandmarkNetwork:
    """Return a random network whose normalisations have statistics of their own."""
    result = LandmarkNetwork()
    for module in result.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return result.eval()


def test_output_has_78_points_inside_and_outside(network: LandmarkNetwork) -> None:
    points, log_scale, presence = network(torch.rand(3, 3, SIZE, SIZE))
    assert points.shape == (3, 78, 2)
    assert log_scale.shape == (3, 78)
    assert presence.shape == (3,)


def test_point_is_weighted_mean_of_cells_and_offsets(network: LandmarkNetwork) -> None:
    with torch.no_grad():
        network.votes.weight.zero_()
        network.votes.bias.zero_()
        bias = network.votes.bias.view(3, 78)
        bias[1], bias[2] = 0.5, -1.0
        points = network(torch.rand(1, 3, SIZE, SIZE)).points
    expected = torch.tensor([0.5 + 0.5 / CELLS, 0.5 - 1 / CELLS])
    torch.testing.assert_close(points[0, :68], expected.expand(68, 2))


def test_irises_without_votes_lie_where_they_were_found_roughly() -> None:
    rough = torch.rand(2, 10, 2, generator=torch.Generator().manual_seed(3)) * 0.05
    rough = rough + torch.tensor([[0.3, 0.4]] * 5 + [[0.6, 0.4]] * 5)
    points = IrisVotes().eval()(torch.rand(2, 24, 32, 32), rough)
    middle = rough.unflatten(1, (2, 5)).mean(2, keepdim=True).expand(-1, -1, 5, -1).flatten(1, 2)
    torch.testing.assert_close(points, middle, atol=2e-3, rtol=0)


def test_cells_near_the_rough_place_move_an_iris_and_far_ones_do_not() -> None:
    votes, rough = IrisVotes().eval(), torch.full((1, 10, 2), 0.5)
    with torch.no_grad():
        votes.votes.weight[:10] = 1.0  # the weight of a cell is the sum of its features
        votes.features = torch.nn.Identity()
    features = torch.zeros(1, 24, 32, 32)
    near, far = features.clone(), features.clone()
    near[..., 16, 18] = far[..., 16, 30] = 0.4  # a cell to the right, and one beside the other eye
    points = votes(near, rough)[0]
    assert (points[:, 0] > 0.53).all() and ((points[:, 1] - 0.515).abs() < 0.02).all()
    torch.testing.assert_close(votes(far, rough), votes(features, rough), atol=1e-4, rtol=0)


def test_file_of_earlier_versions_has_no_votes_of_small_cells(tmp_path: Path) -> None:
    path, old = tmp_path / "network.safetensors", LandmarkNetwork(has_iris_votes=False).eval()
    save_network(old, path, "landmark network", {})
    loaded, pictures = load_landmark_network(path).eval(), torch.rand(1, 3, SIZE, SIZE)
    assert loaded.iris_votes is None
    torch.testing.assert_close(loaded(pictures).points, old(pictures).points, atol=2e-3, rtol=0)
    learning = load_initial_weights(LandmarkNetwork(), path).eval()
    assert learning.iris_votes is not None
    torch.testing.assert_close(
        learning(pictures).points[:, :68], old(pictures).points[:, :68], atol=2e-3, rtol=0
    )


def test_network_for_inference_computes_the_same(network: LandmarkNetwork) -> None:
    pictures = torch.rand(2, 3, SIZE, SIZE)
    folded = prepare_for_inference(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    for value, expected in zip(folded(pictures), network(pictures), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("has_iris_votes", [True, False])
def test_network_on_cpu_computes_the_same(network: LandmarkNetwork, has_iris_votes: bool) -> None:
    if not has_iris_votes:
        network.iris_votes = None
    with torch.no_grad():  # so that cells differ
        for votes in (network.votes, network.iris_votes and network.iris_votes.votes):
            if votes is not None:
                votes.weight.normal_(0, 0.1)
    pictures = torch.rand(3, 3, SIZE, SIZE)
    with torch.no_grad():
        for value, expected in zip(load_on_device(network, "cpu")(pictures), network(pictures), strict=True):
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)


def test_shipped_points_on_cpu_are_within_a_thousandth_of_a_pixel() -> None:
    skimage_data = pytest.importorskip("skimage.data", reason="scikit-image's pictures are needed")
    astronaut = skimage_data.astronaut()
    crop = OrientedCrop(222.0, 115.0, 180.0, 0.1)
    network, pictures = load_landmark_network(SHIPPED), sample_crops([astronaut], [crop], SIZE)
    with torch.no_grad():
        points, expected = (
            prepared(pictures).points * crop.side
            for prepared in (load_on_device(network, "cpu"), prepare_for_inference(network))
        )
    assert (points - expected).abs().max() < 1e-3


def test_layers_on_cpu_are_single_ops(network: LandmarkNetwork) -> None:
    fused = load_on_device(network, "cpu")
    kinds = [type(module) for module in fused.modules()]
    assert kinds.count(FusedLayers) == 4  # features, votes, and both of the irises
    assert kinds.count(FusedMeanOfVotes) == 2
    assert not {torch.nn.Conv2d, InvertedResidual, MeanOfVotes} & set(kinds)


def test_points_are_differentiable_in_the_picture(network: LandmarkNetwork) -> None:
    folded = prepare_for_inference(network)
    picture = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    folded(picture).points[0, 36:48].sum().backward()
    assert picture.grad is not None
    assert picture.grad.abs().max() > 0


def test_file_returns_the_network(network: LandmarkNetwork, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    save_network(network, path, "landmark network", {"steps": 3})
    loaded = load_landmark_network(path).eval()
    pictures = torch.rand(1, 3, SIZE, SIZE)
    torch.testing.assert_close(loaded(pictures).points, network(pictures).points, atol=2e-3, rtol=0)


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "other", "shape", "nan"])
def test_damaged_file_reports_user_error(network: LandmarkNetwork, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "network.safetensors"
    save_network(network, path, "landmark network", {})
    tensors = load_file(path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("no network")
    elif damage == "other":
        save_file({"x": torch.zeros(3)}, path)
    elif damage == "shape":
        save_file({**tensors, "votes.bias": torch.zeros(3)}, path)
    else:
        save_file({**tensors, "votes.bias": torch.full_like(tensors["votes.bias"], torch.nan)}, path)
    with pytest.raises(TalkingheadError, match=r"network\.safetensors: cannot be read as a landmark network"):
        load_landmark_network(path)


def test_shipped_network_is_small_and_says_what_trained_it() -> None:
    from safetensors import safe_open

    load_landmark_network(SHIPPED)
    assert SHIPPED.stat().st_size < 3_000_000
    with safe_open(SHIPPED, framework="pt") as file:
        assert "face-landmarker" in str(file.metadata())


def output(points: torch.Tensor, log_scale: float = -4.0, presence: float = 0.0) -> tuple[torch.Tensor, ...]:
    count = len(points)
    from talkinghead.landmarks.network import LandmarkOutput

    return LandmarkOutput(points, torch.full((count, 78), log_scale), torch.full((count,), presence))


def test_loss_counts_known_points_alone() -> None:
    truth, known = torch.rand(2, 78, 2), torch.ones(2, 78)
    known[0, 5] = known[1] = 0
    wrong = truth.clone()
    wrong[0, 5] += 0.3
    wrong[1] += 0.3
    presence = torch.tensor([1.0, 0.0])
    losses = landmark_loss(output(wrong), truth, known, presence)
    assert losses["error"] < 1e-5
    assert losses["points"] < 1e-3
    assert losses["presence"] == pytest.approx(0.3 * 0.6931, abs=1e-3)


def test_loss_of_points_grows_with_distance() -> None:
    truth, known, presence = torch.rand(1, 78, 2), torch.ones(1, 78), torch.ones(1)
    values = [
        float(landmark_loss(output(truth + shift), truth, known, presence)["points"])
        for shift in (0.0, 0.002, 0.01, 0.0142, 0.03, 0.1)
    ]
    assert values == sorted(values)
    assert values[-1] > 10 * values[1]


def test_scale_is_best_at_the_error() -> None:
    truth, known, presence = torch.rand(1, 78, 2), torch.ones(1, 78), torch.ones(1)
    moved = truth + torch.tensor([0.03, 0.04])
    losses = {
        scale: float(landmark_loss(output(moved, scale), truth, known, presence)["scale"])
        for scale in (-5.0, -4.0, float(torch.log(torch.tensor(0.05))), -2.0, -1.0)
    }
    assert min(losses, key=losses.__getitem__) == pytest.approx(-2.9957, abs=1e-3)


def test_scale_does_not_change_points() -> None:
    truth, known, presence = torch.rand(1, 78, 2), torch.ones(1, 78), torch.ones(1)
    points = (truth + 0.01).requires_grad_()
    assert not landmark_loss(output(points), truth, known, presence)["scale"].requires_grad
