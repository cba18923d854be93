"""Realistic talking heads from a few pictures: Zakharov et al., "Few-Shot Adversarial Learning of Realistic
Neural Talking Head Models".

    import talkinghead as th

    person = th.finetune("portrait", ["anna1.jpg", "anna2.jpg"])
    for frame in th.animate(person, "bob.mp4"):
        show(frame)  # uint8 [256, 256, 3]

The names below are imported when they are first used, so that `talkinghead --help` does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from . import metrics
    from .checkpoint import load_model, load_person, save_model, save_person
    from .clip import Clip, Track
    from .data.load import read_clip
    from .dataset.prepare import prepare
    from .engines.base import Engine
    from .engines.load import open_engine
    from .engines.report import verify_engine
    from .errors import TalkingheadError
    from .exporters.export import export_person
    from .exporters.web import export_web_page
    from .model import Model, Person
    from .pipelines.animate import animate
    from .pipelines.animate_video import animate_video
    from .pipelines.evaluate import evaluate
    from .pipelines.finetune import finetune
    from .pipelines.live import live
    from .training.interrupted import Interrupted
    from .training.meta import train

__all__ = [
    "Clip",
    "Engine",
    "Interrupted",
    "Model",
    "Person",
    "TalkingheadError",
    "Track",
    "__version__",
    "animate",
    "animate_video",
    "evaluate",
    "export_person",
    "export_web_page",
    "finetune",
    "live",
    "load_model",
    "load_person",
    "metrics",
    "open_engine",
    "prepare",
    "read_clip",
    "save_model",
    "save_person",
    "train",
    "verify_engine",
]

_MODULES = {
    "Clip": "clip",
    "Engine": "engines.base",
    "Interrupted": "training.interrupted",
    "Model": "model",
    "Person": "model",
    "TalkingheadError": "errors",
    "Track": "clip",
    "animate": "pipelines.animate",
    "animate_video": "pipelines.animate_video",
    "evaluate": "pipelines.evaluate",
    "export_person": "exporters.export",
    "export_web_page": "exporters.web",
    "finetune": "pipelines.finetune",
    "live": "pipelines.live",
    "load_model": "checkpoint",
    "load_person": "checkpoint",
    "open_engine": "engines.load",
    "points_of_driver": "pipelines.animate",
    "prepare": "dataset.prepare",
    "read_clip": "data.load",
    "save_model": "checkpoint",
    "save_person": "checkpoint",
    "train": "training.meta",
    "verify_engine": "engines.report",
}
"""Public name -> the module that defines it; `metrics` is a module itself. `points_of_driver` is for
`Person.points` alone.
"""


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
