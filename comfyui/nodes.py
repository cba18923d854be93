"""The nodes. They follow ComfyUI's interface of node classes, and import nothing of ComfyUI."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import talkinghead
from talkinghead.constants import MAX_REFERENCE_IMAGES, RETARGET
from talkinghead.weights import shipped_models

PERSON = "TALKINGHEAD_PERSON"
"""Type of the sockets that carry a `talkinghead.Person`."""

Inputs = dict[str, dict[str, tuple[Any, ...]]]


def to_pictures(images: Tensor) -> list[np.ndarray]:
    """Return ComfyUI's images, float [B, H, W, 3 or 4] from 0 to 1, as uint8 [H, W, 3] each."""
    pixels = images[..., :3].detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return list(pixels.cpu().numpy())


def to_images(frames: list[np.ndarray]) -> Tensor:
    """Return frames uint8 [H, W, 3] as ComfyUI's images, float32 [B, H, W, 3] from 0 to 1."""
    return torch.from_numpy(np.stack(frames)).float().div(255)


class LearnPerson:
    """Learn a person from pictures."""

    CATEGORY: ClassVar[str] = "talkinghead"
    FUNCTION: ClassVar[str] = "learn"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (PERSON,)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("person",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Return the inputs of the node: pictures, the model, the number of steps, and a seed."""
        return {
            "required": {
                "pictures": ("IMAGE",),
                "model": (list(shipped_models()),),
                "steps": ("INT", {"default": 0, "min": 0, "max": 2000}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**31 - 1}),
            }
        }

    def learn(self, pictures: Tensor, model: str, steps: int, seed: int) -> tuple[talkinghead.Person]:
        """Return the person of evenly spaced pictures, at most as many as a person can be learned from."""
        count = min(len(pictures), MAX_REFERENCE_IMAGES)
        chosen = np.linspace(0, len(pictures) - 1, count).round().astype(int)
        return (talkinghead.finetune(model, to_pictures(pictures[chosen]), steps=steps, seed=seed),)


class LoadPerson:
    """Load a person that `talkinghead finetune` or the node SavePerson wrote."""

    CATEGORY: ClassVar[str] = "talkinghead"
    FUNCTION: ClassVar[str] = "load"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (PERSON,)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("person",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Return the input of the node: a file."""
        return {"required": {"file": ("STRING", {"default": "anna.safetensors"})}}

    @classmethod
    def IS_CHANGED(cls, file: str) -> float:
        """Return when the file was written, so that a new one is read."""
        return Path(file).stat().st_mtime if Path(file).is_file() else 0.0

    def load(self, file: str) -> tuple[talkinghead.Person]:
        """Return the person."""
        return (talkinghead.load_person(file),)


class SavePerson:
    """Save a person to a file."""

    CATEGORY: ClassVar[str] = "talkinghead"
    FUNCTION: ClassVar[str] = "save"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    OUTPUT_NODE: ClassVar[bool] = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Return the inputs of the node: a person and a file."""
        return {"required": {"person": (PERSON,), "file": ("STRING", {"default": "anna.safetensors"})}}

    def save(self, person: talkinghead.Person, file: str) -> tuple[()]:
        """Write the file."""
        talkinghead.save_person(person, file)
        return ()


class AnimatePerson:
    """Move a person with the face in a driver's frames."""

    CATEGORY: ClassVar[str] = "talkinghead"
    FUNCTION: ClassVar[str] = "animate"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("frames",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Return the inputs of the node: a person, the driver's frames, and whose proportions are shown."""
        return {"required": {"person": (PERSON,), "driver": ("IMAGE",), "retarget": (list(RETARGET),)}}

    def animate(self, person: talkinghead.Person, driver: Tensor, retarget: str) -> tuple[Tensor]:
        """Return as many frames as the driver has."""
        frames = talkinghead.animate(person, to_pictures(driver), retarget=retarget)
        return (to_images(list(frames)),)


NODE_CLASS_MAPPINGS: dict[str, Callable[..., Any]] = {
    "TalkingheadLearnPerson": LearnPerson,
    "TalkingheadLoadPerson": LoadPerson,
    "TalkingheadSavePerson": SavePerson,
    "TalkingheadAnimatePerson": AnimatePerson,
}
"""Node classes by the names that workflows store."""
NODE_DISPLAY_NAME_MAPPINGS = {
    "TalkingheadLearnPerson": "Learn a person",
    "TalkingheadLoadPerson": "Load a person",
    "TalkingheadSavePerson": "Save a person",
    "TalkingheadAnimatePerson": "Animate a person",
}
