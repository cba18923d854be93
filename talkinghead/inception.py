"""The Inception-v3 of FID: TensorFlow's of 2015-12-05, whose weights circulate for PyTorch as pt_inception-2015-12-05-6726825d.pth.

It differs from today's Inception-v3: average pools do not count the padding, and the last block's pool takes maxima. The names are those of
the file. Pictures are enlarged to 299x299 (bilinear, pixel centres) and go in as [-1, 1].
"""

from collections.abc import Sequence
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import TalkingheadError
from .perceptual import PerceptualNetwork, read_state

_SIDE = 299


class Inception(PerceptualNetwork):
    """Pictures to the 2048 pooled features that FID compares.

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
        with torch.device("meta"):  # nothing is drawn for weights that are replaced
            self.blocks = nn.ModuleDict(_blocks())
        wanted = {name.removeprefix("blocks."): tensor for name, tensor in self.state_dict().items() if "num_batches" not in name}
        for name, tensor in wanted.items():
            if name not in state or state[name].shape != tensor.shape:
                found = "missing" if name not in state else f"of shape {list(state[name].shape)}"
                raise TalkingheadError(
                    f"{path}: {name} is {found}, FID's Inception needs {list(tensor.shape)}; give pt_inception-2015-12-05-6726825d.pth, or "
                    "leave it out to have FED"
                )
        self.to_empty(device="cpu")
        self.blocks.load_state_dict({name: state[name].float() for name in wanted}, strict=False)
        self.freeze()

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B, 2048, 1, 1] of images float [B, 3, H, W], RGB in [-1, 1]."""
        x = F.interpolate(images, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
        for name, block in self.blocks.items():
            x = block(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, stride=2)
        return [x.mean((2, 3), keepdim=True)]


class _Convolution(nn.Module):
    def __init__(
        self, channels: int, out: int, kernel: int | tuple[int, int] = 1, stride: int = 1, padding: int | tuple[int, int] = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Branches side by side, their channels joined.

    Args:
        branches: name -> convolution.
        chains: of each branch its convolutions in turn; two in a tuple see the same and are joined.
        pool: "average" or "max" before branch_pool; "stride" where a pool of stride 2 is a branch of its own.
    """

    def __init__(self, branches: dict[str, _Convolution], chains: Sequence[Sequence[str | tuple[str, str]]], pool: str) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)
        self.chains, self.pool = chains, pool

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for chain in self.chains:
            y = x
            if chain[0] == "branch_pool":
                y = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) if self.pool == "average" else F.max_pool2d(x, 3, 1, 1)
            for name in chain:
                y = torch.cat([self.get_submodule(n)(y) for n in name], 1) if isinstance(name, tuple) else self.get_submodule(name)(y)
            found.append(y)
        if self.pool == "stride":
            found.append(F.max_pool2d(x, 3, stride=2))
        return torch.cat(found, 1)


def _blocks() -> dict[str, nn.Module]:
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
    branches = {
        "branch1x1": _Convolution(channels, 64),
        "branch5x5_1": _Convolution(channels, 48),
        "branch5x5_2": _Convolution(48, 64, 5, padding=2),
        "branch3x3dbl_1": _Convolution(channels, 64),
        "branch3x3dbl_2": _Convolution(64, 96, 3, padding=1),
        "branch3x3dbl_3": _Convolution(96, 96, 3, padding=1),
        "branch_pool": _Convolution(channels, pooled),
    }
    chains = [["branch1x1"], ["branch5x5_1", "branch5x5_2"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], ["branch_pool"]]
    return _Mixed(branches, chains, "average")


def _mixed_b(channels: int) -> _Mixed:
    branches = {
        "branch3x3": _Convolution(channels, 384, 3, 2),
        "branch3x3dbl_1": _Convolution(channels, 64),
        "branch3x3dbl_2": _Convolution(64, 96, 3, padding=1),
        "branch3x3dbl_3": _Convolution(96, 96, 3, 2),
    }
    return _Mixed(branches, [["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]], "stride")


def _mixed_c(inner: int) -> _Mixed:
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
    branches = {
        "branch3x3_1": _Convolution(768, 192),
        "branch3x3_2": _Convolution(192, 320, 3, 2),
        "branch7x7x3_1": _Convolution(768, 192),
        "branch7x7x3_2": _Convolution(192, 192, (1, 7), padding=(0, 3)),
        "branch7x7x3_3": _Convolution(192, 192, (7, 1), padding=(3, 0)),
        "branch7x7x3_4": _Convolution(192, 192, 3, 2),
    }
    return _Mixed(branches, [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{number}" for number in (1, 2, 3, 4)]], "stride")


def _mixed_e(channels: int, pool: str) -> _Mixed:
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
