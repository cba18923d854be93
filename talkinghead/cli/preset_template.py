"""Presets as TOML files in which every field is described, to be changed into a preset of one's own."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from ..config import preset
from ..system.toml_file import format_toml

_ADAM = {
    "learning_rate": "Adam's learning rate",
    "beta1": "Adam's decay of the first moment",
    "beta2": "Adam's decay of the second moment",
    "eps": "added to the root of Adam's second moment",
}
_LOSSES = {
    "content": "weight of the content loss",
    "pixel": "weight of the absolute difference of pixels",
    "adversarial": "weight of the adversarial loss",
    "feature_matching": "weight of the feature matching loss",
    "matching": "weight of the matching loss between e and W_i",
    "relative_feature_matching": "divide each feature map's term by the mean activation",
}
_LEARNING = {
    "batch": "episodes of a step; of fine-tuning, pictures of a step at most",
    "discriminator_steps": "steps of D for each of G",
    "average": "decay of the running average of the networks",
    "clip": "bound of the gradient's norm of each network; 0: none",
    "precision": "of convolutions: fp32, or bf16 where the machine is fast in it",
    "own_picture": "share of the episodes in which a reference-guided G shows its own image alone",
    "details": "weight of the losses on enlarged eyes and mouth, as a multiple of those on the whole image",
}
DESCRIPTIONS: dict[str, str] = {
    "perceptual": "networks of the content loss: vgg19, vggface, efficientnet-lite0",
    "crop": "convention of the crop around the face, 1 or 2; a model that is trained has that of its data",
    "networks.image_size": "side of the images in pixels",
    "networks.encoder": "channels after each down block of E and D; the last is the length of e",
    "networks.encoder_attention": "blocks of E and D before the attention",
    "networks.down": "channels after each down block of G",
    "networks.down_attention": "down blocks of G before the attention",
    "networks.residual": "number of residual blocks of G",
    "networks.up": "channels after each up block of G, as many as down",
    "networks.up_attention": "up blocks of G before the attention",
    "networks.spectral_embedder": "spectral norm in E",
    "networks.spectral_generator": "spectral norm in G",
    "networks.spectral_discriminator": "spectral norm in D",
    "networks.discriminator_slope": "negative slope of D's activations; 0: ReLU",
    "networks.activate_before_pool": "ReLU before the sum over space in E and D",
    "networks.embedding_gain": "factor from the sum over space to e",
    "networks.discriminator_gain": "factor of D's sum over space",
    "networks.initialisation": "of weights: orthogonal or uniform",
    "networks.reference_guided": "G also sees the person's pictures",
    "networks.network_size": "side of the images that the layers see; 0: image_size",
    "networks.irises": "landmark images show the irises",
    "meta.steps": "steps of `train`",
    "meta.shots": "other frames of the video that an episode learns from",
    "meta.far_targets": "share of the episodes whose target is chosen far from the other frames",
    "meta.camera_motion": "share of the episodes whose other frames move as by a hand-held camera",
    "meta.videos": "videos to which a smaller data set is augmented",
    "meta.columns_from_embeddings": "initialise W with e of each video, not with noise",
    "finetune.epochs": "passes over the pictures",
    "finetune.minimum_steps": "steps at least",
    "finetune.styles_rate": "learning rate of the styles, as a multiple of the generator's",
    "finetune.jitter": "augmentation: share of the frame by which pictures and landmarks move",
    "finetune.head_jitter": "augmentation of a reference-guided G: share by which the head alone moves",
    **{f"{stage}.{name}": text for stage in ("meta", "finetune") for name, text in _LEARNING.items()},
    **{
        f"{stage}.{half}.{name}": text
        for stage in ("meta", "finetune")
        for half in ("generator", "discriminator")
        for name, text in _ADAM.items()
    },
    **{f"{stage}.losses.{name}": text for stage in ("meta", "finetune") for name, text in _LOSSES.items()},
}
"""Field of a `Config`, by its path in the table [preset] -> what it is."""


def format_preset(name: str) -> str:
    """Return a preset as a TOML file that `train --preset` reads, with a comment on each field.

    Raises:
        TalkingheadError: no such preset.
    """
    config = preset(name)
    lines = [
        f"# all values of preset {name}; keep the lines that you change, the others come from the base",
        "# train with it: talkinghead train DATA --preset mine.toml --out RUN",
        "[preset]",
        f'base = "{name}"',
        'name = "mine"  # stored in every file of the run; by default the name of this file',
    ]
    return "\n".join([*lines, *_format_fields(config, "")]) + "\n"


def _format_fields(config: Any, path: str) -> Iterator[str]:
    """Yield lines of the plain fields of a configuration, then those of its tables."""
    fields = [(field.name, getattr(config, field.name)) for field in dataclasses.fields(config)]
    for name, value in fields:
        if not dataclasses.is_dataclass(value) and name != "preset":
            value = list(value) if isinstance(value, tuple) else value
            yield f"{name} = {format_toml(value)}  # {DESCRIPTIONS[path + name]}"
    for name, value in fields:
        if dataclasses.is_dataclass(value):
            yield ""
            yield f"[preset.{path}{name}]"
            yield from _format_fields(value, f"{path}{name}.")
