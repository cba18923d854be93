"""Blocks, files and inference form of the networks that find faces and landmarks."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TypeVar

import talkinghead_kernels as ops
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from ..errors import TalkingheadError
from ..system.tensor_file import write_tensors

VERSION = 1
Network = TypeVar("Network", bound=nn.Module)


class InvertedResidual(nn.Module):
    """Block that widens its input, filters each channel, and adds the result to an input of equal shape.

    Source: Sandler et al. 2018, "MobileNetV2".
    """

    def __init__(self, inputs: int, outputs: int, expand: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        wide = inputs * expand
        self.widen = conv(inputs, wide, kernel=1)
        self.filter = conv(wide, wide, kernel=kernel, stride=stride, groups=wide)
        self.narrow = conv(wide, outputs, kernel=1, relu=False)
        self.stride = stride
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        result = self.narrow(self.filter(self.widen(x)))
        return x + result if self.adds_input else result


class FusedLayers(nn.Module):
    """Layers in sequence as one op, on the CPU and without gradients.

    Args:
        layers: of one layer each.
    """

    def __init__(self, layers: Sequence[ops.ConvSequence]) -> None:
        super().__init__()
        self._layers = list(layers)
        self.sequence = ops.ConvSequence(
            [weight for layer in layers for weight in layer.weights],
            [number for layer in layers for number in layer.numbers],
        )
        self._parts: dict[tuple[int | None, int | None], FusedLayers] = {}

    def __getitem__(self, part: slice) -> "FusedLayers":
        """Return some of the layers, as of `nn.Sequential`."""
        key = part.start, part.stop
        if key not in self._parts:
            self._parts[key] = FusedLayers(self._layers[part])
        return self._parts[key]

    def forward(self, x: Tensor) -> Tensor:
        return ops.conv_sequence(x, self.sequence)


class MeanOfVotes(nn.Module):
    """Mean of the votes of cells for points, by weights that cells give them.

    Args:
        cells: number of cells in a row.
        reach: distance, in fractions of the map, within which cells have weight, where points to look around
            are passed.
    """

    centres: Tensor

    def __init__(self, cells: int, reach: float = 1.0) -> None:
        super().__init__()
        self.reach = reach
        steps = (torch.arange(cells, dtype=torch.float32) + 0.5) / cells
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("centres", torch.stack([columns, rows]).reshape(2, -1), persistent=False)

    def forward(self, votes: Tensor, around: Tensor | None = None) -> Tensor:
        """Return the points that cells vote for, [B, P, 2], in fractions of the map.

        Args:
            votes: [B, 3 P, cells, cells]: the logarithms of the weights, and offsets (x, y) in widths of a
                cell.
            around: [B, P, 2], the points near which cells have weight.
        """
        votes = votes.float().unflatten(1, (3, -1)).flatten(3)
        logarithms = votes[:, 0]
        if around is not None:
            distance = (self.centres.T - around[:, :, None]).square().sum(dim=-1)
            logarithms = logarithms + distance * (-0.5 / self.reach**2)
        places = self.centres[:, None] + votes[:, 1:] * self.centres.shape[1] ** -0.5
        return (places * logarithms.softmax(dim=-1)[:, None]).sum(dim=-1).permute(0, 2, 1)


class FusedMeanOfVotes(nn.Module):
    """The same mean as one op, on the CPU and without gradients."""

    def __init__(self, reach: float) -> None:
        super().__init__()
        self._reach = reach

    def forward(self, votes: Tensor, around: Tensor | None = None) -> Tensor:
        return ops.soft_argmax(votes, around, self._reach)


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Return a convolution with its normalisation and activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


def prepare_for_inference(network: Network) -> Network:
    """Return a copy whose normalisations are folded into the convolutions, in channels_last."""
    result = deepcopy(network).eval()
    for module in list(result.modules()):
        if isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            convolution = module[0]
            assert isinstance(convolution, nn.Conv2d)
            module[0] = fuse_conv_bn_eval(convolution, module[1])
            module[1] = nn.Identity()
    return to_channels_last(result.requires_grad_(False))


def load_on_device(network: Network, device: str) -> Network:
    """Return a copy of a network for inference on a device: on the CPU its blocks are single ops."""
    result = prepare_for_inference(network)
    if torch.device(device).type != "cpu":
        return result.to(device)
    _fuse_children(result)
    return result


def _fuse_children(module: nn.Module) -> None:
    """Replace the blocks inside a module by single ops."""
    for name, child in list(module.named_children()):
        fused = _fused(child)
        if fused is None:
            _fuse_children(child)
        else:
            setattr(module, name, fused)


def _fused(module: nn.Module) -> nn.Module | None:
    """Return the single op that computes a module on the CPU, or None if there is none."""
    if isinstance(module, MeanOfVotes):
        return FusedMeanOfVotes(module.reach)
    children = [module]
    if isinstance(module, nn.Sequential) and _packed(module) is None:
        children = list(module)
    layers = [layer for layer in map(_packed, children) if layer is not None]
    return FusedLayers(layers) if len(layers) == len(children) else None


def _packed(module: nn.Module) -> ops.ConvSequence | None:
    """Return a layer of `prepare_for_inference` for `ops.conv_sequence`, or None of another module."""
    if isinstance(module, InvertedResidual):
        widen, filter, narrow = map(_weight_and_bias, (module.widen, module.filter, module.narrow))
        return ops.pack_block(widen, filter, narrow, stride=module.stride, adds_input=module.adds_input)
    if isinstance(module, nn.Sequential) and isinstance(module[0], nn.Conv2d):
        relu = isinstance(module[-1], nn.ReLU)
        return ops.pack_conv(*_weight_and_bias(module), stride=int(module[0].stride[0]), relu=relu)
    if isinstance(module, nn.Conv2d) and module.bias is not None:
        return ops.pack_conv(module.weight, module.bias, stride=int(module.stride[0]))
    return None


def _weight_and_bias(layers: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Return those of a convolution into which its normalisation was folded."""
    convolution = layers[0]
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    return convolution.weight, convolution.bias


def to_channels_last(network: Network) -> Network:
    """Return the network with its weights in channels_last, in which CPUs run it fastest."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_network(network: nn.Module, path: Path, kind: str, provenance: Mapping[str, object]) -> None:
    """Write the weights in 16 bits, with what they were trained on.

    Args:
        network: the network.
        path: the file.
        kind: what the network is, such as "landmark network".
        provenance: values for JSON.

    Raises:
        TalkingheadError: the file cannot be written; the message says where it was written instead.
    """
    tensors = {
        name: value.half() if value.is_floating_point() and value.ndim > 1 else value
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    write_tensors(path, tensors, {"kind": kind, "version": VERSION, "provenance": dict(provenance)})


def has_weights(path: Path, prefix: str) -> bool:
    """Return whether a file holds weights of such names; True for one that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.startswith(prefix) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError):
        return True


def load_weights(
    network: Network, path: Path, kind: str, remedy: str = "train one with: talkinghead train-landmarks"
) -> Network:
    """Load a file that `save_network` wrote into a network, and return it.

    Args:
        network: of the file's architecture.
        path: the file.
        kind: what the network is, as for `save_network`.
        remedy: what an error tells the user to do.

    Raises:
        TalkingheadError: the file is missing, damaged, or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            for name, target in network.state_dict().items():
                if name.endswith("num_batches_tracked"):
                    continue
                if tuple(file.get_slice(name).get_shape()) != tuple(target.shape):
                    raise ValueError(f"{name} has another shape")
                value = file.get_tensor(name)
                if not value.isfinite().all():
                    raise ValueError(f"{name} is not finite")
                target.copy_(value)
    except (SafetensorError, OSError, TypeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TalkingheadError(f"{path}: cannot be read as a {kind} ({reason}); {remedy}") from error
    return network
