"""FID's Inception. Against torch-fidelity's, on the same random weights, it was equal to the last bit; these
tests need no weights.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from talkinghead.errors import TalkingheadError
from talkinghead.pretrained.inception import _SIDE, Inception, _blocks


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return torch.nn.ModuleDict(_blocks()).state_dict()


def test_inception_has_expected_shape(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "inception.safetensors"
    save_file(state | {"fc.weight": torch.zeros(1008, 2048)}, path)  # the classifier is passed over
    network = Inception(path)
    assert (
        sum(parameter.numel() for parameter in network.parameters()) == 21_785_568
    )  # Inception-v3 without its classifiers
    with torch.inference_mode():
        (pooled,) = network(torch.rand(1, 3, 64, 48) * 2 - 1)
        (other_pooled,) = network(torch.zeros(1, 3, _SIDE, _SIDE))
    assert pooled.shape == other_pooled.shape == (1, 2048, 1, 1)
    assert pooled.isfinite().all() and not torch.equal(pooled, other_pooled)
    assert (
        not any(parameter.requires_grad for parameter in network.parameters())
        and not network.train().training
    )


def test_inception_pools_are_those_of_fid() -> None:
    blocks = _blocks()
    for name, channels in (("Mixed_5b", 192), ("Mixed_6b", 768), ("Mixed_7b", 1280), ("Mixed_7c", 2048)):
        block, seen = blocks[name].eval(), []
        block.get_submodule("branch_pool").register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[0])
        )
        ramp = torch.arange(9.0).view(1, 1, 3, 3).expand(1, channels, 3, 3)
        with torch.inference_mode():
            block(ramp.contiguous())
        corner, middle = seen[0][0, 0, 0, 0], seen[0][0, 0, 1, 1]
        assert (corner, middle) == ((4, 8) if name == "Mixed_7c" else ((0 + 1 + 3 + 4) / 4, 4))


def test_inception_rejects_missing_or_other_weights(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(TalkingheadError, match=r"gone\.pth: no such file; .* weights of FID's Inception"):
        Inception(tmp_path / "gone.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(
        TalkingheadError, match=r"text\.pth: cannot be read as the weights of FID's Inception"
    ):
        Inception(tmp_path / "text.pth")
    name = "Mixed_6b.branch7x7_2.conv.weight"
    for other, problem in ((torch.zeros(1), r"is of shape \[1\]"), (None, "is missing")):
        wrong = {key: tensor for key, tensor in (state | {name: other}).items() if tensor is not None}
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(
            TalkingheadError, match=rf"{name} {problem}, FID's Inception needs \[128, 128, 1, 7\]"
        ):
            Inception(tmp_path / "wrong.safetensors")
