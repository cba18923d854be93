"""Realistic talking heads from a few pictures: Zakharov et al., "Few-Shot Adversarial Learning of Realistic Neural Talking Head Models".

    import talkinghead as th

    model = th.load_model("tiny")
    clip = th.read_clip("somebody.mp4", size=64)
    person = th.finetune(model, clip[:8])
    for frame in th.animate(person, clip.track):
        show(frame)  # uint8 [64, 64, 3]

Nothing but torch, numpy and safetensors is imported before it is needed.
"""

from .animate import animate, animate_video
from .checkpoint import Model, Person, load_model, load_person, save_model, save_person
from .clip import Clip, Track
from .corpus.prepare import prepare
from .data.read import read_clip
from .errors import TalkingheadError
from .training.finetune import finetune
from .training.meta import train
from .version import __version__

__all__ = [
    "Clip",
    "Model",
    "Person",
    "TalkingheadError",
    "Track",
    "__version__",
    "animate",
    "animate_video",
    "finetune",
    "load_model",
    "load_person",
    "prepare",
    "read_clip",
    "save_model",
    "save_person",
    "train",
]
