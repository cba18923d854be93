"""The Inception-v3 of FID: TensorFlow's of 2015-12-05, whose weights for PyTorch are published as
pt_inception-2015-12-05-6726825d.pth.

It differs from today's Inception-v3: average pools do not count the padding, and the last block has a max
pool. Modules have the names of the file. Images are enlarged to 299x299 (bilinear, pixel centres); their
range is [-1, 1].
"""

from collections.abc import Sequence
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TalkingheadError
from .perceptual import PerceptualNetwork, read_state

_SIDE = 299


class Inception(PerceptualNetwork):
    """Inception-v3 up to the 2048 pooled features that FID compares.

    Args:
        path: the weights, a state dict as safetensors or torch file.

    Raises:
        TalkingheadError: the file is missing, unreadable, or of another network.
    """

    layers = ("pool3",)
    weights = (1.0,)

    def __init__(self, path: str | PathLike[str]) -> None:
        super().__init__()
        state = read_state(path, "the weights of FID's Inception (pt_inception-2015-12-05-6726825d.pth)")
        with torch.device("meta"):  # the weights are replaced, so they need no initialisation
            self.blocks = nn.ModuleDict(_blocks())
        expected = {
            name.removeprefix("blocks."): tensor
            for name, tensor in self.state_dict().items()
            if "num_batches" not in name
        }
        for name, tensor in expected.items():
            if name not in state or state[name].shape != tensor.shape:
                problem = "missing" if name not in state else f"of shape {list(state[name].shape)}"
                raise TalkingheadError(
                    f"{path}: {name} is {problem}, FID's Inception needs {list(tensor.shape)}; give "
                    "pt_inception-2015-12-05-6726825d.pth, or leave it out to have FED"
                )
        self.to_empty(device="cpu")
        self.blocks.load_state_dict({name: state[name].float() for name in expected}, strict=False)
        self.freeze()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return features [B, 2048, 1, 1] of images float [B, 3, H, W], RGB in [-1, 1]."""
        x = F.interpolate(images, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
        for name, block in self.blocks.items():
            x = block(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, stride=2)
        return [x.mean((2, 3), keepdim=True)]


class _Convolution(nn.Module):
    """A convolution without bias, batch norm and ReLU."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Parallel branches whose outputs are concatenated.

    Args:
        branches: convolutions by name.
        chains: the names of each branch's convolutions in order; two in a tuple have the same input, and
            their outputs are concatenated.
        pool: "average" or "max" before branch_pool; "stride" adds a max pool of stride 2 as a branch.
    """

    def __init__(
        self, branches: dict[str, _Convolution], chains: Sequence[Sequence[str | tuple[str, str]]], pool: str
    ) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)
        self.chains, self.pool = chains, pool

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self._run_chain(chain, x) for chain in self.chains]
        if self.pool == "stride":
            outputs.append(F.max_pool2d(x, 3, stride=2))
        return torch.cat(outputs, 1)

    def _run_chain(self, chain: Sequence[str | tuple[str, str]], x: Tensor) -> Tensor:
        """Return the output of one branch."""
        if chain[0] == "branch_pool" and self.pool == "average":
            x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        elif chain[0] == "branch_pool":
            x = F.max_pool2d(x, 3, stride=1, padding=1)
        for name in chain:
            if isinstance(name, tuple):
                x = torch.cat([self.get_submodule(part)(x) for part in name], 1)
            else:
                x = self.get_submodule(name)(x)
        return x


def _blocks() -> dict[str, nn.Module]:
    """Return the blocks by name, in the order of the network."""
    c = _Convolution
    return {
        "Conv2d_1a_3x3": c(3, 32, 3, 2),
        "Conv2d_2a_3x3": c(32, 32, 3),
        "Conv2d_2b_3x3": c(32, 64, 3, padding=1),
        "Conv2d_3b_1x1": c(64, 80),
        "Conv2d_4a_3x3": c(80, 192, 3),
        "Mixed_5b": _mixed_a(192, 32),
        "Mixed_5c": _mixed_a(256, 64),
        "Mixed_5d": _mixed_a(288, 64),
        "Mixed_6a": _mixed_b(288),
        "Mixed_6b": _mixed_c(128),
        "Mixed_6c": _mixed_c(160),
        "Mixed_6d": _mixed_c(160),
        "Mixed_6e": _mixed_c(192),
        "Mixed_7a": _mixed_d(),
        "Mixed_7b": _mixed_e(1280, "average"),
        "Mixed_7c": _mixed_e(2048, "max"),
    }


def _mixed_a(channels: int, pooled: int) -> _Mixed:
    """Return a block at 35x35."""
    branches = {
        "branch1x1": _Convolution(channels, 64),
        "branch5x5_1": _Convolution(channels, 48),
        "branch5x5_2": _Convolution(48, 64, 5, padding=2),
        "branch3x3dbl_1": _Convolution(channels, 64),
        "branch3x3dbl_2": _Convolution(64, 96, 3, padding=1),
        "branch3x3dbl_3": _Convolution(96, 96, 3, padding=1),
        "branch_pool": _Convolution(channels, pooled),
    }
    chains = [
        ["branch1x1"],
        ["branch5x5_1", "branch5x5_2"],
        ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
        ["branch_pool"],
    ]
    return _Mixed(branches, chains, "average")


def _mixed_b(channels: int) -> _Mixed:
    """Return the block from 35x35 to 17x17."""
    branches = {
        "branch3x3": _Convolution(channels, 384, 3, 2),
        "branch3x3dbl_1": _Convolution(channels, 64),
        "branch3x3dbl_2": _Convolution(64, 96, 3, padding=1),
        "branch3x3dbl_3": _Convolution(96, 96, 3, 2),
    }
    return _Mixed(branches, [["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]], "stride")


def _mixed_c(inner: int) -> _Mixed:
    """Return a block at 17x17."""
    c = _Convolution
    branches = {
        "branch1x1": c(768, 192),
        "branch7x7_1": c(768, inner),
        "branch7x7_2": c(inner, inner, (1, 7), padding=(0, 3)),
        "branch7x7_3": c(inner, 192, (7, 1), padding=(3, 0)),
        "branch7x7dbl_1": c(768, inner),
        "branch7x7dbl_2": c(inner, inner, (7, 1), padding=(3, 0)),
        "branch7x7dbl_3": c(inner, inner, (1, 7), padding=(0, 3)),
        "branch7x7dbl_4": c(inner, inner, (7, 1), padding=(3, 0)),
        "branch7x7dbl_5": c(inner, 192, (1, 7), padding=(0, 3)),
        "branch_pool": c(768, 192),
    }
    sevens = [f"branch7x7_{number}" for number in (1, 2, 3)]
    doubles = [f"branch7x7dbl_{number}" for number in (1, 2, 3, 4, 5)]
    return _Mixed(branches, [["branch1x1"], sevens, doubles, ["branch_pool"]], "average")


def _mixed_d() -> _Mixed:
    """Return the block from 17x17 to 8x8."""
    branches = {
        "branch3x3_1": _Convolution(768, 192),
        "branch3x3_2": _Convolution(192, 320, 3, 2),
        "branch7x7x3_1": _Convolution(768, 192),
        "branch7x7x3_2": _Convolution(192, 192, (1, 7), padding=(0, 3)),
        "branch7x7x3_3": _Convolution(192, 192, (7, 1), padding=(3, 0)),
        "branch7x7x3_4": _Convolution(192, 192, 3, 2),
    }
    return _Mixed(
        branches,
        [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{number}" for number in (1, 2, 3, 4)]],
        "stride",
    )


def _mixed_e(channels: int, pool: str) -> _Mixed:
    """Return a block at 8x8."""
    c = _Convolution
    branches = {
        "branch1x1": c(channels, 320),
        "branch3x3_1": c(channels, 384),
        "branch3x3_2a": c(384, 384, (1, 3), padding=(0, 1)),
        "branch3x3_2b": c(384, 384, (3, 1), padding=(1, 0)),
        "branch3x3dbl_1": c(channels, 448),
        "branch3x3dbl_2": c(448, 384, 3, padding=1),
        "branch3x3dbl_3a": c(384, 384, (1, 3), padding=(0, 1)),
        "branch3x3dbl_3b": c(384, 384, (3, 1), padding=(1, 0)),
        "branch_pool": c(channels, 192),
    }
    chains: tuple[Sequence[str | tuple[str, str]], ...] = (
        ["branch1x1"],
        ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")],
        ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")],
        ["branch_pool"],
    )
    return _Mixed(branches, chains, pool)
