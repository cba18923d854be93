"""Configuration: frozen dataclasses, and the presets portrait, paper, small and tiny.

`paper` is the paper's 256x256 system. `small` (128x128) and `tiny` (64x64) keep its structure at less width and depth, and must learn in
minutes to hours, so their learning rates, losses and spectral norms differ where a measured run said so. `portrait` (256x256) is ours: the
networks of `small`, guided by the person's pictures.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from .errors import TalkingheadError, shorten

_MOST_BLOCKS, _MOST_CHANNELS = 16, 4096


@dataclass(frozen=True)
class NetworkConfig:
    """Shapes of the four networks. Channels are those after each block; `*_attention` is the number of blocks before the attention."""

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
    """ReLU, then sum-pool in E and V; False is the paper's order."""
    embedding_gain: float = 1.0
    """The embedding is this times the pooled vector; P reads it divided by the gain again."""
    discriminator_gain: float = 1.0
    """V's pooled vector is scaled by this before it is scored."""
    initialisation: str = "orthogonal"
    """Weights at the start: "orthogonal", or "uniform" (torch's default, within 1/sqrt(fan-in))."""
    reference_guided: bool = False
    """Whether G also sees the person's pictures, warped and as they stand, and composes them with its own (`ReferenceGuidedGenerator`)."""
    network_size: int = 0
    """Side of the pictures that E, G's layers and D see; 0 is `image_size`. Only a reference-guided G composes larger ones."""

    def __post_init__(self) -> None:
        blocks = {"encoder": self.encoder, "down": self.down, "up": self.up}
        sound = (
            self.image_size in (32, 64, 128, 256, 512, 1024)
            and all(
                0 < len(channels) <= _MOST_BLOCKS and all(0 < each <= _MOST_CHANNELS for each in channels) for channels in blocks.values()
            )
            and 0 <= self.residual <= _MOST_BLOCKS
            and all(0 < getattr(self, f"{name}_attention") <= len(channels) for name, channels in blocks.items())
            and len(self.down) == len(self.up)
            and (self.network_size == 0 or (self.reference_guided and self.network_size > 0 and self.image_size % self.network_size == 0))
        )
        if not sound:
            raise TalkingheadError(f"networks: {shorten(self, 600)} makes no network; start from a preset")

    @property
    def layer_size(self) -> int:
        """Side of the pictures and landmark images that the networks' layers see."""
        return self.network_size or self.image_size

    @property
    def embedding(self) -> int:
        """Length of the embedding e, of W_i, w0 and of V's pooled vector."""
        return self.encoder[-1]


@dataclass(frozen=True)
class AdamConfig:
    """Adam's settings for one group of networks."""

    learning_rate: float
    beta1: float = 0.0
    beta2: float = 0.999
    eps: float = 1e-8
    """Added to the root of the second moment: gradients far below it move nothing."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the generator's losses (paper, version 2). The content loss carries its own in its networks."""

    content: float = 1.0
    pixel: float = 0.0
    adversarial: float = 1.0
    feature_matching: float = 10.0
    matching: float = 10.0
    relative_feature_matching: bool = False
    """Divide each map's term by the mean activation; for a D without spectral norm, whose activations grow."""


@dataclass(frozen=True)
class MetaConfig:
    """Meta-learning: one step sees `batch` episodes of one target frame and `shots` other frames of the same video."""

    steps: int
    batch: int
    generator: AdamConfig = AdamConfig(5e-5)
    discriminator: AdamConfig = AdamConfig(2e-4)
    shots: int = 8
    discriminator_steps: int = 2
    average: float = 0.999
    """Decay of the running average of E and G."""
    clip: float = 0.0
    """Bound of the gradient's norm per network; 0 leaves it alone."""
    precision: str = "fp32"
    """"bf16" runs convolutions in bfloat16 where the machine can; weights, statistics, losses and optimiser stay float32."""
    own_picture: float = 0.0
    """Of a reference-guided G: share of the episodes in which its own picture alone is shown, so that it is learned too."""
    details: float = 0.0
    """Weight of the content and pixel losses on enlarged crops of eyes and mouth, as a multiple of those of the whole picture."""
    far_targets: float = 0.0
    """Share of the episodes whose target frame is chosen far from the others: most clips hardly move."""
    camera_motion: float = 0.0
    """Share of the episodes whose other frames are moved as a hand-held camera would: synthetic clips have cameras that stand still."""
    videos: int = 1
    """A data set of fewer videos counts as this many: each also stands for others made of it by fixed changes of colour and shape."""
    columns_from_embeddings: bool = False
    """W starts as what E says of each video, as in every run that starts from a model; else as noise within +-0.01."""
    losses: LossWeights = LossWeights()


@dataclass(frozen=True)
class FinetuneConfig:
    """Few-shot fine-tuning. Steps are `epochs` passes over the pictures in batches of at most `batch`, and `minimum_steps` at least."""

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
    """Each step sees its pictures and their landmarks moved, turned, scaled and bent together by about this share of the frame."""
    own_picture: float = 0.0
    details: float = 0.0
    head_jitter: float = 0.0
    """Of a reference-guided G: the head alone moves by about this share of the frame, over a background that stands still."""
    losses: LossWeights = LossWeights(matching=0.0)

    def steps(self, pictures: int) -> int:
        """Optimiser steps for this many pictures."""
        return max(self.minimum_steps, self.epochs * -(-pictures // self.batch))


@dataclass(frozen=True)
class Config:
    """Everything that makes a model what it is; stored in every checkpoint."""

    preset: str
    networks: NetworkConfig = field(default_factory=NetworkConfig)
    meta: MetaConfig = field(default_factory=lambda: MetaConfig(steps=1_000_000, batch=8))
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    perceptual: tuple[str, ...] = ("vgg19", "vggface")
    """Networks of the content loss, by name."""
    crop: int = 1
    """Convention of the crop (data/crop.py) that its pictures have."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; a field that older versions do not know is left out where it says what they do."""
        return _without_defaults(dataclasses.asdict(self), "configuration")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """The inverse of `to_dict`.

        Raises:
            TalkingheadError: a field is missing, unknown or of the wrong kind: it was written by another version.
        """
        return _build(cls, values, "configuration")


_ADDED: dict[str, dict[str, Any]] = {
    "configuration": {"crop": 1},
    "configuration.networks": {"reference_guided": False, "network_size": 0},
    "configuration.meta": {
        "own_picture": 0.0,
        "details": 0.0,
        "far_targets": 0.0,
        "camera_motion": 0.0,
        "columns_from_embeddings": False,
    },
    "configuration.finetune": {"own_picture": 0.0, "details": 0.0, "head_jitter": 0.0},
    **{f"configuration.{stage}.{half}": {"eps": 1e-8} for stage in ("meta", "finetune") for half in ("generator", "discriminator")},
}
"""Fields that files of earlier versions lack, and what those files mean without them."""


def _without_defaults(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the values without those fields of `_ADDED` that have their default."""
    kept = {name: value for name, value in values.items() if name not in _ADDED.get(where, {}) or value != _ADDED[where][name]}
    return {name: _without_defaults(value, f"{where}.{name}") if isinstance(value, dict) else value for name, value in kept.items()}


def _build(kind: Any, value: Any, where: str) -> Any:
    """A value of plain JSON as what a field is declared to be: a dataclass, a tuple or a plain type."""
    if dataclasses.is_dataclass(kind):
        kinds = get_type_hints(kind)
        if isinstance(value, dict):
            value = {**_ADDED.get(where, {}), **value}
        if not isinstance(value, dict) or set(value) != set(kinds):
            odd = sorted(set(value) ^ set(kinds)) if isinstance(value, dict) else [type(value).__name__]
            raise TalkingheadError(f"{where}: fields {shorten(', '.join(odd))} do not fit this version; make the file again with it")
        return kind(**{name: _build(kinds[name], each, f"{where}.{name}") for name, each in value.items()})  # type: ignore[operator]
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        return tuple(_build(get_args(kind)[0], each, where) for each in value)
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    wanted = getattr(kind, "__name__", str(kind))
    raise TalkingheadError(f"{where}: is {type(value).__name__}, {wanted} was expected; make the file again with this version")


# without the gain e is 600 times as long as a column of W, and the matching loss shrinks it; docs/training.md has the figures
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
_SMALL = dataclasses.replace(_TINY, image_size=128, embedding_gain=0.0025, discriminator_gain=0.0025)  # sums over four times the places
_PORTRAIT = dataclasses.replace(_SMALL, image_size=256, network_size=128, reference_guided=True)
_PORTRAIT_META = dataclasses.replace(_FAST_META, steps=20_000, own_picture=0.35, details=0.5, far_targets=0.5, camera_motion=0.3)
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
    "portrait": Config("portrait", _PORTRAIT, _PORTRAIT_META, _PORTRAIT_FINETUNE, _EFFICIENTNET, crop=2),
    "paper": Config("paper", _PAPER, _PAPER_META),
    "small": Config("small", _SMALL, _FAST_META, _FAST_FINETUNE, _EFFICIENTNET),
    "tiny": Config("tiny", _TINY, _FAST_META, _FAST_FINETUNE, _EFFICIENTNET),
}
PRESETS = tuple(_PRESETS)


def preset(name: str) -> Config:
    """The configuration of a preset.

    Raises:
        TalkingheadError: no such preset.
    """
    if name not in _PRESETS:
        raise TalkingheadError(f"preset {shorten(repr(name))}: there is none of this name; choose {', '.join(PRESETS)}")
    return _PRESETS[name]
