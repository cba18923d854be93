"""The commands and what each does: enough for `talkinghead --help`, without importing their modules."""

import importlib
from types import ModuleType

COMMANDS = {
    "demo": "learn a person from 8 frames of a video, animate its held-out last third and measure the result",
    "finetune": "learn a person from a few pictures or a video; a person of portrait holds the pictures in "
    "its file",
    "animate": "make a person do what the face in a video does",
    "rank-drivers": "rank driving videos by how much of a person's identity they keep",
    "export": "write a person as an engine that runs without the training code",
    "verify": "print what an engine holds and compare it with PyTorch's output",
    "export-landmarks": "write the landmark network as ONNX, for other runtimes and --landmarks",
    "live": "make a person do what a webcam sees, in real time",
    "web": "serve a page to learn a person, drive it by a video or live by the webcam, all in the browser",
    "landmarks": "draw the landmarks that are detected in a video or picture, to see why something fails",
    "prepare": "make the data that `talkinghead train` reads, from videos, portraits or synthetic people; an "
    "interrupted run resumes",
    "train": "meta-learn a model on prepared data; an interrupted run resumes",
    "train-landmarks": "train a network that finds landmarks or faces; an interrupted run resumes",
    "evaluate": "measure a model on people it has not seen, as the paper does, compared with baselines",
    "completion": "print a script that makes a shell complete commands, options and files",
    "info": "print what is installed and what would run",
}
"""Name of a command -> what it does, in lower case and without a full stop."""


def load_command(name: str) -> ModuleType:
    """Return the module of a command: it has `EXAMPLE`, `add_parser(commands)` and `run(args, console)`."""
    return importlib.import_module(f".{name.replace('-', '_')}", __package__)
