"""Configuration: frozen dataclasses, and the presets portrait, paper, small and tiny.

`paper` is the paper's 256x256 system. `small` (128x128) and `tiny` (64x64) keep its structure at less width
and depth, and train in minutes to hours; their learning rates, losses and spectral norms differ where
measured runs were better for it. `portrait` (256x256) is ours: the networks of `small`, guided by the
person's reference images.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from .clip import POINTS, POINTS_WITH_IRISES
from .constants import PRESETS
from .errors import TalkingheadError, shorten

_MAX_BLOCKS = 16
_MAX_CHANNELS = 4096
_IMAGE_SIZES = (32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class NetworkConfig:
    """Shapes of the four networks.

    Channels are those after each block; `*_attention` is the number of blocks before the attention.
    """

    image_size: int = 256
    encoder: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    """Down blocks of E and V; the last entry is the size of the embedding."""
    encoder_attention: int = 3
    down: tuple[int, ...] = (64, 128, 256, 512)
    down_attention: int = 3
    residual: int = 4
    up: tuple[int, ...] = (512, 256, 128, 64)
    up_attention: int = 2
    spectral_embedder: bool = True
    spectral_generator: bool = True
    spectral_discriminator: bool = True
    discriminator_slope: float = 0.0
    """Negative slope of D's activations: 0 is ReLU."""
    activate_before_pool: bool = True
    """Order of ReLU and sum-pooling in E and V; False is the paper's."""
    embedding_gain: float = 1.0
    """Factor from the pooled vector to the embedding; P divides by it."""
    discriminator_gain: float = 1.0
    """Factor of V's pooled vector before it is scored."""
    initialisation: str = "orthogonal"
    """Initialisation of weights: "orthogonal", or "uniform" (torch's default, within 1/sqrt(fan-in))."""
    reference_guided: bool = False
    """G also sees the person's reference images, warped and as they are, and composes them with its own image
    (`ReferenceGuidedGenerator`).
    """
    network_size: int = 0
    """Side of the images that E, G's layers and D see; 0 is `image_size`. Only a reference-guided G composes
    larger ones.
    """
    irises: bool = False
    """Landmark images show the irises, so that the gaze of the driver moves that of the person."""

    def __post_init__(self) -> None:
        valid = (
            self.image_size in _IMAGE_SIZES
            and self._has_valid_network_size()
            and _are_valid_blocks(self.encoder, self.encoder_attention)
            and _are_valid_blocks(self.down, self.down_attention)
            and _are_valid_blocks(self.up, self.up_attention)
            and len(self.down) == len(self.up)
            and 0 <= self.residual <= _MAX_BLOCKS
        )
        if not valid:
            raise TalkingheadError(f"networks: {shorten(self, 600)} makes no network; start from a preset")

    def _has_valid_network_size(self) -> bool:
        if self.network_size == 0:
            return True
        return self.reference_guided and self.network_size > 0 and self.image_size % self.network_size == 0

    @property
    def layer_size(self) -> int:
        """Side of the images and landmark images that the networks' layers see."""
        return self.network_size or self.image_size

    @property
    def num_points(self) -> int:
        """Number of points that landmark images show: 68 landmarks, and 10 points of the irises if known."""
        return POINTS_WITH_IRISES if self.irises else POINTS

    @property
    def used_points(self) -> int:
        """Number of a driver's points that have an effect: references follow irises that no image shows."""
        return POINTS_WITH_IRISES if self.irises or self.reference_guided else POINTS

    @property
    def embedding(self) -> int:
        """Length of the embedding e, of W_i, w0 and of V's pooled vector."""
        return self.encoder[-1]


def _are_valid_blocks(channels: tuple[int, ...], attention: int) -> bool:
    """Return whether blocks with these channels, `attention` of them before the attention, make a network."""
    return (
        0 < len(channels) <= _MAX_BLOCKS
        and all(0 < count <= _MAX_CHANNELS for count in channels)
        and 0 < attention <= len(channels)
    )


@dataclass(frozen=True)
class AdamConfig:
    """Adam's settings for one group of networks."""

    learning_rate: float
    beta1: float = 0.0
    beta2: float = 0.999
    eps: float = 1e-8
    """Added to the root of the second moment: gradients far below it change nothing."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the generator's losses (paper, version 2).

    The content loss has further weights in its networks.
    """

    content: float = 1.0
    pixel: float = 0.0
    adversarial: float = 1.0
    feature_matching: float = 10.0
    matching: float = 10.0
    relative_feature_matching: bool = False
    """Divide each feature map's term by the mean activation; for a D without spectral norm, whose activations
    grow.
    """


@dataclass(frozen=True)
class MetaConfig:
    """Settings of meta-learning.

    One step sees `batch` episodes, each of one target frame and `shots` other frames of the same video.
    """

    steps: int
    batch: int
    generator: AdamConfig = AdamConfig(5e-5)
    discriminator: AdamConfig = AdamConfig(2e-4)
    shots: int = 8
    discriminator_steps: int = 2
    average: float = 0.999
    """Decay of the running average of E and G."""
    clip: float = 0.0
    """Bound of the gradient's norm per network; 0 is no bound."""
    precision: str = "fp32"
    """Precision of convolutions: "bf16" where the machine supports it; weights, statistics, losses and
    optimiser stay float32.
    """
    own_picture: float = 0.0
    """Share of the episodes of a reference-guided G in which the output is its own image alone, so that this
    image is trained too.
    """
    details: float = 0.0
    """Weight of the content and pixel losses on enlarged crops of eyes and mouth, as a multiple of their
    weights on the whole image.
    """
    far_targets: float = 0.0
    """Share of the episodes whose target frame is chosen far from the others, because most clips hardly move.
    """
    camera_motion: float = 0.0
    """Share of the episodes whose other frames are moved as by a hand-held camera, because the cameras of
    synthetic clips do not move.
    """
    videos: int = 1
    """Number of videos to which a smaller data set is augmented, by fixed changes of colour and shape of each
    video.
    """
    columns_from_embeddings: bool = False
    """Initialise W with E's embedding of each video, as every run that starts from a model does; else with
    noise within +-0.01.
    """
    losses: LossWeights = LossWeights()


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of few-shot fine-tuning.

    Steps are `epochs` passes over the images in batches of at most `batch`, and at least `minimum_steps`.
    """

    epochs: int = 40
    batch: int = 8
    minimum_steps: int = 0
    generator: AdamConfig = AdamConfig(5e-5)
    discriminator: AdamConfig = AdamConfig(2e-4)
    styles_rate: float = 1.0
    """Learning rate of psi' as a multiple of the generator's."""
    discriminator_steps: int = 2
    average: float = 0.97
    clip: float = 0.0
    precision: str = "fp32"
    jitter: float = 0.0
    """Augmentation of each step: images and their landmarks are shifted, rotated, scaled and warped together
    by about this share of the frame.
    """
    own_picture: float = 0.0
    details: float = 0.0
    head_jitter: float = 0.0
    """Augmentation for a reference-guided G: the head alone moves by about this share of the frame, in front
    of a fixed background.
    """
    losses: LossWeights = LossWeights(matching=0.0)

    def steps(self, num_images: int) -> int:
        """Return the number of optimiser steps for a number of images."""
        return max(self.minimum_steps, self.epochs * -(-num_images // self.batch))


@dataclass(frozen=True)
class Config:
    """Configuration of a model, stored in every checkpoint."""

    preset: str
    networks: NetworkConfig = field(default_factory=NetworkConfig)
    meta: MetaConfig = field(default_factory=lambda: MetaConfig(steps=1_000_000, batch=8))
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    perceptual: tuple[str, ...] = ("vgg19", "vggface")
    """Networks of the content loss, by name."""
    crop: int = 1
    """Convention of the crop (data/crop.py) of its images."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without newer fields whose value is what older versions imply."""
        return _without_defaults(dataclasses.asdict(self), "configuration")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Return the configuration that `to_dict` described.

        Raises:
            TalkingheadError: a field is missing, unknown or of the wrong kind, as of another version.
        """
        return _build(cls, values, "configuration")


_ADDED: dict[str, dict[str, Any]] = {
    "configuration": {"crop": 1},
    "configuration.networks": {"reference_guided": False, "network_size": 0, "irises": False},
    "configuration.meta": {"columns_from_embeddings": False}
    | dict.fromkeys(("own_picture", "details", "far_targets", "camera_motion"), 0.0),
    "configuration.finetune": {"own_picture": 0.0, "details": 0.0, "head_jitter": 0.0},
    **{
        f"configuration.{stage}.{half}": {"eps": 1e-8}
        for stage in ("meta", "finetune")
        for half in ("generator", "discriminator")
    },
}
"""Fields that files of earlier versions lack, and the values that these files imply."""


def _without_defaults(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the values without those fields of `_ADDED` that have their default."""
    kept = {
        name: value
        for name, value in values.items()
        if name not in _ADDED.get(where, {}) or value != _ADDED[where][name]
    }
    return {
        name: _without_defaults(value, f"{where}.{name}") if isinstance(value, dict) else value
        for name, value in kept.items()
    }


def _build(kind: Any, value: Any, where: str) -> Any:
    """Convert a value of plain JSON to the declared type of a field: a dataclass, a tuple or a plain type."""
    if dataclasses.is_dataclass(kind):
        kinds = get_type_hints(kind)
        if isinstance(value, dict):
            value = {**_ADDED.get(where, {}), **value}
        if not isinstance(value, dict) or set(value) != set(kinds):
            names = sorted(set(value) ^ set(kinds)) if isinstance(value, dict) else [type(value).__name__]
            raise TalkingheadError(
                f"{where}: fields {shorten(', '.join(names))} do not fit this version; make the file again "
                "with it"
            )
        fields = {name: _build(kinds[name], entry, f"{where}.{name}") for name, entry in value.items()}
        return kind(**fields)  # type: ignore[operator]
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        return tuple(_build(get_args(kind)[0], item, where) for item in value)
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    expected = getattr(kind, "__name__", str(kind))
    raise TalkingheadError(
        f"{where}: is {type(value).__name__}, expected {expected}; make the file again with this version"
    )


# without the gain e is 600 times as long as a video embedding W_i, and the matching loss shrinks it; measured
# in docs/training.md
_PAPER = NetworkConfig(embedding_gain=0.01)
_PAPER_META = MetaConfig(steps=1_000_000, batch=8, columns_from_embeddings=True)
_FAST_ADAM = AdamConfig(4e-4, beta1=0.0, beta2=0.9)
_FAST_META = MetaConfig(
    steps=5_000,
    batch=4,
    shots=2,
    generator=AdamConfig(4e-4, beta1=0.5, beta2=0.99),
    discriminator=_FAST_ADAM,
    discriminator_steps=1,
    average=0.998,
    clip=5.0,
    precision="bf16",
    videos=600,
    losses=LossWeights(pixel=20.0, feature_matching=5.0, relative_feature_matching=True),
)
_FAST_FINETUNE = FinetuneConfig(
    epochs=80,
    minimum_steps=160,
    generator=AdamConfig(5e-4, beta1=0.5, beta2=0.99),
    discriminator=_FAST_ADAM,
    styles_rate=5.0,
    discriminator_steps=1,
    clip=5.0,
    precision="bf16",
    jitter=0.03,
    losses=LossWeights(pixel=20.0, feature_matching=5.0, relative_feature_matching=True, matching=0.0),
)
_TINY = NetworkConfig(
    image_size=64,
    encoder=(32, 64, 128, 192),
    encoder_attention=2,
    down=(40, 80, 160),
    down_attention=2,
    residual=3,
    up=(160, 80, 40),
    up_attention=2,
    spectral_embedder=False,
    spectral_generator=False,
    spectral_discriminator=False,
    discriminator_slope=0.2,
    embedding_gain=0.01,
    discriminator_gain=0.01,
    initialisation="uniform",
)
_SMALL = dataclasses.replace(
    _TINY, image_size=128, embedding_gain=0.0025, discriminator_gain=0.0025
)  # the pooled sums have four times as many positions
_PORTRAIT = dataclasses.replace(_SMALL, image_size=256, network_size=128, reference_guided=True)
_PORTRAIT_META = dataclasses.replace(
    _FAST_META, steps=20_000, own_picture=0.35, details=0.5, far_targets=0.5, camera_motion=0.3
)
_PORTRAIT_FINETUNE = dataclasses.replace(
    _FAST_FINETUNE,
    epochs=20,
    minimum_steps=40,
    generator=AdamConfig(2e-4, beta1=0.5, beta2=0.99),
    own_picture=0.25,
    details=0.5,
    head_jitter=0.03,
    jitter=0.0,
)
_EFFICIENTNET = ("efficientnet-lite0",)
_PRESETS = {
    "portrait": Config(
        preset="portrait",
        networks=_PORTRAIT,
        meta=_PORTRAIT_META,
        finetune=_PORTRAIT_FINETUNE,
        perceptual=_EFFICIENTNET,
        crop=2,
    ),
    "paper": Config(preset="paper", networks=_PAPER, meta=_PAPER_META),
    "small": Config(
        preset="small",
        networks=_SMALL,
        meta=_FAST_META,
        finetune=_FAST_FINETUNE,
        perceptual=_EFFICIENTNET,
    ),
    "tiny": Config(
        preset="tiny", networks=_TINY, meta=_FAST_META, finetune=_FAST_FINETUNE, perceptual=_EFFICIENTNET
    ),
}


def preset(name: str) -> Config:
    """Return the configuration of a preset.

    Raises:
        TalkingheadError: no such preset.
    """
    if name not in _PRESETS:
        raise TalkingheadError(
            f"preset {shorten(repr(name))}: there is none of this name; choose {', '.join(PRESETS)}"
        )
    return _PRESETS[name]
